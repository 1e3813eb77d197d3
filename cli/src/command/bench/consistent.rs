//! What the benchmarks of snapshots are asked for.

use std::time::Duration;

use clap::Args;

use super::{clients, duration};
use crate::{
    bench::{NO_RIVAL, Rival, SnapshotsOptions, XtmOptions},
    edge::Wrong,
};

/// Numbers of `bench xtm` don't go together.
const CODE: &str = "RW1121";
/// Fewer may leave a shard without any.
const LEAST_ACCOUNTS_PER_SHARD: u64 = 20;

/// Transfers between random accounts of several databases, while readers look at the total, which must always be 0.
///
/// This is xtmbench with its options and output: a line `Total=…` whenever a reader's total is another one than its last, so none
/// if all is well, and a line of JSON in the end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rootward bench xtm -w 10 -r 1 -a 10000 -n 300 -s 2
  rootward bench xtm -n 20 -a 100 --against fdw,2pc
  rootward bench xtm -n 200 --kill 5 -o json")]
pub(super) struct Xtm {
    /// How many readers look at the total all the time.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    readers: u32,
    /// How many writers.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    writers: u32,
    /// How many accounts.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    accounts: u64,
    /// How many iterations each writer does.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    iterations: u64,
    /// How many of a hundred iterations transfer; the others look at two accounts.
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    update_percent: u32,
    /// How many databases the accounts lie in, each on a server of its own.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    shards: u32,
    /// The same load on the same servers without Rootward: fdw (plain postgres_fdw, a message for each statement as in xtmbench), fdw-one-message, 2pc (PREPARE TRANSACTION).
    #[arg(long, value_name = "RIVALS", value_delimiter = ',')]
    against: Vec<String>,
    /// How often a worker or a PostgreSQL of Rootward's is killed with -9 and started again, in turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    kill: u32,
    /// How often all sides are run, in turns; the median counts.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Snapshots over all peers under a full load of transfers: whether every total is exact, how long the lanes are held for one, and
/// what one a second costs.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench snapshots --clients 16 --snapshots 20 --duration 2s --rounds 1")]
pub(super) struct Snapshots {
    /// How many clients transfer at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 128, value_parser = clients)]
    clients: usize,
    /// How many snapshots are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    snapshots: u32,
    /// The pause between two of them, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pause_ms: u64,
    /// How long each measurement of the throughput takes, after a warm-up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often the throughput is taken, with snapshots and without in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many peers beside the hub.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=8))]
    peers: u32,
}

impl Xtm {
    pub(super) fn options(self) -> Result<XtmOptions, Wrong> {
        let least = LEAST_ACCOUNTS_PER_SHARD * u64::from(self.shards);
        if self.accounts < least {
            let message = format!("-a {}: with {} shards one of them might get no account", self.accounts, self.shards);
            return Err(Wrong::new(CODE, message, format!("give at least -a {least}, or fewer shards")));
        }
        let all = u64::from(self.writers) * self.iterations;
        if u64::from(self.kill) >= all {
            let message = format!("--kill {}: the writers do {all} iterations, and between two kills there must be one", self.kill);
            return Err(Wrong::new(CODE, message, "give fewer kills, or more iterations with -n"));
        }
        let mut against = Vec::new();
        for word in &self.against {
            let rival = Rival::parse(word).ok_or_else(|| {
                let message = format!("--against: there is no rival `{word}` here");
                Wrong::new(NO_RIVAL, message, "write fdw, fdw-one-message or 2pc, several with commas between them")
            })?;
            if !against.contains(&rival) {
                against.push(rival);
            }
        }
        let Xtm { readers, writers, accounts, iterations, update_percent, shards, against: _, kill, rounds } = self;
        Ok(XtmOptions { readers, writers, accounts, iterations, update_percent, shards, against, kill, rounds })
    }
}

impl Snapshots {
    pub(super) fn options(self) -> SnapshotsOptions {
        let Snapshots { clients, snapshots, pause_ms, duration, rounds, peers } = self;
        SnapshotsOptions { clients, snapshots, pause: Duration::from_millis(pause_ms), duration, rounds, peers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xtm(accounts: u64, shards: u32, against: &[&str], kill: u32) -> Result<XtmOptions, Wrong> {
        let against = against.iter().map(|word| (*word).to_owned()).collect();
        Xtm { readers: 1, writers: 2, accounts, iterations: 3, update_percent: 100, shards, against, kill, rounds: 1 }.options()
    }

    #[test]
    fn numbers_that_do_not_go_together_are_refused() {
        let told = |result: Result<XtmOptions, Wrong>| format!("{:?}", result.expect_err("refused"));
        assert!(told(xtm(100, 8, &[], 0)).contains("at least -a 160"));
        assert!(told(xtm(100, 2, &[], 6)).contains("6 iterations"));
        assert!(told(xtm(100, 2, &["fdw", "mysql"], 0)).contains("`mysql`"));
        let options = xtm(100, 2, &["2pc", "fdw", "2pc"], 5).expect("they go together");
        assert_eq!(options.against, [Rival::TwoPhase, Rival::Fdw]);
    }
}
