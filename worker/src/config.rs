//! The worker's settings: one TOML file.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rootward_router::is_address;
use rootward_schema::nearest_setting;
use serde::Deserialize;

use crate::{
    host::Bound,
    pg::{Silence, behind_defaults},
};

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
    /// The same database for queries on snapshots: role `rootward_reader`, which may only read; `lane_database` with that role if it
    /// is missing.
    #[serde(default)]
    pub reader_database: Option<String>,
    /// More standbys of the same database, for reads that may be a little old: role `rootward_lane`. The hosts of `lane_database` are asked
    /// too, if it names several.
    #[serde(default)]
    pub standby_database: Option<String>,
    /// The hub's database, where the catalog lies: role `rootward_system`.
    pub hub_database: String,
    /// How long the network to a PostgreSQL may say nothing before a connection is given up, in milliseconds. Both ends watch.
    #[serde(default = "default_database_silence_ms")]
    pub database_silence_ms: u64,
    /// Certificates that are trusted for TLS to PostgreSQL.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// How many lanes, each with two connections; about one per core that PostgreSQL may use.
    #[serde(default = "default_lanes")]
    pub lanes: u32,
    /// What an acknowledged transaction has outlived: `local`, its PostgreSQL's crash; `replicated`, the loss of that server, since a
    /// synchronous standby has it too. The worker serves nothing while PostgreSQL is not set so.
    #[serde(default)]
    pub durability: Durability,
    /// How many units may wait in each share of a lane's queue.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// How long new work may have to wait for its batch, in milliseconds; what would wait longer is refused at once.
    #[serde(default = "default_max_queue_ms")]
    pub max_queue_ms: u64,
    /// How many units a second this worker takes on; 0 for as many as it can.
    #[serde(default)]
    pub max_units_per_second: u32,
    /// How many units one batch may hold.
    #[serde(default = "default_max_batch")]
    pub max_batch: usize,
    /// Whether transactions that may run for many roots by one call do so.
    #[serde(default = "default_set_wise")]
    pub set_wise: bool,
    /// How long one statement may run, in milliseconds.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u64,
    /// Whether `query` may send SQL that no schema file declares.
    #[serde(default)]
    pub allow_ad_hoc_sql: bool,
    /// A request issued longer ago than this is refused as expired, in hours.
    #[serde(default = "default_retention_hours")]
    pub retention_hours: u32,
    /// Ended chains are kept this long, in hours; at least `retention_hours`.
    #[serde(default = "default_chain_retention_hours")]
    pub chain_retention_hours: u32,
    /// Staged rows that are done are kept this long, in hours.
    #[serde(default = "default_stage_retention_hours")]
    pub stage_retention_hours: u32,
    /// How long the collection of old outcomes, chains and staged rows rests when it found nothing, in milliseconds.
    #[serde(default = "default_collection_pause_ms")]
    pub collection_pause_ms: u64,
    /// How long a snapshot waits for chains that are under way, in milliseconds; new ones are held that long.
    #[serde(default = "default_snapshot_drain_ms")]
    pub snapshot_drain_ms: u64,
    /// How long a snapshot may hold the lanes, in milliseconds.
    #[serde(default = "default_snapshot_hold_ms")]
    pub snapshot_hold_ms: u64,
    /// How many snapshots may be open at once.
    #[serde(default = "default_max_snapshots")]
    pub max_snapshots: usize,
    /// How long one query on a snapshot may run, in milliseconds.
    #[serde(default = "default_snapshot_statement_timeout_ms")]
    pub snapshot_statement_timeout_ms: u64,
    /// How other peers' PostgreSQL reaches this one when partitions move away from here: role `rootward_system`; `database` if it is missing.
    #[serde(default)]
    pub replication_database: Option<String>,
    /// How long a partition's work may be held while it changes its owner, in milliseconds.
    #[serde(default = "default_move_hold_ms")]
    pub move_hold_ms: u64,
    /// How many rows a second are copied at most when partitions move, over all moves and on average; 0 for as many as there can be. The
    /// hub's worker reads it.
    #[serde(default)]
    pub move_rows_per_second: u32,
    /// How long the relay that this peer copies reference data from may be dead, or bring nothing new, in milliseconds; then they come by
    /// another route.
    #[serde(default = "default_route_patience_ms")]
    pub route_patience_ms: u64,
    /// How long requests under way may go on after SIGTERM, in milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
    /// Where Prometheus reads what this worker measures; nowhere if it is missing.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the address is written once it is known, for whoever started us.
    #[serde(default)]
    pub report_file: Option<PathBuf>,
    /// The host of the term that is served; no setting.
    #[serde(skip)]
    pub(crate) bound: Arc<Bound>,
}

