//! SQL of the journal: no decisions.

use deadpool_postgres::{Client, Transaction};
use rootward_proto::v1;
use tokio_postgres::{Error, Row as SqlRow};

use super::row::{Hash, Row};

/// The columns of a row, as [`row_of`] reads them.
const COLUMNS: &str = "partition, sequence, entity, root_key, request_id, step, element, direction, in_chain, transaction, arguments, \
     (extract(epoch from issued_at) * 1000000)::bigint, (extract(epoch from at) * 1000000)::bigint, hash";

/// All rows of the partitions that this peer owns, in order.
pub(super) fn all_rows_sql() -> String {
    format!(
        "/* verify_journal */ select {COLUMNS} from rootward.journal \
         where partition in (select partition from rootward.ownership where state = 'owned') order by partition, sequence"
    )
}

/// The rows behind these places, so many of each partition at most, in order.
pub(super) async fn rows_after(
    client: &Client,
    partitions: &[i32],
    after: &[i64],
    limit: i64,
) -> Result<Vec<(Row<'static>, Vec<u8>)>, Error> {
    let sql = format!(
        "/* read_journal */ select {COLUMNS} from unnest($1::integer[], $2::bigint[]) as p (wanted, after) \
         cross join lateral (select * from rootward.journal j where j.partition = p.wanted and j.sequence > p.after order by j.sequence limit $3) j \
         order by partition, sequence"
    );
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &[&partitions, &after, &limit]).await?.iter().map(row_of).collect()
}

/// A row with its stored hash, which may be of any length if somebody has changed it.
pub(super) fn row_of(row: &SqlRow) -> Result<(Row<'static>, Vec<u8>), Error> {
    let text = |at: usize| -> Result<std::borrow::Cow<'static, str>, Error> { Ok(row.try_get::<_, String>(at)?.into()) };
    let read = Row {
        partition: row.try_get(0)?,
        sequence: row.try_get(1)?,
        entity: text(2)?,
        root_key: text(3)?,
        request_id: row.try_get(4)?,
        step: row.try_get(5)?,
        element: row.try_get(6)?,
        direction: text(7)?,
        is_in_chain: row.try_get(8)?,
        transaction: text(9)?,
        arguments: text(10)?,
        issued_at_us: row.try_get(11)?,
        at_us: row.try_get(12)?,
    };
    Ok((read, row.try_get(13)?))
}

/// The partitions that this peer owns.
pub(super) async fn owned(transaction: &Transaction<'_>) -> Result<Vec<i32>, Error> {
    let sql = "/* read_owned_journals */ select partition from rootward.ownership where state = 'owned' and partition >= 0";
    transaction.query(sql, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// The last row of each journal of this peer's partitions.
pub(crate) async fn heads(client: &Client) -> Result<Vec<v1::JournalHead>, Error> {
    let sql = "/* read_journal_heads */ select j.partition, j.sequence, j.hash from rootward.ownership o \
               cross join lateral (select * from rootward.journal j where j.partition = o.partition order by j.sequence desc limit 1) j \
               where o.state = 'owned' order by 1";
    client.query(sql, &[]).await?.iter().map(head_of).collect()
}

/// The heads that other peers have told this one.
pub(crate) async fn witnessed(client: &Client) -> Result<Vec<v1::JournalHead>, Error> {
    let sql = "/* read_journal_witness */ select partition, sequence, hash from rootward.journal_witness order by 1";
    client.query(sql, &[]).await?.iter().map(head_of).collect()
}

/// Keeps heads that a peer tells; an older one never replaces a newer one.
pub(crate) async fn keep_witnessed(client: &Client, peer: &str, heads: &[v1::JournalHead]) -> Result<(), Error> {
    let partitions: Vec<i32> = heads.iter().map(|head| head.partition).collect();
    let sequences: Vec<i64> = heads.iter().map(|head| head.sequence).collect();
    let hashes: Vec<&[u8]> = heads.iter().map(|head| head.hash.as_slice()).collect();
    let sql = "/* keep_journal_witness */ insert into rootward.journal_witness as w (partition, sequence, hash, told_by) \
               select u.partition, u.sequence, u.hash, $4 from unnest($1::integer[], $2::bigint[], $3::bytea[]) as u (partition, sequence, hash) \
               on conflict (partition) do update set sequence = excluded.sequence, hash = excluded.hash, told_by = excluded.told_by, \
               told_at = clock_timestamp() where w.sequence < excluded.sequence";
    client.execute(sql, &[&partitions, &sequences, &hashes, &peer]).await?;
    Ok(())
}

fn head_of(row: &SqlRow) -> Result<v1::JournalHead, Error> {
    Ok(v1::JournalHead { partition: row.try_get(0)?, sequence: row.try_get(1)?, hash: row.try_get(2)? })
}

/// A hash of the right length.
pub(super) fn as_hash(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}
