//! From `:name` to `$n`.

use crate::codes;
use crate::finding::{Finding, Located, Place, Span};
use crate::names;
use crate::sql::{Kind, Token};

/// A statement as it goes to the server.
pub(super) struct Rewritten {
    pub sql: String,
    /// The name behind each placeholder, in order.
    pub parameters: Vec<Located<String>>,
    /// For pieces of `sql`: where they begin there, and where they stand in the file.
    pub pieces: Vec<(usize, Span)>,
}

/// Puts `$n` in place of `:name`, and a blank in place of comments.
pub(super) fn rewrite(file: &str, text: &str, tokens: &[Token], findings: &mut Vec<Finding>) -> Rewritten {
    let mut out = Rewritten { sql: String::new(), parameters: Vec::new(), pieces: Vec::new() };
    for token in tokens {
        let span = Span::between(token.start, token.end);
        let place = Place { file: file.to_owned(), span };
        out.pieces.push((out.sql.len(), span));
        match token.kind {
            Kind::LineComment | Kind::BlockComment => out.sql.push(' '),
            Kind::Parameter => {
                let name = token.text(text).trim_start_matches(':');
                let known = out.parameters.iter().position(|parameter| parameter.value == name);
                let number = known.unwrap_or(out.parameters.len()) + 1;
                if known.is_none() {
                    names::check("parameter", name, &place, findings);
                    out.parameters.push(Located { value: name.to_owned(), place });
                }
                // `limit:n` must not become the name `limit$1`.
                if out.sql.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '$') {
                    out.sql.push(' ');
                }
                out.sql.push_str(&format!("${number}"));
            }
            Kind::Position => {
                findings.push(
                    Finding::error(codes::NUMBERED_PARAMETER, &place, format!("parameter `{}` has no name", token.text(text)))
                        .help("write `:name`; the placeholders are numbered for you"),
                );
                out.sql.push_str("NULL");
            }
            _ => out.sql.push_str(token.text(text)),
        }
    }
    out
}
