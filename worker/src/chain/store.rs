//! The SQL of chains: reads by the pool, writes as calls for the partition's lane.

pub(crate) mod cut;
pub(crate) mod old;

use std::collections::BTreeMap;

use deadpool_postgres::Pool;
use rootward_schema::Text;
use tokio_postgres::{
    Row,
    types::{ToSql, Type as PgType},
};
use uuid::Uuid;

use super::state::{CalledBack, Status};
use crate::{
    lane::{OwnRow, OwnValue},
    pg::RowType,
};

/// A chain's row at its home.
#[derive(Debug, Clone)]
pub(crate) struct ChainRow {
    pub partition: i32,
    pub entity: String,
    pub root_key: String,
    pub id: Uuid,
    pub definition: String,
    pub version: i32,
    pub status: Status,
    pub revision: i32,
    pub plan: serde_json::Value,
    pub input: serde_json::Value,
    pub labels: BTreeMap<String, String>,
    pub fingerprint: Vec<u8>,
    pub issued_at_ms: i64,
    pub deadline_ms: Option<i64>,
    /// None in a chain that only goes forward: it was behind its pivot before it could be called back.
    pub called_back: Option<CalledBack>,
    pub step: Option<String>,
    pub error: Option<serde_json::Value>,
    pub result: Option<serde_json::Value>,
    /// By step: when its timer is due or its signal too late, in milliseconds since 1970.
    pub waits: BTreeMap<u32, i64>,
    pub attempts: u32,
    pub recoveries: u32,
    /// In milliseconds since 1970; none for a wait without an end.
    pub next_attempt_at_ms: Option<i64>,
    pub expires_at_ms: i64,
    pub created_at: String,
    pub updated_at: String,
    pub ended_at: Option<String>,
    pub age_s: f64,
    pub is_collected: bool,
}

/// Which chains a command is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChainFilter {
    pub statuses: Vec<String>,
    pub definition: Option<String>,
    pub error: Option<String>,
    pub id: Option<Uuid>,
    pub labels: BTreeMap<String, String>,
    pub entity: Option<String>,
    pub root_key: Option<String>,
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
}

const COLUMNS: &str = "partition, entity, root_key, id, definition, version, status, revision, plan, input, labels, fingerprint, \
    (extract(epoch from issued_at) * 1000)::bigint as issued_at_ms, (extract(epoch from deadline) * 1000)::bigint as deadline_ms, called_back, \
    step, error, result, waits, attempts, recoveries, \
    case when next_attempt_at < 'infinity' then (extract(epoch from next_attempt_at) * 1000)::bigint end as next_attempt_at_ms, \
    (extract(epoch from expires_at) * 1000)::bigint as expires_at_ms, created_at::text as created_at, \
    updated_at::text as updated_at, ended_at::text as ended_at, is_collected, \
    extract(epoch from clock_timestamp() - updated_at)::double precision as age_s";

type StoreResult<T> = Result<T, StoreError>;

/// A read that failed; the caller decides what it means.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("no connection to the peer's database")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the peer's database refused a query")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("chain {0} can't be read; this worker may be too old")]
    Row(Uuid),
    #[error("chain {0} is on its way to another peer")]
    Moving(Uuid),
}

