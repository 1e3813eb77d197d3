//! What goes out in one message and what comes back for it.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::{
    IsNull,
    message::{backend::ErrorFields, frontend},
};
use rootward_schema::{Text, Type};
use tokio_postgres::types::Type as PgType;

use super::connection::Prepared;

/// Statements that go out together, with one Sync at the end.
#[derive(Default)]
pub(crate) struct Pipeline {
    pub(super) outbox: BytesMut,
    /// The shape of each statement's rows, in order; none where the server describes them on the way.
    pub(super) expected: Vec<Expected>,
}

pub(super) enum Expected {
    /// Its rows have these columns.
    Prepared(Arc<Prepared>),
    /// The server says which columns there are.
    Described,
}

/// One statement with its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub sql: Arc<str>,
    pub parameters: Vec<Parameter>,
    /// The parameters' types as the schema declares them; the server finds out what is missing.
    pub types: Arc<[u32]>,
    pub how: How,
}

/// A parameter as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parameter {
    Null,
    Text(String),
    /// The binary form of the type that the statement declares.
    Binary(Bytes),
}

impl From<Text> for Parameter {
    fn from(value: Text) -> Parameter {
        value.map_or(Parameter::Null, Parameter::Text)
    }
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Prepared once on the connection and kept.
    Prepared,
    /// Text from outside, through SQL's PREPARE: the server refuses everything but one statement that reads or changes rows.
    AdHoc,
}

impl Call {
    pub(crate) fn prepared<P: Into<Parameter>>(sql: impl Into<Arc<str>>, parameters: Vec<P>) -> Call {
        let parameters = parameters.into_iter().map(Into::into).collect();
        Call { sql: sql.into(), parameters, types: Arc::default(), how: How::Prepared }
    }

    /// A statement without parameters.
    pub(crate) fn plain(sql: impl Into<Arc<str>>) -> Call {
        Call { sql: sql.into(), parameters: Vec::new(), types: Arc::default(), how: How::Prepared }
    }

    /// How many results it gives: text from outside is prepared by a statement of its own.
    pub(crate) fn result_count(&self) -> usize {
        self.how.result_count()
    }
}

impl How {
    pub(crate) fn result_count(self) -> usize {
        match self {
            How::Prepared => 1,
            How::AdHoc => 2,
        }
    }
}

/// PostgreSQL's number of a type; 0 leaves it to the server: one statement alone may leave open what `:amount` is.
pub(crate) fn oid_of(declared: &Type) -> u32 {
    let known = match declared {
        Type::Boolean => PgType::BOOL,
        Type::Smallint => PgType::INT2,
        Type::Integer => PgType::INT4,
        Type::Bigint => PgType::INT8,
        Type::Real => PgType::FLOAT4,
        Type::Double => PgType::FLOAT8,
        Type::Numeric => PgType::NUMERIC,
        Type::Text => PgType::TEXT,
        Type::Varchar => PgType::VARCHAR,
        Type::Uuid => PgType::UUID,
        Type::Timestamptz => PgType::TIMESTAMPTZ,
        Type::Timestamp => PgType::TIMESTAMP,
        Type::Date => PgType::DATE,
        Type::Json => PgType::JSON,
        Type::Jsonb => PgType::JSONB,
        Type::Bytea => PgType::BYTEA,
        Type::Other(_) => return 0,
    };
    known.oid()
}

/// The name under which ad-hoc text is prepared.
const AD_HOC: &str = "rootward_ad_hoc";

impl Pipeline {
    /// Adds a statement that the connection prepared before.
    pub(crate) fn push(&mut self, prepared: &Arc<Prepared>, parameters: &[Parameter]) -> io::Result<()> {
        bind(&prepared.name, parameters, &mut self.outbox)?;
        frontend::execute("", 0, &mut self.outbox)?;
        self.expected.push(Expected::Prepared(prepared.clone()));
        Ok(())
    }

    /// Adds a statement without parameters that is not worth preparing, such as BEGIN.
    pub(crate) fn push_plain(&mut self, sql: &str) -> io::Result<()> {
        frontend::parse("", sql, std::iter::empty(), &mut self.outbox)?;
        bind("", &[], &mut self.outbox)?;
        frontend::describe(b'P', "", &mut self.outbox)?;
        frontend::execute("", 0, &mut self.outbox)?;
        self.expected.push(Expected::Described);
        Ok(())
    }

    /// Adds text from outside: two results, that of PREPARE and that of the statement.
    pub(crate) fn push_ad_hoc(&mut self, sql: &str) -> io::Result<()> {
        // SQL's PREPARE takes nothing but SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES, and the extended protocol
        // takes nothing but one statement: the server's own grammar is the gate. Closing a name that isn't there is no error.
        frontend::close(b'S', AD_HOC, &mut self.outbox)?;
        self.push_plain(&format!("PREPARE {AD_HOC} AS {sql}"))?;
        bind(AD_HOC, &[], &mut self.outbox)?;
        frontend::describe(b'P', "", &mut self.outbox)?;
        frontend::execute("", 0, &mut self.outbox)?;
        self.expected.push(Expected::Described);
        Ok(())
    }
}

fn bind(statement: &str, parameters: &[Parameter], outbox: &mut BytesMut) -> io::Result<()> {
    // Format 0 is text, 1 is binary.
    let formats = parameters.iter().map(|value| i16::from(matches!(value, Parameter::Binary(_))));
    let serialize = |value: &Parameter, buffer: &mut BytesMut| {
        let bytes = match value {
            Parameter::Null => return Ok(IsNull::Yes),
            Parameter::Text(text) => text.as_bytes(),
            Parameter::Binary(bytes) => bytes,
        };
        buffer.extend_from_slice(bytes);
        Ok(IsNull::No)
    };
    // All columns of the answer are text.
    frontend::bind("", statement, formats, parameters, serialize, [0], outbox).map_err(|error| match error {
        frontend::BindError::Conversion(error) => io::Error::other(error),
        frontend::BindError::Serialization(error) => error,
    })
}

/// What one statement gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StatementResult {
    pub columns: Vec<rootward_schema::Column>,
    pub rows: Vec<Vec<Text>>,
    /// Rows returned or changed, from the command tag.
    pub row_count: u64,
    /// The command tag, such as `UPDATE 1`.
    pub tag: String,
    /// Whether rows were left out because there were more bytes than [`MAX_RESULT_BYTES`].
    pub is_too_large: bool,
}

/// The most bytes of rows that one statement may return.
pub(crate) const MAX_RESULT_BYTES: usize = 8 << 20;

impl StatementResult {
    /// The first column of the first row.
    pub(crate) fn scalar(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }
}

/// What a pipeline gave: the results up to the first error; PostgreSQL skips what comes after it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub results: Vec<StatementResult>,
    pub error: Option<ServerError>,
    /// What the server warned of while it did the last statement.
    pub last_warning: Option<String>,
}

/// An error that the server reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServerError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub constraint: Option<String>,
}

impl ServerError {
    pub(super) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
        let mut error = ServerError { sqlstate: String::new(), message: String::new(), detail: None, hint: None, constraint: None };
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }
}

/// What a notice says, if it is a warning.
pub(super) fn warning_of(mut fields: ErrorFields<'_>) -> io::Result<Option<String>> {
    let (mut is_warning, mut message) = (false, String::new());
    while let Some(field) = fields.next()? {
        match field.type_() {
            // The severity, in English whatever the server's language is.
            b'V' => is_warning = field.value_bytes() == b"WARNING",
            b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    Ok(is_warning.then_some(message))
}
