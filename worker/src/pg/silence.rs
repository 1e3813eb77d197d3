//! Connections that nobody ends: a machine that loses its power, or a network that lets nothing pass, says no goodbye. Each end asks the
//! other, by TCP itself, whether it is still there, and gives the connection up when nothing comes back.
//!
//! Without it a lane would wait for the answer to its COMMIT as long as the kernel likes, which is for ever, and no failover would begin;
//! and the sessions of a worker that vanished would keep their locks for hours, the one that holds its peer among them.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_postgres::config::Config as Settings;

/// How often the other end is asked before it is given up.
const PROBES: u32 = 3;
/// What TCP counts in.
const SHORTEST: Duration = Duration::from_secs(1);

/// Connections whose other end is silent for so long are given up; over Unix sockets nothing is silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence(pub Duration);

impl Silence {
    /// How long nothing may come before the other end is asked. The probes take the other half.
    fn idle(self) -> Duration {
        (self.0 / 2).max(SHORTEST)
    }

    fn interval(self) -> Duration {
        (self.0 / (2 * PROBES)).max(SHORTEST)
    }

    /// Puts our end of it into settings.
    pub(crate) fn set(self, settings: &mut Settings) {
        settings.keepalives(true).keepalives_idle(self.idle()).keepalives_interval(self.interval()).keepalives_retries(PROBES);
        settings.tcp_user_timeout(self.0);
    }

    /// The server asks too. Options of the session say so, behind others.
    pub(crate) fn with_options(self, options: &str) -> String {
        let (idle, interval, limit) = (self.idle().as_secs(), self.interval().as_secs(), self.0.as_millis());
        let ours = format!(
            "-c tcp_keepalives_idle={idle} -c tcp_keepalives_interval={interval} -c tcp_keepalives_count={PROBES} -c tcp_user_timeout={limit}"
        );
        format!("{options} {ours}").trim_start().to_owned()
    }
}

/// Does for a socket of ours what tokio-postgres does for its own.
///
/// # Errors
/// If the system refuses.
pub(super) fn apply(settings: &Settings, socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if settings.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(settings.get_keepalives_idle());
        if let Some(interval) = settings.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(probes) = settings.get_keepalives_retries() {
            keepalive = keepalive.with_retries(probes);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    // What was sent and not confirmed, which keepalive does not watch.
    #[cfg(target_os = "linux")]
    if let Some(limit) = settings.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_give_up_when_the_limit_is_over() {
        let mut settings: Settings = "host=10.0.0.21 user=rootward_lane".parse().expect("a connection string");
        Silence(Duration::from_secs(12)).set(&mut settings);
        let asked = settings.get_keepalives_interval().expect("set") * settings.get_keepalives_retries().expect("set");
        assert_eq!(settings.get_keepalives_idle() + asked, Duration::from_secs(12));
        assert_eq!(settings.get_tcp_user_timeout(), Some(&Duration::from_secs(12)));
        assert_eq!(
            Silence(Duration::from_secs(12)).with_options("-c timezone=UTC"),
            "-c timezone=UTC -c tcp_keepalives_idle=6 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=12000"
        );
        assert!(Silence(SHORTEST).with_options("").starts_with("-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 "));
    }

    #[tokio::test]
    async fn a_socket_of_a_lane_is_watched() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let mut settings = Settings::new();
        Silence(Duration::from_secs(6)).set(&mut settings);
        apply(&settings, &socket).expect("taken");
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().expect("read"));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().expect("read"), Some(Duration::from_secs(6)));
    }
}
