//! Streams what takes effect in this peer's partitions, by reading the journal: what a subscriber gets is committed and durable, and any worker can go on from
//! any row. Lanes tell in memory how far each partition is, so nothing is asked of the database while nothing happens.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rootward_proto::{Fault, FaultResult, v1, v1::RetryClass};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::{row::Row, store};
use crate::chain::ChainHome;

/// Partitions that are read by one query.
const PARTITIONS: usize = 64;
/// Rows of one partition that are read at once. A subscriber that is slow holds one such page, and makes the next one wait.
const ROWS: i64 = 100;
/// How often it is looked whether the partitions are still this peer's.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How far the journals of a term's partitions are. Lanes write, subscribers read.
#[derive(Debug)]
pub(crate) struct Progress {
    heads: Mutex<HashMap<i32, i64>>,
    changed: watch::Sender<u64>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { heads: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Progress {
    /// Rows are committed up to these numbers.
    pub(crate) fn reached(&self, last: impl IntoIterator<Item = (i32, i64)>) {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).extend(last);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Those of these positions behind which there is more.
    fn behind(&self, positions: &BTreeMap<i32, i64>) -> Vec<i32> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let is_behind = |partition: &i32, read: &i64| heads.get(partition).is_some_and(|head| head > read);
        positions.iter().filter(|(partition, read)| is_behind(partition, read)).map(|(partition, _)| *partition).collect()
    }
}

/// Who takes the events; nobody, once it is dropped.
pub(crate) type Events = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// Streams until the subscriber leaves, the term ends, or a partition is another peer's; the last thing said is why.
pub(crate) async fn subscribe(home: Arc<ChainHome>, request: v1::SubscribePeerRequest, events: Events) {
    let stop = home.serving.stop.clone();
    let fault = tokio::select! {
        ended = stream(&home, request, &events) => match ended {
            Ok(()) => return,
            Err(fault) => fault,
        },
        () = stop.cancelled() => Fault::retry("RW5002", "the worker's term is over", "the subscription goes on by itself"),
        () = events.closed() => return,
    };
    let _ = events.send(Err(fault.into_status())).await;
}

async fn stream(home: &ChainHome, request: v1::SubscribePeerRequest, events: &Events) -> FaultResult<()> {
    let wanted = request.subscription.unwrap_or_default();
    check_owned(home, &request.partitions)?;
    let mut changed = home.serving.journal.changed.subscribe();
    let mut positions = begin(home, &wanted, &request.partitions).await?;
    let start = positions.iter().map(|(partition, sequence)| v1::JournalPosition { partition: *partition, sequence: *sequence });
    if events.send(Ok(v1::SubscribeResponse { events: Vec::new(), positions: start.collect() })).await.is_err() {
        return Ok(());
    }
    // What was written before this term, or before the lanes told, only the table knows.
    let mut behind: Vec<i32> = positions.keys().copied().collect();
    loop {
        for partitions in behind.chunks(PARTITIONS) {
            if !read(home, &wanted, partitions, &mut positions, events).await? {
                return Ok(());
            }
        }
        behind = home.serving.journal.behind(&positions);
        while behind.is_empty() {
            let _ = tokio::time::timeout(LOOK_INTERVAL, changed.changed()).await;
            check_owned(home, &request.partitions)?;
            behind = home.serving.journal.behind(&positions);
        }
    }
}

fn check_owned(home: &ChainHome, partitions: &[i32]) -> FaultResult<()> {
    partitions.iter().try_for_each(|partition| home.serving.lane_of(*partition).map(drop))
}

/// From which row on each partition is read.
async fn begin(home: &ChainHome, wanted: &v1::SubscribeRequest, partitions: &[i32]) -> FaultResult<BTreeMap<i32, i64>> {
    let mut positions: BTreeMap<i32, i64> = partitions.iter().map(|partition| (*partition, 0)).collect();
    if !wanted.from_start {
        let client = home.pool.get().await.map_err(away)?;
        for head in store::heads(&client).await.map_err(away)? {
            positions.entry(head.partition).and_modify(|read| *read = head.sequence);
        }
    }
    for after in &wanted.after {
        positions.entry(after.partition).and_modify(|read| *read = after.sequence);
    }
    Ok(positions)
}

/// Reads these partitions to their end, page by page; false if nobody listens any more.
async fn read(
    home: &ChainHome,
    wanted: &v1::SubscribeRequest,
    partitions: &[i32],
    positions: &mut BTreeMap<i32, i64>,
    events: &Events,
) -> FaultResult<bool> {
    let mut open = partitions.to_vec();
    while !open.is_empty() {
        let after: Vec<i64> = open.iter().map(|partition| positions.get(partition).copied().unwrap_or(0)).collect();
        let client = home.pool.get().await.map_err(away)?;
        let rows = store::rows_after(&client, &open, &after, ROWS).await.map_err(away)?;
        // A slow subscriber holds no connection.
        drop(client);
        let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
        let mut page = v1::SubscribeResponse::default();
        for (row, hash) in rows {
            *counts.entry(row.partition).or_default() += 1;
            positions.insert(row.partition, row.sequence);
            if row.entity == wanted.entity && (wanted.root_key.is_empty() || row.root_key == wanted.root_key) {
                page.events.push(event_of(row, hash));
            }
        }
        let read =
            |partition: &i32| v1::JournalPosition { partition: *partition, sequence: positions.get(partition).copied().unwrap_or(0) };
        page.positions = counts.keys().map(read).collect();
        open.retain(|partition| counts.get(partition).is_some_and(|count| *count >= ROWS));
        if !page.positions.is_empty() && events.send(Ok(page)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn event_of(row: Row<'static>, hash: Vec<u8>) -> v1::JournalEvent {
    v1::JournalEvent {
        partition: row.partition,
        sequence: row.sequence,
        entity: row.entity.into_owned(),
        root_key: row.root_key.into_owned(),
        request_id: row.request_id.to_string(),
        step: u32::try_from(row.step).unwrap_or_default(),
        element: u32::try_from(row.element).unwrap_or_default(),
        direction: row.direction.into_owned(),
        in_chain: row.is_in_chain,
        transaction: row.transaction.into_owned(),
        arguments: row.arguments.into_owned(),
        issued_at_ms: row.issued_at_us / 1_000,
        at_ms: row.at_us / 1_000,
        hash,
    }
}

fn away(error: impl std::fmt::Display) -> Fault {
    Fault::new("RW5002", RetryClass::Retry, format!("the peer's database can't be read: {error}"), "the subscription goes on by itself")
}
