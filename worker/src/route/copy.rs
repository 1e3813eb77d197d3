//! Makes a copy of the reference data anew from any source, while it is read.
//!
//! Readers go on meanwhile. They see the old copy until one commit makes it equal to the source; rows that are right are not touched,
//! so that a transaction that refers to them doesn't notice. Where the copy ends and the subscription begins is exact: a slot is made first;
//! then writes are held for a moment, in which one session fixes a snapshot and reads how far the log is. The copy is that snapshot, and the
//! slot is moved on to that place. So no change is lost and none comes twice. The source's tables stay readable all the time.

use std::time::Duration;

use futures_util::{SinkExt as _, TryStreamExt as _, pin_mut};
use rootward_schema::quoted;
use tokio::time::Instant;
use tokio_postgres::{Client, Error, IsolationLevel, Transaction, error::SqlState};

use crate::fail_point;

/// The name of the publication and of the subscriptions.
const NAME: &str = "rootward_reference";
/// What fail points call it.
const LABEL: &str = "route";
/// How long a session that uses the old slot may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// The number of the advisory lock that keeps a worker and whoever repairs by hand apart.
pub const ROUTE_LOCK: i64 = 20_829 << 32;

/// Which of the two ends refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The node that is copied from.
    Source,
    /// The peer whose copy it is.
    Copy,
}

/// Why a copy was not made anew. It shows what it showed before; nothing new comes to it until the next try.
#[derive(Debug, thiserror::Error)]
#[error("{}", source.as_db_error().map_or_else(|| source.to_string(), |error| error.message().to_owned()))]
pub struct RenewError {
    /// Who refused.
    pub side: Side,
    /// What it said.
    pub source: Error,
}

fn at(side: Side) -> impl Fn(Error) -> RenewError {
    move |source| RenewError { side, source }
}

/// Sessions at the node that is copied from.
pub struct SourceSessions {
    /// For everything else.
    pub plain: Client,
    /// Keeps the snapshot.
    pub snapshot: Client,
    /// Holds writers back.
    pub lock: Client,
}

/// By which way a copy is to come.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The node that is copied from.
    pub source: &'a str,
    /// How the peer's PostgreSQL reaches it.
    pub connection: &'a str,
    /// The worker's term; none for whoever repairs by hand.
    pub term: Option<i64>,
    /// Whether the copy may become older: only a person can know that what the source has is what counts.
    pub may_be_older: bool,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The version that the copy said it had; none if it had none.
    pub from_version: Option<i64>,
    /// The version of the copy that was made; what was written since follows by the subscription.
    pub version: i64,
    /// Tables of the schema in which rows were missing, wrong or too many, and how many of them.
    pub repaired_rows: Vec<(String, u64)>,
}

/// The tables that a source publishes: their namespaces and their names.
struct Tables {
    namespaces: Vec<String>,
    names: Vec<String>,
}

/// The name of a peer's slot at a source. At the hub it is the peer's and its database's alone, as it always was.
///
/// # Errors
/// What the peer's database says.
pub async fn slot_name(copy: &Client, peer: &str, source: &str, is_hub: bool) -> Result<String, Error> {
    let database: String = copy.query_one("/* read_database */ select current_database()::text", &[]).await?.try_get(0)?;
    let plain = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' };
    let by = if is_hub { String::new() } else { format!("{source}_to_") };
    Ok(format!("rootward_{by}{peer}_{database}").chars().map(plain).take(63).collect())
}

/// Makes the copy anew and follows the source from there on. Can be run again at any time, also after it failed half way.
///
/// Cancel safety: dropping the future leaves the old copy or the new one; perhaps no subscription, and a slot that is noted at the peer.
///
/// # Errors
/// [`RenewError`] with what a database refused; SQLSTATE RW007 at the copy if the source is older than it.
pub async fn renew(copy: &mut Client, source: &mut SourceSessions, slot: &str, way: Way<'_>) -> Result<Renewed, RenewError> {
    copy.query_one("/* lock_route */ select pg_advisory_lock($1)", &[&ROUTE_LOCK]).await.map_err(at(Side::Copy))?;
    let renewed = renew_locked(copy, source, slot, way).await;
    // If this fails, so did the session, and the lock is gone with it.
    let _ = copy.query_one("/* unlock_route */ select pg_advisory_unlock($1)", &[&ROUTE_LOCK]).await;
    renewed
}

