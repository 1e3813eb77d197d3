//! `rootward bench`: see the module [`crate::bench`].

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use rootward_client::Fault;

use crate::{
    bench::{self, Baseline, ChainsOptions, FileScript, Given, Kill, OverloadOptions, SingleOptions, Workload},
    edge::Wrong,
    output::{self, Format},
    signals,
};

use super::fail;

mod consistent;
mod events;
mod failover;
mod moves;
mod scale;

/// What the command line asks for can't be measured.
const CODE: &str = "RW1109";
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
    Pgbench(Pgbench),
    Chains(Chains),
    Overload(Overload),
    Journal(events::Journal),
    Reference(events::Reference),
    Scale(scale::Scale),
    Xtm(consistent::Xtm),
    Snapshots(consistent::Snapshots),
    Move(moves::Move),
    Failover(failover::Failover),
}

/// A script of yours for pgbench: through Rootward as one declared transaction, beside pgbench itself with the same file.
///
/// The script holds a comment `-- root: ENTITY = :VARIABLE`, `\set` lines, and the statements of one transaction between BEGIN and
/// END. It runs on the tables of `bench tpcb` (account, branch, teller, history; accounts 1 to 10,000 times --scale, tellers 1 to 10, branch 1),
/// or on those of --schema.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward bench pgbench -f docs/samples/tpcb.pgbench.sql --clients 32")]
struct Pgbench {
    /// The script.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The root entity, and the script's variable that holds its key; not needed if a comment of the script says it.
    #[arg(long, value_name = "ENTITY=VARIABLE")]
    root: Option<String>,
    /// What `:scale` is in the script.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    scale: u32,
    /// The folder of schema files with the tables, if they are not those of `bench tpcb`.
    #[arg(long, value_name = "DIR", requires = "setup")]
    schema: Option<PathBuf>,
    /// SQL that fills the trees of --schema, run as superuser in the peer's database.
    #[arg(long, value_name = "FILE", requires = "schema")]
    setup: Option<PathBuf>,
    /// SQL that fills the reference tables of --schema, run as superuser on the hub before --setup.
    #[arg(long, value_name = "FILE", requires = "setup")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    single: Single,
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
    /// pgbouncer (statement through it). `none` for none. Without it statement and pipelined; for a script of yours, which is run as
    /// it is, statement.
    #[arg(long, value_name = "BASELINES", value_delimiter = ',')]
    against: Option<Vec<String>>,
    /// How long each measurement takes, after a second of warm-up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How often each is taken, all sides in turns; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many peers beside the hub; only with one do Rootward and a baseline use the same PostgreSQL.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    peers: u32,
    /// How many lanes each worker has; half as many as there are cores for a peer if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: Option<u32>,
    /// How many connections to the router all clients share.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Measure the cluster behind this router instead of one of its own, and nothing beside it. It must run the example's schema; roots
    /// 1 to 10,000 (shop: 1,000) are made in it and stay.
    #[arg(long, value_name = "ROUTER", conflicts_with_all = ["against", "peers", "lanes", "kill", "memory_for"])]
    on: Option<String>,
    /// In one more measurement, kill a peer's PostgreSQL (PEER@TIME) or worker (PEER/worker@TIME) with -9 and start it again.
    #[arg(long, value_name = "PEER@TIME", value_parser = Kill::parse)]
    kill: Option<Kill>,
    /// In one more measurement, load it fully for so long, and look at the memory of router and workers each second.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    memory_for: Option<Duration>,
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
    match run_whole(bench, format).await {
        Err(error) => match (error.downcast_ref::<Wrong>(), error.downcast_ref::<Fault>()) {
            (Some(wrong), _) => Ok(fail(&wrong.fault(), format)),
            // A request that failed says itself what to do.
            (None, Some(fault)) => Ok(fail(fault, format)),
            (None, None) => Err(error),
        },
        code => code,
    }
}

async fn run_whole(bench: Bench, format: Format) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe()?;
    // Hours may be measured: a report that can't be written is known before.
    if let Some(path) = &bench.report {
        write_report(path, "")?;
    }
    let stop = signals::shutdown();
    let report = tokio::select! {
        report = measure(&exe, bench.what) => report?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    if let Some(path) = &bench.report {
        write_report(path, &report.to_html())?;
    }
    output::print(&if format.is_json() { report.to_json().to_string() } else { report.to_text() });
    Ok(ExitCode::SUCCESS)
}

