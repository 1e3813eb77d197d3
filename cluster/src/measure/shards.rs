//! The table of `bench xtm` spread over databases without Rootward: by postgres_fdw, and by two-phase commit. The baselines of
//! that benchmark, on the same PostgreSQL servers; they serve nobody.
//!
//! Accounts lie in ranges, as the benchmark has them. Everything that is left open is in the baselines' favour: a transfer may be
//! one message to the coordinator, and is two to each shard at once; no decision is recorded, and nothing resolves what a crash leaves.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio_postgres::{Config, Error, config::Host, error::SqlState};
use uuid::Uuid;

use super::session::Session;
use crate::{EmbeddedCluster, settings::literal, topology::HUB};

/// The database of a shard, on each peer's server.
const SHARD: &str = "xtm_shard";
/// The coordinator's database, on the hub's server, which has nothing else to do.
const COORDINATOR: &str = "xtm_coordinator";
/// No server sees waits in a circle over two of them.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// The databases, filled.
#[derive(Debug, Clone)]
pub struct Shards {
    shards: Vec<String>,
    coordinator: String,
    accounts: u64,
}

/// Why a baseline can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    /// PostgreSQL refused something that it should not, or the connection broke.
    #[error("a shard: {}", .0.as_db_error().map_or_else(|| .0.to_string(), ToString::to_string))]
    Postgres(#[from] Error),
    /// The extension is not there.
    #[error("PostgreSQL has no postgres_fdw")]
    NoExtension,
    /// The servers are not where they were started.
    #[error("the cluster has no server for `{0}`")]
    NoServer(String),
}

/// How one transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Committed everywhere.
    Done,
    /// Rolled back everywhere, for a lock, a deadlock or a serialization failure.
    Aborted,
}

/// A client of either baseline.
#[derive(Debug)]
pub enum ShardClient {
    /// One session to the coordinator, which reaches the shards by postgres_fdw at READ COMMITTED.
    Fdw(Box<OneSession>),
    /// A session to each shard.
    TwoPhase(Box<ManySessions>),
}

/// A session to the coordinator.
#[derive(Debug)]
pub struct OneSession {
    session: Session,
    messages: Messages,
}

/// How a transaction is sent to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// Each statement when the one before was answered, BEGIN and COMMIT too, as xtmbench does it.
    Each,
    /// All of it in one.
    One,
}

/// A session to each shard, and names for prepared transactions.
#[derive(Debug)]
pub struct ManySessions {
    sessions: Vec<Session>,
    name: String,
    serial: u64,
    accounts: u64,
}

impl Shards {
    /// Makes the databases and accounts 1 to `accounts`, each with 0.
    ///
    /// # Errors
    /// [`ShardsError::NoExtension`] if postgres_fdw is not installed, else PostgreSQL's.
    pub async fn set_up(cluster: &EmbeddedCluster, accounts: u64) -> Result<Shards, ShardsError> {
        let ids: Vec<&String> = cluster.topology().peer.keys().collect();
        let mut shards = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            let database = make_database(cluster, id, SHARD).await?;
            let (first, last) = range(number, ids.len(), accounts);
            let fill = format!(
                "create table t (u integer primary key, v integer); insert into t select u, 0 from generate_series({first}, {last}) as u"
            );
            let session = Session::open(&database, "rootward bench xtm").await?;
            session.client.batch_execute(&fill).await?;
            session.client.batch_execute("vacuum analyze t").await?;
            shards.push(database);
        }
        let coordinator = make_database(cluster, HUB, COORDINATOR).await?;
        let session = Session::open(&coordinator, "rootward bench xtm").await?;
        session.client.batch_execute("create extension postgres_fdw").await.map_err(|error| match error.code() {
            Some(code) if *code == SqlState::FEATURE_NOT_SUPPORTED || *code == SqlState::UNDEFINED_FILE => ShardsError::NoExtension,
            _ => error.into(),
        })?;
        session.client.batch_execute("create table t (u integer not null, v integer) partition by range (u)").await?;
        for (number, shard) in shards.iter().enumerate() {
            let (first, last) = range(number, shards.len(), accounts);
            session.client.batch_execute(&foreign_table(number, &shard.parse()?, first, last)).await?;
        }
        Ok(Shards { shards, coordinator, accounts })
    }

    /// A client by postgres_fdw.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn fdw(&self, messages: Messages) -> Result<ShardClient, ShardsError> {
        let session = Session::open(&self.coordinator, "rootward bench fdw").await?;
        session.client.batch_execute("set default_transaction_isolation = 'read committed'; set synchronous_commit = on").await?;
        Ok(ShardClient::Fdw(Box::new(OneSession { session, messages })))
    }

    /// A client by two-phase commit.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn two_phase(&self) -> Result<ShardClient, ShardsError> {
        let mut sessions = Vec::new();
        for shard in &self.shards {
            let session = Session::open(shard, "rootward bench 2pc").await?;
            let settings = format!("set lock_timeout = {}; set synchronous_commit = on", LOCK_LIMIT.as_millis());
            session.client.batch_execute(&settings).await?;
            sessions.push(session);
        }
        let name = Uuid::new_v4().simple().to_string();
        Ok(ShardClient::TwoPhase(Box::new(ManySessions { sessions, name, serial: 0, accounts: self.accounts })))
    }

    /// What is on all shards together, and how many transactions are prepared and forgotten; nothing may be under way.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn books(&self) -> Result<(i64, i64), ShardsError> {
        let one = async |shard: &String| {
            let session = Session::open(shard, "rootward bench xtm").await?;
            let sql =
                "select coalesce(sum(v), 0)::bigint, (select count(*) from pg_prepared_xacts where database = current_database()) from t";
            let row = session.client.query_one(sql, &[]).await?;
            Ok::<(i64, i64), ShardsError>((row.try_get(0)?, row.try_get(1)?))
        };
        let all = try_join_all(self.shards.iter().map(one)).await?;
        Ok(all.into_iter().fold((0, 0), |(total, prepared), (of_one, in_doubt)| (total + of_one, prepared + in_doubt)))
    }
}

