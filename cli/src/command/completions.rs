//! `rootward completions SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

/// Print a script that completes commands and options.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward completions bash")]
pub(crate) struct Completions {
    /// Which shell.
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(completions: &Completions) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut crate::Cli::command(), "rootward", &mut script);
    crate::output::print(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}