fn row_of(row: &Row) -> StoreResult<ChainRow> {
    let id: Uuid = row.try_get("id")?;
    let status = Status::from_name(row.try_get("status")?).ok_or(StoreError::Row(id))?;
    let called_back: Option<&str> = row.try_get("called_back")?;
    let called_back = called_back.map(|name| CalledBack::from_name(name).ok_or(StoreError::Row(id))).transpose()?;
    let called_back = called_back.filter(|_| !status.goes_forward());
    let json = |column: &str| -> StoreResult<serde_json::Value> { Ok(row.try_get(column)?) };
    let count = |column: &str| -> StoreResult<u32> { Ok(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or_default()) };
    Ok(ChainRow {
        partition: row.try_get("partition")?,
        entity: row.try_get("entity")?,
        root_key: row.try_get("root_key")?,
        id,
        definition: row.try_get("definition")?,
        version: row.try_get("version")?,
        status,
        revision: row.try_get("revision")?,
        plan: json("plan")?,
        input: json("input")?,
        labels: serde_json::from_value(json("labels")?).map_err(|_| StoreError::Row(id))?,
        fingerprint: row.try_get("fingerprint")?,
        issued_at_ms: row.try_get("issued_at_ms")?,
        deadline_ms: row.try_get("deadline_ms")?,
        called_back,
        step: row.try_get("step")?,
        error: row.try_get("error")?,
        result: row.try_get("result")?,
        waits: serde_json::from_value(json("waits")?).map_err(|_| StoreError::Row(id))?,
        attempts: count("attempts")?,
        recoveries: count("recoveries")?,
        next_attempt_at_ms: row.try_get("next_attempt_at_ms")?,
        expires_at_ms: row.try_get("expires_at_ms")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        ended_at: row.try_get("ended_at")?,
        age_s: row.try_get("age_s")?,
        is_collected: row.try_get("is_collected")?,
    })
}

fn rows_of(rows: &[Row]) -> StoreResult<Vec<ChainRow>> {
    rows.iter().map(row_of).collect()
}

/// A chain that the scan came by: when it was due, and its id.
pub(crate) type Due = (f64, Uuid);

/// The next chains of one status that are due now and whose partition this peer owns, behind `after` in the order of when
/// they were due: a page of the recovery scan.
pub(crate) async fn scan_due(pool: &Pool, status: Status, now_ms: i64, after: Due, page: i64) -> StoreResult<Vec<Due>> {
    let sql = "/* scan_due_chains */ select extract(epoch from next_attempt_at)::double precision, id from rootward.chain c \
               where ended_at is null and status = $1 and next_attempt_at <= to_timestamp($2::double precision / 1000) \
               and (next_attempt_at, id) > (to_timestamp($3::double precision), $4) \
               and exists (select from rootward.ownership o where o.partition = c.partition and o.state = 'owned') \
               order by next_attempt_at, id limit $5";
    #[allow(clippy::cast_precision_loss)] // milliseconds since 1970 fit into 53 bits
    let now = now_ms as f64;
    let rows = pool.get().await?.query(sql, &[&status.name(), &now, &after.0, &after.1, &page]).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// The chains of these ids.
pub(crate) async fn get_many(pool: &Pool, ids: &[Uuid]) -> StoreResult<Vec<ChainRow>> {
    let sql = format!("/* get_chains */ select {COLUMNS} from rootward_move.chain where id = any ($1)");
    rows_of(&pool.get().await?.query(&sql, &[&ids]).await?)
}

/// The parameters of [`FILTER`], in order.
struct FilterParameters {
    statuses: Option<Vec<String>>,
    labels: Option<serde_json::Value>,
    since: Option<f64>,
    until: Option<f64>,
}

const FILTER: &str = "($1::text[] is null or status = any ($1)) and ($2::text is null or definition = $2) and ($3::text is null or \
     coalesce(error->>'code', '') || ' ' || coalesce(error->>'sqlstate', '') || ' ' || coalesce(error->>'message', '') like $3) \
     and ($4::uuid is null or id = $4) and ($5::jsonb is null or labels @> $5) and ($6::text is null or entity = $6) \
     and ($7::text is null or root_key = $7) and ($8::double precision is null or created_at >= to_timestamp($8 / 1000)) \
     and ($9::double precision is null or created_at < to_timestamp($9 / 1000))";

impl FilterParameters {
    #[allow(clippy::cast_precision_loss)] // milliseconds since 1970 fit into 53 bits
    fn new(filter: &ChainFilter) -> FilterParameters {
        FilterParameters {
            statuses: (!filter.statuses.is_empty()).then(|| filter.statuses.clone()),
            labels: (!filter.labels.is_empty()).then(|| serde_json::json!(filter.labels)),
            since: filter.since_ms.map(|ms| ms as f64),
            until: filter.until_ms.map(|ms| ms as f64),
        }
    }

    fn all<'a>(&'a self, filter: &'a ChainFilter) -> Vec<&'a (dyn ToSql + Sync)> {
        vec![
            &self.statuses,
            &filter.definition,
            &filter.error,
            &filter.id,
            &self.labels,
            &filter.entity,
            &filter.root_key,
            &self.since,
            &self.until,
        ]
    }
}

/// The partial index covers open chains only: a filter that names open statuses alone is told so.
fn open_condition(filter: &ChainFilter) -> &'static str {
    let is_open = |name: &String| Status::from_name(name).is_some_and(|status| !status.is_ended());
    if !filter.statuses.is_empty() && filter.statuses.iter().all(is_open) { " and ended_at is null" } else { "" }
}

