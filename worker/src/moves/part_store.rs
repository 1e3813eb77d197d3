//! The SQL of a move's steps at the source and at the target. Decides nothing.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use rootward_proto::v1;
use tokio::time::Instant;
use tokio_postgres::{
    Client, Row,
    types::{PgLsn, ToSql},
};
use uuid::Uuid;

/// How long a step's statement may take, but for those that are as long as the data.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// How long the workers of a subscription have to end by themselves, and how often is looked.
const WORKERS_LIMIT: Duration = Duration::from_secs(3);
const WORKERS_PAUSE: Duration = Duration::from_millis(20);

/// A step that failed here.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error("no connection to the peer's database")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("{}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("its term ended while it counted")]
    Ended,
    #[error("a database can't be reached: {0}")]
    Connect(#[from] crate::term::TermError),
    #[error("its lanes did not come to rest within `move_hold_ms`")]
    Busy,
    #[error("the hub doesn't know how the PostgreSQL of peer `{0}` is reached: its worker has not said so yet")]
    NoAddress(String),
}

type PartResult<T> = Result<T, PartError>;
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Name of publication, slot and subscription.
pub(super) fn name_of(id: Uuid) -> String {
    format!("rootward_move_{}", id.simple())
}

/// One statement in a transaction of its own that is flushed before this returns. It is one trip: others wait meanwhile.
///
/// Cancel safety: it is done all the same, or not at all.
async fn firmly(client: &Object, sql: &str, parameters: Parameters<'_>, limit: Duration) -> PartResult<Row> {
    let statement = client.prepare_cached(sql).await?;
    let begin = format!("begin; set local synchronous_commit = on; set local statement_timeout = {}", limit.as_millis().max(1));
    // All three are sent before the first is answered. After a statement that failed COMMIT rolls back.
    let (begun, row, committed) =
        tokio::join!(client.batch_execute(&begin), client.query_one(&statement, parameters), client.batch_execute("commit"));
    begun?;
    let row = row?;
    committed?;
    Ok(row)
}

/// The only row of a query.
async fn read(client: &Object, sql: &str, parameters: Parameters<'_>) -> PartResult<Row> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_one(&statement, parameters).await?)
}

/// Who asks: the worker's own term, and the mover's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub own: i64,
    pub mover: i64,
}

/// A step that is one call of a function of ours.
pub(super) async fn call(client: &Object, terms: Terms, id: Uuid, function: &str, partitions: Option<&[i32]>) -> PartResult<()> {
    match partitions {
        Some(partitions) => {
            let sql = format!("/* move_{function} */ select rootward_move.{function}($1, $2, $3, $4)");
            firmly(client, &sql, &[&terms.own, &terms.mover, &id, &partitions], STATEMENT_LIMIT).await?;
        }
        None => {
            let sql = format!("/* move_{function} */ select rootward_move.{function}($1, $2, $3)");
            firmly(client, &sql, &[&terms.own, &terms.mover, &id], STATEMENT_LIMIT).await?;
        }
    }
    Ok(())
}

/// The target owns the partitions from the commit on.
pub(super) async fn own(client: &Object, terms: Terms, id: Uuid, partitions: &[i32], epochs: &[i64]) -> PartResult<()> {
    let sql = "/* move_own */ select rootward_move.own($1, $2, $3, $4, $5)";
    firmly(client, sql, &[&terms.own, &terms.mover, &id, &partitions, &epochs], STATEMENT_LIMIT).await?;
    Ok(())
}

/// The slot from which the target copies and follows. It waits for transactions that are writing now.
pub(super) async fn make_slot(pool: &Pool, id: Uuid) -> PartResult<()> {
    let sql = "/* make_move_slot */ select count(pg_create_logical_replication_slot($1::text::name, 'pgoutput')) \
               where not exists (select from pg_replication_slots where slot_name = $1)";
    let client = pool.get().await?;
    firmly(&client, sql, &[&name_of(id)], Duration::from_secs(60)).await?;
    Ok(())
}

