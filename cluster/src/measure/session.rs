//! A connection whose task ends with it.

use tokio::task::JoinSet;
use tokio_postgres::{Client, Error, NoTls};

/// One database session. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Session {
    pub client: Client,
    // Drives the connection; aborted when this is dropped.
    _driver: JoinSet<()>,
}

impl Session {
    pub(super) async fn open(database: &str, application: &str) -> Result<Session, Error> {
        let mut config: tokio_postgres::Config = database.parse()?;
        let (client, connection) = config.application_name(application).connect(NoTls).await?;
        let mut driver = JoinSet::new();
        // What ends the connection is told to whoever waits for an answer on it.
        driver.spawn(async move { drop(connection.await) });
        Ok(Session { client, _driver: driver })
    }
}

/// Runs statements in a session of their own.
///
/// # Errors
/// PostgreSQL's.
pub async fn run_sql(database: &str, sql: &str) -> Result<(), Error> {
    Session::open(database, "rootward setup").await?.client.batch_execute(sql).await
}
