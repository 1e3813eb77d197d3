//! The servers on which a peer's trees can be read: sessions to each, and which of them is near and idle.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_postgres::config::{Config as Settings, TargetSessionAttrs};

use super::position::{LogPosition, parse};
use crate::{
    config::Config,
    host::{each_host, name_of},
    pg::{self, Connection, Pipeline},
    term::lane_options,
};

/// How many reads may run on one server at once, each on a session of its own.
const MOST_READS: usize = 32;
/// How many idle sessions are kept for the next reads.
const MOST_IDLE: usize = 8;
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long a server may take to say how far it is; one that takes longer is passed over.
const LOOK_LIMIT: Duration = Duration::from_millis(500);
/// For how long a server that could not be used is left alone.
const AWAY: Duration = Duration::from_secs(1);

/// One server.
pub(super) struct Server {
    /// As the connection string names it; empty for whichever is the primary.
    pub name: String,
    settings: Settings,
    room: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// How long it takes to say how far it is, in microseconds; a running mean, 0 before the first time.
    round_trip_us: AtomicU64,
    away_until: Mutex<Option<Instant>>,
    /// How far it was when it was last looked at.
    last_seen: AtomicU64,
}

/// A session in use. It goes back to the idle ones by [`Server::leave`], else it is closed.
pub(super) struct Session {
    pub connection: Connection,
    /// Somebody used it before, so the server may have ended it.
    pub is_used: bool,
    _place: OwnedSemaphorePermit,
}

/// Why a server is not used now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It does as much as it may.
    Full,
    /// It can't be reached, says nothing, or is no standby.
    Away(String),
}

/// The hosts that may be standbys, and the primary.
pub(super) struct Servers {
    pub primary: Server,
    pub hosts: Vec<Server>,
}

impl Servers {
    /// By the settings: the hosts of `lane_database`, if there are several, and those of `standby_database`.
    ///
    /// # Errors
    /// If one is no connection string.
    pub(super) fn new(config: &Config) -> Result<Servers, tokio_postgres::Error> {
        let options = config.session_options(&lane_options(config.statement_timeout_ms));
        let mut lanes: Settings = config.unbound_settings_of(&config.lane_database)?;
        lanes.application_name("rootward read").options(&options).connect_timeout(CONNECT_LIMIT);
        let mut hosts = Vec::new();
        if lanes.get_hosts().len() > 1 {
            hosts.extend(hosts_of(&lanes));
        }
        if let Some(more) = &config.standby_database {
            let mut more: Settings = config.unbound_settings_of(more)?;
            more.application_name("rootward read").options(&options).connect_timeout(CONNECT_LIMIT);
            hosts.extend(hosts_of(&more));
        }
        Ok(Servers { primary: Server::new(String::new(), config.bound.narrow(lanes)), hosts })
    }

    /// The hosts that can be asked, the nearest and least loaded first.
    pub(super) fn in_order(&self) -> Vec<&Server> {
        let mut hosts: Vec<&Server> = self.hosts.iter().filter(|host| !host.is_away()).collect();
        hosts.sort_by_key(|host| host.cost());
        hosts
    }
}

/// Each host of some settings, whether it is the primary or not.
fn hosts_of(all: &Settings) -> Vec<Server> {
    each_host(all)
        .into_iter()
        .map(|mut one| {
            one.target_session_attrs(TargetSessionAttrs::Any);
            Server::new(name_of(&one), one)
        })
        .collect()
}

impl Server {
    fn new(name: String, settings: Settings) -> Server {
        Server {
            name,
            settings,
            room: Arc::new(Semaphore::new(MOST_READS)),
            idle: Mutex::default(),
            round_trip_us: AtomicU64::default(),
            away_until: Mutex::default(),
            last_seen: AtomicU64::default(),
        }
    }

    fn is_away(&self) -> bool {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > Instant::now())
    }

    /// Leaves it alone for a while.
    pub(super) fn pass_over(&self, why: &str) {
        tracing::debug!(server = self.name, why, "a server is passed over for reads");
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.away_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + AWAY);
    }

    /// What a read costs here: the way there, for each that is under way and one more.
    fn cost(&self) -> u64 {
        let under_way = u64::try_from(MOST_READS.saturating_sub(self.room.available_permits())).unwrap_or(u64::MAX);
        self.round_trip_us.load(Ordering::Relaxed).saturating_mul(under_way + 1)
    }

    /// A session; a new one if `is_fresh`.
    pub(super) async fn session(&self, tls: Option<&std::path::Path>, is_fresh: bool) -> Result<Session, Unusable> {
        let place = self.room.clone().try_acquire_owned().map_err(|_| Unusable::Full)?;
        let idle = if is_fresh { None } else { self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() };
        let is_used = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let tls = pg::tls_for(&self.settings, tls).map_err(|error| Unusable::Away(error.to_string()))?;
                pg::connect(&self.settings, tls.as_ref()).await.map_err(|error| Unusable::Away(error.to_string()))?
            }
        };
        Ok(Session { connection, is_used, _place: place })
    }

    /// Keeps a session that is in no transaction for the next read.
    pub(super) fn leave(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(session.connection);
        }
    }

    /// How far a standby has replayed, and whether it has come on since it was looked at before.
    pub(super) async fn look(&self, session: &mut Session) -> Result<(LogPosition, bool), Unusable> {
        let mut pipeline = Pipeline::default();
        let sql = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()";
        pipeline.push_plain(sql).map_err(|error| Unusable::Away(error.to_string()))?;
        let began = Instant::now();
        let ran = match timeout(LOOK_LIMIT, session.connection.run(pipeline)).await {
            Ok(Ok(ran)) => ran,
            Ok(Err(lost)) => return Err(Unusable::Away(lost.to_string())),
            Err(_) => return Err(Unusable::Away(format!("no answer within {LOOK_LIMIT:?}"))),
        };
        let row = ran.results.first().and_then(|result| result.rows.first());
        let position = match row.map(Vec::as_slice) {
            Some([Some(in_recovery), Some(position)]) if in_recovery == "t" => parse(position),
            _ => None,
        };
        let position = position.ok_or_else(|| Unusable::Away("it is no standby".to_owned()))?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.round_trip_us.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { (before.saturating_mul(7).saturating_add(took)) / 8 };
        self.round_trip_us.store(mean.max(1), Ordering::Relaxed);
        let is_moving = self.last_seen.swap(position, Ordering::Relaxed) != position;
        Ok((position, is_moving))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(lane_database: &str) -> Vec<Server> {
        hosts_of(&lane_database.parse().expect("a connection string"))
    }

    #[test]
    fn the_nearest_and_least_loaded_server_comes_first() {
        let hosts = servers("host=a,b,c port=1,2,3 user=u dbname=d");
        for (host, micros) in hosts.iter().zip([300, 100, 150]) {
            host.round_trip_us.store(micros, Ordering::Relaxed);
        }
        let all = Servers { primary: servers("host=p port=1 user=u").remove(0), hosts };
        let order = || all.in_order().iter().map(|host| host.name.clone()).collect::<Vec<_>>();
        assert_eq!(order(), ["b:2", "c:3", "a:1"]);
        let busy = all.hosts[1].room.clone().try_acquire_many_owned(1).expect("room");
        assert_eq!(order(), ["c:3", "b:2", "a:1"], "200 is more than 150");
        drop(busy);
        all.hosts[1].pass_over("a test");
        assert_eq!(order(), ["c:3", "a:1"]);
    }
}