/// How often the subscription's copies or its following have failed. What PostgreSQL says of it stands in its log only.
pub(super) async fn failures(pool: &Pool, id: Uuid) -> PartResult<u64> {
    let sql = "/* count_move_failures */ select coalesce(sum(apply_error_count + sync_error_count), 0)::bigint \
               from pg_stat_subscription_stats where subname = $1::text::name";
    let failures: i64 = pool.get().await?.query_one(sql, &[&name_of(id)]).await?.try_get(0)?;
    Ok(u64::try_from(failures).unwrap_or(0))
}

/// Drops the slot, and those of copies that the subscription of this number had not ended. Who still reads them is cut off.
pub(super) async fn drop_slots(pool: &Pool, id: Uuid, subscription: u32) -> PartResult<bool> {
    let client = pool.get().await?;
    let (name, copies) = (name_of(id), format!("pg\\_{subscription}\\_sync\\_%"));
    let is_ours = "database = current_database() and (slot_name = $1 or $3::bigint > 0 and slot_name like $2)";
    let number = i64::from(subscription);
    let sql =
        format!("/* end_move_slots */ select count(pg_terminate_backend(active_pid)) from pg_replication_slots where active and {is_ours}");
    client.query_one(&sql, &[&name, &copies, &number]).await?;
    let sql = format!(
        "/* drop_move_slots */ select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots where not active and {is_ours}"
    );
    client.query_one(&sql, &[&name, &copies, &number]).await?;
    let sql = format!("/* look_for_move_slots */ select not exists (select from pg_replication_slots where {is_ours})");
    Ok(client.query_one(&sql, &[&name, &copies, &number]).await?.try_get(0)?)
}

pub(super) async fn unpublish(pool: &Pool, id: Uuid) -> PartResult<()> {
    let client = pool.get().await?;
    firmly(&client, "/* move_unpublish */ select rootward_move.unpublish($1)", &[&id], STATEMENT_LIMIT).await?;
    Ok(())
}

pub(super) async fn subscribe(pool: &Pool, terms: Terms, id: Uuid, connection: &str) -> PartResult<()> {
    let sql = "/* move_subscribe */ select rootward_move.subscribe($1, $2, $3, $4)";
    let client = pool.get().await?;
    firmly(&client, sql, &[&terms.own, &terms.mover, &id, &connection], STATEMENT_LIMIT).await?;
    Ok(())
}

/// The number of the subscription that has ended; 0 if there was none.
pub(super) async fn unsubscribe(pool: &Pool, id: Uuid) -> PartResult<u32> {
    let client = pool.get().await?;
    firmly(&client, "/* move_disable */ select rootward_move.disable($1)", &[&id], STATEMENT_LIMIT).await?;
    let sql = "/* look_for_move_workers */ select exists (select from pg_stat_subscription where subname = $1 and pid is not null)";
    let until = Instant::now() + WORKERS_LIMIT;
    while read(&client, sql, &[&name_of(id)]).await?.try_get(0)? && Instant::now() < until {
        tokio::time::sleep(WORKERS_PAUSE).await;
    }
    let row = firmly(&client, "/* move_unsubscribe */ select rootward_move.unsubscribe($1)", &[&id], STATEMENT_LIMIT).await?;
    Ok(row.try_get::<_, Option<u32>>(0)?.unwrap_or_default())
}

/// How the hub says that the source's PostgreSQL is reached.
pub(super) async fn connection_of(hub: &tokio_postgres::Client, source: &str) -> PartResult<String> {
    let sql = "/* read_replication */ select replication from rootward_catalog.peer where id = $1 and replication <> ''";
    let row = hub.query_opt(sql, &[&source]).await?.ok_or_else(|| PartError::NoAddress(source.to_owned()))?;
    Ok(row.try_get(0)?)
}

/// Tables, those that follow, and rows copied.
pub(super) async fn copied(pool: &Pool, id: Uuid) -> PartResult<(u32, u32, u64)> {
    let sql = "/* read_copied */ select tables, ready, rows from rootward_move.copied($1)";
    let row = pool.get().await?.query_one(sql, &[&id]).await?;
    let number = |at: usize| -> PartResult<i64> { Ok(row.try_get(at)?) };
    let small = |number: i64| u32::try_from(number).unwrap_or_default();
    Ok((small(number(0)?), small(number(1)?), u64::try_from(number(2)?).unwrap_or_default()))
}