async fn measure(exe: &Path, what: What) -> anyhow::Result<bench::Report> {
    match what {
        What::Chains(chains) => bench::run_chains(exe, &chains.options()).await,
        What::Overload(overload) => bench::run_overload(exe, overload.options()).await,
        What::Journal(journal) => bench::run_journal(exe, &journal.options()).await,
        What::Reference(reference) => bench::run_reference(exe, &reference.options()).await,
        What::Scale(scale) => bench::run_scale(exe, scale.options()).await,
        What::Xtm(xtm) => bench::run_xtm(exe, &xtm.options()?).await,
        What::Failover(failover) => bench::run_failover(exe, failover.options()).await,
        What::Move(moves) => bench::run_moves(exe, &moves.options()).await,
        What::Snapshots(snapshots) => bench::run_snapshots(exe, &snapshots.options()).await,
        What::Bank(single) => measure_single(exe, Workload::bank(), single).await,
        What::Shop(single) => measure_single(exe, Workload::shop(), single).await,
        What::Tpcb(single) => measure_single(exe, Workload::tpcb(), single).await,
        What::Pgbench(Pgbench { single: Single { on: Some(_), .. }, .. }) => {
            Err(Wrong::new(CODE, "--on: a script must be declared in the schema of a cluster first", "leave --on out").into())
        }
        What::Pgbench(pgbench) => {
            let script = FileScript::read(&pgbench.file, pgbench.root.as_deref(), pgbench.scale)?;
            let reference = pgbench.reference.as_deref();
            let given = pgbench.schema.as_deref().zip(pgbench.setup.as_deref());
            let workload = Workload::pgbench(script, given.map(|(schema, setup)| Given { schema, setup, reference }))?;
            let options = pgbench.single.options(&[Baseline::Statement])?;
            if given.is_some() && options.peers > 1 {
                return Err(Wrong::new(CODE, "--setup fills one database, and --peers names several", "give --peers 1").into());
            }
            if options.against.contains(&Baseline::Pipelined) {
                let help = "leave `pipelined` out, or write \\startpipeline and \\endpipeline into the script";
                return Err(Wrong::new(CODE, "--against pipelined: a script of yours is run as it is", help).into());
            }
            bench::run_single(exe, workload, options).await
        }
    }
}

async fn measure_single(exe: &Path, workload: Workload, single: Single) -> anyhow::Result<bench::Report> {
    let on = single.on.clone();
    let options = single.options(if on.is_some() { &[] } else { Baseline::DIRECT })?;
    match on {
        Some(router) => bench::run_given(&router, workload, options).await,
        None => bench::run_single(exe, workload, options).await,
    }
}

fn write_report(path: &Path, text: &str) -> Result<(), Wrong> {
    std::fs::write(path, text).map_err(|error| {
        let message = format!("--report: {} can't be written: {error}", path.display());
        Wrong::new(CODE, message, "name a file in a folder that is there and that you may write to")
    })
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
    /// With these baselines if none are named.
    fn options(self, usual: &[Baseline]) -> Result<SingleOptions, Wrong> {
        Ok(SingleOptions {
            against: baselines(self.against.as_deref(), usual, self.peers)?,
            clients: distinct(self.clients),
            rate: self.rate,
            duration: self.duration,
            rounds: self.rounds,
            kill: self.kill.map(|kill| possible(kill, self.peers, self.duration)).transpose()?,
            memory_for: self.memory_for,
            peers: self.peers,
            lanes: self.lanes,
            connections: self.connections.into(),
        })
    }
}

/// Which baselines are meant.
fn baselines(words: Option<&[String]>, usual: &[Baseline], peers: u32) -> Result<Vec<Baseline>, Wrong> {
    if words.is_some_and(|words| words.iter().map(String::as_str).eq(["none"])) {
        return Ok(Vec::new());
    }
    if peers != 1 {
        let message = format!("--peers {peers}: the roots lie in {peers} databases, and pgbench knows one");
        return Err(Wrong::new(CODE, message, "give --peers 1, or --against none"));
    }
    let Some(words) = words else { return Ok(usual.to_vec()) };
    let mut all = Vec::new();
    for word in words {
        let baseline = Baseline::parse(word).map_err(|help| Wrong::new(CODE, format!("--against: there is no baseline `{word}`"), help))?;
        if !all.contains(&baseline) {
            all.push(baseline);
        }
    }
    Ok(all)
}

/// What is to die must be there, and the load must go on after it.
fn possible(kill: Kill, peers: u32, duration: Duration) -> Result<Kill, Wrong> {
    if !(1..=peers).any(|number| kill.peer == format!("p{number}")) {
        let help = format!("with --peers {peers} the last one is p{peers}");
        return Err(Wrong::new(CODE, format!("--kill: there is no peer `{}`", kill.peer), help));
    }
    if kill.after >= duration {
        let (duration, after) = (humantime::format_duration(duration), humantime::format_duration(kill.after));
        let message = format!("--kill: a measurement takes {duration}, and {after} is later");
        return Err(Wrong::new(CODE, message, "give --kill an earlier moment, or a longer --duration"));
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

    /// The whole of what is told.
    fn told<T: std::fmt::Debug>(result: Result<T, Wrong>) -> String {
        format!("{:?}", result.expect_err("refused"))
    }

    #[test]
    fn baselines_are_named_or_refused() {
        let named = |words: &[&str], peers| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            baselines(Some(words.as_slice()), Baseline::DIRECT, peers)
        };
        assert_eq!(named(&["pipelined", "statement", "pipelined"], 1), Ok(vec![Baseline::Pipelined, Baseline::Statement]));
        assert_eq!(named(&["none"], 3), Ok(vec![]));
        assert_eq!(baselines(None, &[Baseline::Statement], 1), Ok(vec![Baseline::Statement]));
        assert!(told(named(&["mysql"], 1)).contains("`mysql`"));
        assert!(told(named(&["2pc"], 1)).contains("bench chains"));
        assert!(told(named(&["statement"], 2)).contains("--peers 1"));
    }

    #[test]
    fn only_what_is_there_can_die_while_the_load_runs() {
        let kill = |text: &str| possible(Kill::parse(text).expect("well formed"), 2, Duration::from_secs(5));
        assert!(kill("p2@4s").is_ok() && kill("p1/worker@0s").is_ok());
        assert!(told(kill("p3@1s")).contains("`p3`"));
        assert!(told(kill("hub@1s")).contains("the last one is p2"));
        assert!(told(kill("p1@5s")).contains("longer --duration"));
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
