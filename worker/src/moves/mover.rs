//! Drives the moves, in the worker that holds the hub: from the stage that the catalog says, whoever came so far.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, MoveStepKind, RetryClass},
};
use rootward_router::Catalog;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    ask::Asker,
    state::{Event, Stage},
    store::{self, Busy, Move, NewMove, Progress, StoreError},
};
use crate::{fail_point, lane::LaneHold};

/// The label of all fail points here.
const LABEL: &str = "mover";
/// Moves that run at once; the others wait their turn, the oldest first.
const MOST_AT_ONCE: usize = 2;
/// How often the catalog is looked at for moves that nobody told us of.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses after a step that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a copy is looked at.
const COPY_INTERVAL: Duration = Duration::from_millis(100);
/// How long it is told that the replication has failed; PostgreSQL tries it again after five seconds.
const FAILURE_SHOWN: Duration = Duration::from_secs(15);
/// A partition more than anybody has.
const MOST_PARTITIONS: usize = 1 << 20;
/// The most moves that one list returns.
const MOST_LISTED: u32 = 10_000;

/// The mover of one term of the hub.
pub(crate) struct Mover {
    pub(super) pool: Pool,
    asker: Asker,
    /// The hub's own lanes: the map changes like their data, never while a snapshot holds them.
    hold: Arc<LaneHold>,
    /// Somebody has begun or cancelled a move.
    changed: Notify,
    running: Mutex<HashSet<Uuid>>,
}

/// Why a stage's work did not come to its end.
#[derive(Debug)]
enum Trouble {
    /// It is tried again.
    Later(Fault),
    /// It is given up, and undone.
    Never(Fault),
    /// The catalog says otherwise by now: it is read again.
    Changed,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Later(fault)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Later(hub(&error))
    }
}

pub(super) fn hub(error: &StoreError) -> Fault {
    Fault::retry("RW5042", error.to_string(), "it is tried again; see `rootward peer list`")
}

pub(super) fn refused(message: String, help: &str) -> Fault {
    Fault::refused("RW5041", message, help)
}

impl Mover {
    pub(crate) fn new(pool: Pool, catalog: watch::Receiver<Option<Arc<Catalog>>>, hold: Arc<LaneHold>, term: i64) -> Mover {
        Mover { pool, asker: Asker::new(catalog, term), hold, changed: Notify::new(), running: Mutex::default() }
    }