/// How many bytes of the log the target has not flushed yet; none if there is no slot.
pub(super) async fn lag(pool: &Pool, id: Uuid) -> PartResult<Option<i64>> {
    let sql = "/* read_move_lag */ select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint \
               from pg_replication_slots where slot_name = $1";
    Ok(pool.get().await?.query_opt(sql, &[&name_of(id)]).await?.map(|row| row.try_get(0)).transpose()?)
}

/// Up to where everything is flushed that was committed before.
pub(super) async fn flushed_to(client: &Object) -> PartResult<PgLsn> {
    let sql = "/* read_flushed */ select pg_current_wal_flush_lsn()";
    Ok(read(client, sql, &[]).await?.try_get(0)?)
}

/// Whether the target has applied and flushed everything up to there.
pub(super) async fn has_applied(client: &Object, id: Uuid, up_to: PgLsn) -> PartResult<bool> {
    let sql =
        "/* read_confirmed */ select coalesce((select confirmed_flush_lsn >= $2 from pg_replication_slots where slot_name = $1), false)";
    Ok(read(client, sql, &[&name_of(id), &up_to]).await?.try_get(0)?)
}

/// Begins a transaction that shows what is committed now, until the session is dropped. PostgreSQL cleans nothing
/// up behind it, and ends it if nothing is asked of it for a minute.
pub(super) async fn fix(client: &Client) -> PartResult<()> {
    let sql = "begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = '60s'; \
               /* fix_move_snapshot */ select pg_current_snapshot()";
    Ok(client.batch_execute(sql).await?)
}

/// Rows and digests of all tables.
pub(super) async fn digest(client: &Client, partitions: &[i32], limit: Duration) -> PartResult<Vec<v1::TableDigest>> {
    client.batch_execute(&format!("set local statement_timeout = {}", limit.as_millis().max(1))).await?;
    let sql = "/* digest_partitions */ select name, rows, digest from rootward_move.digest($1)";
    let rows = client.query(sql, &[&partitions]).await?;
    let digest = |row: &Row| Ok(v1::TableDigest { table: row.try_get(0)?, rows: row.try_get(1)?, digest: row.try_get(2)? });
    rows.iter().map(digest).collect()
}

/// Whether this side has given the move's partitions away for good: nobody writes their rows any more.
pub(super) async fn has_given_away(pool: &Pool, id: Uuid) -> PartResult<bool> {
    let sql = "/* look_for_gone */ select exists (select from rootward_move.transit where move = $1 and state = 'gone')";
    Ok(pool.get().await?.query_one(sql, &[&id]).await?.try_get(0)?)
}

/// Rows and bytes of each partition here.
pub(super) async fn sizes(pool: &Pool) -> PartResult<Vec<v1::PartitionSize>> {
    let sql = "/* size_partitions */ select partition, rows, bytes from rootward_move.sizes() where partition <> all (rootward_move.hidden()) order by 1";
    let rows = pool.get().await?.query(sql, &[]).await?;
    let count = |row: &Row, at: usize| -> PartResult<u64> { Ok(u64::try_from(row.try_get::<_, i64>(at)?).unwrap_or_default()) };
    rows.iter()
        .map(|row| Ok(v1::PartitionSize { partition: row.try_get(0)?, rows: count(row, 1)?, bytes: count(row, 2)?, committed: 0 }))
        .collect()
}

/// The tables that move, each with its pages.
pub(super) async fn tables(pool: &Pool) -> PartResult<Vec<(String, String, i64)>> {
    let sql = "/* list_movable */ select namespace, name, \
               pg_relation_size(format('%I.%I', namespace, name)::regclass) / current_setting('block_size')::bigint \
               from rootward_move.movable order by 1, 2";
    let rows = pool.get().await?.query(sql, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

/// Takes away what lies in these pages of a table.
pub(super) async fn clean(
    pool: &Pool,
    terms: Terms,
    id: Uuid,
    (namespace, name): (&str, &str),
    (first, end): (i64, i64),
) -> PartResult<u64> {
    let sql = "/* clean_pages */ select rootward_move.clean($1, $2, $3, $4, $5, $6, $7)";
    let client = pool.get().await?;
    let row = firmly(&client, sql, &[&terms.own, &terms.mover, &id, &namespace, &name, &first, &end], STATEMENT_LIMIT).await?;
    Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default())
}
