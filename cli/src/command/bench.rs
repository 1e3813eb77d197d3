//! `rootward bench`: see the module [`crate::bench`].

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    bench::{self, ChainsOptions},
    output::{self, Format},
    signals,
};

/// Measure Rootward beside its alternatives, on a cluster of its own, and check that nothing was lost.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Chains(Chains),
}

/// Transfers between two peers: chains of two steps beside two-phase commit on the same PostgreSQL servers.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench chains --clients 1,16 --duration 2s")]
struct Chains {
    /// How many clients at once; one measurement for each number.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 16, 32, 128], value_parser = clients)]
    clients: Vec<usize>,
    /// How long each measurement takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many peers beside the hub; every transfer is between two of them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=8))]
    peers: u32,
}

/// Succeeds only if every check after the load held.
pub(crate) async fn run(bench: Bench, format: Format) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe()?;
    let stop = signals::shutdown();
    let What::Chains(chains) = bench.what;
    let options = ChainsOptions { clients: chains.clients, duration: chains.duration, rounds: chains.rounds, peers: chains.peers };
    let report = tokio::select! {
        report = bench::run_chains(&exe, &options) => report?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    output::print(&if format.is_json() { report.to_json().to_string() } else { report.to_text() });
    Ok(ExitCode::SUCCESS)
}

fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("between 1 and 1000 clients".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&duration) {
        Ok(duration)
    } else {
        Err("between 100ms and 1h".to_owned())
    }
}
