//! Where errors that no command handled meet the user: the cause decides the code, the help and the exit code.

use std::{io::IsTerminal as _, process::ExitCode};

use rootward_client::Fault;
use rootward_cluster::{CompileError, ServerError};

use crate::{
    command::{exit, schema},
    output,
};

/// Something that the user can set right: on the command line, or in a file that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Wrong {
    code: &'static str,
    message: String,
    help: String,
}

impl Wrong {
    /// As programs get it.
    pub(crate) fn fault(&self) -> Fault {
        Fault::refused(self.code, self.message.clone(), self.help.clone())
    }

    pub(crate) fn new(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Wrong {
        Wrong { code, message: message.into(), help: help.into() }
    }
}

/// Prints the error with its causes and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(CompileError::Findings(source, findings)) = error.downcast_ref() {
        schema::print_findings(source, findings);
        return ExitCode::from(exit::USAGE);
    }
    let (text, code) = told(error);
    output::print_error(&text);
    ExitCode::from(code)
}

/// Prints what is wrong with a command line. clap says what and where to look; the code is ours.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render();
    let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = if is_coloured { text.ansi().to_string() } else { text.to_string() };
    output::print_error(text.replacen("error:", "error[RW1110]:", 1).trim_end());
    ExitCode::from(exit::USAGE)
}

fn told(error: &anyhow::Error) -> (String, u8) {
    for cause in error.chain() {
        if let Some(Wrong { code, message, help }) = cause.downcast_ref() {
            return (format!("error[{code}]: {message}\n  help: {help}"), exit::USAGE);
        }
        if let Some(ServerError::NotFound(missing)) = cause.downcast_ref() {
            return (format!("error[{}]: {missing}\n  help: {}", rootward_cluster::NotFound::CODE, missing.help()), exit::USAGE);
        }
    }
    (format!("error[RW9001]: {error:#}\n  help: please report it if the message doesn't say what to do"), exit::INTERNAL)
}

#[cfg(test)]
mod tests {
    use rootward_cluster::NotFound;

    use super::*;

    #[test]
    fn missing_server_programs_are_no_fault_of_ours() {
        let missing = ServerError::NotFound(NotFound { refused: vec![] });
        let (text, code) = told(&CompileError::Server(missing).into());
        assert!(text.starts_with("error[RW5001]: PostgreSQL's server programs") && text.contains("\n  help: install them"), "{text}");
        assert_eq!(code, exit::USAGE);
    }

    #[test]
    fn what_the_user_can_set_right_has_its_own_code() {
        let (text, code) = told(&anyhow::Error::from(Wrong::new("RW1108", "no", "do")).context("outer"));
        assert_eq!((text.as_str(), code), ("error[RW1108]: no\n  help: do", exit::USAGE));
    }

    #[test]
    fn anything_else_is() {
        let (text, code) = told(&anyhow::anyhow!("inner").context("outer"));
        assert!(text.starts_with("error[RW9001]: outer: inner"), "{text}");
        assert_eq!(code, exit::INTERNAL);
    }
}
