//! Ended chains and outcomes that are old enough to be collected, from a range of the tables' pages.

use super::{Pool, StoreResult, Uuid};
use crate::clock::timestamp;

/// How many pages a table has.
pub(crate) async fn pages(pool: &Pool, table: &'static str) -> StoreResult<i64> {
    let sql = format!("/* count_pages */ select pg_relation_size('rootward.{table}') / current_setting('block_size')::bigint");
    Ok(pool.get().await?.query_one(&sql, &[]).await?.try_get(0)?)
}

/// A request's outcome: partition, entity, root key, request id.
pub(crate) type OldOutcome = (i32, String, String, Uuid);

/// Outcomes of requests issued before a moment, among the pages from `first` to before `end`.
pub(crate) async fn outcomes(pool: &Pool, first: i64, end: i64, issued_before_ms: i64) -> StoreResult<Vec<OldOutcome>> {
    let sql = format!(
        "/* scan_old_outcomes */ select distinct partition, entity, root_key, request_id from rootward.outcome \
         where ctid >= '({first},0)'::tid and ctid < '({end},0)'::tid and not in_chain and issued_at < '{}' \
         and partition in (select partition from rootward.ownership where state = 'owned')",
        timestamp(issued_before_ms)
    );
    let rows = pool.get().await?.query(&sql, &[]).await?;
    let outcome = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    Ok(rows.iter().map(outcome).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// The ids of chains that ended before a moment and whose last driver has long expired, among these pages.
pub(crate) async fn chains(pool: &Pool, first: i64, end: i64, ended_before_ms: i64, expired_before_ms: i64) -> StoreResult<Vec<Uuid>> {
    let sql = format!(
        "/* scan_old_chains */ select id from rootward.chain where ctid >= '({first},0)'::tid and ctid < '({end},0)'::tid \
         and ended_at < '{}' and expires_at < '{}' and partition in (select partition from rootward.ownership where state = 'owned')",
        timestamp(ended_before_ms),
        timestamp(expired_before_ms)
    );
    let rows = pool.get().await?.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
