//! Reads every row of this peer's journals and compares it with its hash, with the row before, and with heads that were told or kept.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Pool;
use rootward_proto::v1;

use super::{
    row::{FIRST, Hash, Row},
    store,
};
use crate::verify::VerifyError;

/// Rows that are read at once.
const ROWS: i32 = 1_000;
/// How many faults are told.
const FAULTS: usize = 100;

/// Verifies all journals of the partitions that this peer owns, at one moment; heads of others are passed over.
pub(crate) async fn verify(pool: &Pool, peer: &str, heads: Vec<v1::JournalHead>) -> Result<v1::VerifyJournalResponse, VerifyError> {
    let mut client = pool.get().await?;
    let transaction =
        client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let owned: HashSet<i32> = store::owned(&transaction).await?.into_iter().collect();
    let mut judge = Judge::new(peer, heads.into_iter().filter(|head| owned.contains(&head.partition)));
    let statement = transaction.prepare(&store::all_rows_sql()).await?;
    let portal = transaction.bind(&statement, &[]).await?;
    loop {
        let rows = transaction.query_portal(&portal, ROWS).await?;
        for row in &rows {
            let (row, hash) = store::row_of(row)?;
            judge.take(&row, &hash);
        }
        if rows.is_empty() {
            break;
        }
    }
    transaction.rollback().await?;
    Ok(judge.end())
}

/// What was found so far; holds one row's hash of one partition at a time.
struct Judge {
    peer: String,
    /// By partition: what must be there, by number.
    wanted: HashMap<i32, HashMap<i64, Vec<Vec<u8>>>>,
    partition: Option<i32>,
    sequence: i64,
    hash: Hash,
    found: v1::VerifyJournalResponse,
}

impl Judge {
    fn new(peer: &str, heads: impl Iterator<Item = v1::JournalHead>) -> Judge {
        let mut wanted: HashMap<i32, HashMap<i64, Vec<Vec<u8>>>> = HashMap::new();
        let mut found = v1::VerifyJournalResponse::default();
        for head in heads {
            found.compared_heads += 1;
            wanted.entry(head.partition).or_default().entry(head.sequence).or_default().push(head.hash);
        }
        Judge { peer: peer.to_owned(), wanted, partition: None, sequence: 0, hash: FIRST, found }
    }

    /// The next row, in the order of partitions and numbers.
    fn take(&mut self, row: &Row<'_>, stored: &[u8]) {
        if self.partition != Some(row.partition) {
            self.end_partition();
            (self.partition, self.sequence, self.hash) = (Some(row.partition), 0, FIRST);
            self.found.partitions += 1;
        }
        self.found.rows += 1;
        let is_next = row.sequence == self.sequence + 1;
        if !is_next {
            let what = match row.sequence - self.sequence {
                2 => "this row is missing".to_owned(),
                gap => format!("{} rows are missing from here on", gap - 1),
            };
            self.fault(row.partition, self.sequence + 1, what);
        }
        // Behind a gap nobody knows the hash before, so only that of the next row can tell.
        if is_next && stored != row.hash(&self.hash) {
            let what = format!("this row (`{}` at {} {}) or its hash was changed", row.transaction, row.entity, row.root_key);
            self.fault(row.partition, row.sequence, what);
        }
        let kept = self.wanted.get_mut(&row.partition).and_then(|heads| heads.remove(&row.sequence));
        if kept.into_iter().flatten().any(|hash| hash != stored) {
            self.fault(row.partition, row.sequence, "this row is another one than a kept head says".to_owned());
        }
        self.sequence = row.sequence;
        self.hash = store::as_hash(stored).unwrap_or(FIRST);
    }

    /// What heads still want of a partition is not there any more, unless a gap has been told already.
    fn end_partition(&mut self) {
        let Some(partition) = self.partition.take() else { return };
        let last = self.sequence;
        let missing = self.wanted.remove(&partition).unwrap_or_default();
        if let Some(sequence) = missing.keys().copied().filter(|sequence| *sequence > last).max() {
            self.fault(partition, last + 1, format!("the journal was cut here: a kept head says that it went on to {sequence} at least"));
        }
    }

