//! Which chains are being driven here, and what a driver writes down at home.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_proto::{Fault, FaultResult, v1};
use rootward_router::Routing;
use rootward_schema::Text;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    attempt::millis,
    driver::{Driver, Standpoint},
    gate::Gate,
    open::OpenChains,
    plan::{Pinned, Plan, Resolved, Results, first_row},
    show,
    state::{Record, Recorded, Status, Task},
    store::{self, ChainRow, Note},
};
use crate::{
    clock,
    lane::{After, Answerer, Freshness, Share, Unit},
    reads::Reads,
    reference::ReferenceVersion,
    serving::Serving,
};

/// Chains that are driven at once; the rest wait in their table and the scan comes back to them. Well below the room in a
/// lane's queue, so that drivers don't crowd each other out of it.
const MAX_DRIVERS: usize = 1024;
/// How long a note may wait in the lane.
const NOTE_LIMIT: Duration = Duration::from_secs(30);

/// The chains of this peer during one term.
pub(crate) struct ChainHome {
    pub peer: String,
    pub routing: Routing,
    pub serving: Arc<Serving>,
    pub pool: Pool,
    pub drivers: Drivers,
    /// In front of all new work on chains.
    pub gate: Arc<Gate>,
    pub open: OpenChains,
    /// How long the outcomes of ended chains are kept at least, and so how long a driver's messages are good.
    pub retention: Duration,
    /// The version of the reference data that the peer shows.
    pub reference: ReferenceVersion,
    /// Reads that may be a little old.
    pub reads: Arc<Reads>,
}

/// Where a chain lies and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub id: Uuid,
    pub partition: i32,
    pub entity: String,
    pub root_key: String,
    pub fingerprint: Vec<u8>,
    pub issued_at_ms: i64,
}

/// The chains that have a driver.
#[derive(Default)]
pub(crate) struct Drivers {
    running: Mutex<HashMap<Uuid, Running>>,
    /// Chains whose start is on its way through a lane: their rows may be there already, and their drivers are not yet.
    starting: Mutex<HashMap<Uuid, usize>>,
    /// One of them has its driver, or was refused.
    started: Notify,
    /// The scan left chains behind for want of room.
    has_backlog: AtomicBool,
    /// There is room again.
    freed: Notify,
    /// The next scan is to be as the first one.
    is_new_ground: AtomicBool,
}

#[derive(Clone)]
struct Running {
    view: watch::Receiver<v1::Chain>,
    stop: CancellationToken,
    poke: Arc<Notify>,
    /// Where its home is.
    partition: i32,
}

/// A chain that was started here a moment ago.
pub(crate) struct Started {
    pub identity: Identity,
    pub plan: Plan,
    pub version: u32,
    pub labels: BTreeMap<String, String>,
    pub deadline_ms: Option<i64>,
    pub expires_at_ms: i64,
    /// The answer of the first step.
    pub first: v1::CallResponse,
    /// What the other steps answered, if they were done in the same commit.
    pub others: Vec<(Task, Resolved, v1::CallResponse)>,
    /// What the chain's row says.
    pub status: Status,
}

/// A chain's start on its way; see [`Drivers::starting`].
pub(crate) struct Starting<'d> {
    drivers: &'d Drivers,
    id: Uuid,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut starting = self.drivers.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = starting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                starting.remove(&self.id);
            }
        }
        drop(starting);
        self.drivers.started.notify_waiters();
    }
}

