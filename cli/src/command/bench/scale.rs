//! What `bench scale` takes.

use std::time::Duration;

use clap::Args;

use super::{distinct, duration, rate};
use crate::bench::ScaleOptions;

/// What more peers bring: deposits on one, two, four and eight of them, with commits that take their time; and what a router needs for a
/// transaction in front of more and more peers.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench scale --peers 1,2 --duration 2s --report scale.html")]
pub(super) struct Scale {
    /// How many peers; one measurement for each number.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u32).range(1..=16))]
    peers: Vec<u32>,
    /// In front of how many peers the router is measured; those beyond the 16th are stand-ins.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 16, 64], value_parser = clap::value_parser!(u32).range(1..=256))]
    router_peers: Vec<u32>,
    /// What each commit waits at PostgreSQL before it is flushed.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = delay)]
    commit_delay: Duration,
    /// How many clients for each peer.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    clients_per_peer: u16,
    /// How many transactions a commit carries at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// How many transactions a second the router passes on while its processor time is measured.
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = rate)]
    rate: f64,
    /// How long each measurement takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl Scale {
    pub(super) fn options(self) -> ScaleOptions {
        let distinct = |numbers: Vec<u32>| {
            let numbers = distinct(numbers.into_iter().filter_map(|number| usize::try_from(number).ok()).collect());
            numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect()
        };
        ScaleOptions {
            peers: distinct(self.peers),
            router_peers: distinct(self.router_peers),
            commit_delay: self.commit_delay,
            clients_per_peer: self.clients_per_peer.into(),
            batch: self.batch.into(),
            rate: self.rate,
            duration: self.duration,
            rounds: self.rounds,
        }
    }
}

/// PostgreSQL's own bound on `commit_delay`.
fn delay(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if delay <= Duration::from_millis(100) { Ok(delay) } else { Err("at most 100ms".to_owned()) }
}
