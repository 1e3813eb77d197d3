//! The program `rootward`.

mod command;
mod demo;
mod internal;
mod output;
pub mod schema_command;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use command::{demo::Demo, dev::Dev, process::Process, schema::Schema};

/// Routes transactions over many PostgreSQL databases, for data that form trees.
#[derive(Debug, Parser)]
#[command(name = "rootward", version, arg_required_else_help = true)]
struct Cli {
    /// How data are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: output::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(Dev),
    Demo(Demo),
    Schema(Schema),
    /// Serve clients: the stateless router.
    Router(Process),
    /// Serve one peer: the worker in front of one PostgreSQL database.
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
    match cli.command {
        Command::Dev(dev) => command::dev::run(dev).await,
        Command::Demo(demo) => command::demo::run(demo).await,
        Command::Schema(schema) => command::schema::run(schema, cli.output).await,
        Command::Router(process) => command::process::router(process).await,
        Command::Worker(process) => command::process::worker(process).await,
    }
}
