//! People's queries on a snapshot: in a session of their own, by a role that may only read, page by page.

use std::sync::Arc;

use rootward_proto::{Fault, FaultResult, to_wire, v1};
use rootward_schema::Column;
use tokio::sync::mpsc;
use tonic::Status;
use uuid::Uuid;

use super::kept::{Snapshots, gone};
use crate::{
    config::Config,
    pg::{self, Connection, Pipeline, Ran, ServerError, StatementResult},
};

/// Rows of the first page; the next ones are as large as the bound on bytes allows.
const FIRST_ROWS: usize = 64;
const MOST_ROWS: usize = 4_096;
/// How many bytes a page should have.
const PAGE_BYTES: usize = 256 << 10;
/// Statements in front of the user's.
const OPENING: usize = 2;

/// Where the pages go; who doesn't take them holds the query up.
pub(crate) type Pages = mpsc::Sender<Result<v1::QueryPeerSnapshotResponse, Status>>;

/// Runs one statement at a snapshot and sends its rows, until there are no more or nobody takes them.
pub(crate) async fn read(snapshots: Arc<Snapshots>, id: Uuid, sql: String, pages: Pages) {
    let ended = tokio::select! {
        ended = rows(&snapshots, id, &sql, &pages) => ended,
        // The connection goes with it, and the server notices within a second.
        () = pages.closed() => return,
    };
    if let Err(fault) = ended {
        let _ = pages.send(Err(fault.into_status())).await;
    }
}

async fn rows(snapshots: &Snapshots, id: Uuid, sql: &str, pages: &Pages) -> FaultResult<()> {
    let peer = &snapshots.config.peer;
    let _reader = snapshots.readers.clone().try_acquire_owned().map_err(|_| {
        Fault::overloaded("RW3001", format!("peer {peer} runs as many queries on snapshots as it may"), "send it again a little later")
    })?;
    let open = snapshots.find(id)?;
    let away = |why: String| Fault::retry("RW5002", format!("peer {peer}: {why}"), "nothing was changed; try again");
    let mut fetched = FIRST_ROWS;
    let opening = || {
        let mut pipeline = Pipeline::default();
        for sql in [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
            format!("SET TRANSACTION SNAPSHOT '{}'", open.cut.name),
            // The grammar takes nothing here but one statement that returns rows, and the protocol takes nothing but one statement.
            format!("DECLARE rootward_rows NO SCROLL CURSOR FOR {sql}"),
            fetch(FIRST_ROWS),
        ] {
            pipeline.push_plain(&sql).map_err(|error| Fault::refused("RW5025", error.to_string(), HELP))?;
        }
        FaultResult::Ok(pipeline)
    };
    let mut left = snapshots.idle_reader();
    let begun = match &mut left {
        // The server may have ended it meanwhile.
        Some(session) => session.run(opening()?).await.ok(),
        None => None,
    };
    let (mut session, mut ran) = match (left, begun) {
        (Some(session), Some(ran)) => (session, ran),
        _ => {
            let mut session = connect(&snapshots.config).await.map_err(|error| away(error.to_string()))?;
            let ran = session.run(opening()?).await.map_err(|error| away(error.to_string()))?;
            (session, ran)
        }
    };
    let mut is_first = true;
    loop {
        let (at, error) = (ran.results.len(), ran.error.take());
        match error {
            Some(error) if is_first && at < OPENING => {
                tracing::debug!(error = error.message, "a snapshot can't be read any more");
                return Err(gone(id, peer));
            }
            Some(error) => return Err(refused(&error)),
            None => {}
        }
        let page = last(ran)?;
        if page.is_too_large {
            if fetched == 1 {
                return Err(Fault::refused("RW5027", "a row of the answer is larger than 8 MiB", "ask for fewer or smaller columns"));
            }
            return Err(Fault::refused("RW5027", format!("{fetched} rows of the answer are larger than 8 MiB"), "ask for smaller columns"));
        }
        let (rows, bytes) = (page.rows.len(), size_of(&page));
        let peers = if is_first { open.peers.clone() } else { Vec::new() };
        if is_first || rows > 0 {
            snapshots.touch(id);
            if pages.send(Ok(message(page, is_first, peers))).await.is_err() {
                return Ok(());
            }
        }
        if rows < fetched {
            leave(snapshots, session).await;
            return Ok(());
        }
        is_first = false;
        fetched = (PAGE_BYTES * rows / bytes.max(1)).clamp(1, MOST_ROWS.min(fetched * 4));
        let mut pipeline = Pipeline::default();
        pipeline.push_plain(&fetch(fetched)).map_err(|error| away(error.to_string()))?;
        ran = session.run(pipeline).await.map_err(|error| away(error.to_string()))?;
    }
}