impl Config {
    /// What a connection string says, for the host that the term is bound to if it names that among others.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn settings_of(&self, database: &str) -> Result<tokio_postgres::Config, tokio_postgres::Error> {
        Ok(self.bound.narrow(self.unbound_settings_of(database)?))
    }

    /// What a connection string says, for all hosts that it names.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn unbound_settings_of(&self, database: &str) -> Result<tokio_postgres::Config, tokio_postgres::Error> {
        let mut settings: tokio_postgres::Config = database.parse()?;
        let options = self.session_options(settings.get_options().unwrap_or_default());
        settings.options(options);
        self.silence().set(&mut settings);
        Ok(settings)
    }

    /// All options of a session that has these of its own.
    pub(crate) fn session_options(&self, own: &str) -> String {
        self.silence().with_options(&behind_defaults(own))
    }

    /// After which silence a connection to PostgreSQL is given up.
    pub(crate) fn silence(&self) -> Silence {
        Silence(Duration::from_millis(self.database_silence_ms))
    }
}

/// What an acknowledged transaction has outlived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A crash of its PostgreSQL.
    #[default]
    Local,
    /// The loss of its PostgreSQL's machine.
    Replicated,
}

fn default_database_silence_ms() -> u64 {
    10_000
}

fn default_lanes() -> u32 {
    2
}

fn default_queue() -> usize {
    2048
}

fn default_max_queue_ms() -> u64 {
    500
}

fn default_max_batch() -> usize {
    512
}

fn default_set_wise() -> bool {
    true
}

fn default_statement_timeout_ms() -> u64 {
    5_000
}

fn default_retention_hours() -> u32 {
    24
}

fn default_chain_retention_hours() -> u32 {
    168
}

fn default_stage_retention_hours() -> u32 {
    168
}

fn default_collection_pause_ms() -> u64 {
    60_000
}

fn default_snapshot_drain_ms() -> u64 {
    2_000
}

fn default_snapshot_hold_ms() -> u64 {
    250
}

fn default_max_snapshots() -> usize {
    16
}

fn default_snapshot_statement_timeout_ms() -> u64 {
    60_000
}

fn default_move_hold_ms() -> u64 {
    1_000
}

