//! The program `rootward`.

mod internal;
pub mod schema_command;

use std::process::ExitCode;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    // Before anything else, and without a runtime: a process that is to become another must not start threads.
    if let Some(code) = internal::run(std::env::args_os().skip(1)) {
        return code;
    }
    eprintln!("rootward: nothing to do");
    ExitCode::from(2)
}
