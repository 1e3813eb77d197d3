//! Which chains are being driven here, and the scan that finds those that should be.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_proto::{Fault, FaultResult, v1};
use rootward_router::Routing;
use rootward_schema::Text;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{
    driver::{Driver, Identity},
    plan::{Plan, Results},
    state::{Record, Recorded, Task},
    store::{self, ChainRow, Note, StoreError},
};
use crate::{
    lane::{Share, Unit},
    serving::Serving,
};

/// Chains that are driven at once; the rest wait in their table and the scan comes back to them.
const MAX_DRIVERS: usize = 4096;
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
const SCAN_PAGE: i64 = 500;
/// Recoveries after which a chain is parked: its step may be what kills the worker.
const MAX_RECOVERIES: i32 = 20;
/// How long a note may wait in the lane.
const NOTE_LIMIT: Duration = Duration::from_secs(30);

/// The chains of this peer during one term.
pub(crate) struct ChainHome {
    pub peer: String,
    pub routing: Routing,
    pub serving: Arc<Serving>,
    pub pool: Pool,
    pub drivers: Drivers,
}

/// The chains that have a driver, with what is known of each.
#[derive(Default)]
pub(crate) struct Drivers(Mutex<HashMap<Uuid, watch::Receiver<v1::Chain>>>);

/// A chain that was started here a moment ago.
pub(crate) struct Started {
    pub id: Uuid,
    pub partition: i32,
    pub entity: String,
    pub root_key: String,
    pub fingerprint: Vec<u8>,
    pub issued_at_ms: i64,
    pub plan: Plan,
    pub version: u32,
    /// The answer of the first step.
    pub first: v1::CallResponse,
}

