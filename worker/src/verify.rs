//! What `verify` counts on one peer, with plain SQL of its own: it trusts none of the worker's bookkeeping.

mod chains;

use deadpool_postgres::{Client, Pool};
use rootward_proto::v1;
use rootward_schema::{RootEntity, Schema, quoted};

/// How many examples of what is wrong are returned.
const EXAMPLES: usize = 10;

/// Why the counting stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("no connection to the peer's database")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the peer's database refused a query")]
    Postgres(#[from] tokio_postgres::Error),
}

/// Who takes what is counted; nobody, once it is dropped.
pub(crate) type Counts = tokio::sync::mpsc::Sender<Result<v1::VerifyPeerResponse, tonic::Status>>;

/// Counts everything that must hold, in one transaction that sees one moment: that of the snapshot which the database knows by this
/// name, if one is given. Chains follow page by page, in the order of their ids.
pub(crate) async fn count(
    pool: &Pool,
    schema: &Schema,
    only_chains: bool,
    snapshot: Option<&str>,
    counts: &Counts,
) -> Result<(), VerifyError> {
    let mut client = pool.get().await?;
    let transaction =
        client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).read_only(true).start().await?;
    if let Some(name) = snapshot {
        transaction.batch_execute(&format!("set transaction snapshot '{name}'")).await?;
    }
    let mut counted = v1::VerifyPeerResponse::default();
    let rows =
        transaction.query("/* verify_ownership */ select partition from rootward.ownership where state = 'owned' order by 1", &[]).await?;
    counted.owned = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !only_chains {
        count_map(&transaction, &mut counted).await?;
        for root in schema.roots.values() {
            count_tree(&transaction, schema, root, &mut counted).await?;
        }
        count_misplaced_bookkeeping(&transaction, &mut counted).await?;
        // The user's SQL sees what queries on snapshots see: rows that are on their way to another peer are counted at one end only.
        transaction.batch_execute("set local role rootward_reader").await?;
        count_invariants(&transaction, schema, &mut counted).await?;
        count_content_keys(&transaction, schema, &mut counted).await?;
        transaction.batch_execute("reset role").await?;
        count_reference(&transaction, schema, &mut counted).await?;
    }
    // Nobody listens any more: nothing is left to do.
    if counts.send(Ok(counted)).await.is_ok() {
        chains::tell(&transaction, counts).await?;
    }
    transaction.rollback().await?;
    Ok(())
}

type Transaction<'a> = deadpool_postgres::Transaction<'a>;

async fn count_tree(
    transaction: &Transaction<'_>,
    schema: &Schema,
    root: &RootEntity,
    counted: &mut v1::VerifyPeerResponse,
) -> Result<(), VerifyError> {
    for table in &root.tables {
        let name = quoted(&table.name);
        let key = quoted(&table.key_column);
        let partition = schema.partition_expression(root, &key);
        let sql = format!(
            "/* verify_rows */ select count(*) from public.{name} where {partition} <> all ((select rootward_move.hidden())::integer[])"
        );
        counted.rows += u64::try_from(transaction.query_one(&sql, &[]).await?.try_get::<_, i64>(0)?).unwrap_or_default();
        let sql = format!(
            "/* verify_placement */ select {key}::text, {partition}::integer from public.{name} \
             where ({partition} is null or ({partition})::integer not in (select partition from rootward.ownership where state = 'owned')) \
             and ({partition} is null or {partition} <> all ((select rootward_move.hidden())::integer[])) limit {EXAMPLES}"
        );
        for row in transaction.query(&sql, &[]).await? {
            let (key, partition): (String, Option<i32>) = (row.try_get(0)?, row.try_get(1)?);
            let partition = partition.map_or_else(|| "no".to_owned(), |partition| partition.to_string());
            counted.misplaced.push(format!("{} {key} (partition {partition})", table.name));
        }
    }
    Ok(())
}

