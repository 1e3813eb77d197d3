//! Drives the moves, in the worker that holds the hub: from the stage that the catalog says, whoever came so far.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_proto::{
    Fault,
    v1::{self, MoveStepKind},
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
    store::{self, Move, Progress, StoreError},
};
use crate::{
    fail_point,
    lane::{LaneHold, Pace},
};

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

/// The mover of one term of the hub.
pub(crate) struct Mover {
    pub(super) pool: Pool,
    pub(super) asker: Asker,
    /// The hub's own lanes: the map changes like their data, never while a snapshot holds them.
    hold: Arc<LaneHold>,
    /// Somebody has begun or cancelled a move.
    pub(super) changed: Notify,
    /// How fast rows may be copied, if that is limited.
    pace: Option<Pace>,
    running: Mutex<HashSet<Uuid>>,
}

/// What came of a comparison.
enum Compared {
    Equal,
    /// The first table in which they differ, for people.
    Differing(String),
    /// This peer has nothing to count any more.
    Lost(String),
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

impl Mover {
    /// The mover of a term. It copies so many rows a second at most, if that is not 0.
    pub(crate) fn new(
        pool: Pool,
        catalog: watch::Receiver<Option<Arc<Catalog>>>,
        hold: Arc<LaneHold>,
        term: i64,
        rows_per_second: u32,
    ) -> Mover {
        let pace = Pace::new(rows_per_second);
        Mover { pool, asker: Asker::new(catalog, term), hold, changed: Notify::new(), pace, running: Mutex::default() }
    }