impl Drivers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Receiver<v1::Chain>>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self, id: Uuid) -> Option<watch::Receiver<v1::Chain>> {
        self.lock().get(&id).cloned()
    }

    /// Whether a driver has come to an end that is not a row yet.
    pub(crate) fn has_ended_ones(&self) -> bool {
        self.lock().values().any(|view| matches!(view.borrow().status.as_str(), "completed" | "failed" | "compensated"))
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl ChainHome {
    /// Drives a chain whose first step has just become durable.
    pub(crate) fn drive_started(self: &Arc<Self>, started: Started) -> Option<watch::Receiver<v1::Chain>> {
        let first = Task { step: 0, element: 0 };
        let record = Record { effects: BTreeMap::from([(first, Recorded::Done)]), ..Record::default() };
        let results = Results::from([(first, super::plan::first_row(&started.first))]);
        let identity = Identity {
            id: started.id,
            partition: started.partition,
            entity: started.entity.clone(),
            root_key: started.root_key.clone(),
            fingerprint: started.fingerprint,
            issued_at_ms: started.issued_at_ms,
        };
        let step = v1::ChainStep {
            name: started.plan.definition.steps.first().map(|step| step.name.clone()).unwrap_or_default(),
            direction: "do".to_owned(),
            outcome: "done".to_owned(),
            entity: started.entity.clone(),
            root_key: started.root_key.clone(),
            peer: started.first.peer.clone(),
            worker_us: started.first.worker_us,
            transaction: started.plan.definition.steps.first().map(|step| step.call.clone()).unwrap_or_default(),
            ..v1::ChainStep::default()
        };
        let view = v1::Chain {
            id: started.id.to_string(),
            definition: started.plan.definition.name.clone(),
            version: started.version,
            status: "running".to_owned(),
            input: input_json(&started.plan.input),
            entity: started.entity,
            root_key: started.root_key,
            partition: started.partition,
            peer: self.peer.clone(),
            steps: vec![step],
            ..v1::Chain::default()
        };
        self.drive(identity, started.plan, record, results, 0, view, None)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one driver
    fn drive(
        self: &Arc<Self>,
        identity: Identity,
        plan: Plan,
        record: Record,
        results: Results,
        attempts: u32,
        view: v1::Chain,
        first: Option<Note>,
    ) -> Option<watch::Receiver<v1::Chain>> {
        let id = identity.id;
        let (view, shown) = watch::channel(view);
        {
            let mut drivers = self.drivers.lock();
            if let Some(known) = drivers.get(&id) {
                return Some(known.clone());
            }
            if drivers.len() >= MAX_DRIVERS {
                return None;
            }
            drivers.insert(id, shown.clone());
        }
        let home = self.clone();
        let driver = Driver { home: self.clone(), identity: identity.clone(), plan, record, results, attempts, view };
        let stop = self.serving.stop.clone();
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
                () = stop.cancelled() => {}
            }
            home.drivers.lock().remove(&id);
        });
        Some(shown)
    }

    /// Drives a chain from its row.
    pub(super) fn drive_row(self: &Arc<Self>, row: &ChainRow, first: Note) -> Result<Option<watch::Receiver<v1::Chain>>, Fault> {
        let plan = plan_of(row)?;
        let record = Record { is_called_back: first.status == "compensating", ..Record::default() };
        let attempts = first.attempts;
        let view = self.chain_of(row);
        Ok(self.drive(identity_of(row), plan, record, Results::new(), attempts, v1::Chain { failure: None, ..view }, Some(first)))
    }

    /// The row as a message.
    pub(super) fn chain_of(&self, row: &ChainRow) -> v1::Chain {
        v1::Chain {
            id: row.id.to_string(),
            definition: row.definition.clone(),
            version: u32::try_from(row.version).unwrap_or_default(),
            status: row.status.clone(),
            step: row.step.clone().unwrap_or_default(),
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            input: row.input.to_string(),
            entity: row.entity.clone(),
            root_key: row.root_key.clone(),
            partition: row.partition,
            peer: self.peer.clone(),
            failure: row.error.as_ref().map(failure_of),
            created_at: row.created_at.clone(),
            updated_at: row.updated_at.clone(),
            steps: Vec::new(),
            events: Vec::new(),
            age_s: row.age_s,
        }
    }

    /// Finds open chains without a driver, now and every second, until the term ends.
    pub(crate) async fn recover(self: Arc<Self>) {
        let stop = self.serving.stop.clone();
        loop {
            let scan = async {
                if let Err(error) = self.scan().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the scan for open chains failed; it is tried again");
                }
                tokio::time::sleep(SCAN_INTERVAL).await;
            };
            tokio::select! {
                () = scan => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn scan(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = Uuid::nil();
        loop {
            let page = store::scan_open(&self.pool, after, SCAN_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for row in &page {
                if self.drivers.count() >= MAX_DRIVERS {
                    return Ok(());
                }
                // A row younger than the scan's rhythm belongs to a start that is being answered.
                if self.drivers.view(row.id).is_none() && row.age_s > SCAN_INTERVAL.as_secs_f64() {
                    self.recover_row(row);
                }
            }
        }
    }

    fn recover_row(self: &Arc<Self>, row: &ChainRow) {
        let is_worn_out = row.attempts >= MAX_RECOVERIES;
        let status = match (is_worn_out, row.status.as_str()) {
            (false, "compensating") => "compensating",
            (false, _) => "running",
            (true, "compensating") => "stuck",
            (true, _) => "parked",
        };
        let attempts = u32::try_from(row.attempts).unwrap_or_default() + u32::from(!is_worn_out);
        let mut note = Note { from: &["running", "compensating"], status, step: row.step.clone(), attempts, ..Note::default() };
        if is_worn_out {
            let fault = Fault::refused(
                "RW4002",
                format!("the chain was recovered {MAX_RECOVERIES} times without reaching an end"),
                "find what ends its worker, then replay it",
            );
            note.error = Some(super::driver::error_json(&fault));
            let home = self.clone();
            let identity = identity_of(row);
            self.serving.tasks.spawn(async move { home.note(&identity, note).await });
        } else if let Err(fault) = self.drive_row(row, note) {
            tracing::error!(chain = %row.id, %fault, "an open chain can't be recovered");
        }
    }

    /// Changes the chain's row through its lane; true if it was in a status that the change starts from.
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
            tracing::debug!(chain = %identity.id, %fault, "the end of a chain is not noted yet");
        }
    }

    async fn note_with(&self, identity: &Identity, note: Note, share: Share) -> FaultResult<bool> {
        let (lane, epoch) = self.serving.lane_of(identity.partition)?;
        let root = (identity.entity.as_str(), identity.root_key.as_str());
        let call = store::note_call(self.serving.secret.clone(), identity.partition, root, identity.id, &note);
        let (answer, answered) = oneshot::channel();
        lane.submit(
            Unit {
                label: "chain progress".into(),
                partition: identity.partition,
                epoch,
                context: None,
                effect: Vec::new(),
                after: vec![call],
                outcome: None,
                is_alone: false,
                deadline: Instant::now() + NOTE_LIMIT,
                answer,
            },
            share,
        )?;
        let done = answered.await.map_err(|_| Fault::internal("a lane dropped a note"))??;
        Ok(done.after.first().and_then(|result| result.scalar()) == Some("t"))
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

pub(super) fn plan_of(row: &ChainRow) -> Result<Plan, Fault> {
    let unreadable = |error: serde_json::Error| Fault::internal(format!("the plan of chain {} can't be read: {error}", row.id));
    let definition = serde_json::from_value(row.plan.clone()).map_err(unreadable)?;
    let input: BTreeMap<String, Text> = serde_json::from_value(row.input.clone()).map_err(unreadable)?;
    Plan::new(definition, input).map_err(|error| Fault::internal(error.to_string()))
}

pub(super) fn input_json(input: &BTreeMap<String, Text>) -> String {
    serde_json::to_string(input).unwrap_or_default()
}

fn failure_of(json: &serde_json::Value) -> v1::Failure {
    let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    v1::Failure {
        code: text("code"),
        message: text("message"),
        help: text("help"),
        sqlstate: text("sqlstate"),
        detail: text("detail"),
        hint: text("hint"),
        ..v1::Failure::default()
    }
}
