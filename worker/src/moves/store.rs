//! Moves in the catalog. SQL only; each change of stage is a compare-and-set by the worker that holds the hub's term.

use deadpool_postgres::Pool;
use rootward_proto::v1;
use rootward_schema::RegionalPeer;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{plan::Mapped, state::Stage};

/// A statement about moves that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("no connection to the hub's database")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the hub's database refused a statement: {}", .0.as_db_error().map_or_else(|| .0.to_string(), |error| error.message().to_owned()))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("move {0} can't be read; this worker may be too old")]
    Row(Uuid),
}

type StoreResult<T> = Result<T, StoreError>;

/// A move as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub id: Uuid,
    pub partitions: Vec<i32>,
    /// By partition: the epoch in which the source owns it.
    pub epochs: Vec<i64>,
    pub source: String,
    pub target: String,
    pub stage: Stage,
    /// For people.
    pub view: v1::Move,
}

/// A move that is to be.
pub(crate) struct NewMove {
    pub id: Uuid,
    pub partitions: Vec<i32>,
    pub epochs: Vec<i64>,
    pub source: String,
    pub target: String,
    pub reason: String,
}

const COLUMNS: &str = "id, partitions, epochs, source, target, stage, reason, coalesce(error, '') as error, coalesce(rows_total, 0) as rows_total, \
    rows_copied, rows_cleaned, tables, tables_ready, switches, coalesce(held_us, 0) as held_us, is_verified, started_at::text as started_at, \
    coalesce(ended_at::text, '') as ended_at, extract(epoch from coalesce(ended_at, clock_timestamp()) - started_at)::double precision as age_s, \
    extract(epoch from coalesce(copied_at, ended_at, clock_timestamp()) - started_at)::double precision as copy_s";

fn move_of(row: &Row) -> StoreResult<Move> {
    let id: Uuid = row.try_get("id")?;
    let stage = Stage::from_name(row.try_get("stage")?).ok_or(StoreError::Row(id))?;
    let count = |column: &str| -> StoreResult<u64> { Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default()) };
    let small = |column: &str| -> StoreResult<u32> { Ok(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or_default()) };
    let partitions: Vec<i32> = row.try_get("partitions")?;
    let (source, target): (String, String) = (row.try_get("source")?, row.try_get("target")?);
    let view = v1::Move {
        id: id.to_string(),
        partitions: partitions.clone(),
        source: source.clone(),
        target: target.clone(),
        stage: stage.name().to_owned(),
        reason: row.try_get("reason")?,
        error: row.try_get("error")?,
        rows_total: count("rows_total")?,
        rows_copied: count("rows_copied")?,
        rows_cleaned: count("rows_cleaned")?,
        tables: small("tables")?,
        tables_ready: small("tables_ready")?,
        switches: small("switches")?,
        held_us: count("held_us")?,
        is_verified: row.try_get("is_verified")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        age_s: row.try_get("age_s")?,
        bytes: 0,
        copy_s: row.try_get("copy_s")?,
    };
    Ok(Move { id, partitions, epochs: row.try_get("epochs")?, source, target, stage, view })
}

/// Moves that have not ended: those that were let begin first, since they hold slots, and the oldest of the others behind them.
pub(crate) async fn open(pool: &Pool) -> StoreResult<Vec<Move>> {
    let sql = format!(
        "/* list_open_moves */ select {COLUMNS} from rootward_catalog.move where ended_at is null \
         order by stage = 'preparing', started_at, id"
    );
    pool.get().await?.query(&sql, &[]).await?.iter().map(move_of).collect()
}

/// Moves that a request has begun, ended ones too: by their ids, or by the reason that a rebalance gives all of its own.
pub(crate) async fn begun(pool: &Pool, ids: &[Uuid], reason: Option<&str>) -> StoreResult<Vec<Move>> {
    let sql = format!(
        "/* list_begun_moves */ select {COLUMNS} from rootward_catalog.move where id = any ($1) or reason = $2 order by started_at, id"
    );
    pool.get().await?.query(&sql, &[&ids, &reason]).await?.iter().map(move_of).collect()
}

