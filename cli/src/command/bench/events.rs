//! What `bench journal` and `bench reference` take.

use std::time::Duration;

use clap::Args;

use super::{clients, duration, rate};
use crate::bench::{JournalOptions, ReferenceOptions};

/// Deposits with a journal beside deposits without, and beside a control that stores no outcomes; and how soon a subscriber has what took
/// effect.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench journal --clients 32 --duration 2s --rate 2000")]
pub(super) struct Journal {
    /// How many clients at once.
    #[arg(long, value_name = "NUMBER", default_value = "128", value_parser = clients)]
    clients: usize,
    /// How many transactions a second while a subscriber reads.
    #[arg(long, value_name = "NUMBER", default_value = "10000", value_parser = rate)]
    rate: f64,
    /// How long each measurement takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl Journal {
    pub(super) fn options(&self) -> JournalOptions {
        JournalOptions { clients: self.clients, rate: self.rate, duration: self.duration, rounds: self.rounds }
    }
}

/// How soon a change of the reference data is visible on all peers.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench reference --peers 2 --changes 50")]
pub(super) struct Reference {
    /// How many peers beside the hub.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=16))]
    peers: u32,
    /// How many changes.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// The pause between two of them.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = humantime::parse_duration)]
    pause: Duration,
}

impl Reference {
    pub(super) fn options(&self) -> ReferenceOptions {
        ReferenceOptions { peers: self.peers, changes: self.changes, pause: self.pause }
    }
}