/// The newest chains that match.
pub(crate) async fn list(pool: &Pool, filter: &ChainFilter, limit: i64) -> StoreResult<Vec<ChainRow>> {
    let parameters = FilterParameters::new(filter);
    let is_meant = |status: &Status| filter.statuses.is_empty() || filter.statuses.iter().any(|name| name == status.name());
    let (ended, open): (Vec<Status>, Vec<Status>) = Status::ALL.into_iter().filter(is_meant).partition(|status| status.is_ended());
    let open: Vec<&str> = open.into_iter().map(Status::name).collect();
    let newest = format!("order by created_at desc limit {limit}");
    // The newest of each open status come out of an index, however many there are; ended chains have none.
    let of_ended = format!("union all (select * from rootward_move.chain where ended_at is not null and {FILTER} {newest})");
    let sql = format!(
        "/* list_chains */ select {COLUMNS} from (\
           select c.* from unnest($10::text[]) as wanted (status) cross join lateral \
             (select * from rootward_move.chain where ended_at is null and chain.status = wanted.status and {FILTER} {newest}) c \
           {}) c order by c.created_at desc limit {limit}",
        if ended.is_empty() { "" } else { &of_ended }
    );
    let mut all = parameters.all(filter);
    all.push(&open);
    rows_of(&pool.get().await?.query(&sql, &all).await?)
}

/// Chains that match, by id behind `after`: a page of a bulk command.
pub(crate) async fn page(pool: &Pool, filter: &ChainFilter, after: Uuid, limit: i64) -> StoreResult<Vec<ChainRow>> {
    let parameters = FilterParameters::new(filter);
    let mut all = parameters.all(filter);
    all.push(&after);
    let sql = format!(
        "/* page_chains */ select {COLUMNS} from rootward_move.chain where {FILTER}{} and id > $10 order by id limit {limit}",
        open_condition(filter)
    );
    rows_of(&pool.get().await?.query(&sql, &all).await?)
}

/// How many chains match, by a column: `status`, or `step`.
pub(crate) async fn count_by(pool: &Pool, filter: &ChainFilter, column: &'static str) -> StoreResult<BTreeMap<String, u64>> {
    let parameters = FilterParameters::new(filter);
    let sql = format!(
        "/* count_chains */ select coalesce({column}, ''), count(*) from rootward_move.chain where {FILTER}{} group by 1",
        open_condition(filter)
    );
    let rows = pool.get().await?.query(&sql, &parameters.all(filter)).await?;
    let counts = rows.iter().map(|row| Ok((row.try_get(0)?, u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default())));
    Ok(counts.collect::<Result<_, tokio_postgres::Error>>()?)
}