/// The map of owners, where the catalog lies.
async fn count_map(transaction: &Transaction<'_>, counted: &mut v1::VerifyPeerResponse) -> Result<(), VerifyError> {
    let sql = "/* look_for_map */ select to_regclass('rootward_catalog.partition') is not null";
    if transaction.query_one(sql, &[]).await?.try_get(0)? {
        let sql = "/* verify_map */ select partition, peer from rootward_catalog.partition";
        for row in transaction.query(sql, &[]).await? {
            counted.map.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(())
}

async fn count_misplaced_bookkeeping(transaction: &Transaction<'_>, counted: &mut v1::VerifyPeerResponse) -> Result<(), VerifyError> {
    counted.outcomes = u64::try_from(
        transaction.query_one("/* verify_outcomes */ select count(*) from rootward_move.outcome", &[]).await?.try_get::<_, i64>(0)?,
    )
    .unwrap_or_default();
    let sql = format!(
        "/* verify_bookkeeping */ select 'outcome ' || request_id from rootward_move.outcome where partition not in (select partition from rootward.ownership where state = 'owned') \
         union all select 'chain ' || id from rootward_move.chain where partition not in (select partition from rootward.ownership where state = 'owned') limit {EXAMPLES}"
    );
    for row in transaction.query(&sql, &[]).await? {
        counted.misplaced.push(row.try_get(0)?);
    }
    Ok(())
}

async fn count_invariants(transaction: &Transaction<'_>, schema: &Schema, counted: &mut v1::VerifyPeerResponse) -> Result<(), VerifyError> {
    for invariant in &schema.invariants {
        for (side, sql) in [("sum", &invariant.sum), ("equals", &invariant.equals)] {
            let Some(sql) = sql else { continue };
            let sql =
                format!("/* verify_invariant */ select coalesce(sum(value), 0)::numeric::text from ({}) as counted(value)", trimmed(sql));
            let value: String = transaction.query_one(&sql, &[]).await?.try_get(0)?;
            counted.sums.insert(format!("{} {side}", invariant.name), value);
        }
        if let Some(sql) = &invariant.none {
            let sql = format!(
                "/* verify_invariant */ select to_jsonb(violation)::text, count(*) over () from ({}) as violation limit {EXAMPLES}",
                trimmed(sql)
            );
            let rows = transaction.query(&sql, &[]).await?;
            let count = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(1))?;
            let examples = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            counted
                .violations
                .insert(invariant.name.clone(), v1::ExampleList { examples, count: u64::try_from(count).unwrap_or_default() });
        }
    }
    Ok(())
}

/// Rows whose key does not follow from their content any more.
async fn count_content_keys(
    transaction: &Transaction<'_>,
    schema: &Schema,
    counted: &mut v1::VerifyPeerResponse,
) -> Result<(), VerifyError> {
    for key in &schema.content_keys {
        let (table, column) = (quoted(&key.table), quoted(&key.column));
        let sql = format!(
            "/* verify_content_key */ select {column}::text, count(*) over () from public.{table} where not ({}) order by 1 limit {EXAMPLES}",
            key.condition
        );
        let rows = transaction.query(&sql, &[]).await?;
        let count = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(1))?;
        let example = |row: &tokio_postgres::Row| -> Result<String, tokio_postgres::Error> {
            let text: Option<String> = row.try_get(0)?;
            Ok(format!("{} = {}", key.column, text.as_deref().unwrap_or("NULL")))
        };
        let examples = rows.iter().map(example).collect::<Result<_, _>>()?;
        counted.content_keys.insert(key.table.clone(), v1::ExampleList { examples, count: u64::try_from(count).unwrap_or_default() });
    }
    Ok(())
}

fn trimmed(sql: &str) -> &str {
    sql.trim().trim_end_matches(';')
}

/// The version of the reference data with the digests of its tables, at one moment.
pub(crate) async fn reference_data(pool: &Pool, schema: &Schema) -> Result<v1::GetReferenceDataResponse, VerifyError> {
    let mut client = pool.get().await?;
    let transaction =
        client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let mut counted = v1::VerifyPeerResponse::default();
    count_reference(&transaction, schema, &mut counted).await?;
    transaction.rollback().await?;
    Ok(v1::GetReferenceDataResponse { version: counted.reference_version, digests: counted.reference_digests })
}

async fn count_reference(transaction: &Transaction<'_>, schema: &Schema, counted: &mut v1::VerifyPeerResponse) -> Result<(), VerifyError> {
    for table in &schema.reference {
        let name = quoted(&table.name);
        // The digest of each row's text, in an order that no collation changes.
        let sql = format!(
            "/* verify_reference */ select count(*)::text || ' rows, digest ' || \
             coalesce(encode(sha256(string_agg(sha256(convert_to(r::text, 'UTF8')), ''::bytea order by sha256(convert_to(r::text, 'UTF8')))), 'hex'), 'none') \
             from public.{name} r"
        );
        counted.reference_digests.insert(table.name.clone(), transaction.query_one(&sql, &[]).await?.try_get(0)?);
    }
    let row = transaction.query_opt("/* verify_reference_version */ select version from rootward.reference_version", &[]).await?;
    counted.reference_version = row.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(())
}

/// The version of this peer's copy of the reference data.
pub(crate) async fn reference_version(client: &Client) -> Result<i64, tokio_postgres::Error> {
    let row = client.query_opt("/* read_reference_version */ select version from rootward.reference_version", &[]).await?;
    row.map_or(Ok(0), |row| row.try_get(0))
}