    fn end(mut self) -> v1::VerifyJournalResponse {
        self.end_partition();
        let mut empty: Vec<i32> = self.wanted.keys().copied().collect();
        empty.sort_unstable();
        for partition in empty {
            (self.partition, self.sequence) = (Some(partition), 0);
            self.end_partition();
        }
        self.found
    }

    fn fault(&mut self, partition: i32, sequence: i64, what: String) {
        self.found.fault_count += 1;
        if self.found.faults.len() < FAULTS {
            self.found.faults.push(v1::JournalFault { peer: self.peer.clone(), partition, sequence, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(partition: i32, sequence: i64) -> Row<'static> {
        Row {
            partition,
            sequence,
            entity: "account".into(),
            root_key: "1".into(),
            request_id: Uuid::from_u128(sequence as u128),
            step: 0,
            element: 0,
            direction: "do".into(),
            is_in_chain: false,
            transaction: "deposit".into(),
            arguments: "{}".into(),
            issued_at_us: 0,
            at_us: 0,
        }
    }

    /// Two partitions of five rows each.
    fn journal() -> Vec<(Row<'static>, Hash)> {
        let mut rows = Vec::new();
        for partition in [3, 7] {
            let mut hash = FIRST;
            for sequence in 1..=5 {
                let row = row(partition, sequence);
                hash = row.hash(&hash);
                rows.push((row, hash));
            }
        }
        rows
    }

    fn judged(rows: &[(Row<'static>, Hash)], heads: &[(i32, i64, Hash)]) -> Vec<(i32, i64)> {
        let heads = heads.iter().map(|(partition, sequence, hash)| v1::JournalHead {
            partition: *partition,
            sequence: *sequence,
            hash: hash.to_vec(),
        });
        let mut judge = Judge::new("p1", heads);
        rows.iter().for_each(|(row, hash)| judge.take(row, hash));
        judge.end().faults.iter().map(|fault| (fault.partition, fault.sequence)).collect()
    }

    #[test]
    fn a_sound_journal_has_no_faults_with_every_head_that_it_ever_had() {
        let rows = journal();
        let heads: Vec<(i32, i64, Hash)> = rows.iter().map(|(row, hash)| (row.partition, row.sequence, *hash)).collect();
        assert_eq!(judged(&rows, &heads), []);
    }

    #[test]
    fn whatever_is_changed_or_taken_away_is_named() {
        let rows = journal();
        let tails = [(3, 5, rows[4].1), (7, 5, rows[9].1)];
        for at in 0..rows.len() {
            let place = (rows[at].0.partition, rows[at].0.sequence);
            let mut edited = rows.clone();
            edited[at].0.transaction = "withdraw".into();
            assert_eq!(judged(&edited, &[]), [place], "an edited row");
            // Whoever makes the hash of the row anew is given away by the next one, and at the end by the head that was kept.
            let before = if place.1 == 1 { FIRST } else { rows[at - 1].1 };
            edited[at].1 = edited[at].0.hash(&before);
            let found = judged(&edited, &tails);
            assert_eq!(found, [(place.0, (place.1 + 1).min(5))], "an edited row with its hash");
            let mut deleted = rows.clone();
            deleted.remove(at);
            assert_eq!(judged(&deleted, &tails), [place], "a deleted row");
        }
        assert_eq!(judged(&rows[..8], &tails), [(7, 4)], "a tail that was cut");
        assert_eq!(judged(&rows[..8], &[]), [], "which nobody sees without a head");
        assert_eq!(judged(&rows[5..], &tails), [(3, 1)], "a journal that is gone");
        let mut rewritten = FIRST;
        let anew: Vec<(Row<'static>, Hash)> = (1..=5)
            .map(|sequence| {
                let row = Row { transaction: "withdraw".into(), ..row(3, sequence) };
                rewritten = row.hash(&rewritten);
                (row, rewritten)
            })
            .collect();
        assert_eq!(judged(&anew, &[(3, 4, rows[3].1)]), [(3, 4)], "a journal that was written anew");
    }
}