/// How many chains are open, by status.
pub(crate) async fn count_open(pool: &Pool) -> StoreResult<BTreeMap<String, i64>> {
    let sql = "/* count_open_chains */ select status, count(*) from rootward_move.chain where ended_at is null group by 1";
    let rows = pool.get().await?.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// How many of these chains are in which status; the ones that are gone are not counted.
pub(crate) async fn statuses_of(pool: &Pool, ids: &[Uuid]) -> StoreResult<BTreeMap<String, u64>> {
    let sql = "/* count_statuses */ select status, count(*) from rootward_move.chain where id = any ($1) group by 1";
    let rows = pool.get().await?.query(sql, &[&ids]).await?;
    let counts = rows.iter().map(|row| Ok((row.try_get(0)?, u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default())));
    Ok(counts.collect::<Result<_, tokio_postgres::Error>>()?)
}

/// One chain by its id.
pub(crate) async fn get(pool: &Pool, id: Uuid) -> StoreResult<Option<ChainRow>> {
    // While its home moves it is hidden here, and perhaps shown nowhere for a moment. One statement, so that both are of one moment.
    let sql = format!(
        "/* get_chain */ select {COLUMNS}, coalesce((select t.state from rootward_move.transit t where t.partition = chain.partition), '') as transit \
         from rootward.chain where id = $1 order by transit limit 1"
    );
    let Some(row) = pool.get().await?.query_opt(&sql, &[&id]).await? else { return Ok(None) };
    match row.try_get("transit")? {
        "" => Ok(Some(row_of(&row)?)),
        "gone" => Ok(None),
        _ => Err(StoreError::Moving(id)),
    }
}

/// What people did to a chain: when, what, why, who.
pub(crate) async fn events(pool: &Pool, partition: i32, id: Uuid) -> StoreResult<Vec<[String; 4]>> {
    let sql = "/* list_chain_events */ select at::text, event, reason, by from rootward.chain_event \
               where partition = $1 and id = $2 order by number";
    let rows = pool.get().await?.query(sql, &[&partition, &id]).await?;
    let event = |row: &Row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?]);
    Ok(rows.iter().map(event).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// A chain's row as it is made.
pub(crate) struct NewChain<'a> {
    pub partition: i32,
    pub entity: &'a str,
    pub root_key: &'a str,
    pub id: Uuid,
    pub definition: &'a str,
    pub version: u32,
    pub plan: String,
    pub input: String,
    pub labels: String,
    pub fingerprint: &'a [u8],
    pub issued_at_ms: i64,
    pub deadline_ms: Option<i64>,
    pub status: Status,
    pub next_attempt_at_ms: i64,
    pub expires_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    /// Its end if all its other steps take effect in the same commit; none if more is to be noted of it then.
    pub ends_with_companions_at_ms: Option<i64>,
}

/// Where a chain's row has its status and its end.
const STATUS_PLACE: usize = 12;
const ENDED_AT_PLACE: usize = 15;

/// The chain's row, in the same commit as its first step, or before it if the start is scheduled.
pub(crate) fn open_row(chain: NewChain<'_>) -> OwnRow {
    OwnRow {
        sql: "select * from rootward.open_chains($1, $2, null)",
        sql_if_recorded: Some("select * from rootward.open_chains($1, $2, $3)"),
        key: chain.id,
        r#type: RowType::ChainStart,
        values: vec![
            (PgType::INT4, OwnValue::Integer(chain.partition)),
            (PgType::TEXT, OwnValue::text(chain.entity)),
            (PgType::TEXT, OwnValue::text(chain.root_key)),
            (PgType::UUID, OwnValue::Uuid(chain.id)),
            (PgType::TEXT, OwnValue::text(chain.definition)),
            (PgType::INT4, OwnValue::number(chain.version)),
            (PgType::JSON, OwnValue::Text(chain.plan)),
            (PgType::JSON, OwnValue::Text(chain.input)),
            (PgType::JSONB, OwnValue::Text(chain.labels)),
            (PgType::BYTEA, OwnValue::Bytes(chain.fingerprint.to_vec())),
            (PgType::TIMESTAMPTZ, OwnValue::Moment(chain.issued_at_ms)),
            (PgType::TIMESTAMPTZ, chain.deadline_ms.map_or(OwnValue::Null, OwnValue::Moment)),
            (PgType::TEXT, OwnValue::text(chain.status.name())),
            (PgType::TIMESTAMPTZ, OwnValue::Moment(chain.next_attempt_at_ms)),
            (PgType::TIMESTAMPTZ, OwnValue::Moment(chain.expires_at_ms)),
            (PgType::TIMESTAMPTZ, chain.ended_at_ms.map_or(OwnValue::Null, OwnValue::Moment)),
        ],
        values_with_companions: match chain.ends_with_companions_at_ms {
            Some(ended_at_ms) => {
                vec![(STATUS_PLACE, OwnValue::text(Status::Completed.name())), (ENDED_AT_PLACE, OwnValue::Moment(ended_at_ms))]
            }
            None => Vec::new(),
        },
    }
}