/// Leaves the session to the next query, as if it were new.
async fn leave(snapshots: &Snapshots, mut session: Connection) {
    // One after the other: the second is refused inside a transaction.
    for sql in ["ROLLBACK", "DISCARD ALL"] {
        let mut pipeline = Pipeline::default();
        let is_done = pipeline.push_plain(sql).is_ok() && session.run(pipeline).await.is_ok_and(|ran| ran.error.is_none());
        if !is_done {
            return;
        }
    }
    snapshots.leave_reader(session);
}

const HELP: &str = "write one SELECT, VALUES or WITH over the schema's tables; `rootward error RW5025` says more";

fn refused(error: &ServerError) -> Fault {
    Fault::refused("RW5025", format!("the query was refused: {}", error.message), HELP).with_postgres(
        &error.sqlstate,
        error.detail.as_deref(),
        error.hint.as_deref(),
    )
}

fn fetch(rows: usize) -> String {
    format!("FETCH {rows} FROM rootward_rows")
}

fn last(mut ran: Ran) -> FaultResult<StatementResult> {
    ran.results.pop().ok_or_else(|| Fault::internal("a query on a snapshot was answered with nothing"))
}

fn size_of(page: &StatementResult) -> usize {
    page.rows.iter().flatten().map(|value| value.as_deref().map_or(1, str::len) + 4).sum()
}

fn message(page: StatementResult, is_first: bool, peers: Vec<String>) -> v1::QueryPeerSnapshotResponse {
    let StatementResult { columns, rows, .. } = page;
    let wire = |row: Vec<Option<String>>| v1::Row {
        values: row.iter().zip(&columns).map(|(value, column)| to_wire(value.as_deref(), &column.r#type)).collect(),
    };
    let rows = rows.into_iter().map(wire).collect();
    let described = |column: &Column| v1::Column { name: column.name.clone(), r#type: column.r#type.name().to_owned() };
    let columns = if is_first { columns.iter().map(described).collect() } else { Vec::new() };
    v1::QueryPeerSnapshotResponse { columns, rows, peers }
}

/// A session of the role that may only read.
async fn connect(config: &Config) -> Result<Connection, pg::ConnectError> {
    let database = config.reader_database.as_ref().unwrap_or(&config.lane_database);
    let mut settings: tokio_postgres::Config =
        config.settings_of(database).map_err(|error| pg::ConnectError::Configuration(error.to_string()))?;
    if config.reader_database.is_none() {
        settings.user("rootward_reader");
    }
    let options = [
        format!("-c statement_timeout={}", config.snapshot_statement_timeout_ms),
        // Whoever takes no pages must not keep the snapshot open for ever.
        "-c idle_in_transaction_session_timeout=600000".to_owned(),
        "-c client_connection_check_interval=1000".to_owned(),
    ];
    settings.application_name("rootward reader").options(config.session_options(&options.join(" ")));
    let tls = pg::tls_for(&settings, config.tls_ca_file.as_deref())?;
    pg::connect(&settings, tls.as_ref()).await
}
