//! The SQL of chains: reads by the pool, writes as calls for the partition's lane.

use deadpool_postgres::Pool;
use rootward_schema::Text;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::pg::Call;

/// A chain's row at its home.
#[derive(Debug, Clone)]
pub(crate) struct ChainRow {
    pub partition: i32,
    pub entity: String,
    pub root_key: String,
    pub id: Uuid,
    pub definition: String,
    pub version: i32,
    pub status: String,
    pub plan: serde_json::Value,
    pub input: serde_json::Value,
    pub fingerprint: Vec<u8>,
    pub issued_at_ms: i64,
    pub step: Option<String>,
    pub error: Option<serde_json::Value>,
    pub attempts: i32,
    pub created_at: String,
    pub updated_at: String,
    pub age_s: f64,
}

/// Which chains a command is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainFilter {
    pub statuses: Vec<String>,
    pub definition: Option<String>,
    pub error: Option<String>,
    pub id: Option<Uuid>,
}

const COLUMNS: &str = "partition, entity, root_key, id, definition, version, status, plan, input, fingerprint, \
    (extract(epoch from issued_at) * 1000)::bigint as issued_at_ms, step, error, attempts, created_at::text as created_at, \
    updated_at::text as updated_at, extract(epoch from clock_timestamp() - updated_at)::double precision as age_s";

type StoreResult<T> = Result<T, StoreError>;

/// A read that failed; the caller decides what it means.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("no connection to the peer's database")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the peer's database refused a query")]
    Postgres(#[from] tokio_postgres::Error),
}

fn row_of(row: &Row) -> Result<ChainRow, tokio_postgres::Error> {
    Ok(ChainRow {
        partition: row.try_get("partition")?,
        entity: row.try_get("entity")?,
        root_key: row.try_get("root_key")?,
        id: row.try_get("id")?,
        definition: row.try_get("definition")?,
        version: row.try_get("version")?,
        status: row.try_get("status")?,
        plan: row.try_get("plan")?,
        input: row.try_get("input")?,
        fingerprint: row.try_get("fingerprint")?,
        issued_at_ms: row.try_get("issued_at_ms")?,
        step: row.try_get("step")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        age_s: row.try_get("age_s")?,
    })
}

/// Open chains of partitions that this peer owns, by id behind `after`: a page of the recovery scan.
pub(crate) async fn scan_open(pool: &Pool, after: Uuid, page: i64) -> StoreResult<Vec<ChainRow>> {
    let sql = format!(
        "/* scan_open_chains */ select {COLUMNS} from rootward.chain c where status in ('running', 'compensating') and id > $1 \
         and exists (select from rootward.ownership o where o.partition = c.partition and o.state = 'owned') order by id limit $2"
    );
    let client = pool.get().await?;
    let rows = client.query(&sql, &[&after, &page]).await?;
    Ok(rows.iter().map(row_of).collect::<Result<_, _>>()?)
}

const FILTER: &str = "(cardinality($1::text[]) = 0 or status = any ($1)) and ($2::text is null or definition = $2) and ($3::text is null or \
     coalesce(error->>'code', '') || ' ' || coalesce(error->>'sqlstate', '') || ' ' || coalesce(error->>'message', '') like $3) \
     and ($4::uuid is null or id = $4)";

/// The newest chains that match, and how many match in all.
pub(crate) async fn list(pool: &Pool, filter: &ChainFilter, limit: i64) -> StoreResult<(Vec<ChainRow>, i64, i64)> {
    let client = pool.get().await?;
    let parameters: [&(dyn ToSql + Sync); 4] = [&filter.statuses, &filter.definition, &filter.error, &filter.id];
    let sql = format!("/* list_chains */ select {COLUMNS} from rootward.chain where {FILTER} order by created_at desc limit {limit}");
    let rows = client.query(&sql, &parameters).await?;
    let sql = format!("/* count_chains */ select count(*) from rootward.chain where {FILTER}");
    let matched = client.query_one(&sql, &parameters).await?.try_get(0)?;
    let sql = "/* count_running_chains */ select count(*) from rootward.chain where status in ('running', 'compensating')";
    let running = client.query_one(sql, &[]).await?.try_get(0)?;
    Ok((rows.iter().map(row_of).collect::<Result<_, _>>()?, matched, running))
}

/// One chain by its id.
pub(crate) async fn get(pool: &Pool, id: Uuid) -> StoreResult<Option<ChainRow>> {
    let client = pool.get().await?;
    let sql = format!("/* get_chain */ select {COLUMNS} from rootward.chain where id = $1");
    Ok(client.query_opt(&sql, &[&id]).await?.as_ref().map(row_of).transpose()?)
}

/// What people did to a chain: when, what, why.
pub(crate) async fn events(pool: &Pool, partition: i32, id: Uuid) -> StoreResult<Vec<(String, String, String)>> {
    let client = pool.get().await?;
    let sql =
        "/* list_chain_events */ select at::text, event, reason from rootward.chain_event where partition = $1 and id = $2 order by number";
    let rows = client.query(sql, &[&partition, &id]).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Writes the chain's row; runs in the commit of its first step.
#[allow(clippy::too_many_arguments)] // the columns of one row
pub(crate) fn open_call(
    secret: Text,
    partition: i32,
    root: (&str, &str),
    id: Uuid,
    definition: &str,
    version: u32,
    plan: String,
    input: String,
    fingerprint: &[u8],
    issued_at: String,
    status: &str,
) -> Call {
    Call::prepared(
        "select rootward.open_chain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        vec![
            secret,
            Some(partition.to_string()),
            Some(root.0.to_owned()),
            Some(root.1.to_owned()),
            Some(id.to_string()),
            Some(definition.to_owned()),
            Some(version.to_string()),
            Some(plan),
            Some(input),
            Some(format!("\\x{}", hex::encode(fingerprint))),
            Some(issued_at),
            Some(status.to_owned()),
        ],
    )
}

/// A change of a chain's row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    /// The statuses that it starts from; in another one nothing changes.
    pub from: &'static [&'static str],
    pub status: &'static str,
    pub step: Text,
    pub error: Text,
    pub attempts: u32,
    /// What a person did, and why.
    pub event: Option<(&'static str, String)>,
}

/// Changes the chain's row; returns whether it was in one of the statuses that the change starts from.
pub(crate) fn note_call(secret: Text, partition: i32, root: (&str, &str), id: Uuid, note: &Note) -> Call {
    let (event, reason) = note.event.clone().map_or((None, None), |(event, reason)| (Some(event.to_owned()), Some(reason)));
    Call::prepared(
        "select rootward.note_chain($1, $2, $3, $4, $5, $6, $7, $8, $9, null, $10, $11, $12)",
        vec![
            secret,
            Some(partition.to_string()),
            Some(root.0.to_owned()),
            Some(root.1.to_owned()),
            Some(id.to_string()),
            Some(format!("{{{}}}", note.from.join(","))),
            Some(note.status.to_owned()),
            note.step.clone(),
            note.error.clone(),
            Some(note.attempts.to_string()),
            event,
            reason,
        ],
    )
}
