//! What PostgreSQL says about a statement without running it: the tables that it touches, and a SELECT's conditions.

use deadpool_postgres::Pool;
use rootward_proto::{Fault, FaultResult, v1};
use tokio_postgres::error::DbError;

const PREPARED: &str = "rootward_described";

/// Prepares the statement in a transaction that is taken back. PREPARE takes one statement that reads or changes rows, and
/// what it locks is what it touches; nothing here looks into the text.
pub(crate) async fn describe(pool: &Pool, sql: &str) -> FaultResult<v1::DescribeSqlResponse> {
    let away =
        |why: String| Fault::retry("RW5002", format!("the peer's database can't be asked: {why}"), "nothing was executed; try again");
    let mut client = pool.get().await.map_err(|error| away(error.to_string()))?;
    let transaction = client.transaction().await.map_err(|error| away(error.to_string()))?;
    let described = inside(&transaction, sql).await;
    transaction.rollback().await.map_err(|error| away(error.to_string()))?;
    // SQL's prepared statements outlive their transaction.
    let _ = client.batch_execute("deallocate all").await;
    client.statement_cache.clear();
    described.map_err(|error| match error.as_db_error() {
        Some(refused) => refuse(refused),
        None => away(error.to_string()),
    })
}

fn refuse(error: &DbError) -> Fault {
    Fault::refused(
        "RW2008",
        format!("PostgreSQL does not take the statement: {}", error.message()),
        "nothing was executed; repair it and ask again",
    )
    .with_postgres(error.code().code(), error.detail(), error.hint())
}

async fn inside(transaction: &deadpool_postgres::Transaction<'_>, sql: &str) -> Result<v1::DescribeSqlResponse, tokio_postgres::Error> {
    // The extended protocol takes one statement only, so the text can't end PREPARE and begin another one.
    let prepare = transaction.prepare(&format!("prepare {PREPARED} as {sql}")).await?;
    transaction.execute(&prepare, &[]).await?;
    let touched = "/* describe_locks */ select c.relname, bool_or(l.mode <> 'AccessShareLock') from pg_locks l join pg_class c on c.oid = l.relation \
                   where l.pid = pg_backend_pid() and c.relnamespace = 'public'::regnamespace and c.relkind = 'r' group by 1 order by 1";
    let rows = transaction.query(touched, &[]).await?;
    let table = |row: &tokio_postgres::Row| Ok(v1::TouchedTable { name: row.try_get(0)?, is_written: row.try_get(1)? });
    let tables: Vec<v1::TouchedTable> = rows.iter().map(table).collect::<Result<_, tokio_postgres::Error>>()?;
    let mut conditions = Vec::new();
    if tables.iter().all(|table| !table.is_written) {
        let row = transaction.query_one(&format!("explain (format json, costs off) execute {PREPARED}"), &[]).await?;
        collect(&row.try_get::<_, serde_json::Value>(0)?, &mut conditions);
    }
    Ok(v1::DescribeSqlResponse { tables, conditions })
}

/// The conditions of all nodes of a plan.
fn collect(plan: &serde_json::Value, conditions: &mut Vec<String>) {
    match plan {
        serde_json::Value::Array(parts) => parts.iter().for_each(|part| collect(part, conditions)),
        serde_json::Value::Object(node) => {
            let named = ["Index Cond", "Filter", "Recheck Cond"].iter().filter_map(|name| node.get(*name)?.as_str());
            conditions.extend(named.map(str::to_owned));
            node.values().for_each(|part| collect(part, conditions));
        }
        _ => {}
    }
}
