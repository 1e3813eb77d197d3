//! `rootward error CODE`: what a code means and what to do.

use std::process::ExitCode;

use clap::Args;
use rootward_schema::codes;

use super::exit;
use crate::output;

/// Explain an error code.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward error RW2004")]
pub(crate) struct Error {
    /// The code, such as RW2004.
    code: String,
}

/// Prints the catalogue's entry.
pub(crate) fn run(error: &Error) -> ExitCode {
    match codes::find(&error.code.to_uppercase()) {
        Some(code) => {
            output::print(&format!("{}: {}\n\n{}", code.code, code.title, code.explanation));
            ExitCode::SUCCESS
        }
        None => {
            output::print_error(&format!("there is no code `{}`\n  help: docs/errors.md lists all of them", error.code));
            ExitCode::from(exit::NOT_FOUND)
        }
    }
}