/// What a person did to a chain.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub event: &'static str,
    pub reason: String,
    pub by: String,
}

/// The new state of a chain's row.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// What the writer knows of: after a later firm change it changes nothing.
    pub revision: i32,
    pub status: Status,
    pub called_back: Option<CalledBack>,
    pub step: Text,
    pub error: Text,
    pub result: Text,
    /// Kept as they are if none.
    pub waits: Option<BTreeMap<u32, i64>>,
    pub attempts: u32,
    pub recoveries: u32,
    /// Never, if none.
    pub next_attempt_at_ms: Option<i64>,
    pub expires_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub deed: Option<Deed>,
}

/// Changes the chain's row; returns whether it was as the note's writer knew it.
///
/// A firm note raises the row's revision. One that is written lazily doesn't: it may come after firm ones.
pub(crate) fn note_row(partition: i32, root: (&str, &str), id: Uuid, note: &Note, is_firm: bool) -> OwnRow {
    let (event, reason, by) = match note.deed.clone() {
        Some(deed) => (Some(deed.event.to_owned()), Some(deed.reason), Some(deed.by)),
        None => (None, None, None),
    };
    OwnRow {
        sql: "select * from rootward.note_chains($1, $2)",
        sql_if_recorded: None,
        key: id,
        r#type: RowType::ChainNote,
        values: vec![
            (PgType::INT4, OwnValue::Integer(partition)),
            (PgType::TEXT, OwnValue::text(root.0)),
            (PgType::TEXT, OwnValue::text(root.1)),
            (PgType::UUID, OwnValue::Uuid(id)),
            (PgType::INT4, OwnValue::Integer(note.revision)),
            (PgType::BOOL, OwnValue::Boolean(is_firm)),
            (PgType::TEXT, OwnValue::text(note.status.name())),
            (PgType::TEXT, note.called_back.map_or(OwnValue::Null, |cause| OwnValue::text(cause.name()))),
            (PgType::TEXT, note.step.clone().into()),
            (PgType::JSONB, note.error.clone().into()),
            (PgType::JSON, note.result.clone().into()),
            (PgType::JSONB, note.waits.as_ref().and_then(|waits| serde_json::to_string(waits).ok()).into()),
            (PgType::INT4, OwnValue::number(note.attempts)),
            (PgType::INT4, OwnValue::number(note.recoveries)),
            (PgType::TIMESTAMPTZ, note.next_attempt_at_ms.map_or(OwnValue::Never, OwnValue::Moment)),
            (PgType::TIMESTAMPTZ, OwnValue::Moment(note.expires_at_ms)),
            (PgType::TIMESTAMPTZ, note.ended_at_ms.map_or(OwnValue::Null, OwnValue::Moment)),
            (PgType::TEXT, event.into()),
            (PgType::TEXT, reason.into()),
            (PgType::TEXT, by.into()),
        ],
        values_with_companions: Vec::new(),
    }
}
