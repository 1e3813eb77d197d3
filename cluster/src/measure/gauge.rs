//! What every PostgreSQL server says of itself.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::sleep;
use tokio_postgres::Error;

use super::{Books, session::Session};

/// PostgreSQL 18 counts flushes of the WAL among all I/O.
const FIRST_WITH_IO: i32 = 180_000;

/// A superuser's session to every node; nothing of the load runs on it.
#[derive(Debug)]
pub struct Gauge {
    sessions: Vec<Session>,
    flushes_sql: &'static str,
}

impl Gauge {
    /// A backend reports what it counted when it falls idle, at most once a second; what is left then it reports after 10 s
    /// of idleness (`PGSTAT_IDLE_INTERVAL`). Only after that are the counters complete. A counter that stands still for a
    /// second or two says nothing, and it never stands still for long: PostgreSQL's own processes flush now and then.
    pub const IDLE_REPORT: Duration = Duration::from_millis(10_500);

    /// Connects to these databases.
    ///
    /// # Errors
    /// If one can't be reached.
    pub async fn connect(databases: &[String]) -> Result<Gauge, Error> {
        let sessions = try_join_all(databases.iter().map(|database| Session::open(database, "rootward gauge"))).await?;
        let mut flushes_sql = "select coalesce(sum(wal_sync), 0)::bigint from pg_stat_wal";
        if let Some(first) = sessions.first() {
            let version: i32 = first.client.query_one("select current_setting('server_version_num')::integer", &[]).await?.get(0);
            if version >= FIRST_WITH_IO {
                flushes_sql = "select coalesce(sum(fsyncs), 0)::bigint from pg_stat_io where object = 'wal'";
            }
        }
        Ok(Gauge { sessions, flushes_sql })
    }

    /// Tells every server how large its tables are, as `pgbench -i` does after loading: plans made on empty tables would
    /// stay until autovacuum comes by.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn vacuum_analyze(&self) -> Result<(), Error> {
        self.run("vacuum analyze").await
    }

    /// How often the WAL has been flushed to disk, over all nodes, as far as it has been reported.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn wal_flushes(&self) -> Result<i64, Error> {
        self.sum(self.flushes_sql).await
    }

    /// The same after a pause in which idle backends report what they have counted.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn wal_flushes_after(&self, pause: Duration) -> Result<i64, Error> {
        sleep(pause).await;
        self.wal_flushes().await
    }

    /// How far the WAL has grown, over all nodes, in bytes; known at once.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn wal_bytes(&self) -> Result<i64, Error> {
        self.sum("select (pg_current_wal_insert_lsn() - '0/0')::bigint").await
    }

    /// A number of type `bigint` that each node gives, added up over all nodes.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn total(&self, sql: &str) -> Result<i64, Error> {
        self.sum(sql).await
    }

    /// A column of type `text`, from all nodes.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn texts(&self, sql: &str) -> Result<Vec<String>, Error> {
        let one = async |session: &Session| session.client.query(sql, &[]).await;
        let rows = try_join_all(self.sessions.iter().map(one)).await?;
        Ok(rows.iter().flatten().map(|row| row.get(0)).collect())
    }

    /// Runs statements on every node.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn run(&self, sql: &str) -> Result<(), Error> {
        try_join_all(self.sessions.iter().map(|session| session.client.batch_execute(sql))).await.map(drop)
    }

    /// The books: `total_sql` gives one number of type `bigint` on each node.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn books(&self, total_sql: &str) -> Result<Books, Error> {
        let total = i128::from(self.sum(total_sql).await?);
        let prepared = self.sum("select count(*) from pg_prepared_xacts where database = current_database()").await?;
        Ok(Books { total, prepared })
    }

    /// A server's setting, from the first node.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn setting(&self, name: &str) -> Result<String, Error> {
        match self.sessions.first() {
            Some(session) => Ok(session.client.query_one("select current_setting($1)", &[&name]).await?.get(0)),
            None => Ok(String::new()),
        }
    }

    async fn sum(&self, sql: &str) -> Result<i64, Error> {
        let one = async |session: &Session| Ok::<i64, Error>(session.client.query_one(sql, &[]).await?.get(0));
        Ok(try_join_all(self.sessions.iter().map(one)).await?.into_iter().sum())
    }
}
