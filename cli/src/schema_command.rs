//! `rootward schema check` and `rootward schema show`: findings for people and for programs, and the compiled schema
//! as a text that one reads from top to bottom.

mod show;

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use rootward_schema::{Finding, Severity, Source, line_and_column};
use serde_json::{Value, json};

pub use show::{show_json, show_text};

/// Columns that a report may use where no terminal says how many there are.
const REPORT_WIDTH: usize = 120;

/// Findings for people: each with its code, its source under a caret, and what to do; then how many there are.
///
/// `is_coloured` is the caller's knowledge about the terminal and `NO_COLOR`.
pub fn report(findings: &[Finding], source: &Source, is_coloured: bool) -> String {
    let theme = if is_coloured { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(REPORT_WIDTH).with_context_lines(1);
    let mut out = String::new();
    for finding in findings {
        let told = Told::new(finding, source);
        out.push_str(match finding.severity {
            Severity::Error => "Error: ",
            Severity::Warning => "Warning: ",
        });
        if handler.render_report(&mut out, &told).is_err() {
            out.push_str(&rootward_schema::render(std::slice::from_ref(finding), source));
        }
        out.push('\n');
    }
    out.push_str(&summary(findings));
    out
}

/// `2 errors, 1 warning`, and a line end; nothing if nothing was found.
pub fn summary(findings: &[Finding]) -> String {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let counted = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        more => Some(format!("{more} {word}s")),
    };
    let parts: Vec<String> = [counted(errors, "error"), counted(findings.len() - errors, "warning")].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("{}\n", parts.join(", ")) }
}

/// Findings for programs. The form is a promise: fields are added, never renamed.
pub fn findings_json(findings: &[Finding], source: &Source) -> Value {
    let finding = |finding: &Finding| {
        let text = source.text(&finding.file).unwrap_or("");
        let (line, column) = line_and_column(text, finding.span.offset);
        json!({
            "code": finding.code,
            "severity": finding.severity,
            "message": finding.message,
            "file": finding.file,
            "line": line,
            "column": column,
            "offset": finding.span.offset,
            "length": finding.span.len,
            "label": finding.label,
            "help": finding.help,
        })
    };
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    json!({ "ok": !has_errors, "findings": findings.iter().map(finding).collect::<Vec<Value>>() })
}

/// A finding as miette wants it.
#[derive(Debug)]
struct Told<'a> {
    finding: &'a Finding,
    source: Option<NamedSource<String>>,
}

impl<'a> Told<'a> {
    fn new(finding: &'a Finding, source: &Source) -> Told<'a> {
        let source = source.text(&finding.file).map(|text| NamedSource::new(&finding.file, text.to_owned()));
        Told { finding, source }
    }

    /// The marked stretch, kept inside the text and on one line.
    fn label(&self) -> Option<LabeledSpan> {
        let text = self.source.as_ref()?.inner();
        let start = self.finding.span.offset.min(text.len());
        let marked = text.get(start..self.finding.span.end().min(text.len())).unwrap_or("");
        let length = marked.lines().next().unwrap_or("").len();
        let label = if self.finding.label.is_empty() { "here" } else { &self.finding.label };
        Some(LabeledSpan::new(Some(label.to_owned()), start, length))
    }
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding.message)
    }
}

impl std::error::Error for Told<'_> {}

impl Diagnostic for Told<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.finding.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.finding.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        if self.finding.help.is_empty() { None } else { Some(Box::new(&self.finding.help)) }
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.label().into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use rootward_schema::{check, facts::Facts};

    use super::*;

    fn bad() -> (Source, Vec<Finding>) {
        let source = Source::from_texts([
            ("rootward.toml", "name = \"bank\"\npartitons = 8\n\n[root.account]\ntable = \"account\"\n"),
            ("tables.sql", "drop table account;\n"),
        ]);
        let findings = check(&source, &Facts::default()).expect_err("it is bad");
        (source, findings)
    }

    #[test]
    fn a_report_shows_code_place_and_help_of_every_finding() {
        let (source, findings) = bad();
        let text = report(&findings, &source, false);
        for part in
            ["Error: RW1003", "partitons", "did you mean `partitions`?", "rootward.toml:2:1", "RW1011", "tables.sql:1:1", "2 errors"]
        {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "no colours were asked for");
    }

    #[test]
    fn findings_have_a_form_for_programs() {
        let (source, findings) = bad();
        let value = findings_json(&findings, &source);
        assert_eq!(value["ok"], false);
        assert_eq!(value["findings"][0]["code"], "RW1003");
        assert_eq!((value["findings"][0]["line"].as_u64(), value["findings"][0]["column"].as_u64()), (Some(2), Some(1)));
        assert_eq!(findings_json(&[], &source)["ok"], true);
    }
}
