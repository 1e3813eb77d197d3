//! One file for each command.

use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use rootward_client::{Arguments, Client, Fault, v1::RetryClass};

use crate::output::{self, Format};

pub(crate) mod bench;
pub(crate) mod call;
pub(crate) mod chain;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod journal;
pub(crate) mod partition;
pub(crate) mod partition_owners;
pub(crate) mod peer;
pub(crate) mod peer_add;
pub(crate) mod process;
pub(crate) mod query;
pub(crate) mod reference;
pub(crate) mod schema;
pub(crate) mod snapshot;
pub(crate) mod stage;
pub(crate) mod staleness;
pub(crate) mod subscribe;
pub(crate) mod verify;

/// What every command that talks to a router needs.
pub(crate) struct Context {
    pub client: Client,
    pub format: Format,
}

/// How a command ended, for the shell.
pub(crate) mod exit {
    /// A fault of Rootward's own.
    pub(crate) const INTERNAL: u8 = 1;
    /// The command line, a file of settings or a schema is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// There is no such thing, or a filter matched nothing.
    pub(crate) const NOT_FOUND: u8 = 3;
    /// Refused by a rule or by the business logic.
    pub(crate) const REFUSED: u8 = 4;
    /// Unavailable or timed out: safe to run again.
    pub(crate) const UNAVAILABLE: u8 = 5;
    /// A part of the peers did not answer.
    pub(crate) const PARTIAL: u8 = 6;
}

/// Prints a failure and gives its exit code. Programs get it as JSON, on stdout like any answer.
pub(crate) fn fail(fault: &Fault, format: Format) -> ExitCode {
    if format.is_json() {
        output::print(&output::fault_json(fault).to_string());
    } else {
        output::print_error(&output::fault_text(fault));
    }
    ExitCode::from(code_of(fault))
}

fn code_of(fault: &Fault) -> u8 {
    match (fault.retry_class(), fault.code()) {
        // Names and types that are wrong on the command line.
        (
            RetryClass::Refused,
            "RW2001" | "RW2002" | "RW2003" | "RW2042" | "RW4004" | "RW1106" | "RW1108" | "RW1109" | "RW1110" | "RW1120" | "RW1121"
            | "RW1130" | "RW5026" | "RW5041",
        ) => exit::USAGE,
        (RetryClass::Refused, _) => exit::REFUSED,
        (RetryClass::NotFound, _) => exit::NOT_FOUND,
        (RetryClass::Retry | RetryClass::Reroute | RetryClass::OutcomeUnknown, _) => exit::UNAVAILABLE,
        (RetryClass::Internal | RetryClass::Unspecified, _) => exit::INTERNAL,
    }
}

/// Asks before something that can't be taken back, such as `drop` `3 refused rows`.
pub(crate) fn is_confirmed(verb: &str, what: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        output::print_error(&format!("this would {verb} {what}; add --yes where nobody can be asked"));
        return false;
    }
    let _ = write!(std::io::stderr(), "{verb} {what}? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// `name=value`, `name:=null` for NULL, `name:=JSON` for JSON; each name once.
pub(crate) fn arguments(words: &[String]) -> Result<Arguments, Fault> {
    let mut seen = BTreeSet::new();
    words.iter().try_fold(Arguments::new(), |arguments, word| {
        let (name, value) = argument(word)?;
        if !seen.insert(name) {
            return Err(Fault::refused("RW2002", format!("argument `{name}` is given twice"), "give each argument once"));
        }
        Ok(match value {
            Some(text) => arguments.with(name, text),
            None => arguments.with_null(name),
        })
    })
}

/// A name and a text, or none for NULL.
fn argument(word: &str) -> Result<(&str, Option<&str>), Fault> {
    let wrong = |why: String, help: &str| Err(Fault::refused("RW2002", why, help));
    let (name, text) = match word.split_once('=') {
        Some((name, text)) if !name.is_empty() && name != ":" => (name, text),
        _ => return wrong(format!("`{word}` is no argument"), "arguments are written name=value, such as amount=250"),
    };
    let Some(name) = name.strip_suffix(':') else { return Ok((name, Some(text))) };
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) if text.trim() == "null" => Ok((name, None)),
        Ok(_) => Ok((name, Some(text))),
        Err(error) => wrong(format!("argument `{name}` is no JSON: {error}"), "give text as name=text"),
    }
}

/// `ENTITY=KEY`.
pub(crate) fn root(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((entity, key)) if !entity.is_empty() => Ok((entity.to_owned(), key.to_owned())),
        _ => Err("a root is written ENTITY=KEY, such as account=1007".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Arguments, Fault> {
        arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_text_null_or_json() {
        let wanted = Arguments::new().with("a", "b=c").with_null("n").with("j", "[1]").with("empty", "");
        assert_eq!(parsed(&["a=b=c", "n:=null", "j:=[1]", "empty="]).expect("well formed"), wanted);
        for wrong in ["a", "=b", "a:={", ":=null", "", "=", ":=", "ö"] {
            assert_eq!(parsed(&[wrong]).expect_err(wrong).code(), "RW2002");
        }
        assert!(parsed(&["a=1", "a:=2"]).expect_err("twice").message().contains("twice"));
    }

    #[test]
    fn exit_codes_say_what_to_do() {
        assert_eq!(code_of(&Fault::refused("RW3101", "", "")), exit::REFUSED);
        assert_eq!(code_of(&Fault::refused("RW2002", "", "")), 2);
        assert_eq!(code_of(&Fault::retry("RW5002", "", "")), exit::UNAVAILABLE);
        assert_eq!(code_of(&Fault::new("RW4001", RetryClass::NotFound, "", "")), exit::NOT_FOUND);
        assert_eq!(code_of(&Fault::internal("")), 1);
    }
}
