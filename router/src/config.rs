//! The router's settings: one TOML file.

use std::net::SocketAddr;

use serde::Deserialize;

/// What `rootward router --config FILE` reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Addresses of some workers; the catalog names the rest.
    pub workers: Vec<String>,
    /// Where the addresses are written once they are known, for whoever started us.
    #[serde(default)]
    pub report_file: Option<std::path::PathBuf>,
    /// How long a request without a deadline of its own may take, in milliseconds.
    #[serde(default = "default_deadline_ms")]
    pub default_deadline_ms: u64,
    /// How many requests may be under way at once; more are refused at once.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// How long requests under way may go on after SIGTERM, in milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
}

fn default_deadline_ms() -> u64 {
    10_000
}

fn default_max_in_flight() -> usize {
    4096
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
    if config.workers.is_empty() {
        return Err(ConfigError::Setting("`workers` is empty: name at least one worker's address".to_owned()));
    }
    if config.max_in_flight == 0 {
        return Err(ConfigError::Setting("`max_in_flight` is 0: the router could not accept anything".to_owned()));
    }
    Ok(config)
}