/// The ids of all peers that there ever were.
pub(crate) async fn peer_ids(pool: &Pool) -> StoreResult<Vec<String>> {
    let rows = pool.get().await?.query("/* list_peers */ select id from rootward_catalog.peer", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The newest moves; those that have ended only if they are wanted, or one of them is named.
pub(crate) async fn list(pool: &Pool, id: Option<Uuid>, all: bool, limit: i64) -> StoreResult<Vec<Move>> {
    let sql = format!(
        "/* list_moves */ select {COLUMNS} from rootward_catalog.move where ($1::uuid is null or id = $1) \
         and ($2 or $1 is not null or ended_at is null) order by started_at desc, id limit $3"
    );
    pool.get().await?.query(&sql, &[&id, &all, &limit]).await?.iter().map(move_of).collect()
}

/// One move.
pub(crate) async fn get(pool: &Pool, id: Uuid) -> StoreResult<Option<Move>> {
    Ok(list(pool, Some(id), true, 1).await?.pop())
}

/// Why moves can't begin now.
#[derive(Debug)]
pub(crate) enum Busy {
    /// Another move has this partition.
    Moving(i32, Uuid),
    /// A schema version is being applied: its tables may be at one end and not yet at the other.
    Applying,
}

/// Writes the intent of these moves down, all or none. Says why they can't begin now, if that is so; nothing was
/// written then. Those that are there already stay as they are.
pub(crate) async fn insert(pool: &Pool, moves: &[NewMove]) -> StoreResult<Option<Busy>> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute("lock table rootward_catalog.move in share row exclusive mode").await?;
    let sql = "/* read_applying */ select exists (select from rootward_catalog.schema_version where state = 'applying')";
    if transaction.query_one(sql, &[]).await?.try_get(0)? {
        return Ok(Some(Busy::Applying));
    }
    for new in moves {
        let sql = "/* find_busy_partition */ select p, m.id from rootward_catalog.move m cross join unnest(m.partitions) p \
                   where m.ended_at is null and m.id <> $1 and p = any ($2) limit 1";
        if let Some(row) = transaction.query_opt(sql, &[&new.id, &new.partitions]).await? {
            return Ok(Some(Busy::Moving(row.try_get(0)?, row.try_get(1)?)));
        }
        let sql = "/* insert_move */ insert into rootward_catalog.move (id, partitions, epochs, source, target, stage, reason) \
                   values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing";
        let stage = Stage::Preparing.name();
        transaction.execute(sql, &[&new.id, &new.partitions, &new.epochs, &new.source, &new.target, &stage, &new.reason]).await?;
    }
    transaction.commit().await?;
    Ok(None)
}

/// What only the worker that holds the hub's term may change.
const IS_MINE: &str = "exists (select from rootward.peer_state s where s.term = $1)";

/// Goes on to another stage; its time counts from when it is let begin. False if the move is not in this one any more, or another worker holds the hub.
pub(crate) async fn advance(pool: &Pool, term: i64, id: Uuid, from: Stage, to: Stage, error: Option<&str>) -> StoreResult<bool> {
    let sql = format!(
        "/* advance_move */ update rootward_catalog.move set stage = $4, error = $5, updated_at = clock_timestamp(), \
         ended_at = case when $6 then clock_timestamp() end, \
         started_at = case when $4 = 'publishing' then clock_timestamp() else started_at end, \
         copied_at = case when $4 = 'switching' then coalesce(copied_at, clock_timestamp()) else copied_at end, \
         switches = switches + case when $4 = 'switching' then 1 else 0 end where id = $2 and stage = $3 and {IS_MINE}"
    );
    let changed = pool.get().await?.execute(&sql, &[&term, &id, &from.name(), &to.name(), &error, &to.is_ended()]).await?;
    Ok(changed == 1)
}

/// What a person wants: whoever holds the hub. The error that it had stays.
pub(crate) async fn go_on(pool: &Pool, id: Uuid, from: Stage, to: Stage) -> StoreResult<bool> {
    let sql = "/* change_move */ update rootward_catalog.move set stage = $3, updated_at = clock_timestamp() where id = $1 and stage = $2";
    Ok(pool.get().await?.execute(sql, &[&id, &from.name(), &to.name()]).await? == 1)
}

/// The decision: the partitions' owner in the map, and the move's stage, in one commit. False if the move was cancelled, the map is
/// another one, or another worker holds the hub; nothing was changed then.
pub(crate) async fn decide(pool: &Pool, term: i64, one: &Move) -> StoreResult<bool> {
    let mut client = pool.get().await?;
    let sql = format!(
        "/* decide_move */ update rootward_catalog.move set stage = 'switched', error = null, is_verified = true, updated_at = clock_timestamp() \
         where id = $2 and stage = 'switching' and {IS_MINE}"
    );
    let decide = client.prepare_cached(&sql).await?;
    let sql = "/* change_owner */ update rootward_catalog.partition p set peer = $3, epoch = p.epoch + 1 \
               from unnest($1::integer[], $2::bigint[]) as n (partition, epoch) \
               where p.partition = n.partition and p.epoch = n.epoch and p.peer = $4";
    let change = client.prepare_cached(sql).await?;
    let transaction = client.transaction().await?;
    // Sent together: the source's partitions are held.
    let of_move: [&(dyn ToSql + Sync); 2] = [&term, &one.id];
    let of_owners: [&(dyn ToSql + Sync); 4] = [&one.partitions, &one.epochs, &one.target, &one.source];
    let ((), decided, changed) = tokio::try_join!(
        transaction.batch_execute("set local synchronous_commit = on"),
        transaction.execute(&decide, &of_move),
        transaction.execute(&change, &of_owners)
    )?;
    if decided != 1 || usize::try_from(changed) != Ok(one.partitions.len()) {
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}

/// What is known of a move's progress; nothing else changes.
pub(crate) async fn note(pool: &Pool, id: Uuid, column: Progress, value: i64) -> StoreResult<()> {
    let sql =
        format!("/* note_move */ update rootward_catalog.move set {}, updated_at = clock_timestamp() where id = $1", column.assignment());
    let parameters: [&(dyn ToSql + Sync); 2] = [&id, &value];
    pool.get().await?.execute(&sql, &parameters).await?;
    Ok(())
}

/// A number of a move's progress.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Progress {
    RowsTotal,
    RowsCopied,
    /// Added to what is there.
    RowsCleaned,
    Tables,
    TablesReady,
    HeldUs,
}

impl Progress {
    fn assignment(self) -> &'static str {
        match self {
            Progress::RowsTotal => "rows_total = $2::bigint",
            Progress::RowsCopied => "rows_copied = $2::bigint",
            Progress::RowsCleaned => "rows_cleaned = rows_cleaned + $2::bigint",
            Progress::Tables => "tables = ($2::bigint)::integer",
            Progress::TablesReady => "tables_ready = ($2::bigint)::integer",
            Progress::HeldUs => "held_us = $2::bigint",
        }
    }
}

