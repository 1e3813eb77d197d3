//! The files of a server: data directory, sockets, configuration, log.

use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ServerConfig, ServerError};
use crate::account::Account;
use crate::binaries::Binaries;
use crate::process::{Launcher, works_in};
use crate::settings::{HOST_BASED_AUTHENTICATION, configuration};
use crate::template;

/// The longest path of a socket's folder: the smallest system limit is 103 bytes for `<folder>/.s.PGSQL.<port>`.
const LONGEST_SOCKET_FOLDER: usize = 103 - "/.s.PGSQL.65535".len();

/// How long the processes of a server that was killed may take to vanish.
const VANISH_LIMIT: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(10);

/// How much of a log an error message shows.
const TAIL_LINES: usize = 12;

/// Where a server's files are.
#[derive(Debug)]
pub struct Files {
    /// The data directory.
    pub data: PathBuf,
    /// The folder of the unix socket.
    pub sockets: PathBuf,
    /// What PostgreSQL says.
    pub log: PathBuf,
    // A folder of its own for the socket, if the other's path is too long for one.
    _short: Option<Launcher>,
}

impl Files {
    /// Makes what is missing; a data directory that is there stays as it is. A new one is a copy of the template, or of the server at
    /// `primary`, which it then follows.
    pub(super) async fn prepare(
        launcher: &Launcher,
        name: &str,
        binaries: &Binaries,
        account: Option<&Account>,
        primary: Option<&str>,
    ) -> Result<Files, ServerError> {
        let folder = launcher.folder().path().join(name);
        make(&folder, 0o711, None)?;
        if let Some((account, barrier)) = account.and_then(|account| Some((account, account.barrier(&folder)?))) {
            return Err(ServerError::Unreachable { user: account.name.clone(), barrier: barrier.to_owned() });
        }
        let (sockets, short) = socket_folder(launcher, &folder)?;
        make(&sockets, 0o700, account)?;
        let data = folder.join("data");
        if !data.join("PG_VERSION").exists() {
            // Whatever a start that was killed left half-way.
            if data.exists() {
                std::fs::remove_dir_all(&data).map_err(ServerError::file(&data))?;
            }
            let fresh = folder.join("data.new");
            if fresh.exists() {
                std::fs::remove_dir_all(&fresh).map_err(ServerError::file(&fresh))?;
            }
            match primary {
                None => template::copy_to(&fresh, binaries, launcher, account, !launcher.folder().is_temporary()).await?,
                Some(primary) => template::copy_running(&fresh, primary, binaries, launcher, account).await?,
            }
            std::fs::rename(&fresh, &data).map_err(ServerError::file(&data))?;
        }
        Ok(Files { data, sockets, log: folder.join("postgresql.log"), _short: short })
    }

    /// Whether the data are a standby's.
    pub(super) fn is_standby(&self) -> bool {
        self.data.join("standby.signal").exists()
    }

    /// Waits until nothing of an earlier server works on the data, and removes its `postmaster.pid` if the number in
    /// it means a foreign process by now, which PostgreSQL itself takes for a running server.
    pub(super) async fn wait_until_free(&self) -> Result<(), ServerError> {
        let deadline = Instant::now() + VANISH_LIMIT;
        while works_in(&self.data) {
            if Instant::now() >= deadline {
                return Err(ServerError::InUse { data: self.data.clone() });
            }
            tokio::time::sleep(POLL).await;
        }
        // Only Linux tells where processes work; elsewhere PostgreSQL's own judgement must do.
        let pid_file = self.data.join("postmaster.pid");
        if cfg!(target_os = "linux") && pid_file.exists() {
            std::fs::remove_file(&pid_file).map_err(ServerError::file(&pid_file))?;
        }
        Ok(())
    }

    /// Writes the configuration.
    pub(super) fn configure(&self, config: &ServerConfig, port: u16, account: Option<&Account>) -> Result<(), ServerError> {
        let settings = configuration(&config.name, port, &self.sockets, &config.settings);
        for (name, text) in [("postgresql.conf", settings.as_str()), ("pg_hba.conf", HOST_BASED_AUTHENTICATION)] {
            let path = self.data.join(name);
            std::fs::write(&path, text).map_err(ServerError::file(&path))?;
            if let Some(account) = account {
                account.own(&path).map_err(ServerError::file(&path))?;
            }
        }
        Ok(())
    }

    /// How long the log is now, in bytes.
    pub(super) fn log_length(&self) -> usize {
        std::fs::metadata(&self.log).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(usize::MAX))
    }

    /// Whether the log says, from `start` on, that somebody else has the port.
    pub(super) fn lost_port(&self, start: usize) -> bool {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(start..).unwrap_or_default()).contains("could not create any TCP/IP sockets")
    }
}

/// A TCP port on 127.0.0.1 that nobody has at this moment. Below those that systems give to outgoing connections, one of which
/// would take the port of a server that is down for a moment; any other if none of these is free.
pub(super) fn free_port() -> io::Result<u16> {
    const TRIES: usize = 64;
    let listener = (0..TRIES).find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(15_000..32_000))).ok());
    Ok(listener.map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ok)?.local_addr()?.port())
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn socket_folder(launcher: &Launcher, folder: &Path) -> Result<(PathBuf, Option<Launcher>), ServerError> {
    let sockets = folder.join("s");
    if sockets.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        return Ok((sockets, None));
    }
    let short = Launcher::temporary(launcher.exe())?;
    Ok((short.folder().path().join("s"), Some(short)))
}

fn make(folder: &Path, mode: u32, account: Option<&Account>) -> Result<(), ServerError> {
    let failed = ServerError::file(folder);
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).map_err(&failed)?;
    account.map_or(Ok(()), |account| account.own(folder)).map_err(&failed)
}
