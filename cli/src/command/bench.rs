//! `rootward bench`: see the module [`crate::bench`].

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::{
    bench::{self, Baseline, ChainsOptions, Kill, OverloadOptions, SingleOptions, Workload},
    output::{self, Format},
    signals,
};

use super::exit;

const EXAMPLES: &str = "Examples:
  rootward bench bank
  rootward bench bank --clients 1,128 --against statement,pipelined,pgbouncer --duration 10s
  rootward bench bank --clients 32 --kill p1@2s --report out.html
  rootward bench tpcb --clients 32 --rate 2000 -o json";

/// Measure Rootward beside its alternatives, on a cluster of its own, and check that nothing was lost.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
    /// Write one HTML page with the curves, too.
    #[arg(long, global = true, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A deposit: an account is looked up, its balance raised and read, and an entry written, in one transaction.
    Bank(Single),
    /// Goods come in: a product's stock is raised and read.
    Shop(Single),
    /// pgbench's TPC-B, an account with its branch and tellers being a root: five statements.
    Tpcb(Single),
    Chains(Chains),
    Overload(Overload),
}

/// Ten times what a worker takes on: how much is still done in time, how the rest is refused, and that nothing refused was done.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench overload --capacity 1000 --times 10 --duration 10s")]
struct Overload {
    /// What the worker takes on a second, limited by its setting `max_units_per_second`, so that the load is not what is measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    capacity: u32,
    /// How many times the capacity is offered.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    times: u32,
    /// What each request has until it must be answered, its retries included.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    deadline: Duration,
    /// How long each measurement takes, after a warm-up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken, the peak and the flood in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many clients with a connection and a retry budget each all requests share.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
}

/// One transaction at one root.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Single {
    /// How many clients at once; one measurement for each number.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 8, 32, 128], value_parser = clients)]
    clients: Vec<usize>,
    /// Send so many transactions a second, at moments that are fixed in advance, instead of one after the other's answer;
    /// latencies count from the moment for which a transaction was meant.
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
    /// What to compare with: statement (pgbench, a statement a round trip), pipelined (pgbench, a transaction a round trip),
    /// pgbouncer (statement through it). `none` for none.
    #[arg(long, value_name = "BASELINES", value_delimiter = ',', default_values_t = ["statement".to_owned(), "pipelined".to_owned()])]
    against: Vec<String>,
    /// How long each measurement takes, after a second of warm-up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken, all sides in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many peers beside the hub; only with one do Rootward and a baseline use the same PostgreSQL.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    peers: u32,
    /// How many connections to the router all clients share.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// In one more measurement, kill a peer's PostgreSQL (PEER@TIME) or worker (PEER/worker@TIME) with -9 and start it again.
    #[arg(long, value_name = "PEER@TIME", value_parser = Kill::parse)]
    kill: Option<Kill>,
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
    /// In the end, leave so many chains behind half done, start their worker, and see how long it takes with them.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    recovery: u64,
}

/// Succeeds only if every check after the load held.
pub(crate) async fn run(bench: Bench, format: Format) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe()?;
    // Hours may be measured: a report that can't be written is known before.
    if let Some(path) = &bench.report {
        std::fs::File::create(path).with_context(|| format!("the report can't be written to {}", path.display()))?;
    }
    let stop = signals::shutdown();
    let work = async {
        match bench.what {
            What::Chains(chains) => bench::run_chains(&exe, &chains.options()).await.map(Ok),
            What::Overload(overload) => bench::run_overload(&exe, overload.options()).await.map(Ok),
            What::Bank(single) => run_single(&exe, single, Workload::bank()).await,
            What::Shop(single) => run_single(&exe, single, Workload::shop()).await,
            What::Tpcb(single) => run_single(&exe, single, Workload::tpcb()).await,
        }
    };
    let report = tokio::select! {
        report = work => report?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    match report {
        Ok(report) => {
            if let Some(path) = &bench.report {
                std::fs::write(path, report.to_html()).with_context(|| format!("the report can't be written to {}", path.display()))?;
            }
            output::print(&if format.is_json() { report.to_json().to_string() } else { report.to_text() });
            Ok(ExitCode::SUCCESS)
        }
        Err(wrong) => {
            output::print_error(&format!("error: {wrong}"));
            Ok(ExitCode::from(exit::USAGE))
        }
    }
}

