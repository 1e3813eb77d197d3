//! Connecting to a server that starts, and the set-up of what must be in it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::{Client, Config, NoTls};

use super::{START_LIMIT, Server, ServerError};
use crate::process::Child;
use crate::settings::{SUPERUSER, identifier, literal};
use crate::template::SPARE_DATABASE;

const POLL: Duration = Duration::from_millis(5);

impl Server {
    /// Waits until the server accepts connections or has ended.
    pub(super) async fn until_ready(&self, child: &Child) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_LIMIT;
        let mut source = None;
        loop {
            match timeout_at(deadline, with_connection(&self.superuser_config(), async |_| Ok(()))).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => source = Some(error),
                Err(_) => {}
            }
            if !child.is_running() {
                return Err(ServerError::failed("postgres", &self.files.log));
            }
            if Instant::now() >= deadline {
                return Err(ServerError::NotReady { name: self.config.name.clone(), log: self.files.log.clone(), source });
            }
            sleep(POLL).await;
        }
    }

    /// The superuser's password and the databases.
    pub(super) async fn set_up(&self) -> Result<(), ServerError> {
        let failed = |source| ServerError::SetUp { name: self.config.name.clone(), source };
        let set_up = async |client: &Client| {
            client.batch_execute(&format!("alter role {} password{}", identifier(SUPERUSER), literal(&self.password))).await?;
            for name in &self.config.databases {
                if has_database(client, name).await? {
                    continue;
                }
                let make = match has_database(client, SPARE_DATABASE).await? {
                    true => format!("alter database {} rename to {}", identifier(SPARE_DATABASE), identifier(name)),
                    false => format!("create database {}", identifier(name)),
                };
                client.batch_execute(&make).await?;
            }
            Ok(())
        };
        with_connection(&self.superuser_config(), set_up).await.map_err(failed)
    }

    pub(super) fn superuser_config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.files.sockets).port(self.port).user(SUPERUSER).dbname("postgres").application_name("rootward set-up");
        config
    }
}

async fn has_database(client: &Client, name: &str) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_opt("select from pg_database where datname = $1", &[&name]).await?.is_some())
}

/// Connects, does the work, and disconnects.
pub(super) async fn with_connection<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let work = async {
        let result = work(&client).await;
        // The connection's future ends once its client is gone.
        drop(client);
        result
    };
    let (result, _) = tokio::join!(work, connection);
    result
}
