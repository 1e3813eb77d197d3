//! The worker's settings: one TOML file.

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;

/// What `rootward worker --config FILE` reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The id of the peer that this worker serves, as the catalog has it.
    pub peer: String,
    /// Where routers and other workers connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that others are told; `http://` and `listen` if it is missing.
    #[serde(default)]
    pub advertise: Option<String>,
    /// The peer's database for everything but lanes: role `rootward_system`.
    pub database: String,
    /// The same database for lanes: role `rootward_lane`.
    pub lane_database: String,
    /// The hub's database, where the catalog lies: role `rootward_system`.
    pub hub_database: String,
    /// Certificates that are trusted for TLS to PostgreSQL.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// How many lanes; about one per core that PostgreSQL may use.
    #[serde(default = "default_lanes")]
    pub lanes: u32,
    /// How many units may wait in each share of a lane's queue.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// How long one statement may run, in milliseconds.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
    /// Whether `query` may send SQL that no schema file declares.
    #[serde(default)]
    pub allow_ad_hoc_sql: bool,
    /// A request issued longer ago than this is refused as expired, in hours.
    #[serde(default = "default_retention_hours")]
    pub retention_hours: u32,
    /// How long requests under way may go on after SIGTERM, in milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
    /// Where the address is written once it is known, for whoever started us.
    #[serde(default)]
    pub report_file: Option<PathBuf>,
}

fn default_lanes() -> u32 {
    2
}

fn default_queue() -> usize {
    2048
}

fn default_statement_timeout_ms() -> u64 {
    5_000
}

fn default_retention_hours() -> u32 {
    24
}

fn default_grace_ms() -> u64 {
    10_000
}

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// TOML says what and where.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A connection string that PostgreSQL's rules don't allow.
    #[error("`{0}` is no connection string: {1}")]
    ConnectionString(&'static str, tokio_postgres::Error),
    /// A setting that can't work.
    #[error("{0}")]
    Setting(String),
}

/// Reads the settings from the text of a file.
///
/// # Errors
/// [`ConfigError`] with the place of the first thing that is wrong.
pub fn parse_config(text: &str) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(text)?;
    for (name, text) in [("database", &config.database), ("lane_database", &config.lane_database), ("hub_database", &config.hub_database)] {
        text.parse::<tokio_postgres::Config>().map_err(|error| ConfigError::ConnectionString(name, error))?;
    }
    if config.lanes == 0 || config.lanes > 64 {
        return Err(ConfigError::Setting(format!("`lanes` is {}: it is between 1 and 64", config.lanes)));
    }
    if config.queue == 0 || config.queue > 1_000_000 {
        return Err(ConfigError::Setting(format!("`queue` is {}: it is between 1 and 1000000", config.queue)));
    }
    Ok(config)
}