/// The inner error is about the command line.
async fn run_single(exe: &Path, single: Single, workload: Workload) -> anyhow::Result<Result<bench::Report, String>> {
    match single.options() {
        Ok(options) => bench::run_single(exe, workload, options).await.map(Ok),
        Err(wrong) => Ok(Err(wrong)),
    }
}

impl Chains {
    fn options(self) -> ChainsOptions {
        ChainsOptions { clients: self.clients, duration: self.duration, rounds: self.rounds, peers: self.peers, recovery: self.recovery }
    }
}

impl Overload {
    fn options(self) -> OverloadOptions {
        let Overload { capacity, times, deadline, duration, rounds, connections } = self;
        OverloadOptions { capacity, times, deadline, duration, rounds, connections: connections.into() }
    }
}

impl Single {
    fn options(self) -> Result<SingleOptions, String> {
        Ok(SingleOptions {
            against: baselines(&self.against, self.peers)?,
            clients: distinct(self.clients),
            rate: self.rate,
            duration: self.duration,
            rounds: self.rounds,
            kill: self.kill.map(|kill| possible(kill, self.peers, self.duration)).transpose()?,
            peers: self.peers,
            connections: self.connections.into(),
        })
    }
}

/// Which baselines are meant.
fn baselines(words: &[String], peers: u32) -> Result<Vec<Baseline>, String> {
    if words.iter().map(String::as_str).eq(["none"]) {
        return Ok(Vec::new());
    }
    if peers != 1 {
        return Err(format!(
            "with --peers {peers} the roots lie in {peers} databases, and pgbench knows one: give --peers 1, or --against none"
        ));
    }
    let mut all = Vec::new();
    for word in words {
        let baseline = Baseline::parse(word).map_err(|help| format!("there is no baseline `{word}`\n  help: {help}"))?;
        if !all.contains(&baseline) {
            all.push(baseline);
        }
    }
    Ok(all)
}

/// What is to die must be there, and the load must go on after it.
fn possible(kill: Kill, peers: u32, duration: Duration) -> Result<Kill, String> {
    if !(1..=peers).any(|number| kill.peer == format!("p{number}")) {
        return Err(format!("there is no peer `{}`\n  help: with --peers {peers} the last one is p{peers}", kill.peer));
    }
    if kill.after >= duration {
        return Err(format!(
            "a measurement takes {}, and {} is later\n  help: give --kill an earlier moment, or a longer --duration",
            humantime::format_duration(duration),
            humantime::format_duration(kill.after)
        ));
    }
    Ok(kill)
}

/// Each number once, in the order given.
fn distinct(numbers: Vec<usize>) -> Vec<usize> {
    let mut seen = Vec::new();
    numbers.into_iter().for_each(|number| {
        if !seen.contains(&number) {
            seen.push(number);
        }
    });
    seen
}

fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("between 1 and 1000 clients".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err("between 1 and 1000000 transactions a second".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_are_named_or_refused() {
        let named = |words: &[&str], peers| baselines(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), peers);
        assert_eq!(named(&["pipelined", "statement", "pipelined"], 1), Ok(vec![Baseline::Pipelined, Baseline::Statement]));
        assert_eq!(named(&["none"], 3), Ok(vec![]));
        assert!(named(&["mysql"], 1).expect_err("unknown").contains("`mysql`"));
        assert!(named(&["2pc"], 1).expect_err("for chains").contains("bench chains"));
        assert!(named(&["statement"], 2).expect_err("two databases").contains("--peers 1"));
    }

    #[test]
    fn only_what_is_there_can_die_while_the_load_runs() {
        let kill = |text: &str| possible(Kill::parse(text).expect("well formed"), 2, Duration::from_secs(5));
        assert!(kill("p2@4s").is_ok() && kill("p1/worker@0s").is_ok());
        assert!(kill("p3@1s").expect_err("no such peer").contains("`p3`"));
        assert!(kill("hub@1s").expect_err("no peer").contains("the last one is p2"));
        assert!(kill("p1@5s").expect_err("too late").contains("longer --duration"));
    }

    #[test]
    fn numbers_have_bounds() {
        assert!(clients("0").is_err() && clients("1001").is_err() && clients("x").is_err());
        assert!(rate("0").is_err() && rate("NaN").is_err() && rate("1e7").is_err());
        assert_eq!((clients("8"), rate("2.5")), (Ok(8), Ok(2.5)));
        assert!(duration("1ms").is_err() && duration("soon").is_err());
        assert_eq!(distinct(vec![8, 1, 8]), [8, 1]);
    }
}
