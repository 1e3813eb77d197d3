//! What the benchmark of moves is asked for.

use clap::Args;

use crate::bench::MovesOptions;

/// Partitions that go back and forth between two peers under load: how long transactions wait at the switch, whether one fails, and how fast
/// rows move beside a plain COPY.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench move --switches 4 --rate 500 --rows 20000")]
pub(super) struct Move {
    /// How often partitions change their owner.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    switches: u32,
    /// How many partitions go at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// How many transactions a second, all of them at the partitions that move.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How many rows the move has that is compared with COPY.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    rows: u64,
}

impl Move {
    pub(super) fn options(self) -> MovesOptions {
        let Move { switches, partitions, rate, rows } = self;
        MovesOptions { switches, partitions: usize::try_from(partitions).unwrap_or(1), rate: f64::from(rate), rows }
    }
}
