//! The lane's own PostgreSQL client: values pass as text both ways, a whole pipeline goes out with one Sync, and the
//! command tags and the transaction's status come back, so that the lane knows what took effect.
//!
//! Everything else in the worker uses tokio-postgres and deadpool-postgres; see ARCHITECTURE.md for why lanes don't.

mod connect;
mod connection;
mod pipeline;

pub(crate) use connect::{ConnectError, connect, tls_for};
pub(crate) use connection::{Connection, ConnectionLost};
pub(crate) use pipeline::{Call, How, MAX_RESULT_BYTES, Pipeline, ServerError, StatementResult, oid_of};

/// An array in PostgreSQL's text form, as it grows: no element needs a text of its own.
pub(crate) struct ArrayText(String);

impl ArrayText {
    /// Room for elements of about this many bytes in all.
    pub(crate) fn with_capacity(bytes: usize) -> ArrayText {
        let mut text = String::with_capacity(bytes + 2);
        text.push('{');
        ArrayText(text)
    }

    fn separate(&mut self) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
    }

    /// Adds any text, or NULL.
    pub(crate) fn push(&mut self, value: Option<&str>) {
        self.separate();
        match value {
            None => self.0.push_str("NULL"),
            Some(value) => push_element(&mut self.0, value),
        }
    }

    /// Adds what is known to need no quotes: a number, a UUID, a truth value.
    pub(crate) fn push_plain(&mut self, value: impl std::fmt::Display) {
        use std::fmt::Write as _;
        self.separate();
        let _ = write!(self.0, "{value}");
    }

    /// Adds bytes.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.separate();
        self.0.push_str("\"\\\\x");
        for byte in bytes {
            self.0.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.0.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        self.0.push('"');
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// An array in PostgreSQL's text form.
pub(crate) fn array<S: AsRef<str>>(values: impl Iterator<Item = Option<S>>) -> String {
    let mut text = ArrayText::with_capacity(values.size_hint().0 * 16);
    for value in values {
        text.push(value.as_ref().map(AsRef::as_ref));
    }
    text.finish()
}

fn push_element(text: &mut String, value: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b':' | b'_');
    if !value.is_empty() && value.bytes().all(is_plain) && !value.eq_ignore_ascii_case("null") {
        return text.push_str(value);
    }
    text.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_quote_what_would_break_them() {
        let of = |values: &[Option<&str>]| array(values.iter().copied());
        assert_eq!(of(&[Some("a\"b"), Some("c\\d"), Some("e,f")]), r#"{"a\"b","c\\d","e,f"}"#);
        assert_eq!(of(&[Some("1"), None, Some("null"), Some(""), Some("a b")]), r#"{1,NULL,"null","","a b"}"#);
        assert_eq!(of(&[]), "{}");
        let mut bytes = ArrayText::with_capacity(0);
        bytes.push_bytes(&[0, 255, 16]);
        bytes.push_bytes(&[]);
        bytes.push_plain(7);
        assert_eq!(bytes.finish(), r#"{"\\x00ff10","\\x",7}"#);
    }
}
