//! The program `rootward`.

mod bank;
mod bench;
mod command;
mod demo;
mod edge;
mod internal;
mod load;
mod output;
pub mod schema_command;
mod signals;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, error::ErrorKind};

use command::{
    Context, bench::Bench, call::Call, chain::Chain, completions::Completions, demo::Demo, dev::Dev, error::Error, explain::Explain,
    journal::Journal, peer, process::Process, query::Query, reference::Reference, schema::Schema, snapshot::Snapshot, stage::Stage,
    subscribe::Subscribe, verify,
};
use rootward_client::Client;

/// How long a command tries to reach a router: a person at a terminal would rather know.
const PATIENCE: Duration = Duration::from_secs(1);
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  a fault of Rootward's own
  2  the command line, a file of settings or a schema is wrong
  3  not found, or a filter matched nothing
  4  refused by a rule or the business logic
  5  unavailable, timed out or unknown: safe to run again with the same id
  6  partial: some peers did not answer
130  interrupted

Data go to stdout, the rest to stderr; with -o json an error is an object on stdout, under \"error\".";
const MOST_THREADS: usize = 4;

/// Routes transactions over many PostgreSQL databases, for data that form trees.
#[derive(Debug, Parser)]
#[command(name = "rootward", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    /// How data are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: output::Format,
    /// The routers that commands talk to; several are separated by commas.
    #[arg(
        long,
        global = true,
        env = "ROOTWARD_ROUTER",
        value_name = "ADDRESS",
        default_value = "http://127.0.0.1:7400",
        value_delimiter = ','
    )]
    router: Vec<String>,
    /// How long a command may take, retries included.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(Dev),
    Demo(Demo),
    Bench(Bench),
    Schema(Schema),
    Call(Call),
    Query(Query),
    Explain(Explain),
    Chain(Chain),
    Peer(peer::Peer),
    Partition(peer::Partition),
    Rebalance(peer::Rebalance),
    Snapshot(Snapshot),
    Reference(Reference),
    Journal(Journal),
    Stage(Stage),
    Subscribe(Subscribe),
    /// The cluster at a glance.
    #[command(after_help = "Example:\n  rootward status")]
    Status,
    /// Count everything that must hold, with plain SQL on every peer; code 4 if something does not.
    #[command(after_help = "Example:\n  rootward verify")]
    Verify,
    Error(Error),
    Completions(Completions),
    /// Serve clients: the stateless router.
    #[command(after_help = "Example:\n  rootward router --config docs/samples/router.toml")]
    Router(Process),
    /// Serve one peer: the worker in front of one PostgreSQL database.
    #[command(after_help = "Example:\n  rootward worker --config docs/samples/worker.toml")]
    Worker(Process),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    // Before anything else, and without a runtime: a process that is to become another must not start threads.
    if let Some(code) = internal::run(std::env::args_os().skip(1)) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return edge::refuse(&error);
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(run(cli)).unwrap_or_else(|error| edge::report(&error)),
        Err(error) => edge::report(&error.into()),
    }
}

/// A thread for every second core: PostgreSQL needs the others, and a message that wakes one thread less is there sooner. A few are enough
/// for what only forwards; each costs memory. TOKIO_WORKER_THREADS says otherwise.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, MOST_THREADS)));
    }
    builder.enable_all().build()
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let format = cli.output;
    let code = match cli.command {
        Command::Dev(dev) => command::dev::run(dev).await?,
        Command::Demo(demo) => command::demo::run(demo).await?,
        Command::Bench(bench) => command::bench::run(bench, format).await?,
        Command::Schema(schema) => command::schema::run(schema, format).await?,
        Command::Reference(reference) => command::reference::run(reference, format).await?,
        Command::Router(process) => command::process::router(process).await,
        Command::Worker(process) => command::process::worker(process).await,
        Command::Error(error) => command::error::run(&error, format),
        Command::Completions(completions) => command::completions::run(&completions),
        command => match Client::new(cli.router) {
            Ok(client) => {
                let client = client.with_deadline(Duration::from_secs(cli.timeout)).with_patience(PATIENCE);
                ask(&Context { client, format }, command).await
            }
            Err(fault) => command::fail(&fault, format),
        },
    };
    Ok(code)
}

/// The commands that talk to a router.
async fn ask(context: &Context, command: Command) -> ExitCode {
    match command {
        Command::Call(call) => command::call::run(context, call).await,
        Command::Query(query) => command::query::run(context, query).await,
        Command::Explain(explain) => command::explain::run(context, explain).await,
        Command::Chain(chain) => command::chain::run(context, chain).await,
        Command::Peer(peer) => peer::peers(context, peer).await,
        Command::Partition(partition) => peer::partitions(context, partition).await,
        Command::Rebalance(rebalance) => peer::rebalance(context, rebalance).await,
        Command::Snapshot(snapshot) => command::snapshot::run(context, snapshot).await,
        Command::Journal(journal) => command::journal::run(context, journal).await,
        Command::Stage(stage) => command::stage::run(context, stage).await,
        Command::Subscribe(subscribe) => command::subscribe::run(context, subscribe).await,
        Command::Status => peer::status(context).await,
        Command::Verify => verify::run(context).await,
        Command::Dev(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Schema(_)
        | Command::Reference(_)
        | Command::Router(_)
        | Command::Worker(_)
        | Command::Error(_)
        | Command::Completions(_) => ExitCode::FAILURE,
    }
}
