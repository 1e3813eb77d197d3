//! What the benchmark of failovers is asked for.

use clap::Args;

use super::clients;
use crate::bench::FailoverOptions;

/// A primary is killed under load and its standby promoted: how soon transactions run again, and what was lost.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench failover --rounds 1 --clients 4")]
pub(super) struct Failover {
    /// How many clients at once.
    #[arg(long, value_name = "NUMBER", default_value = "8", value_parser = clients)]
    clients: usize,
    /// How often; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

impl Failover {
    pub(super) fn options(&self) -> FailoverOptions {
        FailoverOptions { clients: self.clients, rounds: self.rounds }
    }
}
