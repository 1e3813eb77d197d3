//! The long tests: the full matrix of kill points, each chain in every way, then random rounds, of kills and of faults while
//! partitions move.
//!
//! `cargo run --release -p tests --bin battery -- --rounds 20`. It ends with 1 and says what was broken if a promise was;
//! the printed seed plays the same rounds again, as far as a scheduler allows.

mod chains;
mod faults;
mod matrix;
mod million;
mod network;
mod patroni;
mod rounds;

use std::process::ExitCode;

use clap::Parser;
use tests::play::Example;

/// How many rounds of faults follow the rounds of kills.
const FAULTS: usize = 15;

/// What is to be run.
#[derive(Debug, Parser)]
struct Options {
    /// The seed of the random rounds; a fresh one if none.
    #[arg(long)]
    seed: Option<u64>,
    /// How many random rounds.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Only so many rounds of faults while partitions move.
    #[arg(long, num_args = 0..=1, default_missing_value = "15")]
    faults: Option<usize>,
    /// Only the cuts of the network: a worker from each of the others, in each way. Needs root.
    #[arg(long)]
    network: bool,
    /// Only failovers under Patroni with etcd. Needs both programs.
    #[arg(long)]
    patroni: bool,
    /// Leaves out the matrix.
    #[arg(long)]
    no_matrix: bool,
    /// Only the chains: their matrix, and random programs.
    #[arg(long)]
    chains: bool,
    /// Of the chains' part: only this example (`bank`, `shop`, `workflow`); it may be given several times.
    #[arg(long, value_parser = example_named)]
    example: Vec<Example>,
    /// Of the chains' matrix: only this chain; it may be given several times.
    #[arg(long)]
    chain: Vec<String>,
    /// Only a list, a count and a replay by filter of so many parked chains, and the recovery of open ones.
    #[arg(long, num_args = 0..=1, default_missing_value = "1000000")]
    million: Option<i64>,
}

fn example_named(name: &str) -> Result<Example, String> {
    let is_it = |example: &Example| format!("{example:?}").eq_ignore_ascii_case(name);
    Example::ALL.into_iter().find(is_it).ok_or_else(|| "there are `bank`, `shop` and `workflow`".to_owned())
}

fn main() -> ExitCode {
    // The clusters are made of this very program.
    if std::env::args().nth(1).is_some_and(|command| matches!(command.as_str(), "internal" | "worker" | "router")) {
        return rootward::main();
    }
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(()) => {
            eprintln!("every promise was kept");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("BROKEN: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let exe = std::env::current_exe()?;
    if let Some(count) = options.million {
        return million::run(&exe, count).await;
    }
    if options.network {
        return network::run(&exe, options.seed.unwrap_or_else(rand::random)).await;
    }
    if options.patroni {
        return patroni::run(&exe).await;
    }
    if let Some(rounds) = options.faults {
        return faults::run(&exe, options.seed.unwrap_or_else(rand::random), rounds).await;
    }
    let chosen: Vec<Example> = match options.example.as_slice() {
        [] => Example::ALL.to_vec(),
        some => some.to_vec(),
    };
    if !options.no_matrix {
        if !options.chains {
            matrix::run(&exe).await?;
        }
        chains::matrix(&exe, &chosen, &options.chain).await?;
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("{} rounds with --seed {seed}", options.rounds);
    chains::programs(&exe, &chosen, seed, options.rounds.div_ceil(3)).await?;
    if options.chains {
        return Ok(());
    }
    rounds::run(&exe, seed, options.rounds).await?;
    faults::run(&exe, seed, FAULTS).await?;
    network::run(&exe, seed).await?;
    patroni::run(&exe).await
}
