//! The program `rootward`.

mod command;
mod demo;
mod internal;
mod output;
pub mod schema_command;
mod signals;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use command::{
    Context, call::Call, chain::Chain, completions::Completions, demo::Demo, dev::Dev, error::Error, explain::Explain, peer,
    process::Process, query::Query, schema::Schema, verify,
};
use rootward_client::Client;

/// Routes transactions over many PostgreSQL databases, for data that form trees.
#[derive(Debug, Parser)]
#[command(name = "rootward", version, arg_required_else_help = true)]
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
    Schema(Schema),
    Call(Call),
    Query(Query),
    Explain(Explain),
    Chain(Chain),
    Peer(peer::Peer),
    Partition(peer::Partition),
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
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::print_error(&format!("error[RW9001]: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(cli)).unwrap_or_else(|error| {
        output::print_error(&format!("error[RW9001]: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let context = || {
        let client = Client::new(cli.router.clone())?.with_deadline(Duration::from_secs(cli.timeout));
        Ok::<_, rootward_client::Fault>(Context { client, format: cli.output })
    };
    let context = match context() {
        Ok(context) => context,
        Err(fault) => return Ok(command::fail(&fault, cli.output)),
    };
    Ok(match cli.command {
        Command::Dev(dev) => command::dev::run(dev).await?,
        Command::Demo(demo) => command::demo::run(demo).await?,
        Command::Schema(schema) => command::schema::run(schema, cli.output).await?,
        Command::Router(process) => command::process::router(process).await,
        Command::Worker(process) => command::process::worker(process).await,
        Command::Call(call) => command::call::run(&context, call).await,
        Command::Query(query) => command::query::run(&context, query).await,
        Command::Explain(explain) => command::explain::run(&context, explain).await,
        Command::Chain(chain) => command::chain::run(&context, chain).await,
        Command::Peer(peer) => peer::peers(&context, peer).await,
        Command::Partition(partition) => peer::partitions(&context, partition).await,
        Command::Status => peer::status(&context).await,
        Command::Verify => verify::run(&context).await,
        Command::Error(error) => command::error::run(&error, cli.output),
        Command::Completions(completions) => command::completions::run(&completions),
    })
}