    /// Whether the speed of copies is limited. Then what PostgreSQL copies at once is kept small.
    pub(super) fn is_paced(&self) -> bool {
        self.pace.is_some()
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
        // One at a time, so that the next one waits for what this one copies.
        let most = if self.is_paced() { 1 } else { MOST_AT_ONCE };
        for one in open.iter().filter(|one| !one.stage.rests()) {
            // What has begun holds a slot, and goes on.
            let may_begin = self.pace.as_ref().is_none_or(|pace| pace.room(Instant::now()).is_ok());
            if one.stage == Stage::Preparing && !may_begin {
                continue;
            }
            {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if running.len() >= most || !running.insert(one.id) {
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
        // A release that another worker asked for, or that failed, is taken back first.
        let mut is_fresh = false;
        loop {
            let trouble = match store::get(&self.pool, id).await {
                Ok(Some(one)) if !one.stage.rests() => match self.take_stage(&one, is_fresh).await {
                    Ok(next) => {
                        is_fresh = matches!(next, Stage::Comparing | Stage::Switching);
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
                if let Some(pace) = &self.pace {
                    pace.spend(usize::try_from(published.rows).unwrap_or(usize::MAX));
                }
            }
            Stage::Copying => self.copy(one).await?,
            Stage::Comparing if is_fresh => self.compare(one).await?,
            Stage::Switching if is_fresh => {
                let since = Instant::now();
                self.switch(one).await?;
                self.settle(one).await?;
                let held = i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX);
                store::note(&self.pool, one.id, Progress::HeldUs, held).await?;
                // The decision was made in the same commit as the next stage, whose work is done by now.
                return self.go_on(one, Stage::Switched, Event::Done, None).await;
            }
            // By the catalog first: a decision that is on its way comes to nothing then, or this does.
            Stage::Comparing | Stage::Switching => event = Event::TakeBack,
            Stage::Returning => {
                self.asker.ask(source, one, MoveStepKind::TakeBack).await?;
            }
            Stage::Switched => self.settle(one).await?,
            Stage::Dropping => self.drop_channel(one).await?,
            Stage::Confirming => {
                if let Some(difference) = self.confirm(one).await? {
                    return self.rest(one, &difference).await;
                }
            }
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
            Stage::Differing | Stage::Done | Stage::Cancelled => return Err(Trouble::Changed),
        }
        // Why it was given up stays.
        let error = (one.stage == Stage::Cancelling).then_some(one.view.error.as_str()).filter(|error| !error.is_empty());
        self.go_on(one, one.stage, event, error).await
    }

    /// By the catalog, the move is in the stage that follows.
    async fn go_on(&self, one: &Move, from: Stage, event: Event, error: Option<&str>) -> Result<Stage, Trouble> {
        let next = from.next(event).ok_or(Trouble::Changed)?;
        match store::advance(&self.pool, self.asker.term, one.id, from, next, error).await? {
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
                return Ok(());
            }
            if store::get(&self.pool, one.id).await?.is_none_or(|now| now.stage != one.stage) {
                return Err(Trouble::Changed);
            }
            tokio::time::sleep(COPY_INTERVAL).await;
        }
    }

    /// The source holds and gives up, the target has everything, and both fix what they show. If the target is to own them, it is told in which
    /// epochs.
    async fn release(&self, one: &Move, epochs: Vec<i64>) -> Result<(), Trouble> {
        if !self.asker.ask(&one.source, one, MoveStepKind::Release).await?.is_done {
            let why = format!("peer {} had not applied everything within `move_hold_ms`", one.target);
            return Err(Trouble::Later(Fault::retry("RW5042", why, "it is tried again")));
        }
        let more = v1::MoveStepRequest { epochs, ..v1::MoveStepRequest::default() };
        self.asker.ask_with(&one.target, one, MoveStepKind::Fix, more).await?;
        Ok(())
    }

    /// Both sides hold the same at one moment. It is counted when the source serves again: the hub can't decide in this stage.
    async fn compare(&self, one: &Move) -> Result<(), Trouble> {
        self.release(one, Vec::new()).await?;
        fail_point::hit("mover_fixed", LABEL).await;
        self.asker.ask(&one.source, one, MoveStepKind::TakeBack).await?;
        match self.difference(one).await? {
            Compared::Equal => {}
            Compared::Differing(difference) => {
                return Err(Trouble::Never(Fault::refused("RW5044", difference, "nothing was moved; please report it")));
            }
            Compared::Lost(peer) => {
                let why = format!("peer {peer} was restarted while it counted");
                return Err(Trouble::Later(Fault::retry("RW5042", why, "it is tried again")));
            }
        }
        fail_point::hit("mover_compared", LABEL).await;
        Ok(())
    }

    /// What the source had when it gave up against what the target began with; what differs.
    async fn confirm(&self, one: &Move) -> Result<Option<String>, Trouble> {
        match self.difference(one).await? {
            Compared::Equal => Ok(None),
            Compared::Differing(difference) => Ok(Some(difference)),
            Compared::Lost(peer) => {
                tracing::info!(r#move = %one.id, peer, "the sides were compared before the switch only: a worker was restarted behind it");
                Ok(None)
            }
        }
    }

    /// Nothing goes on until a person has looked.
    async fn rest(&self, one: &Move, difference: &str) -> Result<Stage, Trouble> {
        tracing::error!(r#move = %one.id, difference, "after a switch the sides differ; what the source had is kept");
        self.go_on(one, one.stage, Event::Differ, Some(difference)).await
    }

    /// Compares what both sides have fixed. Both count at the same time.
    async fn difference(&self, one: &Move) -> Result<Compared, Trouble> {
        let (source, target) = tokio::try_join!(self.digests(&one.source, one), self.digests(&one.target, one))?;
        let (Some(source), Some(target)) = (&source, &target) else {
            return Ok(Compared::Lost(if source.is_none() { one.source.clone() } else { one.target.clone() }));
        };
        // A negative control of the tests.
        if fail_point::is_armed("without_comparison", LABEL) {
            return Ok(Compared::Equal);
        }
        Ok(difference(source, target).map_or(Compared::Equal, |difference| {
            Compared::Differing(format!("{difference} between peers {} and {}", one.source, one.target))
        }))
    }

    /// Waits until a side has counted; none if it has nothing to count any more.
    async fn digests(&self, peer: &str, one: &Move) -> Result<Option<Vec<v1::TableDigest>>, Trouble> {
        loop {
            let counted = self.asker.ask(peer, one, MoveStepKind::Digest).await?;
            if counted.is_lost {
                return Ok(None);
            }
            if counted.is_done {
                return Ok(Some(counted.digests));
            }
            if store::get(&self.pool, one.id).await?.is_none_or(|now| now.stage != one.stage) {
                return Err(Trouble::Changed);
            }
        }
    }

    /// The source gives up, and the hub decides.
    async fn switch(&self, one: &Move) -> Result<(), Trouble> {
        self.release(one, next_epochs(one)).await?;
        fail_point::hit("mover_released", LABEL).await;
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
        let more = v1::MoveStepRequest { epochs: next_epochs(one), ..v1::MoveStepRequest::default() };
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
}

fn point(stage: Stage) -> &'static str {
    match stage {
        Stage::Preparing => "mover_preparing",
        Stage::Publishing => "mover_publishing",
        Stage::Copying => "mover_copying",
        Stage::Comparing => "mover_comparing",
        Stage::Switching => "mover_switching",
        Stage::Returning => "mover_returning",
        Stage::Switched => "mover_switched",
        Stage::Dropping => "mover_dropping",
        Stage::Confirming => "mover_confirming",
        Stage::Cleaning => "mover_cleaning",
        Stage::Cancelling => "mover_cancelling",
        Stage::Differing | Stage::Done | Stage::Cancelled => "mover_ended",
    }
}

/// The epochs in which the target owns the partitions.
fn next_epochs(one: &Move) -> Vec<i64> {
    one.epochs.iter().map(|epoch| epoch + 1).collect()
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
