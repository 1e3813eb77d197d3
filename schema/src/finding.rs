//! What the check finds, and its plain text form.

use std::fmt::Write;

use serde::Serialize;

use crate::source::Source;

/// A stretch of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Span {
    /// Where it begins, from 0.
    pub offset: usize,
    /// How many bytes it has.
    pub len: usize,
}

impl Span {
    /// The span from one byte to another; empty if they stand the wrong way round.
    pub fn between(start: usize, end: usize) -> Span {
        Span { offset: start, len: end.saturating_sub(start) }
    }

    /// The byte after the last one.
    pub fn end(self) -> usize {
        self.offset.saturating_add(self.len)
    }
}

/// A stretch of a named file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Place {
    /// The file, relative to the schema's folder.
    pub file: String,
    /// Where in it.
    pub span: Span,
}

/// A value, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The schema is refused.
    Error,
    /// The schema is accepted; somebody should look.
    Warning,
}

/// One thing that the check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable code, one of [`crate::codes::CATALOGUE`].
    pub code: &'static str,
    /// Whether it refuses the schema.
    pub severity: Severity,
    /// The file that it is about, relative to the schema's folder.
    pub file: String,
    /// Where in the file.
    pub span: Span,
    /// One line that names the object.
    pub message: String,
    /// A few words for the marked source; may be empty.
    pub label: String,
    /// What to do next; may be empty.
    pub help: String,
}

impl Finding {
    pub(crate) fn error(code: &'static str, place: &Place, message: impl Into<String>) -> Finding {
        Finding {
            code,
            severity: Severity::Error,
            file: place.file.clone(),
            span: place.span,
            message: message.into(),
            label: String::new(),
            help: String::new(),
        }
    }

    pub(crate) fn warning(code: &'static str, place: &Place, message: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(code, place, message) }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Finding {
        self.label = label.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Finding {
        self.help = help.into();
        self
    }
}

/// Line and column of a byte, both from 1; columns count characters.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Findings as plain text, one block each, in the order given.
pub fn render(findings: &[Finding], source: &Source) -> String {
    let mut out = String::new();
    for finding in findings {
        render_one(&mut out, finding, source.text(&finding.file));
    }
    out
}

fn render_one(out: &mut String, finding: &Finding, text: Option<&str>) {
    let word = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{word}[{}]: {}", finding.code, finding.message);
    match text {
        Some(text) => render_source(out, finding, text),
        None => {
            let _ = writeln!(out, " --> {}", finding.file);
        }
    }
    if !finding.help.is_empty() {
        let _ = writeln!(out, "  = help: {}", finding.help);
    }
    out.push('\n');
}

fn render_source(out: &mut String, finding: &Finding, text: &str) {
    let (line, column) = line_and_column(text, finding.span.offset);
    let source_line = text.lines().nth(line - 1).unwrap_or("").replace('\t', " ");
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let room = source_line.chars().count().saturating_sub(column - 1);
    let marked = text.get(finding.span.offset..finding.span.end()).map_or(1, |marked| marked.lines().next().unwrap_or("").chars().count());
    let carets = "^".repeat(marked.min(room).max(1));
    let label = if finding.label.is_empty() { String::new() } else { format!(" {}", finding.label) };
    let _ = writeln!(out, "{margin}--> {}:{line}:{column}", finding.file);
    let _ = writeln!(out, "{margin} |");
    let _ = writeln!(out, "{number} | {source_line}");
    let _ = writeln!(out, "{margin} | {}{carets}{label}", " ".repeat(column - 1));
}
