//! Printing: data on stdout, the rest on stderr; a reader that went away is no error.

use std::io::Write as _;

/// How data are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object.
    Json,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// Whether a program reads it.
    pub(crate) fn is_json(self) -> bool {
        self != Format::Table
    }
}

/// Prints data.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints what is not data.
pub(crate) fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