async fn renew_locked(copy: &mut Client, source: &mut SourceSessions, slot: &str, way: Way<'_>) -> Result<Renewed, RenewError> {
    let here = at(Side::Copy);
    let there = at(Side::Source);
    let note = "/* note_slot */ insert into rootward_reference.slot (source, slot, connection) values ($1, $2, $3) \
                on conflict (source) do update set slot = excluded.slot, connection = excluded.connection";
    copy.execute(note, &[&way.source, &slot, &way.connection]).await.map_err(&here)?;
    renew_slot(&source.plain, slot).await.map_err(&there)?;
    copy.query_one("/* unsubscribe */ select rootward_reference.unsubscribe($1)", &[&way.term]).await.map_err(&here)?;
    fail_point::hit("route_unsubscribed", LABEL).await;
    let tables = tables(&source.plain).await.map_err(&there)?;
    let snapshot = fix(source, slot).await.map_err(&there)?;
    let sql = "/* read_reference_version */ select version from rootward.reference_version";
    let version = snapshot.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(&there)?;
    let from_version = copy.query_opt(sql, &[]).await.and_then(|row| row.map(|row| row.try_get(0)).transpose()).map_err(&here)?;
    let transaction = copy.transaction().await.map_err(&here)?;
    transaction.batch_execute("set local synchronous_commit = on").await.map_err(&here)?;
    let sql = "/* begin_copy */ select * from rootward_reference.begin_copy($1, $2)";
    let columns = transaction.query(sql, &[&tables.namespaces, &tables.names]).await.map_err(&here)?;
    for (at, row) in columns.iter().enumerate() {
        let columns: String = row.try_get(0).map_err(&here)?;
        let (Some(namespace), Some(name)) = (tables.namespaces.get(at), tables.names.get(at)) else { break };
        fetch(&snapshot, &transaction, (namespace, name), at + 1, &columns).await?;
    }
    let sql = "/* merge_copy */ select name, changed from rootward_reference.merge($1, $2, $3, $4)";
    let changed = transaction.query(sql, &[&way.term, &tables.namespaces, &tables.names, &way.may_be_older]).await.map_err(&here)?;
    let count = i32::try_from(tables.names.len()).unwrap_or(i32::MAX);
    let sql = "/* subscribe */ select rootward_reference.subscribe($1, $2, $3, $4, $5)";
    transaction.query_one(sql, &[&way.term, &way.source, &slot, &way.connection, &count]).await.map_err(&here)?;
    fail_point::hit("route_copied", LABEL).await;
    transaction.commit().await.map_err(&here)?;
    fail_point::hit("route_renewed", LABEL).await;
    let repaired = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default()));
    let repaired: Vec<(String, u64)> = changed.iter().map(repaired).collect::<Result<_, Error>>().map_err(&here)?;
    Ok(Renewed { from_version, version, repaired_rows: repaired.into_iter().filter(|(_, rows)| *rows > 0).collect() })
}

/// Drops a slot, and cuts off who still reads it. False if the node has it still.
///
/// # Errors
/// What the source says, but that a session has not ended yet.
pub(super) async fn drop_slot(source: &Client, slot: &str) -> Result<(), Error> {
    let deadline = Instant::now() + END_LIMIT;
    let end =
        "/* end_slot */ select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null";
    let drop = "/* drop_slot */ select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
    loop {
        source.execute(end, &[&slot]).await?;
        match source.execute(drop, &[&slot]).await {
            // Its session has not ended yet.
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            dropped => return dropped.map(|_| ()),
        }
    }
}

/// Takes the old slot away, and makes one that keeps everything from now on.
async fn renew_slot(source: &Client, slot: &str) -> Result<(), Error> {
    drop_slot(source, slot).await?;
    source.execute("/* make_slot */ select pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&slot]).await?;
    Ok(())
}

async fn tables(source: &Client) -> Result<Tables, Error> {
    let sql = "/* list_published */ select schemaname::text, tablename::text from pg_publication_tables where pubname = $1 order by 1, 2";
    let rows = source.query(sql, &[&NAME]).await?;
    let all = |at: usize| rows.iter().map(|row| row.try_get(at)).collect::<Result<Vec<String>, Error>>();
    Ok(Tables { namespaces: all(0)?, names: all(1)? })
}

/// A snapshot of the source, and the slot moved on to exactly what is not in it.
async fn fix<'s>(source: &'s mut SourceSessions, slot: &str) -> Result<Transaction<'s>, Error> {
    // Whoever writes has ended before the lock is there, and begins after the place in the log has been read. Whoever reads doesn't notice.
    let lock = source.lock.transaction().await?;
    lock.query_one("/* hold_writers */ select rootward_reference.hold()", &[]).await?;
    let snapshot = source.snapshot.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    snapshot.query_one("/* fix_snapshot */ select pg_current_snapshot()::text", &[]).await?;
    // A slot moves as far as the log is flushed: this flushes all that was written before.
    source.plain.execute("/* flush_log */ select pg_logical_emit_message(true, 'rootward', 'copy')", &[]).await?;
    let place: String = source.plain.query_one("/* read_flushed */ select pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
    lock.commit().await?;
    source.plain.execute(&format!("/* move_slot */ select pg_replication_slot_advance($1::text::name, '{place}')"), &[&slot]).await?;
    Ok(snapshot)
}

/// Brings the source's rows into a table of the session's own.
async fn fetch(
    snapshot: &Transaction<'_>,
    copy: &Transaction<'_>,
    (namespace, name): (&str, &str),
    number: usize,
    columns: &str,
) -> Result<(), RenewError> {
    let out = format!("copy {}.{} ({columns}) to stdout", quoted(namespace), quoted(name));
    let rows = snapshot.copy_out(&out).await.map_err(at(Side::Source))?;
    let sink = copy.copy_in(&format!("copy pg_temp.rootward_incoming_{number} ({columns}) from stdin")).await.map_err(at(Side::Copy))?;
    pin_mut!(rows, sink);
    while let Some(chunk) = rows.try_next().await.map_err(at(Side::Source))? {
        sink.send(chunk).await.map_err(at(Side::Copy))?;
    }
    sink.finish().await.map_err(at(Side::Copy))?;
    Ok(())
}
