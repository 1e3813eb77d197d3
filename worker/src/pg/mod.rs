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

/// An array in PostgreSQL's text form.
pub(crate) fn array<S: AsRef<str>>(values: impl Iterator<Item = Option<S>>) -> String {
    let mut text = String::from("{");
    for (at, value) in values.enumerate() {
        if at > 0 {
            text.push(',');
        }
        match value {
            None => text.push_str("NULL"),
            Some(value) => push_element(&mut text, value.as_ref()),
        }
    }
    text.push('}');
    text
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
    }
}