impl Drivers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Running>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a chain's start goes into a lane. As long as the guard lives, whoever wants to stop the chain's driver waits for there
    /// to be one: else it would begin behind the back of a command that found none, and drive the chain on.
    pub(crate) fn starting(&self, id: Uuid) -> Starting<'_> {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
        Starting { drivers: self, id }
    }

    fn is_starting(&self, id: Uuid) -> bool {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    pub(crate) fn view(&self, id: Uuid) -> Option<watch::Receiver<v1::Chain>> {
        self.lock().get(&id).map(|running| running.view.clone())
    }

    /// Tells a driver that a signal has come; false if the chain has none.
    pub(super) fn poke(&self, id: Uuid) -> bool {
        self.lock().get(&id).map(|running| running.poke.notify_one()).is_some()
    }

    /// Whether a driver has come to an end that is not a row yet.
    pub(super) fn has_ended_ones(&self) -> bool {
        self.lock().values().any(|running| has_ended(&running.view.borrow()))
    }

    /// Ends a chain's driver and waits until it has gone. What it has sent may still take effect.
    pub(super) async fn stop(&self, id: Uuid) {
        loop {
            let started = self.started.notified();
            tokio::pin!(started);
            started.as_mut().enable();
            if !self.is_starting(id) {
                break;
            }
            started.await;
        }
        let running = self.lock().get(&id).cloned();
        if let Some(mut running) = running {
            let has_ended = has_ended(&running.view.borrow());
            let gone = async { while running.view.changed().await.is_ok() {} };
            tokio::pin!(gone);
            // An end that is not a row yet is on its way.
            if has_ended && tokio::time::timeout(Duration::from_millis(500), &mut gone).await.is_ok() {
                return;
            }
            running.stop.cancel();
            gone.await;
        }
    }

    /// Some of the chains that are being driven, as their drivers show them.
    pub(crate) fn some(&self, count: usize) -> Vec<v1::Chain> {
        let some = |running: &Running| v1::Chain { steps: Vec::new(), ..running.view.borrow().clone() };
        self.lock().values().take(count).map(some).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.count() < MAX_DRIVERS
    }

    /// Whether a driver that only waits should make room.
    pub(super) fn is_crowded(&self) -> bool {
        self.count() > MAX_DRIVERS / 2
    }

    /// Says whether the scan left chains behind.
    pub(super) fn set_backlog(&self, has_backlog: bool) {
        self.has_backlog.store(has_backlog, Ordering::Relaxed);
    }

    /// Ends the drivers of chains whose home is in one of these partitions, which another peer is about to own. What they have sent
    /// may still take effect; their successors there find it.
    pub(crate) fn stop_those_of(&self, partitions: &[i32]) {
        self.lock().values().filter(|running| partitions.contains(&running.partition)).for_each(|running| running.stop.cancel());
    }

    /// Returns when half of the room is free and chains were left behind, or others have come.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn remove(&self, id: Uuid) {
        let count = {
            let mut running = self.lock();
            running.remove(&id);
            running.len()
        };
        if count <= MAX_DRIVERS / 2 && self.has_backlog.swap(false, Ordering::Relaxed) {
            self.freed.notify_one();
        }
    }
}

impl ChainHome {
    /// Has the scan look for all open chains now, as at the beginning of a term: some have come from another peer, or lost their drivers.
    pub(crate) fn look_again(&self) {
        self.drivers.is_new_ground.store(true, Ordering::Release);
        self.drivers.freed.notify_one();
    }

    /// Whether somebody asked for that.
    pub(super) fn takes_new_ground(&self) -> bool {
        self.drivers.is_new_ground.swap(false, Ordering::AcqRel)
    }
}

fn has_ended(chain: &v1::Chain) -> bool {
    Status::from_name(&chain.status).is_some_and(Status::is_ended)
}

impl ChainHome {
    /// How long a driver's messages are good, in milliseconds.
    pub(super) fn step_life_ms(&self) -> i64 {
        millis(self.retention)
    }

    /// Until when the messages of a driver that begins now are good.
    pub(crate) fn new_expiry_ms(&self) -> i64 {
        clock::now_ms().saturating_add(self.step_life_ms())
    }

