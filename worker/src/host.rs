//! The hosts of a connection string, and the one that a term is bound to.
//!
//! Several hosts may take writes at once: an old primary that came back beside the one that was promoted. Which of them serves the peer is
//! judged once, when a term begins; whatever connects in that term goes to the same host.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_postgres::config::{Config as Settings, Host};

/// How long a host may say nothing before the next one is asked beside it.
const SILENT: Duration = Duration::from_millis(250);

/// A host with its port.
pub(crate) type Place = (Host, u16);

/// The host of the term that is served; none between terms.
#[derive(Debug, Default)]
pub(crate) struct Bound(RwLock<Option<Place>>);

impl Bound {
    pub(crate) fn set(&self, place: Option<Place>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// The settings for that host alone, if they name it among others.
    pub(crate) fn narrow(&self, settings: Settings) -> Settings {
        let bound = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = bound.as_ref().and_then(|place| each_host(&settings).into_iter().find(|one| place_of(one).as_ref() == Some(place)));
        found.unwrap_or(settings)
    }
}

/// The first host of settings.
pub(crate) fn place_of(settings: &Settings) -> Option<Place> {
    let port = settings.get_ports().first().copied().unwrap_or(5432);
    settings.get_hosts().first().map(|host| (host.clone(), port))
}

/// A place in words, such as `10.0.0.21:5432`.
pub(crate) fn name_of(settings: &Settings) -> String {
    match place_of(settings) {
        Some((Host::Tcp(name), port)) => format!("{name}:{port}"),
        Some((Host::Unix(folder), port)) => format!("{}:{port}", folder.display()),
        None => String::new(),
    }
}

/// Settings for each host of some, which are the same in everything else.
pub(crate) fn each_host(all: &Settings) -> Vec<Settings> {
    let ports = all.get_ports();
    let hosts = all.get_hosts().iter().enumerate();
    hosts
        .map(|(at, host)| {
            let mut one = Settings::new();
            match host {
                Host::Tcp(name) => one.host(name),
                Host::Unix(folder) => one.host_path(folder),
            };
            if let Some(address) = all.get_hostaddrs().get(at) {
                one.hostaddr(*address);
            }
            one.port(ports.get(at).or(ports.first()).copied().unwrap_or(5432));
            one.ssl_mode(all.get_ssl_mode()).target_session_attrs(all.get_target_session_attrs());
            one.channel_binding(all.get_channel_binding());
            one.keepalives(all.get_keepalives()).keepalives_idle(all.get_keepalives_idle());
            if let Some(interval) = all.get_keepalives_interval() {
                one.keepalives_interval(interval);
            }
            if let Some(probes) = all.get_keepalives_retries() {
                one.keepalives_retries(probes);
            }
            if let Some(limit) = all.get_connect_timeout() {
                one.connect_timeout(*limit);
            }
            if let Some(limit) = all.get_tcp_user_timeout() {
                one.tcp_user_timeout(*limit);
            }
            if let Some(password) = all.get_password() {
                one.password(password);
            }
            for (text, set) in [
                (all.get_user(), Settings::user as fn(&mut Settings, String) -> &mut Settings),
                (all.get_dbname(), Settings::dbname),
                (all.get_options(), Settings::options),
                (all.get_application_name(), Settings::application_name),
            ] {
                if let Some(text) = text {
                    set(&mut one, text.to_owned());
                }
            }
            one
        })
        .collect()
}

/// Asks one host after the other, and gives the first success. A host that is silent, since its machine is gone, is not waited for before
/// the next one is asked, but may still answer.
///
/// Cancel safety: dropping it drops what was asked.
///
/// # Errors
/// The first failure that says more, as `says_more` judges; else the last one; nothing if there is no host.
pub(crate) async fn in_turn<H, T, E, F: Future<Output = Result<T, E>>>(
    hosts: Vec<H>,
    ask: impl Fn(H) -> F,
    says_more: impl Fn(&E) -> bool,
) -> Result<T, Option<E>> {
    let mut hosts = hosts.into_iter();
    let mut asked: FuturesUnordered<F> = hosts.next().map(&ask).into_iter().collect();
    let mut failure = None;
    loop {
        tokio::select! {
            Some(answer) = asked.next() => match answer {
                Ok(found) => return Ok(found),
                Err(error) => {
                    failure = failure.filter(&says_more).or(Some(error));
                    asked.extend(hosts.next().map(&ask));
                }
            },
            () = tokio::time::sleep(SILENT), if hosts.len() > 0 => asked.extend(hosts.next().map(&ask)),
            else => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tokio_postgres::config::TargetSessionAttrs;

    use super::*;

    /// Asks hosts that answer after so many milliseconds. What says more is in capitals. The answer, and when it came.
    async fn asked(hosts: &[(u64, Result<&'static str, &'static str>)]) -> (Result<&'static str, Option<&'static str>>, u128) {
        let began = Instant::now();
        let ask = |(after, answer)| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            answer
        };
        let answer = in_turn(hosts.to_vec(), ask, |error: &&str| error.starts_with(char::is_uppercase)).await;
        (answer, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_is_not_waited_for_and_one_that_answers_in_time_is_the_only_one_asked() {
        assert_eq!(asked(&[(200, Ok("first")), (0, Ok("second"))]).await, (Ok("first"), 200));
        assert_eq!(asked(&[(60_000, Ok("silent")), (10, Ok("second"))]).await, (Ok("second"), 260));
        assert_eq!(asked(&[(60_000, Ok("silent")), (60_000, Ok("silent")), (10, Ok("third"))]).await, (Ok("third"), 510));
        assert_eq!(asked(&[(300, Ok("late")), (60_000, Ok("silent"))]).await, (Ok("late"), 300), "it may still answer");
        assert_eq!(asked(&[(5, Err("away")), (7, Ok("second"))]).await, (Ok("second"), 12));
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_more_is_told_and_else_the_last_failure() {
        assert_eq!(asked(&[(1, Err("away")), (1, Err("gone"))]).await.0, Err(Some("gone")));
        assert_eq!(asked(&[(1, Err("Replaced")), (1, Err("gone"))]).await.0, Err(Some("Replaced")));
        assert_eq!(asked(&[(1, Err("away")), (1, Err("Replaced")), (1, Err("Newer"))]).await.0, Err(Some("Replaced")));
        assert_eq!(asked(&[]).await.0, Err(None));
    }

    fn settings(text: &str) -> Settings {
        text.parse().expect("a connection string")
    }

    #[test]
    fn each_host_has_its_port_and_everything_else_of_the_string() {
        let all =
            settings("host=10.0.0.21,/run/pg port=5433,5434 user=rootward_lane password=x dbname=bank target_session_attrs=read-write");
        let hosts = each_host(&all);
        assert_eq!(hosts.iter().map(name_of).collect::<Vec<_>>(), ["10.0.0.21:5433", "/run/pg:5434"]);
        for host in &hosts {
            assert_eq!((host.get_user(), host.get_dbname()), (Some("rootward_lane"), Some("bank")));
            assert_eq!(host.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert_eq!((host.get_hosts().len(), host.get_password()), (1, Some(&b"x"[..])));
        }
    }

    #[test]
    fn who_is_bound_goes_to_one_host_only_if_it_is_named() {
        let bound = Bound::default();
        let names = |text: &str| bound.narrow(settings(text)).get_hosts().len();
        assert_eq!(names("host=a,b port=1,2 user=u"), 2);
        bound.set(place_of(&settings("host=b port=2 user=u")));
        assert_eq!(name_of(&bound.narrow(settings("host=a,b port=1,2 user=v"))), "b:2");
        assert_eq!(names("host=a,b port=1,3 user=u"), 2, "another port is another server");
        assert_eq!(names("host=hub user=u"), 1);
        bound.set(None);
        assert_eq!(names("host=a,b port=1,2 user=u"), 2);
    }
}