/// Says why a move doesn't go on.
pub(crate) async fn note_error(pool: &Pool, id: Uuid, error: Option<&str>) -> StoreResult<()> {
    let sql = "/* note_move_error */ update rootward_catalog.move set error = $2 where id = $1 and ended_at is null and error is distinct from $2";
    pool.get().await?.execute(sql, &[&id, &error]).await?;
    Ok(())
}

/// Peers that may take partitions, with how they are reached.
pub(crate) async fn may_take(pool: &Pool, peer: &str) -> StoreResult<Option<bool>> {
    let sql = "/* read_target */ select state = 'active' and not is_hub from rootward_catalog.peer where id = $1";
    let row = pool.get().await?.query_opt(sql, &[&peer]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Owner and epoch of each of these partitions by the map; those that don't exist are missing.
pub(crate) async fn owners(pool: &Pool, partitions: &[i32]) -> StoreResult<Vec<(i32, String, i64)>> {
    let sql = "/* read_owners */ select partition, peer, epoch from rootward_catalog.partition where partition = any ($1) order by 1";
    let rows = pool.get().await?.query(sql, &[&partitions]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

/// The peers that may own partitions; one that is drained has no capacity.
pub(crate) async fn peers(pool: &Pool) -> StoreResult<Vec<RegionalPeer>> {
    let sql = "/* read_capacities */ select id, case when state = 'active' then capacity else 0 end, region from rootward_catalog.peer \
               where state <> 'removed' and not is_hub order by id";
    let rows = pool.get().await?.query(sql, &[]).await?;
    let peer = |row: &tokio_postgres::Row| {
        let capacity = u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or_default();
        Ok(RegionalPeer { peer: row.try_get(0)?, capacity, region: row.try_get(2)? })
    };
    rows.iter().map(peer).collect()
}

/// Owner, epoch and region of all partitions, in order.
pub(crate) async fn map(pool: &Pool) -> StoreResult<Vec<Mapped>> {
    let sql = "/* read_map */ select partition, peer, epoch, region from rootward_catalog.partition order by partition";
    let rows = pool.get().await?.query(sql, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))).collect()
}

/// The first of these partitions whose region is not the peer's, and both regions.
pub(crate) async fn out_of_region(pool: &Pool, partitions: &[i32], target: &str) -> StoreResult<Option<(i32, String, String)>> {
    let sql = "/* find_out_of_region */ select m.partition, m.region, p.region from rootward_catalog.partition m, rootward_catalog.peer p \
               where m.partition = any ($1) and p.id = $2 and m.region <> '' and m.region <> p.region order by 1 limit 1";
    let row = pool.get().await?.query_opt(sql, &[&partitions, &target]).await?;
    Ok(row.map(|row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()?)
}

/// A peer's state, and whether it is the hub.
pub(crate) async fn peer_state(pool: &Pool, id: &str) -> StoreResult<Option<(String, bool)>> {
    let sql = "/* read_peer_state */ select state, is_hub from rootward_catalog.peer where id = $1";
    let row = pool.get().await?.query_opt(sql, &[&id]).await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Changes a peer's state; or says why not, and nothing was changed.
pub(crate) async fn change_peer(pool: &Pool, id: &str, state: &str) -> StoreResult<Option<String>> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    // No move begins meanwhile, and no other peer changes.
    transaction.batch_execute("lock table rootward_catalog.move, rootward_catalog.peer in share row exclusive mode").await?;
    if state != "active" {
        let sql =
            "/* look_for_others */ select exists (select from rootward_catalog.peer where id <> $1 and state = 'active' and capacity > 0)";
        if !transaction.query_one(sql, &[&id]).await?.try_get::<_, bool>(0)? {
            return Ok(Some("no other peer is active".to_owned()));
        }
    }
    if state == "removed" {
        let sql = "/* count_what_it_owns */ select count(*) from rootward_catalog.partition where peer = $1";
        let owned: i64 = transaction.query_one(sql, &[&id]).await?.try_get(0)?;
        if owned > 0 {
            return Ok(Some(format!("it owns {owned} partitions")));
        }
        let sql =
            "/* look_for_moves */ select id from rootward_catalog.move where ended_at is null and (source = $1 or target = $1) limit 1";
        if let Some(row) = transaction.query_opt(sql, &[&id]).await? {
            return Ok(Some(format!("move {} concerns it", row.try_get::<_, Uuid>(0)?)));
        }
    }
    transaction.execute("/* change_peer */ update rootward_catalog.peer set state = $2 where id = $1", &[&id, &state]).await?;
    transaction.commit().await?;
    Ok(None)
}

/// A peer that is removed copies no reference data any more: the hub forgets how far it was, else its log would grow for ever. True when
/// that is done; a peer that goes on trying may have to be cut off more than once.
pub(crate) async fn forget_copy(pool: &Pool, id: &str) -> StoreResult<bool> {
    let client = pool.get().await?;
    // Slots of reference data are called `rootward_PEER_DATABASE`; one of a peer whose id begins alike stays.
    let others = "select from rootward_catalog.peer p where p.id <> $1 and p.state <> 'removed' and length(p.id) > length($1::text) \
                  and starts_with(slot_name::text, 'rootward_' || lower(p.id) || '_')";
    let is_its = format!(
        "database = current_database() and starts_with(slot_name::text, 'rootward_' || lower($1::text) || '_') and not exists ({others})"
    );
    let sql = format!("/* end_copy */ select count(pg_terminate_backend(active_pid)) from pg_replication_slots where active and {is_its}");
    client.query_one(&sql, &[&id]).await?;
    let sql = format!(
        "/* forget_copy */ select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots where not active and {is_its}"
    );
    client.query_one(&sql, &[&id]).await?;
    let sql = format!("/* look_for_copy */ select not exists (select from pg_replication_slots where {is_its})");
    Ok(client.query_one(&sql, &[&id]).await?.try_get(0)?)
}