/// The first and the last account of a shard.
fn range(shard: usize, shards: usize, accounts: u64) -> (u64, u64) {
    let bound = |shard: usize| accounts * shard as u64 / shards.max(1) as u64;
    (bound(shard) + 1, bound(shard + 1))
}

fn shard_of(account: u64, shards: usize, accounts: u64) -> usize {
    (0..shards).find(|shard| account <= range(*shard, shards, accounts).1).unwrap_or(0)
}

async fn make_database(cluster: &EmbeddedCluster, id: &str, name: &str) -> Result<String, ShardsError> {
    let server = cluster.server(id).ok_or_else(|| ShardsError::NoServer(id.to_owned()))?;
    let session = Session::open(&server.conninfo(server.superuser(), id), "rootward bench xtm").await?;
    session.client.batch_execute(&format!("create database {name}")).await?;
    Ok(server.conninfo(server.superuser(), name))
}

/// The foreign server, and the part of the table that lies there. All rows of a read come in one trip.
fn foreign_table(number: usize, shard: &Config, first: u64, last: u64) -> String {
    let host = match shard.get_hosts().first() {
        Some(Host::Unix(path)) => path.display().to_string(),
        Some(Host::Tcp(name)) => name.clone(),
        None => String::new(),
    };
    let port = shard.get_ports().first().copied().unwrap_or(5432).to_string();
    let user = shard.get_user().unwrap_or_default();
    format!(
        "create server shard{number} foreign data wrapper postgres_fdw \
         options (host {}, port {}, dbname {}, fetch_size '100000', options '-c lock_timeout={}');\n\
         create user mapping for current_user server shard{number} options (user {});\n\
         create foreign table t{number} partition of t for values from ({first}) to ({}) server shard{number} options (table_name 't')",
        literal(&host),
        literal(&port),
        literal(SHARD),
        LOCK_LIMIT.as_millis(),
        literal(user),
        last + 1
    )
}

impl ShardClient {
    /// Takes one from an account and gives it to another, which may be the same.
    ///
    /// Not cancel safe: dropping the future may leave prepared transactions.
    ///
    /// # Errors
    /// Whatever is no abort.
    pub async fn transfer(&mut self, from: u64, to: u64) -> Result<Moved, ShardsError> {
        let (take, give) = (format!("update t set v = v - 1 where u = {from}"), format!("update t set v = v + 1 where u = {to}"));
        match self {
            ShardClient::Fdw(one) => one.run(&[take, give]).await,
            ShardClient::TwoPhase(many) => {
                let (source, target) = (many.shard_of(from), many.shard_of(to));
                if source == target {
                    one_message(&many.sessions[source], &[take, give]).await
                } else {
                    many.both(source, &take, target, &give).await
                }
            }
        }
    }

    /// Reads two accounts in one transaction.
    ///
    /// # Errors
    /// Whatever is no abort.
    pub async fn look(&mut self, first: u64, second: u64) -> Result<Moved, ShardsError> {
        let select = |account: u64| format!("select v from t where u = {account}");
        match self {
            ShardClient::Fdw(one) => one.run(&[select(first), select(second)]).await,
            ShardClient::TwoPhase(many) => {
                let (one, other) = (&many.sessions[many.shard_of(first)], &many.sessions[many.shard_of(second)]);
                let (first, second) = (select(first), select(second));
                tokio::try_join!(one.client.batch_execute(&first), other.client.batch_execute(&second))?;
                Ok(Moved::Done)
            }
        }
    }