    /// Drives all moves until the term ends.
    pub(crate) async fn run(self: Arc<Self>, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            match store::open(&self.pool).await {
                Ok(open) => self.begin_some(&open, &tasks, &stop),
                Err(error) => tracing::debug!(%error, "the moves were not read"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn begin_some(self: &Arc<Self>, open: &[Move], tasks: &TaskTracker, stop: &CancellationToken) {
        for one in open {
            {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if running.len() >= MOST_AT_ONCE || !running.insert(one.id) {
                    continue;
                }
            }
            let (mover, stop, id) = (self.clone(), stop.clone(), one.id);
            tasks.spawn(async move {
                tokio::select! {
                    () = mover.drive(id) => {}
                    () = stop.cancelled() => {}
                }
                mover.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                mover.changed.notify_one();
            });
        }
    }

    /// Takes one move to its end.
    async fn drive(&self, id: Uuid) {
        let mut pause = FIRST_PAUSE;
        // A switch that another worker began, or that failed, is taken back first.
        let mut is_fresh = false;
        loop {
            let trouble = match store::get(&self.pool, id).await {
                Ok(Some(one)) if !one.stage.is_ended() => match self.take_stage(&one, is_fresh).await {
                    Ok(next) => {
                        is_fresh = next == Stage::Switching;
                        pause = FIRST_PAUSE;
                        continue;
                    }
                    Err(trouble) => trouble,
                },
                Ok(_) => return,
                Err(error) => Trouble::from(error),
            };
            is_fresh = false;
            match trouble {
                Trouble::Changed => {}
                Trouble::Never(fault) => self.give_up(id, &fault).await,
                Trouble::Later(fault) => {
                    tracing::debug!(r#move = %id, %fault, "a move can't go on");
                    let _ = store::note_error(&self.pool, id, Some(fault.message())).await;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn give_up(&self, id: Uuid, fault: &Fault) {
        let Ok(Some(one)) = store::get(&self.pool, id).await else { return };
        tracing::warn!(r#move = %id, %fault, "a move is given up");
        if let Some(next) = one.stage.next(Event::Cancel) {
            let _ = store::advance(&self.pool, self.asker.term, id, one.stage, next, Some(fault.message())).await;
        }
    }

    /// Does the work of the stage and goes on to the next.
    async fn take_stage(&self, one: &Move, is_fresh: bool) -> Result<Stage, Trouble> {
        fail_point::hit(point(one.stage), LABEL).await;
        let (source, target) = (one.source.as_str(), one.target.as_str());
        let mut event = Event::Done;
        match one.stage {
            Stage::Preparing => {
                self.asker.ask(target, one, MoveStepKind::Arrive).await?;
                self.clean(target, one).await?;
            }
            Stage::Publishing => {
                let published = self.asker.ask(source, one, MoveStepKind::Publish).await?;
                store::note(&self.pool, one.id, Progress::RowsTotal, number(published.rows)).await?;
            }
            Stage::Copying => self.copy(one).await?,
            Stage::Switching if is_fresh => {
                let since = Instant::now();
                self.switch(one).await?;
                self.settle(one).await?;
                let held = i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX);
                store::note(&self.pool, one.id, Progress::HeldUs, held).await?;
                return Ok(Stage::Switched);
            }
            // By the catalog first: a decision that is on its way comes to nothing then, or this does.
            Stage::Switching => event = Event::TakeBack,
            Stage::Returning => {
                self.asker.ask(source, one, MoveStepKind::TakeBack).await?;
            }
            Stage::Switched => self.settle(one).await?,
            Stage::Dropping => self.drop_channel(one).await?,
            Stage::Cleaning => {
                self.clean(source, one).await?;
                self.asker.ask(source, one, MoveStepKind::Forget).await?;
            }
            Stage::Cancelling => {
                self.asker.ask(source, one, MoveStepKind::TakeBack).await?;
                self.drop_channel(one).await?;
                self.clean(target, one).await?;
                self.asker.ask(target, one, MoveStepKind::Forget).await?;
            }
            Stage::Done | Stage::Cancelled => return Err(Trouble::Changed),
        }
        let next = one.stage.next(event).ok_or(Trouble::Changed)?;
        // Why it was given up stays.
        let error = (one.stage == Stage::Cancelling).then_some(one.view.error.as_str()).filter(|error| !error.is_empty());
        match store::advance(&self.pool, self.asker.term, one.id, one.stage, next, error).await? {
            true => Ok(next),
            false => Err(Trouble::Changed),
        }
    }

    /// Until the target has all tables and is near.
    async fn copy(&self, one: &Move) -> Result<(), Trouble> {
        self.asker.ask(&one.target, one, MoveStepKind::Subscribe).await?;
        let (mut last, mut failures, mut failed_at) = (None, None, None::<Instant>);
        loop {
            let copied = self.asker.ask(&one.target, one, MoveStepKind::Copied).await?;
            let now = (copied.rows, copied.tables, copied.tables_ready);
            if last.replace(now) != Some(now) {
                store::note(&self.pool, one.id, Progress::RowsCopied, number(copied.rows)).await?;
                store::note(&self.pool, one.id, Progress::Tables, i64::from(copied.tables)).await?;
                store::note(&self.pool, one.id, Progress::TablesReady, i64::from(copied.tables_ready)).await?;
                // A copy that fails again and again comes on a little each time.
                if failed_at.is_none_or(|at| at.elapsed() > FAILURE_SHOWN) {
                    store::note_error(&self.pool, one.id, None).await?;
                }
            }
            if failures.replace(copied.failures).is_some_and(|before| before < copied.failures) {
                failed_at = Some(Instant::now());
                let why = format!(
                    "RW5042: the replication at peer {} has failed {} times, and is tried again; the log of its PostgreSQL says why, such as a full disk",
                    one.target, copied.failures
                );
                store::note_error(&self.pool, one.id, Some(&why)).await?;
            }
            if copied.is_done && self.asker.ask(&one.source, one, MoveStepKind::Lag).await?.is_done {
                fail_point::hit("mover_rehearsing", LABEL).await;
                // What would take too long is found out before anybody has to wait for it, and the tables are in memory then.
                self.asker.ask(&one.source, one, MoveStepKind::Rehearse).await?;
                self.asker.ask(&one.target, one, MoveStepKind::Rehearse).await?;
                return Ok(());
            }
            if store::get(&self.pool, one.id).await?.is_none_or(|now| now.stage != one.stage) {
                return Err(Trouble::Changed);
            }
            tokio::time::sleep(COPY_INTERVAL).await;
        }
    }

    /// The source holds and gives up, both sides are compared, and the hub decides.
    async fn switch(&self, one: &Move) -> Result<(), Trouble> {
        let released = self.asker.ask(&one.source, one, MoveStepKind::Release).await?;
        if !released.is_done {
            let why = format!("peer {} had not applied everything within `move_hold_ms`", one.target);
            return Err(Trouble::Later(Fault::retry("RW5042", why, "it is tried again")));
        }
        fail_point::hit("mover_released", LABEL).await;
        let digests = self.asker.ask(&one.target, one, MoveStepKind::Digest).await?.digests;
        // A negative control of the tests.
        if let Some(difference) = difference(&released.digests, &digests)
            && !fail_point::is_armed("without_comparison", LABEL)
        {
            let message = format!("{difference} between peers {} and {}", one.source, one.target);
            return Err(Trouble::Never(Fault::refused("RW5044", message, "nothing was moved; please report it")));
        }
        fail_point::hit("mover_compared", LABEL).await;
        let alone = self.hold.alone().await;
        let is_decided = store::decide(&self.pool, self.asker.term, one).await?;
        drop(alone);
        if !is_decided {
            return Err(Trouble::Changed);
        }
        fail_point::hit("mover_decided", LABEL).await;
        Ok(())
    }

    /// The target serves, and then the source sends on what waits.
    async fn settle(&self, one: &Move) -> Result<(), Trouble> {
        let epochs = one.epochs.iter().map(|epoch| epoch + 1).collect();
        let more = v1::MoveStepRequest { epochs, ..v1::MoveStepRequest::default() };
        self.asker.ask_with(&one.target, one, MoveStepKind::Own, more).await?;
        fail_point::hit("mover_owned", LABEL).await;
        self.asker.ask(&one.source, one, MoveStepKind::Settle).await?;
        Ok(())
    }

    async fn drop_channel(&self, one: &Move) -> Result<(), Trouble> {
        let subscription = self.asker.ask(&one.target, one, MoveStepKind::Unsubscribe).await?.subscription;
        let more = v1::MoveStepRequest { subscription, ..v1::MoveStepRequest::default() };
        let dropped = self.asker.ask_with(&one.source, one, MoveStepKind::Unpublish, more).await?;
        if dropped.is_done {
            return Ok(());
        }
        Err(Trouble::Later(Fault::retry("RW5042", format!("peer {}: its slot is still in use", one.source), "it is tried again")))
    }

    /// Takes away what lies at a peer of these partitions, and rests for as long as it works.
    async fn clean(&self, peer: &str, one: &Move) -> Result<(), Trouble> {
        let mut cursor = v1::MoveCursor::default();
        loop {
            let began = Instant::now();
            let more = v1::MoveStepRequest { cursor: Some(cursor), ..v1::MoveStepRequest::default() };
            let cleaned = self.asker.ask_with(peer, one, MoveStepKind::Clean, more).await?;
            if cleaned.rows > 0 {
                store::note(&self.pool, one.id, Progress::RowsCleaned, number(cleaned.rows)).await?;
            }
            if cleaned.is_done {
                return Ok(());
            }
            cursor = cleaned.cursor.unwrap_or_default();
            tokio::time::sleep(began.elapsed()).await;
        }
    }

    /// Begins moves of these partitions, one for each peer that owns some of them.
    ///
    /// # Errors
    /// RW5041 if they can't be moved there; nothing was begun.
    pub(crate) async fn begin(&self, request: v1::MovePartitionsRequest) -> FaultResult<v1::MovePartitionsResponse> {
        let mut partitions = request.partitions;
        partitions.sort_unstable();
        partitions.dedup();
        if partitions.is_empty() || partitions.len() > MOST_PARTITIONS {
            return Err(refused("no partition is named".to_owned(), "name some: `rootward partition list`"));
        }
        let first_id = match request.request_id.as_str() {
            "" => Uuid::now_v7(),
            id => Uuid::parse_str(id).map_err(|_| refused(format!("`{id}` is no UUID"), "leave it out, and one is made"))?,
        };
        match store::may_take(&self.pool, &request.target).await.map_err(|error| hub(&error))? {
            Some(true) => {}
            Some(false) => {
                return Err(refused(format!("peer `{}` takes no partitions", request.target), "it is the hub, is drained, or was removed"));
            }
            None => {
                let message = format!("there is no peer `{}`", request.target);
                return Err(Fault::new("RW5007", RetryClass::NotFound, message, "see `rootward peer list`"));
            }
        }
        let owners = store::owners(&self.pool, &partitions).await.map_err(|error| hub(&error))?;
        if let Some(unknown) = partitions.iter().find(|partition| !owners.iter().any(|(known, _, _)| known == *partition)) {
            return Err(refused(format!("there is no partition {unknown}"), "see `rootward partition list`"));
        }
        let mut already_there = Vec::new();
        let mut by_source: BTreeMap<String, (Vec<i32>, Vec<i64>)> = BTreeMap::new();
        for (partition, owner, epoch) in owners {
            if owner == request.target {
                already_there.push(partition);
                continue;
            }
            let of_source = by_source.entry(owner).or_default();
            of_source.0.push(partition);
            of_source.1.push(epoch);
        }
        let moves: Vec<NewMove> = by_source
            .into_iter()
            .map(|(source, (partitions, epochs))| NewMove {
                // The same request has the same ids.
                id: Uuid::new_v5(&first_id, source.as_bytes()),
                partitions,
                epochs,
                source,
                target: request.target.clone(),
                reason: request.reason.clone(),
            })
            .collect();
        self.begin_all(moves, request.dry_run, already_there).await
    }

    /// Writes the intent down, or says what would be moved.
    pub(super) async fn begin_all(
        &self,
        moves: Vec<NewMove>,
        is_dry_run: bool,
        already_there: Vec<i32>,
    ) -> FaultResult<v1::MovePartitionsResponse> {
        if is_dry_run {
            let mut sizes: BTreeMap<&str, Vec<v1::PartitionSize>> = BTreeMap::new();
            for new in &moves {
                if !sizes.contains_key(new.source.as_str()) {
                    sizes.insert(&new.source, self.asker.sizes(&new.source).await?);
                }
            }
            let planned = moves.iter().map(|new| planned(new, &sizes[new.source.as_str()])).collect();
            return Ok(v1::MovePartitionsResponse { moves: planned, already_there });
        }
        match store::insert(&self.pool, &moves).await.map_err(|error| hub(&error))? {
            None => {}
            Some(Busy::Moving(partition, other)) => {
                let message = format!("partition {partition} is moved already, by move {other}");
                return Err(refused(message, "wait for its end, or cancel it: `rootward partition moves`"));
            }
            Some(Busy::Applying) => {
                let help = "end `rootward schema apply` first: both ends need the same tables";
                return Err(refused("a schema version is being applied".to_owned(), help));
            }
        }
        self.changed.notify_one();
        let mut begun = Vec::new();
        for new in &moves {
            begun.extend(store::get(&self.pool, new.id).await.map_err(|error| hub(&error))?.map(|one| one.view));
        }
        Ok(v1::MovePartitionsResponse { moves: begun, already_there })
    }

    /// Lists moves.
    ///
    /// # Errors
    /// RW5040 if the one that is named is none.
    pub(crate) async fn list(&self, request: v1::ListMovesRequest) -> FaultResult<v1::ListMovesResponse> {
        let id = if request.id.is_empty() { None } else { Some(move_id(&request.id)?) };
        let limit = if request.limit == 0 { 100 } else { request.limit.min(MOST_LISTED) };
        let moves = store::list(&self.pool, id, request.all, i64::from(limit)).await.map_err(|error| hub(&error))?;
        if let (Some(id), true) = (id, moves.is_empty()) {
            return Err(no_such_move(id));
        }
        Ok(v1::ListMovesResponse { moves: moves.into_iter().map(|one| one.view).collect() })
    }

    /// Gives a move up.
    ///
    /// # Errors
    /// RW5043 if it is too late, RW5040 if there is no such move.
    pub(crate) async fn cancel(&self, id: &str) -> FaultResult<v1::CancelMoveResponse> {
        let id = move_id(id)?;
        loop {
            let one = store::get(&self.pool, id).await.map_err(|error| hub(&error))?.ok_or_else(|| no_such_move(id))?;
            if matches!(one.stage, Stage::Cancelling | Stage::Cancelled) {
                return Ok(v1::CancelMoveResponse { r#move: Some(one.view) });
            }
            let Some(next) = one.stage.next(Event::Cancel) else {
                let message = format!("move {id} is {}: its partitions are peer {}'s already", one.stage.name(), one.target);
                return Err(Fault::refused("RW5043", message, "to have them back, move them back"));
            };
            if store::cancel(&self.pool, id, one.stage, next).await.map_err(|error| hub(&error))? {
                self.changed.notify_one();
            }
        }
    }
}

fn planned(new: &NewMove, sizes: &[v1::PartitionSize]) -> v1::Move {
    let of_move = || sizes.iter().filter(|size| new.partitions.contains(&size.partition));
    v1::Move {
        partitions: new.partitions.clone(),
        source: new.source.clone(),
        target: new.target.clone(),
        reason: new.reason.clone(),
        rows_total: of_move().map(|size| size.rows).sum(),
        bytes: of_move().map(|size| size.bytes).sum(),
        ..v1::Move::default()
    }
}

fn point(stage: Stage) -> &'static str {
    match stage {
        Stage::Preparing => "mover_preparing",
        Stage::Publishing => "mover_publishing",
        Stage::Copying => "mover_copying",
        Stage::Switching => "mover_switching",
        Stage::Returning => "mover_returning",
        Stage::Switched => "mover_switched",
        Stage::Dropping => "mover_dropping",
        Stage::Cleaning => "mover_cleaning",
        Stage::Cancelling => "mover_cancelling",
        Stage::Done | Stage::Cancelled => "mover_ended",
    }
}

fn move_id(text: &str) -> FaultResult<Uuid> {
    Uuid::parse_str(text).map_err(|_| refused(format!("`{text}` is no move's id"), "`rootward partition moves` shows the ids"))
}

fn no_such_move(id: Uuid) -> Fault {
    Fault::new("RW5040", RetryClass::NotFound, format!("there is no move {id}"), "see `rootward partition moves --all`")
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The first table in which the two sides differ.
fn difference(source: &[v1::TableDigest], target: &[v1::TableDigest]) -> Option<String> {
    let rows = |digest: Option<&v1::TableDigest>| digest.map_or(0, |digest| digest.rows);
    let other = |table: &str| target.iter().find(|digest| digest.table == table);
    let differing = source.iter().find(|digest| other(&digest.table) != Some(*digest));
    let missing = target.iter().find(|digest| !source.iter().any(|other| other.table == digest.table));
    let one = differing.or(missing)?;
    Some(format!(
        "table {} differs ({} rows and {})",
        one.table,
        rows(source.iter().find(|digest| digest.table == one.table)),
        rows(other(&one.table))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_equal_only_if_every_table_is() {
        let table = |name: &str, rows, digest: &str| v1::TableDigest { table: name.into(), rows, digest: digest.into() };
        let one = [table("a", 1, "7"), table("b", 2, "8")];
        assert_eq!(difference(&one, &one), None);
        for other in [
            vec![table("a", 1, "7")],
            vec![table("a", 1, "7"), table("b", 2, "9")],
            vec![table("a", 1, "7"), table("b", 3, "8")],
            vec![table("a", 1, "7"), table("b", 2, "8"), table("c", 0, "0")],
        ] {
            assert!(difference(&one, &other).is_some(), "{other:?}");
        }
    }
}
