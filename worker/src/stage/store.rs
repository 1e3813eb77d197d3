//! SQL of the staging tables: no decisions.

use std::{collections::HashMap, time::Duration};

use deadpool_postgres::Client;
use rootward_proto::v1;
use rootward_schema::{Stage, Text, quoted};
use tokio_postgres::Error;
use uuid::Uuid;

/// A row that waits to be sent.
pub(super) struct Staged {
    pub id: Uuid,
    /// How often a person had it sent anew after a refusal: each time is another request.
    pub round: i32,
    /// When it was first taken up in this round, in milliseconds since 1970.
    pub issued_at_ms: i64,
    /// In the order of the stage's parameters.
    pub values: Vec<Text>,
}

/// What became of a row.
pub(super) enum Mark {
    Done,
    Refused {
        code: String,
        message: String,
    },
    /// It is sent again after a pause, with the same request id.
    Later {
        code: String,
        message: String,
    },
}

/// Takes up rows that wait, oldest first, and writes down when that was before anything is sent: by that time a repetition is told from
/// a request that is too old to be known.
pub(super) async fn take_up(client: &Client, stage: &Stage, limit: i64) -> Result<Vec<Staged>, Error> {
    let values: String = stage.parameters.iter().map(|column| format!(", t.{}::text", quoted(&column.name))).collect();
    let table = stage.table();
    let sql = format!(
        "/* take_up_staged */ update {table} t set stage_issued_at = coalesce(t.stage_issued_at, clock_timestamp()) \
         where t.stage_id = any (array(select s.stage_id from {table} s where s.stage_state = 'staged' and s.stage_next_attempt_at <= now() \
           order by s.stage_next_attempt_at, s.stage_at limit $1)) and t.stage_state = 'staged' \
         returning t.stage_id, t.stage_round, (extract(epoch from t.stage_issued_at) * 1000)::bigint{values}"
    );
    let rows = client.query(&sql, &[&limit]).await?;
    rows.iter()
        .map(|row| {
            let values = (0..stage.parameters.len()).map(|at| row.try_get(3 + at)).collect::<Result<_, _>>()?;
            Ok(Staged { id: row.try_get(0)?, round: row.try_get(1)?, issued_at_ms: row.try_get(2)?, values })
        })
        .collect()
}

/// Marks a row. What was settled already stays.
pub(super) async fn mark(client: &Client, stage: &Stage, row: &Staged, mark: &Mark) -> Result<(), Error> {
    let (state, code, message) = match mark {
        Mark::Done => ("done", None, None),
        Mark::Refused { code, message } => ("refused", Some(code), Some(message)),
        Mark::Later { code, message } => ("staged", Some(code), Some(message)),
    };
    let sql = format!(
        "/* mark_staged */ update {} set stage_state = $2, stage_code = $3, stage_message = $4, stage_attempts = stage_attempts + 1, \
         stage_settled_at = case when $2 <> 'staged' then clock_timestamp() end, \
         stage_next_attempt_at = case when $2 = 'staged' then clock_timestamp() + least(60, 0.1 * 2 ^ least(stage_attempts, 12)) * interval '1 second' \
           else stage_next_attempt_at end \
         where stage_id = $1 and stage_state = 'staged' and stage_round = $5",
        stage.table()
    );
    client.execute(&sql, &[&row.id, &state, &code, &message, &row.round]).await?;
    Ok(())
}

/// Rows of a stage in a state, oldest first, and how many there are.
pub(crate) async fn list(client: &Client, stage: &Stage, state: &str, limit: i64) -> Result<(Vec<v1::StagedRow>, u64), Error> {
    let columns: Vec<String> =
        stage.parameters.iter().map(|column| format!("'{}', {}", column.name.replace('\'', "''"), quoted(&column.name))).collect();
    let sql = format!(
        "/* list_staged */ select stage_id::text, stage_at::text, stage_state, stage_attempts, coalesce(stage_code, ''), coalesce(stage_message, ''), \
         jsonb_build_object({})::text, count(*) over () from {} where stage_state = $1 order by stage_at, stage_id limit $2",
        columns.join(", "),
        stage.table()
    );
    let rows = client.query(&sql, &[&state, &limit]).await?;
    let total = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(7))?;
    let row_of = |row: &tokio_postgres::Row| {
        Ok(v1::StagedRow {
            peer: String::new(),
            stage: stage.name.clone(),
            id: row.try_get(0)?,
            staged_at: row.try_get(1)?,
            state: row.try_get(2)?,
            attempts: u32::try_from(row.try_get::<_, i32>(3)?).unwrap_or_default(),
            code: row.try_get(4)?,
            message: row.try_get(5)?,
            values: row.try_get(6)?,
        })
    };
    Ok((rows.iter().map(row_of).collect::<Result<_, Error>>()?, u64::try_from(total).unwrap_or_default()))
}

/// Has refused rows sent anew, each as another request: all of the stage, or one.
pub(crate) async fn replay(client: &Client, stage: &Stage, id: Option<Uuid>) -> Result<u64, Error> {
    let sql = format!(
        "/* replay_staged */ update {} set stage_state = 'staged', stage_round = stage_round + 1, stage_issued_at = null, stage_attempts = 0, \
         stage_next_attempt_at = '-infinity', stage_settled_at = null where stage_state = 'refused' and ($1::uuid is null or stage_id = $1)",
        stage.table()
    );
    let replayed = client.execute(&sql, &[&id]).await?;
    client.batch_execute("notify rootward_stage").await?;
    Ok(replayed)
}

/// Deletes refused rows: all of the stage, or one.
pub(crate) async fn drop_refused(client: &Client, stage: &Stage, id: Option<Uuid>) -> Result<u64, Error> {
    let sql =
        format!("/* drop_staged */ delete from {} where stage_state = 'refused' and ($1::uuid is null or stage_id = $1)", stage.table());
    client.execute(&sql, &[&id]).await
}

/// How many pages a stage's table has.
pub(super) async fn pages(client: &Client, stage: &Stage) -> Result<i64, Error> {
    let sql = "/* count_stage_pages */ select pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint";
    client.query_one(sql, &[&stage.table()]).await?.try_get(0)
}

/// Deletes rows that have been done for so long, among the pages from the first to before the second.
pub(super) async fn delete_done(client: &Client, stage: &Stage, (first, end): (i64, i64), retention: Duration) -> Result<u64, Error> {
    let sql = format!(
        "/* delete_done_staged */ delete from {} where ctid >= '({first},0)'::tid and ctid < '({end},0)'::tid \
         and stage_state = 'done' and stage_settled_at < clock_timestamp() - $1 * interval '1 second'",
        stage.table()
    );
    client.execute(&sql, &[&retention.as_secs_f64()]).await
}

/// The values of a row by name, as a message has them.
pub(super) fn arguments(stage: &Stage, row: &Staged) -> HashMap<String, v1::Value> {
    let value = |text: &Text| {
        let kind = text.clone().map_or(v1::value::Kind::Null(true), v1::value::Kind::Text);
        v1::Value { kind: Some(kind) }
    };
    stage.parameters.iter().zip(&row.values).map(|(column, text)| (column.name.clone(), value(text))).collect()
}
