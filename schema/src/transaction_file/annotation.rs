//! Annotations: comments of the form `-- word: value`.

use crate::definition::{Expect, ExpectedRows};
use crate::finding::{Place, Span};
use crate::nearest::{did_you_mean, distance};
use crate::sql::Token;

/// One annotation, whether or not anybody knows its word.
pub(super) struct Annotation {
    pub word: Piece,
    pub value: Piece,
}

/// A part of an annotation.
pub(super) struct Piece {
    pub value: String,
    pub span: Span,
}

impl Annotation {
    /// The annotation that a comment is: `-- word: value`.
    pub fn of(text: &str, token: Token) -> Option<Annotation> {
        let comment = token.text(text);
        let body = comment.strip_prefix("--")?;
        let word_start = token.start + 2 + (body.len() - body.trim_start().len());
        let (word, value) = body.trim_start().split_once(':')?;
        let trimmed_word = word.trim_end();
        if trimmed_word.is_empty() || !trimmed_word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') {
            return None;
        }
        let value_start = word_start + word.len() + 1 + (value.len() - value.trim_start().len());
        let value = value.trim();
        let word = Piece { value: trimmed_word.to_ascii_lowercase(), span: Span { offset: word_start, len: trimmed_word.len() } };
        Some(Annotation {
            word,
            value: Piece { value: value.to_owned(), span: Span { offset: value_start.min(token.end), len: value.len() } },
        })
    }

    pub fn word_place(&self, file: &str) -> Place {
        Place { file: file.to_owned(), span: self.word.span }
    }

    pub fn value_place(&self, file: &str) -> Place {
        let span = if self.value.span.len == 0 { self.word.span } else { self.value.span };
        Place { file: file.to_owned(), span }
    }
}

/// One slip away from an annotation. Two would make `-- note:` one of them.
pub(super) fn is_typo_of(word: &str, known: &str) -> bool {
    distance(word, known) <= if known.len() > 6 { 2 } else { 1 }
}

/// What stands behind `-- expect:`.
pub(super) fn parse_expect(value: &str) -> Result<Expect, String> {
    let (count, reason) = match value.split_once(',') {
        Some((count, rest)) => (count.trim(), Some(rest.trim())),
        None => (value, None),
    };
    let rows = match count {
        "one" => ExpectedRows::Exactly(1),
        "none" => ExpectedRows::Exactly(0),
        "some" => ExpectedRows::Some,
        number => match number.parse() {
            Ok(number) => ExpectedRows::Exactly(number),
            Err(_) => return Err(did_you_mean(count, ["one", "some", "none"], "names no row count")).map_err(|hint| hint_for(count, hint)),
        },
    };
    let reason = match reason {
        None => default_reason(rows),
        Some(rest) => {
            let quoted = rest.strip_prefix("else").map(str::trim).and_then(|rest| rest.strip_prefix('"')?.strip_suffix('"'));
            match quoted.filter(|reason| !reason.trim().is_empty()) {
                Some(reason) => reason.to_owned(),
                None => return Err("gives no reason after the comma".to_owned()),
            }
        }
    };
    Ok(Expect { rows, reason })
}

fn hint_for(count: &str, hint: String) -> String {
    if hint.starts_with("did you mean") { format!("names no row count; {hint}") } else { format!("names no row count: `{count}`") }
}

fn default_reason(rows: ExpectedRows) -> String {
    match rows {
        ExpectedRows::Some => "expected at least one row, found none".to_owned(),
        ExpectedRows::Exactly(0) => "expected no row, found some".to_owned(),
        ExpectedRows::Exactly(1) => "expected one row, found another number".to_owned(),
        ExpectedRows::Exactly(rows) => format!("expected {rows} rows, found another number"),
    }
}
