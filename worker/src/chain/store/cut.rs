//! Chains as a snapshot sees them, and those that keep it waiting.

use tokio_postgres::Client;

use super::{COLUMNS, ChainRow, Pool, StoreResult, rows_of};

/// The oldest chains that have not ended, and how many there are, in whatever transaction the client is.
pub(crate) async fn in_flight(client: &Client, limit: i64) -> StoreResult<(Vec<ChainRow>, u64)> {
    let sql = "/* count_in_flight */ select count(*) from rootward_move.chain where ended_at is null";
    let total: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
    if total == 0 {
        return Ok((Vec::new(), 0));
    }
    let sql = format!("/* list_in_flight */ select {COLUMNS} from rootward_move.chain where ended_at is null order by created_at limit $1");
    Ok((rows_of(&client.query(&sql, &[&limit]).await?)?, u64::try_from(total).unwrap_or_default()))
}

/// Chains that should be on their way, by their rows: none of their attempts rests until later than `due_by_ms`.
pub(crate) async fn under_way(pool: &Pool, due_by_ms: i64, limit: i64) -> StoreResult<Vec<ChainRow>> {
    let sql = format!(
        "/* list_under_way */ select {COLUMNS} from rootward.chain c where ended_at is null and status in ('running', 'compensating') \
         and next_attempt_at <= to_timestamp($1::double precision / 1000) \
         and exists (select from rootward.ownership o where o.partition = c.partition and o.state = 'owned') limit $2"
    );
    #[allow(clippy::cast_precision_loss)] // milliseconds since 1970 fit into 53 bits
    let due_by = due_by_ms as f64;
    rows_of(&pool.get().await?.query(&sql, &[&due_by, &limit]).await?)
}
