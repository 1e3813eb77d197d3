//! Printing: data on stdout, the rest on stderr; a reader that went away is no error.

use std::{
    ffi::OsStr,
    io::{IsTerminal as _, Write as _},
};

use rootward_client::{
    Fault,
    v1::{self, value::Kind},
};
use serde_json::{Value as Json, json};

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

/// Prints what is not data; on a terminal an error's code is red.
pub(crate) fn print_error(text: &str) {
    let is_coloured = is_coloured(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let _ = writeln!(std::io::stderr().lock(), "{}", paint(text, is_coloured));
}

fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

fn paint(text: &str, is_coloured: bool) -> String {
    match text.split_once("]: ") {
        Some((code, rest)) if is_coloured && code.starts_with("error[") => format!("\x1b[1;31m{code}]\x1b[0m: {rest}"),
        _ => text.to_owned(),
    }
}

/// One line on stderr that is written again and again on a terminal, and line by line elsewhere.
#[derive(Debug, Default)]
pub(crate) struct StatusLine {
    is_there: bool,
}

impl StatusLine {
    /// Shows this instead of what was shown before.
    pub(crate) fn show(&mut self, text: &str) {
        let mut err = std::io::stderr().lock();
        self.is_there = err.is_terminal();
        let _ = if self.is_there { write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush()) } else { writeln!(err, "{text}") };
    }

    /// Takes it away, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_there) {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Prints a list: a JSON object a line, or one with all of them.
pub(crate) fn print_list(format: Format, name: &str, items: Vec<Json>, more: Json) {
    if format == Format::Jsonl {
        items.iter().for_each(|item| print(&item.to_string()));
        return;
    }
    let mut object = more;
    object[name] = Json::Array(items);
    print(&object.to_string());
}

/// A failure for people.
pub(crate) fn fault_text(fault: &Fault) -> String {
    let failure = fault.as_wire();
    let mut text = fault.to_string();
    if !failure.help.is_empty() {
        text += &format!("\n  help: {}", failure.help);
    }
    for (name, said) in [("detail", &failure.detail), ("hint", &failure.hint)] {
        if !said.is_empty() && !failure.help.contains(said.as_str()) && !failure.message.contains(said.as_str()) {
            text += &format!("\n  {name}: {said}");
        }
    }
    if failure.from_stored_outcome {
        text += "\n  answered from the stored outcome; nothing was done twice";
    }
    text
}

/// A failure for programs. The form is a promise: fields are added, never renamed.
pub(crate) fn fault_json(fault: &Fault) -> Json {
    json!({ "error": failure_json(fault.as_wire()) })
}

pub(crate) fn failure_json(failure: &v1::Failure) -> Json {
    json!({
        "code": failure.code, "message": failure.message, "help": failure.help,
        "retry_class": failure.retry_class().as_str_name().trim_start_matches("RETRY_CLASS_").to_lowercase(),
        "sqlstate": failure.sqlstate, "detail": failure.detail, "hint": failure.hint, "from_stored_outcome": failure.from_stored_outcome,
    })
}

/// A value for people. Control characters are escaped, since data must not move the terminal's cursor.
pub(crate) fn value_text(value: &v1::Value) -> String {
    let text = plain_text(value);
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = |character: char| if character.is_control() { character.escape_default().to_string() } else { character.to_string() };
    text.chars().map(escaped).collect()
}

fn plain_text(value: &v1::Value) -> String {
    match &value.kind {
        None | Some(Kind::Null(_)) => "null".to_owned(),
        Some(Kind::Boolean(flag)) => flag.to_string(),
        Some(Kind::Int64(number)) => number.to_string(),
        Some(Kind::Double(number)) => number.to_string(),
        Some(Kind::Bytes(bytes)) => bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
        Some(Kind::Text(text) | Kind::Decimal(text) | Kind::Timestamp(text) | Kind::Uuid(text) | Kind::Json(text)) => text.clone(),
    }
}

/// A value for programs: decimals stay text, so that no reader rounds them.
pub(crate) fn value_json(value: &v1::Value) -> Json {
    match &value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        Some(Kind::Boolean(flag)) => json!(flag),
        Some(Kind::Int64(number)) => json!(number),
        // JSON has no NaN and no infinity: they are text, as in PostgreSQL's own JSON.
        Some(Kind::Double(number)) if number.is_finite() => json!(number),
        Some(Kind::Json(text)) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        _ => json!(plain_text(value)),
    }
}

/// Rows under their headings, in columns; numbers are not set apart.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(headings.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// Microseconds as people read them.
pub(crate) fn duration(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} us"),
        1_000..1_000_000 => format!("{:.1} ms", Milli(microseconds).as_f64()),
        _ => format!("{:.2} s", Milli(microseconds).as_f64() / 1000.0),
    }
}

struct Milli(u64);

impl Milli {
    fn as_f64(&self) -> f64 {
        std::time::Duration::from_micros(self.0).as_secs_f64() * 1000.0
    }
}

/// Seconds as people read them, such as `4m12s`.
pub(crate) fn age(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{}s", whole / 60, whole % 60),
        _ => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_their_widest_cell() {
        let text = table(&["A", "LONG"], &[vec!["value".to_owned(), "x".to_owned()]]);
        assert_eq!(text, "A      LONG\nvalue  x");
    }

    #[test]
    fn data_do_not_reach_the_terminal_as_commands() {
        let value = |kind| v1::Value { kind: Some(kind) };
        let text = value(Kind::Text("a\u{1b}[2J\nzwölf".to_owned()));
        assert_eq!(value_text(&text), "a\\u{1b}[2J\\nzwölf");
        assert_eq!(value_json(&text), json!("a\u{1b}[2J\nzwölf"));
        assert_eq!(value_json(&value(Kind::Double(f64::NAN))), json!("NaN"));
        assert_eq!(value_json(&value(Kind::Json("{\"a\":1.10}".to_owned()))).to_string(), "{\"a\":1.10}");
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        assert!(is_coloured(true, None) && is_coloured(true, Some(OsStr::new(""))));
        assert!(!is_coloured(false, None) && !is_coloured(true, Some(OsStr::new("1"))));
        assert_eq!(paint("error[RW3101]: a]: b", false), "error[RW3101]: a]: b");
        assert_eq!(paint("error[RW3101]: a", true), "\u{1b}[1;31merror[RW3101]\u{1b}[0m: a");
        assert_eq!(paint("warning: [a]: b", true), "warning: [a]: b");
    }

    #[test]
    fn times_are_short() {
        assert_eq!((duration(850), duration(1_800), duration(2_500_000)), ("850 us".into(), "1.8 ms".into(), "2.50 s".into()));
        assert_eq!((age(3.2), age(252.0), age(7300.0)), ("3s".into(), "4m12s".into(), "2h1m".into()));
    }

    #[test]
    fn a_fault_for_programs_keeps_its_form() {
        let fault = Fault::refused("RW3101", "`withdraw` was refused", "see withdraw.sql:4").with_postgres("P0001", None, None);
        let text = fault_json(&fault).to_string();
        let wanted = r#"{"error":{"code":"RW3101","detail":"","from_stored_outcome":false,"help":"see withdraw.sql:4","hint":"","message":"`withdraw` was refused","retry_class":"refused","sqlstate":"P0001"}}"#;
        assert_eq!(text, wanted);
    }
}
