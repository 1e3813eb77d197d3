//! Where errors that no command handled meet the user: the cause decides the code, the help and the exit code.

use std::process::ExitCode;

use rootward_cluster::ServerError;

use crate::{command::exit, output};

/// Prints the error with its causes and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let (text, code) = told(error);
    output::print_error(&text);
    ExitCode::from(code)
}

fn told(error: &anyhow::Error) -> (String, u8) {
    for cause in error.chain() {
        if let Some(ServerError::NotFound(missing)) = cause.downcast_ref() {
            return (format!("error[{}]: {missing}\n  help: {}", rootward_cluster::NotFound::CODE, missing.help()), exit::USAGE);
        }
    }
    (format!("error[RW9001]: {error:#}\n  help: please report it if the message doesn't say what to do"), exit::INTERNAL)
}

#[cfg(test)]
mod tests {
    use rootward_cluster::{CompileError, NotFound};

    use super::*;

    #[test]
    fn missing_server_programs_are_no_fault_of_ours() {
        let missing = ServerError::NotFound(NotFound { refused: vec![] });
        let (text, code) = told(&CompileError::Server(missing).into());
        assert!(text.starts_with("error[RW5001]: PostgreSQL's server programs") && text.contains("\n  help: install them"), "{text}");
        assert_eq!(code, exit::USAGE);
    }

    #[test]
    fn anything_else_is() {
        let (text, code) = told(&anyhow::anyhow!("inner").context("outer"));
        assert!(text.starts_with("error[RW9001]: outer: inner"), "{text}");
        assert_eq!(code, exit::INTERNAL);
    }
}
