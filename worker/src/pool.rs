//! The connections of a term for everything that is no lane.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};

use crate::{config::Config, pg};

const POOL_SIZE: usize = 6;
/// How long a connection may take, or be waited for.
const LIMIT: Duration = Duration::from_secs(3);

/// Connects when it is used, to the host that the term is bound to.
///
/// # Errors
/// What is wrong with the settings.
pub(crate) fn pool(config: &Config) -> Result<Pool, String> {
    let mut settings = config.settings_of(&config.database).map_err(|error| error.to_string())?;
    settings.application_name("rootward system").connect_timeout(LIMIT);
    // `Clean` runs DISCARD-like statements on return: `Fast` would hand on open transactions and settings.
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Clean };
    let manager = match pg::tls_for(&settings, config.tls_ca_file.as_deref()).map_err(|error| error.to_string())? {
        Some(tls) => Manager::from_config(settings, tokio_postgres_rustls::MakeRustlsConnect::new(tls), manager_config),
        None => Manager::from_config(settings, tokio_postgres::NoTls, manager_config),
    };
    Pool::builder(manager)
        .max_size(POOL_SIZE)
        // The one that was used last has plans of what was asked last.
        .queue_mode(QueueMode::Lifo)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .wait_timeout(Some(LIMIT))
        .create_timeout(Some(LIMIT))
        .recycle_timeout(Some(LIMIT))
        .build()
        .map_err(|error| error.to_string())
}