    /// Drives a chain whose first step has just become durable, unless that was its end.
    pub(crate) fn drive_started(self: &Arc<Self>, started: Started) -> Option<watch::Receiver<v1::Chain>> {
        let task = Task { step: 0, element: 0 };
        let Started { identity, plan, version, labels, deadline_ms, expires_at_ms, first, others, status } = started;
        let done = others.iter().map(|(task, ..)| *task).chain([task]).map(|task| (task, Recorded::Done));
        let record = Record { effects: done.collect(), ..Record::default() };
        let answers = others.iter().map(|(task, _, answer)| (*task, first_row(answer)));
        let results: Results = answers.chain([(task, first_row(&first))]).collect();
        let definition = &plan.definition;
        let step = v1::ChainStep {
            name: definition.steps.first().map(|step| step.name.clone()).unwrap_or_default(),
            direction: "do".to_owned(),
            outcome: "done".to_owned(),
            entity: identity.entity.clone(),
            root_key: identity.root_key.clone(),
            peer: first.peer.clone(),
            worker_us: first.worker_us,
            transaction: definition.steps.first().map(|step| step.call.clone()).unwrap_or_default(),
            ..v1::ChainStep::default()
        };
        let other = |(task, resolved, answer): &(Task, Resolved, v1::CallResponse)| {
            show::step(&plan, *task, "do", show::outcome_name(Recorded::Done), resolved, Some(answer), None)
        };
        let view = v1::Chain {
            id: identity.id.to_string(),
            definition: definition.name.clone(),
            version,
            status: status.name().to_owned(),
            input: serde_json::to_string(&plan.input).unwrap_or_default(),
            entity: identity.entity.clone(),
            root_key: identity.root_key.clone(),
            partition: identity.partition,
            peer: self.peer.clone(),
            labels: labels.into_iter().collect(),
            steps: std::iter::once(step).chain(others.iter().map(other)).collect(),
            ..v1::Chain::default()
        };
        if status.is_ended() {
            return Some(watch::channel(view).1);
        }
        let at = Standpoint { status, revision: 0, deadline_ms, waits: BTreeMap::new(), attempts: 0, recoveries: 0, expires_at_ms };
        self.drive(identity, plan, record, results, at, view, None)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one driver
    fn drive(
        self: &Arc<Self>,
        identity: Identity,
        plan: Plan,
        record: Record,
        results: Results,
        at: Standpoint,
        view: v1::Chain,
        first: Option<Note>,
    ) -> Option<watch::Receiver<v1::Chain>> {
        let id = identity.id;
        let (view, shown) = watch::channel(view);
        let running = Running { view: shown.clone(), stop: CancellationToken::new(), poke: Arc::default(), partition: identity.partition };
        {
            let mut drivers = self.drivers.lock();
            if let Some(known) = drivers.get(&id) {
                return Some(known.view.clone());
            }
            if drivers.len() >= MAX_DRIVERS {
                return None;
            }
            drivers.insert(id, running.clone());
        }
        let home = self.clone();
        let identity = Arc::new(identity);
        // A chain that is started here knows its first step.
        let is_recovered = record.effects.is_empty();
        let driver = Driver {
            is_recovered,
            home: self.clone(),
            identity: identity.clone(),
            plan: Arc::new(plan),
            record,
            results: Arc::new(results),
            at,
            view,
            poke: running.poke,
        };
        let end_of_term = self.serving.stop.clone();
        let pass = self.gate.enter();
        self.serving.tasks.spawn(async move {
            let work = async {
                // The attempt is durable before the step goes out again.
                let may_run = match first {
                    Some(note) => home.note(&identity, note).await.unwrap_or(false),
                    None => true,
                };
                if may_run {
                    driver.run().await;
                }
            };
            tokio::select! {
                () = work => {}
                () = running.stop.cancelled() => {}
                () = end_of_term.cancelled() => {}
            }
            home.drivers.remove(id);
            drop(pass);
        });
        Some(shown)
    }

    /// Drives a chain from its row: once the row says what `first` does, or at once if it says so already.
    pub(super) fn drive_row(
        self: &Arc<Self>,
        row: &ChainRow,
        first: Note,
        is_noted: bool,
    ) -> Result<Option<watch::Receiver<v1::Chain>>, Fault> {
        let plan = plan_of(row)?;
        let record = Record { called_back: first.called_back.or(row.called_back), ..Record::default() };
        let at = Standpoint {
            status: first.status,
            revision: first.revision + 1,
            deadline_ms: row.deadline_ms,
            waits: row.waits.clone(),
            attempts: first.attempts,
            recoveries: first.recoveries,
            expires_at_ms: first.expires_at_ms,
        };
        let mut view = v1::Chain { status: first.status.name().to_owned(), ..show::chain(&self.peer, row) };
        if record.called_back.is_none() {
            view.failure = None; // it was why it stopped, not how it goes on
        }
        Ok(self.drive(identity_of(row), plan, record, Results::new(), at, view, (!is_noted).then_some(first)))
    }

    /// Changes the chain's row firmly, through its lane; true if it was as the note's writer knew it.
    ///
    /// # Errors
    /// What kept the lane from it.
    pub(super) async fn note(&self, identity: &Identity, note: Note) -> FaultResult<bool> {
        self.note_with(identity, note, Share::UnderWay).await
    }

    /// The same, in the next batch that runs anyway or soon after.
    pub(super) async fn note_lazily(&self, identity: &Identity, note: Note) {
        if let Err(fault) = self.note_with(identity, note, Share::Lazy).await {
            // The outcomes are the truth: the scan finds the chain again and comes to the same end.
            tracing::debug!(chain = %identity.id, %fault, "the progress of a chain is not noted yet");
        }
    }

    async fn note_with(&self, identity: &Identity, note: Note, share: Share) -> FaultResult<bool> {
        let root = (identity.entity.as_str(), identity.root_key.as_str());
        let row = store::note_row(identity.partition, root, identity.id, &note, share == Share::UnderWay);
        Ok(self.own_work(identity.partition, "chain progress", After::Row(row), share).await?.as_deref() == Some("t"))
    }

    /// Does work of our own through the lane of a partition; returns the value that it gives.
    ///
    /// # Errors
    /// What kept the lane from it.
    pub(crate) async fn own_work(&self, partition: i32, label: &'static str, work: After, share: Share) -> FaultResult<Text> {
        let (lane, claim) = self.serving.lane_of(partition)?;
        let (answer, answered) = oneshot::channel();
        lane.submit(
            Unit {
                label: label.into(),
                claim,
                context: None,
                effect: None,
                after: Some(work),
                outcome: None,
                is_alone: false,
                freshness: Freshness::Own,
                deadline: Instant::now() + NOTE_LIMIT,
                answer: Answerer::One(answer),
                companions: Vec::new(),
                is_companion: false,
            },
            share,
        )?;
        let done = answered.await.map_err(|_| Fault::internal("a lane dropped work of our own"))??;
        Ok(done.after)
    }
}

pub(super) fn identity_of(row: &ChainRow) -> Identity {
    Identity {
        id: row.id,
        partition: row.partition,
        entity: row.entity.clone(),
        root_key: row.root_key.clone(),
        fingerprint: row.fingerprint.clone(),
        issued_at_ms: row.issued_at_ms,
    }
}

pub(crate) fn plan_of(row: &ChainRow) -> Result<Plan, Fault> {
    let unreadable = |error: serde_json::Error| Fault::internal(format!("the plan of chain {} can't be read: {error}", row.id));
    let pinned: Pinned = serde_json::from_value(row.plan.clone()).map_err(unreadable)?;
    let input: BTreeMap<String, Text> = serde_json::from_value(row.input.clone()).map_err(unreadable)?;
    pinned.plan(input, (row.entity.clone(), row.root_key.clone())).map_err(|error| Fault::internal(error.to_string()))
}
