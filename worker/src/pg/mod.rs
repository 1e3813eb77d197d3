//! The lane's own PostgreSQL client: values pass as text both ways, a whole pipeline goes out with one Sync, and the
//! command tags and the transaction's status come back, so that the lane knows what took effect.
//!
//! Everything else in the worker uses tokio-postgres and deadpool-postgres; see ARCHITECTURE.md for why lanes don't.

mod connect;
mod connection;
mod pipeline;

pub(crate) use connect::{ConnectError, connect, tls_for};
pub(crate) use connection::{Connection, ConnectionLost};
pub(crate) use pipeline::{Call, MAX_RESULT_BYTES, Pipeline, ServerError, StatementResult};

/// An array in PostgreSQL's text form.
pub(crate) fn array(values: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = values.map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_quote_what_would_break_them() {
        assert_eq!(array(["a\"b".to_owned(), "c\\d".to_owned(), "e,f".to_owned()].into_iter()), r#"{"a\"b","c\\d","e,f"}"#);
        assert_eq!(array(std::iter::empty()), "{}");
    }
}
