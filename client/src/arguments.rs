//! Arguments by name.

use std::collections::HashMap;

use rootward_proto::v1::{Value, value::Kind};

/// The arguments of a transaction or a chain. The router brings each to the declared type, or refuses it by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments(pub(crate) HashMap<String, Value>);

impl Arguments {
    /// None yet.
    pub fn new() -> Arguments {
        Arguments::default()
    }

    /// With one more; a later one of the same name replaces it. Anything that prints as PostgreSQL's text will do.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Arguments {
        self.0.insert(name.to_owned(), Value { kind: Some(Kind::Text(value.to_string())) });
        self
    }

    /// With a NULL.
    #[must_use]
    pub fn with_null(mut self, name: &str) -> Arguments {
        self.0.insert(name.to_owned(), Value { kind: Some(Kind::Null(true)) });
        self
    }
}

impl From<Arguments> for HashMap<String, Value> {
    fn from(arguments: Arguments) -> HashMap<String, Value> {
        arguments.0
    }
}
