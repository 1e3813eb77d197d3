//! One connection: prepares statements, runs pipelines. Any failure of the stream makes it useless for good.

use std::{collections::HashMap, io, sync::Arc};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::{backend::Message, frontend};
use rootward_schema::{Column, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use super::{
    connect::{Stream, text_of},
    pipeline::{Call, Expected, How, MAX_RESULT_BYTES, Pipeline, Ran, ServerError, StatementResult, warning_of},
};

/// An open connection to PostgreSQL.
pub(crate) struct Connection {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    inbox: BytesMut,
    prepared: HashMap<Arc<str>, Arc<Prepared>>,
    /// Whether SQL that may have changed settings of the session ran since they were last reset for good.
    pub(crate) may_be_changed: bool,
}

/// A statement that the server keeps for this connection.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) name: String,
    columns: Vec<Column>,
}

/// The stream broke: what was under way may have taken effect or not.
#[derive(Debug, thiserror::Error)]
#[error("the connection to PostgreSQL was lost: {0}")]
pub(crate) struct ConnectionLost(#[from] io::Error);

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>, inbox: BytesMut) -> Connection {
        let (reader, writer) = tokio::io::split(stream);
        Connection { reader, writer, inbox, prepared: HashMap::new(), may_be_changed: false }
    }

    /// Adds `calls` to `pipeline`; the ones that are new to this connection are prepared first, in a trip of their own.
    ///
    /// Returns the server's error if a statement can't be prepared; nothing was added then.
    ///
    /// # Errors
    /// [`ConnectionLost`]; the connection is of no use then.
    pub(crate) async fn add(&mut self, pipeline: &mut Pipeline, calls: &[Call]) -> Result<Option<ServerError>, ConnectionLost> {
        for call in calls.iter().filter(|call| call.how == How::Prepared) {
            if !self.prepared.contains_key(&call.sql)
                && let Err(error) = self.prepare(call).await?
            {
                return Ok(Some(error));
            }
        }
        for call in calls {
            match (call.how, self.prepared.get(&call.sql)) {
                (How::Prepared, Some(prepared)) => pipeline.push(prepared, &call.parameters)?,
                _ => pipeline.push_ad_hoc(&call.sql)?,
            }
        }
        Ok(None)
    }

    /// Whether nothing of this has to be prepared first.
    pub(crate) fn knows(&self, calls: &[Call]) -> bool {
        calls.iter().all(|call| call.how != How::Prepared || self.prepared.contains_key(&call.sql))
    }

    /// Takes nothing for prepared any more.
    pub(crate) fn forget_prepared(&mut self) {
        self.prepared.clear();
    }

    async fn prepare(&mut self, call: &Call) -> Result<Result<(), ServerError>, ConnectionLost> {
        let name = format!("rootward_{}", self.prepared.len());
        let mut outbox = BytesMut::new();
        // SQL's PREPARE shares the names, so somebody's may be there. Closing one that isn't is no error.
        frontend::close(b'S', &name, &mut outbox)?;
        frontend::parse(&name, &call.sql, call.types.iter().copied(), &mut outbox)?;
        frontend::describe(b'S', &name, &mut outbox)?;
        frontend::sync(&mut outbox);
        self.writer.write_all(&outbox).await?;
        let mut columns = Vec::new();
        let mut failure = None;
        loop {
            match self.read().await? {
                Message::RowDescription(body) => columns = columns_of(&body)?,
                Message::ErrorResponse(body) => failure = Some(ServerError::from_fields(body.fields())?),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        if let Some(error) = failure {
            return Ok(Err(error));
        }
        self.prepared.insert(call.sql.clone(), Arc::new(Prepared { name, columns }));
        Ok(Ok(()))
    }

    /// Sends the pipeline and one Sync, and reads everything that comes of it.
    ///
    /// Cancel safety: none. A future that is dropped half way leaves answers in the stream, so the caller must drop the
    /// connection with it; lanes run this in a task that nothing cancels.
    ///
    /// # Errors
    /// [`ConnectionLost`]; the connection is of no use then.
    pub(crate) async fn run(&mut self, pipeline: Pipeline) -> Result<Ran, ConnectionLost> {
        let Pipeline { mut outbox, expected } = pipeline;
        frontend::sync(&mut outbox);
        // Both at once: a server that can't get rid of its answers stops reading.
        let Connection { reader, writer, inbox, .. } = self;
        let write = async { writer.write_all(&outbox).await };
        let read = read_results(reader, inbox, &expected);
        let ((), ran) = futures_util::future::try_join(write, read).await?;
        Ok(ran)
    }

    async fn read(&mut self) -> io::Result<Message> {
        read_message(&mut self.reader, &mut self.inbox).await
    }
}

async fn read_message(reader: &mut ReadHalf<Box<dyn Stream>>, inbox: &mut BytesMut) -> io::Result<Message> {
    loop {
        if let Some(message) = Message::parse(inbox)? {
            return Ok(message);
        }
        if reader.read_buf(inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn read_results(reader: &mut ReadHalf<Box<dyn Stream>>, inbox: &mut BytesMut, expected: &[Expected]) -> io::Result<Ran> {
    let mut results = Vec::with_capacity(expected.len());
    let mut error = None;
    let mut last_warning = None;
    let mut current = StatementResult::default();
    let mut bytes = 0;
    loop {
        match read_message(reader, inbox).await? {
            Message::RowDescription(body) => current.columns = columns_of(&body)?,
            Message::DataRow(body) => {
                bytes += body.buffer().len();
                if bytes > MAX_RESULT_BYTES {
                    // The rest is read and dropped: the stream must stay in step.
                    current.is_too_large = true;
                    current.rows = Vec::new();
                    continue;
                }
                let mut row = Vec::new();
                let mut ranges = body.ranges();
                while let Some(range) = ranges.next()? {
                    row.push(range.map(|range| text_of(&body.buffer_bytes().slice(range))).transpose()?);
                }
                current.rows.push(row);
            }
            Message::CommandComplete(body) => {
                bytes = 0;
                let mut done = std::mem::take(&mut current);
                done.tag = body.tag()?.to_owned();
                done.row_count = done.tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
                if let Some(Expected::Prepared(prepared)) = expected.get(results.len()) {
                    done.columns.clone_from(&prepared.columns);
                }
                results.push(done);
            }
            Message::EmptyQueryResponse => results.push(std::mem::take(&mut current)),
            Message::ErrorResponse(body) => error = Some(ServerError::from_fields(body.fields())?),
            Message::ReadyForQuery(_) => return Ok(Ran { results, error, last_warning }),
            Message::NoticeResponse(body) if results.len() + 1 == expected.len() => {
                last_warning = warning_of(body.fields())?.or(last_warning);
            }
            _ => {}
        }
    }
}

fn columns_of(body: &postgres_protocol::message::backend::RowDescriptionBody) -> io::Result<Vec<Column>> {
    body.fields().map(|field| Ok(Column { name: field.name().to_owned(), r#type: type_of(field.type_oid()) })).collect()
}

fn type_of(oid: u32) -> Type {
    match tokio_postgres::types::Type::from_oid(oid) {
        Some(known) => Type::from_name(known.name()),
        None => Type::Other(format!("type {oid}")),
    }
}
