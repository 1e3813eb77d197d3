//! The router's settings: one TOML file.

use std::net::SocketAddr;

use rootward_schema::nearest_setting;
use serde::Deserialize;
use tonic::codegen::http::Uri;

/// What `rootward router --config FILE` reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Addresses of some workers; the catalog names the rest.
    pub workers: Vec<String>,
    /// Where Prometheus reads what this router measures; nowhere if it is missing.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the addresses are written once they are known, for whoever started us.
    #[serde(default)]
    pub report_file: Option<std::path::PathBuf>,
    /// Where the router stands, in degrees north, for distances to peers.
    #[serde(default)]
    pub latitude: Option<f64>,
    /// The same to the east.
    #[serde(default)]
    pub longitude: Option<f64>,
    /// How long a request without a deadline of its own may take, in milliseconds.
    #[serde(default = "default_deadline_ms")]
    pub default_deadline_ms: u64,
    /// How many requests may be under way at once; more are refused at once.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// How many of them one client's stream may have, so that no client takes all the room.
    #[serde(default = "default_max_in_flight_per_stream")]
    pub max_in_flight_per_stream: usize,
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

fn default_max_in_flight_per_stream() -> usize {
    2048
}

fn default_grace_ms() -> u64 {
    10_000
}

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// TOML says what and where.
    #[error("{}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// A setting that can't work.
    #[error("{0}")]
    Setting(String),
}

impl ConfigError {
    /// What to do next.
    pub fn help(&self) -> String {
        let near = match self {
            ConfigError::Toml(error) => nearest_setting(error.message()),
            ConfigError::Setting(_) => None,
        };
        near.map_or_else(|| "docs/samples/router.toml is a complete file".to_owned(), |near| format!("did you mean `{near}`?"))
    }
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
    if let Some(wrong) = config.workers.iter().find(|address| !is_address(address)) {
        return Err(ConfigError::Setting(format!("`workers`: `{wrong}` is no address: write http://HOST:PORT")));
    }
    let is_place = match (config.latitude, config.longitude) {
        (Some(latitude), Some(longitude)) => latitude.abs() <= 90.0 && longitude.abs() <= 180.0,
        (None, None) => true,
        _ => false,
    };
    if !is_place {
        let message = "it needs both `latitude`, -90 to 90, and `longitude`, -180 to 180, or neither";
        return Err(ConfigError::Setting(message.to_owned()));
    }
    if config.default_deadline_ms == 0 {
        return Err(ConfigError::Setting("`default_deadline_ms` is 0: no request could be answered in time".to_owned()));
    }
    if config.max_in_flight_per_stream == 0 {
        return Err(ConfigError::Setting("`max_in_flight_per_stream` is 0: no stream could carry anything".to_owned()));
    }
    if config.max_in_flight == 0 {
        return Err(ConfigError::Setting("`max_in_flight` is 0: the router could not accept anything".to_owned()));
    }
    Ok(config)
}

/// Whether `text` is an address that a process can connect to: `http://HOST:PORT` and nothing more.
pub fn is_address(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && uri.port().is_some() && !uri.host().unwrap_or("").is_empty() && matches!(uri.path(), "" | "/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../docs/samples/router.toml");

    #[test]
    fn the_sample_is_right_and_shows_the_defaults() {
        let sample = parse_config(SAMPLE).expect("the sample is right");
        let least = parse_config("listen = \"0.0.0.0:7400\"\nworkers = [\"http://10.0.0.11:7411\"]").expect("enough");
        assert_eq!(sample.metrics_listen, least.metrics_listen);
        assert_eq!(
            (sample.default_deadline_ms, sample.max_in_flight, sample.max_in_flight_per_stream, sample.grace_ms),
            (least.default_deadline_ms, least.max_in_flight, least.max_in_flight_per_stream, least.grace_ms)
        );
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_right_name() {
        let error = parse_config(&SAMPLE.replace("max_in_flight =", "max_inflight =")).expect_err("misspelt");
        assert!(error.to_string().contains("unknown field `max_inflight`"), "{error}");
        assert_eq!(error.help(), "did you mean `max_in_flight`?");
        assert!(parse_config("listen = 7").expect_err("no address").help().contains("docs/samples/router.toml"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        for (from, to, name) in [
            ("workers = [\"http://10.0.0.11:7411\", \"http://10.0.0.12:7411\"]", "workers = []", "`workers`"),
            ("http://10.0.0.12:7411", "10.0.0.12:7411", "`workers`"),
            ("max_in_flight = 4096", "max_in_flight = 0", "`max_in_flight`"),
            ("max_in_flight_per_stream = 2048", "max_in_flight_per_stream = 0", "`max_in_flight_per_stream`"),
            ("default_deadline_ms = 10000", "default_deadline_ms = 0", "`default_deadline_ms`"),
            ("default_deadline_ms = 10000", "latitude = 42.0", "`longitude`"),
            ("default_deadline_ms = 10000", "latitude = 91.0\nlongitude = 0.0", "`latitude`"),
        ] {
            let error = parse_config(&SAMPLE.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn addresses_have_a_scheme_and_a_port() {
        assert!(is_address("http://10.0.0.1:7411") && is_address("http://[::1]:7411/") && is_address("http://worker.p1:80"));
        for wrong in ["", "10.0.0.1:7411", "http://10.0.0.1", "https://a:1", "http://a:1/path", "http://:1", "a b"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