    /// The total over all shards, as this baseline gives it; none if it was aborted.
    ///
    /// # Errors
    /// Whatever is no abort.
    pub async fn total(&mut self) -> Result<Option<i64>, ShardsError> {
        const SQL: &str = "select sum(v) from t";
        let number = async |session: &Session| Ok::<i64, Error>(session.client.query_one(SQL, &[]).await?.try_get::<_, i64>(0)?);
        let total = match self {
            ShardClient::Fdw(one) => number(&one.session).await,
            ShardClient::TwoPhase(many) => try_join_all(many.sessions.iter().map(number)).await.map(|parts| parts.into_iter().sum()),
        };
        match total {
            Ok(total) => Ok(Some(total)),
            Err(error) if is_abort(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl OneSession {
    async fn run(&self, statements: &[String]) -> Result<Moved, ShardsError> {
        if self.messages == Messages::One {
            return one_message(&self.session, statements).await;
        }
        let client = &self.session.client;
        let all = async {
            client.batch_execute("begin").await?;
            for statement in statements {
                client.batch_execute(statement).await?;
            }
            client.batch_execute("commit").await
        };
        or_roll_back(&self.session, all.await).await
    }
}

impl ManySessions {
    fn shard_of(&self, account: u64) -> usize {
        shard_of(account, self.sessions.len(), self.accounts)
    }

    async fn both(&mut self, source: usize, take: &str, target: usize, give: &str) -> Result<Moved, ShardsError> {
        self.serial += 1;
        let gid = literal(&format!("{}-{}", self.name, self.serial));
        let (source, target) = (&self.sessions[source].client, &self.sessions[target].client);
        let message = |statement: &str| format!("begin; {statement}; prepare transaction {gid}");
        let (taken, given) = (message(take), message(give));
        let votes: [Result<(), Error>; 2] = tokio::join!(source.batch_execute(&taken), target.batch_execute(&given)).into();
        if votes.iter().all(Result::is_ok) {
            let commit = format!("commit prepared {gid}");
            tokio::try_join!(source.batch_execute(&commit), target.batch_execute(&commit))?;
            return Ok(Moved::Done);
        }
        // What voted no is inside a transaction that failed, what voted yes is prepared.
        let undo = votes.iter().zip([source, target]).map(|(vote, session)| {
            let sql = if vote.is_ok() { format!("rollback prepared {gid}") } else { "rollback".to_owned() };
            async move { session.batch_execute(&sql).await }
        });
        join_all(undo).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        match votes.into_iter().filter_map(Result::err).find(|error| !is_abort(error)) {
            Some(error) => Err(error.into()),
            None => Ok(Moved::Aborted),
        }
    }
}

/// One transaction in one message.
async fn one_message(session: &Session, statements: &[String]) -> Result<Moved, ShardsError> {
    let ended = session.client.batch_execute(&format!("begin; {}; commit", statements.join("; "))).await;
    or_roll_back(session, ended).await
}

async fn or_roll_back(session: &Session, ended: Result<(), Error>) -> Result<Moved, ShardsError> {
    match ended {
        Ok(()) => Ok(Moved::Done),
        Err(error) if is_abort(&error) => {
            session.client.batch_execute("rollback").await?;
            Ok(Moved::Aborted)
        }
        Err(error) => Err(error.into()),
    }
}

fn is_abort(error: &Error) -> bool {
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    codes.iter().any(|code| error.code() == Some(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_lies_in_one_range() {
        for (accounts, shards) in [(10_000, 2), (7, 3), (100, 8)] {
            let ranges: Vec<(u64, u64)> = (0..shards).map(|shard| range(shard, shards, accounts)).collect();
            assert_eq!((ranges[0].0, ranges[shards - 1].1), (1, accounts));
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{ranges:?}");
            for account in 1..=accounts {
                let (first, last) = ranges[shard_of(account, shards, accounts)];
                assert!((first..=last).contains(&account), "{account} of {accounts} over {shards}");
            }
        }
    }

    #[test]
    fn a_shard_is_named_as_it_is_reached() {
        let shard: Config = "host='/tmp/it''s' port=5433 user=me".replace("''", "\\'").parse().expect("a connection string");
        let sql = foreign_table(1, &shard, 5, 8);
        assert!(sql.contains("host  E'/tmp/it''s', port  E'5433'") && sql.contains("from (5) to (9) server shard1"), "{sql}");
    }
}