fn default_route_patience_ms() -> u64 {
    5_000
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
    /// A connection string that PostgreSQL's rules don't allow.
    #[error("`{0}` is no connection string: {1}")]
    ConnectionString(&'static str, tokio_postgres::Error),
    /// A setting that can't work.
    #[error("{0}")]
    Setting(String),
}

impl ConfigError {
    /// What to do next.
    pub fn help(&self) -> String {
        let near = match self {
            ConfigError::Toml(error) => nearest_setting(error.message()),
            ConfigError::ConnectionString(..) | ConfigError::Setting(_) => None,
        };
        near.map_or_else(|| "docs/samples/worker.toml is a complete file".to_owned(), |near| format!("did you mean `{near}`?"))
    }
}

/// Reads the settings from the text of a file.
///
/// # Errors
/// [`ConfigError`] with the place of the first thing that is wrong.
pub fn parse_config(text: &str) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(text)?;
    let databases =
        [("database", &config.database), ("lane_database", &config.lane_database), ("hub_database", &config.hub_database)].into_iter();
    let others = [
        ("reader_database", &config.reader_database),
        ("standby_database", &config.standby_database),
        ("replication_database", &config.replication_database),
    ];
    for (name, text) in databases.chain(others.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)))) {
        text.parse::<tokio_postgres::Config>().map_err(|error| ConfigError::ConnectionString(name, error))?;
    }
    if let Some(wrong) = config.advertise.as_ref().filter(|address| !is_address(address)) {
        return Err(ConfigError::Setting(format!("`advertise` is `{wrong}`: write http://HOST:PORT")));
    }
    if config.lanes == 0 || config.lanes > 64 {
        return Err(ConfigError::Setting(format!("`lanes` is {}: it is between 1 and 64", config.lanes)));
    }
    if config.queue == 0 || config.queue > 1_000_000 {
        return Err(ConfigError::Setting(format!("`queue` is {}: it is between 1 and 1000000", config.queue)));
    }
    if config.max_queue_ms == 0 || config.max_queue_ms > 600_000 {
        return Err(ConfigError::Setting(format!("`max_queue_ms` is {}: it is between 1 and 600000", config.max_queue_ms)));
    }
    if config.max_batch == 0 || config.max_batch > 8_192 {
        return Err(ConfigError::Setting(format!("`max_batch` is {}: it is between 1 and 8192", config.max_batch)));
    }
    if config.retention_hours == 0 || config.retention_hours > 87_600 {
        return Err(ConfigError::Setting(format!("`retention_hours` is {}: it is between 1 and 87600", config.retention_hours)));
    }
    for (name, ms) in [
        ("snapshot_drain_ms", config.snapshot_drain_ms),
        ("snapshot_hold_ms", config.snapshot_hold_ms),
        ("move_hold_ms", config.move_hold_ms),
        ("route_patience_ms", config.route_patience_ms),
    ] {
        if ms == 0 || ms > 60_000 {
            return Err(ConfigError::Setting(format!("`{name}` is {ms}: it is between 1 and 60000")));
        }
    }
    if !(1_000..=600_000).contains(&config.database_silence_ms) {
        let silence = config.database_silence_ms;
        return Err(ConfigError::Setting(format!("`database_silence_ms` is {silence}: it is between 1000 and 600000")));
    }
    if config.max_snapshots == 0 || config.max_snapshots > 100 {
        return Err(ConfigError::Setting(format!("`max_snapshots` is {}: it is between 1 and 100", config.max_snapshots)));
    }
    if config.stage_retention_hours > 87_600 {
        return Err(ConfigError::Setting(format!("`stage_retention_hours` is {}: it is at most 87600", config.stage_retention_hours)));
    }
    if config.chain_retention_hours < config.retention_hours {
        return Err(ConfigError::Setting(format!(
            "`chain_retention_hours` is {}: it is at least `retention_hours`, {}",
            config.chain_retention_hours, config.retention_hours
        )));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../docs/samples/worker.toml");

    #[test]
    fn the_sample_is_right_and_shows_the_defaults() {
        let sample = parse_config(SAMPLE).expect("the sample is right");
        let needed = ["peer", "listen", "database", "lane_database", "hub_database"];
        let least: String = SAMPLE
            .lines()
            .filter(|line| needed.iter().any(|name| line.split_once(" = ").is_some_and(|(setting, _)| setting == *name)))
            .map(|line| format!("{line}\n"))
            .collect();
        let least = parse_config(&least).expect("enough");
        let settings = |config: &Config| {
            let kept = (config.retention_hours, config.chain_retention_hours, config.stage_retention_hours, config.collection_pause_ms);
            (
                config.lanes,
                (config.queue, config.max_queue_ms, config.max_units_per_second),
                (config.max_batch, config.set_wise, config.database_silence_ms),
                config.allow_ad_hoc_sql,
                config.statement_timeout_ms,
                kept,
                (config.grace_ms, config.metrics_listen, config.route_patience_ms),
                (config.move_hold_ms, config.move_rows_per_second),
                (config.snapshot_drain_ms, config.snapshot_hold_ms, config.max_snapshots, config.snapshot_statement_timeout_ms),
            )
        };
        assert_eq!(settings(&sample), settings(&least));
    }

    #[test]
    fn a_connection_strings_options_stand_behind_our_defaults_and_the_server_watches_too() {
        let config = Config { database_silence_ms: 12_000, ..parse_config(SAMPLE).expect("the sample is right") };
        let settings = config.settings_of("host=10.0.0.21 options='-c timezone=Asia/Kolkata'").expect("a connection string");
        let options = settings.get_options().expect("set");
        let at = |text: &str| options.find(text).unwrap_or_else(|| panic!("{text} is not in {options}"));
        assert!(at("-c timezone=UTC ") < at("-c timezone=Asia/Kolkata "), "the later one wins");
        assert!(
            options.ends_with("-c tcp_keepalives_idle=6 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=12000")
        );
    }

    #[test]
    fn the_sample_finds_the_primary_among_several_hosts_over_tls() {
        let sample = parse_config(SAMPLE).expect("the sample is right");
        for text in [&sample.database, &sample.lane_database] {
            let database: tokio_postgres::Config = text.parse().expect("a connection string");
            assert_eq!(database.get_hosts().len(), 2);
            assert_eq!(database.get_target_session_attrs(), tokio_postgres::config::TargetSessionAttrs::ReadWrite);
            assert_eq!(database.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (from, to, name, help) in [
            ("lanes = 2", "lane = 2", "unknown field `lane`", "did you mean `lanes`?"),
            ("\nlane_database =", "\nlane_databse =", "unknown field `lane_databse`", "did you mean `lane_database`?"),
            ("lanes = 2", "lanes = 65", "`lanes` is 65", "docs/samples/worker.toml"),
            ("queue = 2048", "queue = 0", "`queue` is 0", "docs/samples/worker.toml"),
            ("max_queue_ms = 500", "max_queue_ms = 0", "`max_queue_ms` is 0", "docs/samples/worker.toml"),
            ("snapshot_hold_ms = 250", "snapshot_hold_ms = 0", "`snapshot_hold_ms` is 0", "docs/samples/worker.toml"),
            ("database_silence_ms = 10000", "database_silence_ms = 10", "`database_silence_ms` is 10", "docs/samples/worker.toml"),
            ("max_snapshots = 16", "max_snapshots = 1000", "`max_snapshots` is 1000", "docs/samples/worker.toml"),
            ("max_batch = 512", "max_batch = 0", "`max_batch` is 0", "docs/samples/worker.toml"),
            ("http://10.0.0.11:7411", "10.0.0.11:7411", "`advertise`", "docs/samples/worker.toml"),
            ("sslmode=require", "sslmode=sometimes", "`database` is no connection string", "docs/samples/worker.toml"),
        ] {
            let error = parse_config(&SAMPLE.replacen(from, to, 1)).expect_err(to);
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.help().contains(help), "{}", error.help());
        }
    }
}
