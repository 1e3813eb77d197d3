//! What people ask of one chain: show it, change it, send it a signal. Each change is judged by the same table as the
//! chain's own steps, and durable before it is answered.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, reply},
};
use rootward_router::check_arguments;
use rootward_schema::{Schema, Text, Wait};
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::{
    attempt::step_message,
    drivers::{ChainHome, Identity, identity_of, plan_of},
    plan::{Plan, Results, first_row},
    recover::note_from,
    show,
    state::{CalledBack, Event, Illegal, Next, Record, Recorded, Standing, Status, Task, legal_verbs, next, transition},
    store::{self, ChainFilter, ChainRow, Deed, Note, StoreError},
};
use crate::clock;

/// How long a look at one root may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How often a change is tried while others change the chain too.
const MOST_TRIES: u32 = 5;

/// What a person wants done.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub verb: Event,
    pub reason: String,
    pub by: String,
    /// The step to be skipped.
    pub skip: Option<Skip>,
}

/// A step that a person counts as done.
#[derive(Debug, Clone)]
pub(crate) struct Skip {
    pub step: String,
    pub element: u32,
    pub result: BTreeMap<String, Text>,
}

/// What the roots of a chain's steps say.
pub(super) struct Looked {
    pub record: Record,
    pub results: Results,
    pub steps: Vec<v1::ChainStep>,
}

impl Looked {
    /// A root that does not answer, if there is one.
    pub(super) fn unknown(&self) -> Option<&v1::ChainStep> {
        self.steps.iter().find(|step| step.outcome == "unknown")
    }
}

impl ChainHome {
    /// The newest chains at home here that match.
    pub(crate) async fn list(&self, filter: &ChainFilter, limit: u32) -> FaultResult<v1::ListChainsResponse> {
        self.settle().await;
        let rows = store::list(&self.pool, filter, i64::from(limit)).await.map_err(|error| unread(&error))?;
        let running = ChainFilter { statuses: vec!["running".to_owned(), "compensating".to_owned()], ..ChainFilter::default() };
        let [matched, running] = [filter, &running].map(|filter| store::count_by(&self.pool, filter, "status"));
        let total = |counts: BTreeMap<String, u64>| counts.values().sum();
        Ok(v1::ListChainsResponse {
            chains: rows.iter().map(|row| show::chain(&self.peer, row)).collect(),
            matched: total(matched.await.map_err(|error| unread(&error))?),
            running: total(running.await.map_err(|error| unread(&error))?),
            missing_peers: Vec::new(),
        })
    }

    /// How many chains at home here match, by status.
    pub(crate) async fn count(&self, filter: &ChainFilter) -> FaultResult<v1::CountChainsResponse> {
        self.settle().await;
        let counts = store::count_by(&self.pool, filter, "status").await.map_err(|error| unread(&error))?;
        Ok(v1::CountChainsResponse { counts: counts.into_iter().collect(), missing_peers: Vec::new() })
    }

    /// Waits a moment for ends that are only known in memory to become rows, so that a list shows them.
    pub(super) async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.drivers.has_ended_ones() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One chain with its steps as their roots have them.
    pub(crate) async fn show(&self, id: Uuid) -> FaultResult<v1::Chain> {
        self.settle().await;
        let row = self.row(id).await?;
        let schema = self.routing.catalog()?.schema.clone();
        let plan = plan_of(&row)?;
        let mut chain = show::chain(&self.peer, &row);
        chain.steps = self.look_at_steps(&row, &plan, &schema).await.steps;
        let events = store::events(&self.pool, row.partition, id).await.map_err(|error| unread(&error))?;
        chain.events = events.into_iter().map(|[at, event, reason, by]| v1::ChainEvent { at, event, reason, by }).collect();
        Ok(chain)
    }

    pub(super) async fn row(&self, id: Uuid) -> FaultResult<ChainRow> {
        let row = store::get(&self.pool, id).await.map_err(|error| unread(&error))?;
        row.filter(|row| !row.is_collected).ok_or_else(|| no_chain(id))
    }

    /// Whether the chain at home here is this one, with the same input.
    pub(crate) async fn is_same_chain(&self, identity: &Identity) -> FaultResult<bool> {
        let row = store::get(&self.pool, identity.id).await.map_err(|error| unread(&error))?;
        Ok(row.is_some_and(|row| {
            row.fingerprint == identity.fingerprint && row.entity == identity.entity && row.root_key == identity.root_key
        }))
    }

    /// Asks the root of every task for its outcome; nothing is written.
    pub(super) async fn look_at_steps(&self, row: &ChainRow, plan: &Plan, schema: &Schema) -> Looked {
        let shape = plan.shape();
        let record = Record { called_back: row.called_back, ..Record::default() };
        let mut looked = Looked { record, results: Results::new(), steps: Vec::new() };
        for (at, step) in shape.steps().iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let tasks: Vec<Task> = (0..step.elements).map(|element| Task { step: number, element }).collect();
            let looks = tasks.iter().map(|task| self.look(row, plan, schema, *task, false, &looked.results));
            for (task, (shown, response)) in tasks.iter().zip(join_all(looks).await) {
                match shown.outcome.as_str() {
                    "done" => looked.record.effects.insert(*task, Recorded::Done),
                    "skipped" => looked.record.effects.insert(*task, Recorded::Skipped),
                    "failed" => looked.record.effects.insert(*task, Recorded::Failed),
                    "tombstone" => looked.record.effects.insert(*task, Recorded::Tombstone),
                    _ => None,
                };
                if let Some(response) = response {
                    looked.results.insert(*task, first_row(&response));
                }
                looked.steps.push(shown);
            }
        }
        let undoable: Vec<Task> = shape.all_tasks().filter(|task| shape.is_undoable(*task, &looked.record)).collect();
        let looks = undoable.iter().rev().map(|task| self.look(row, plan, schema, *task, true, &looked.results));
        for (task, (shown, _)) in undoable.iter().rev().zip(join_all(looks).await) {
            if matches!(shown.outcome.as_str(), "done" | "skipped") {
                looked.record.undone.insert(*task);
            }
            if shown.outcome != "open" {
                looked.steps.push(shown);
            }
        }
        looked
    }

    async fn look(
        &self,
        row: &ChainRow,
        plan: &Plan,
        schema: &Schema,
        task: Task,
        is_undo: bool,
        results: &Results,
    ) -> (v1::ChainStep, Option<v1::CallResponse>) {
        let direction = if is_undo { "undo" } else { "do" };
        let Ok(resolved) = plan.place(schema, task, is_undo, results) else {
            let open = v1::ChainStep {
                name: plan.step(task).map(|step| step.name.clone()).unwrap_or_default(),
                step: task.step,
                element: task.element,
                direction: direction.to_owned(),
                outcome: "open".to_owned(),
                ..v1::ChainStep::default()
            };
            return (open, None);
        };
        let wire_direction = if is_undo { v1::Direction::Undo } else { v1::Direction::Do };
        let execute = v1::Execute { is_look_up: true, ..step_message(&identity_of(row), task, wire_direction, &resolved) };
        let step = |outcome: &str, response: Option<&v1::CallResponse>, fault: Option<&Fault>| {
            let mut step = show::step(plan, task, direction, outcome, &resolved, response, fault);
            if let Ok(catalog) = self.routing.catalog() {
                step.peer = catalog.owner_of(&step.entity, &step.root_key).map(|owner| owner.peer.id.clone()).unwrap_or_default();
            }
            step
        };
        match self.routing.try_once(&execute, Instant::now() + LOOK_LIMIT).await {
            Ok(reply::Result::Executed(response)) if response.from_stored_outcome => {
                let outcome = if response.is_skipped { "skipped" } else { "done" };
                (step(outcome, Some(&response), None), Some(response))
            }
            Ok(_) => (step("open", None, None), None),
            Err(fault) => {
                let outcome = match (fault.as_wire().from_stored_outcome, fault.code()) {
                    (true, "RW4005") => "tombstone",
                    (true, _) => "failed",
                    (false, _) => "unknown",
                };
                (step(outcome, None, Some(&fault)), None)
            }
        }
    }

    /// Does what a person decided to one chain. Durable when it returns; the chain then goes on by itself. Returns whether all
    /// its roots answered: if not, it goes on when they do.
    ///
    /// # Errors
    /// RW4003 if the chain's state does not allow it, with what is allowed; RW5002 if that can't be told now.
    pub(crate) async fn change(self: &Arc<Self>, id: Uuid, change: &Change) -> FaultResult<bool> {
        if change.reason.trim().is_empty() && matches!(change.verb, Event::Abandon | Event::Compensate | Event::Cancel | Event::Skip) {
            let message = format!("`{}` wants a reason", change.verb.name());
            return Err(Fault::refused("RW4004", message, "say why with --reason; it is recorded with the chain"));
        }
        let _pass = self.gate.pass().await;
        // What a driver wrote just before it was stopped may come in between: then the chain is judged anew.
        for _ in 1..MOST_TRIES {
            match self.try_change(id, change).await {
                Err(fault) if fault.code() == "RW4003" && fault.retry_class() == RetryClass::Retry => {}
                done => return done,
            }
        }
        self.try_change(id, change).await
    }

    async fn try_change(self: &Arc<Self>, id: Uuid, change: &Change) -> FaultResult<bool> {
        let row = self.row(id).await?;
        let standing = Standing::default();
        transition(row.status, change.verb, &standing).map_err(|why| illegal(&row, change.verb, &why))?;
        let row = if matches!(row.status, Status::Running | Status::Waiting | Status::Scheduled) {
            // Nobody drives it while it is judged. What was sent already is found at its root.
            self.drivers.stop(id).await;
            self.row(id).await?
        } else {
            row
        };
        let changed = self.change_row(&row, change).await;
        if changed.is_err() && row.status.is_driven() {
            self.recover_row(&row);
        }
        changed
    }

    async fn change_row(self: &Arc<Self>, row: &ChainRow, change: &Change) -> FaultResult<bool> {
        let verb = change.verb;
        let mut standing = Standing::default();
        let mut is_asked = false;
        if matches!(verb, Event::Cancel | Event::Compensate | Event::Skip) {
            let plan = plan_of(row)?;
            let shape = plan.shape();
            let schema = self.routing.catalog()?.schema.clone();
            let looked = self.look_at_steps(row, &plan, &schema).await;
            if verb == Event::Skip {
                self.skip(row, &plan, &schema, &looked, change).await?;
            } else {
                // Whoever started it may have been told of its end already: only its roots know. A cancel can wait for them.
                is_asked = match looked.unknown() {
                    Some(_) if verb == Event::Cancel => true,
                    Some(step) => {
                        return Err(Fault::retry(
                            "RW5002",
                            format!("chain {}: the root of step `{}` does not answer, so nobody knows how far it is", row.id, step.name),
                            "nothing was changed; `cancel` is kept until it answers, and `rootward peer list` shows which peer is away",
                        ));
                    }
                    None => false,
                };
                standing.passed_pivot =
                    shape.passed_pivot(&looked.record).and_then(|at| plan.definition.steps.get(at)).map(|step| step.name.clone());
                if row.called_back.is_none() && next(&shape, &looked.record) == Next::Completed {
                    let illegal = illegal(&ChainRow { status: Status::Completed, ..row.clone() }, verb, &Illegal::Status);
                    return Err(illegal);
                }
            }
        }
        let status = transition(row.status, verb, &standing).map_err(|why| illegal(row, verb, &why))?;
        let called_back = match verb {
            Event::Cancel if is_asked => Some(CalledBack::Asked),
            Event::Cancel => Some(CalledBack::Cancelled),
            Event::Compensate => Some(CalledBack::Compensated),
            _ => None,
        };
        let is_driven = status.is_driven();
        let note = Note {
            called_back,
            error: if matches!(verb, Event::Abandon | Event::Pause) { row.error.as_ref().map(ToString::to_string) } else { None },
            attempts: 0,
            recoveries: u32::from(is_driven),
            next_attempt_at_ms: is_driven.then(clock::now_ms),
            ended_at_ms: status.is_ended().then(clock::now_ms),
            deed: Some(Deed {
                event: if is_asked { "cancel asked" } else { verb.name() },
                reason: change.reason.clone(),
                by: change.by.clone(),
            }),
            ..note_from(row, status, self.new_expiry_ms())
        };
        if !self.note(&identity_of(row), note.clone()).await? {
            return Err(Fault::retry(
                "RW4003",
                format!("chain {} was changed by somebody else just now", row.id),
                format!("see `rootward chain show {}`", row.id),
            ));
        }
        if is_driven {
            // A deadline that has passed is lifted with the row's.
            let deadline_ms = row.deadline_ms.filter(|deadline| *deadline > clock::now_ms() || called_back.is_some());
            self.drive_row(&ChainRow { deadline_ms, ..row.clone() }, note, true)?;
        }
        Ok(!is_asked)
    }

    /// Writes at the step's root that a person counts it as done.
    async fn skip(&self, row: &ChainRow, plan: &Plan, schema: &Schema, looked: &Looked, change: &Change) -> FaultResult<()> {
        let wrong = |message: String, help: String| Err(Fault::refused("RW4004", message, help));
        let show_help = format!("see `rootward chain show {}`", row.id);
        let Some(skip) = &change.skip else {
            return wrong("no step is named".to_owned(), "name it with --step".to_owned());
        };
        let Some((step, _)) = plan.step_named(&skip.step) else {
            return wrong(format!("chain {} has no step `{}`", row.id, skip.step), show_help);
        };
        let task = Task { step, element: skip.element };
        let is_undo = row.status == Status::Stuck;
        let may_be = match next(&plan.shape(), &looked.record) {
            Next::Run(tasks) if !is_undo => tasks,
            Next::Undo(tasks) if is_undo => tasks,
            _ => Vec::new(),
        };
        if !may_be.contains(&task) {
            let names = may_be.iter().map(|task| plan.step_text(*task)).collect::<Vec<_>>().join(", ");
            return wrong(format!("chain {} does not stand at step `{}`", row.id, skip.step), format!("it stands at {names}; {show_help}"));
        }
        let unresolved = |error: super::plan::PlanError| Fault::refused("RW4006", error.to_string(), "bring the definition back first");
        let resolved = plan.place(schema, task, is_undo, &looked.results).map_err(unresolved)?;
        let direction = if is_undo { v1::Direction::Undo } else { v1::Direction::Do };
        let execute = v1::Execute {
            mark: Some(show::mark(skip.result.clone(), true)),
            expires_at_ms: self.new_expiry_ms(),
            ..step_message(&identity_of(row), task, direction, &resolved)
        };
        self.routing.execute(Box::new(execute), Instant::now() + LOOK_LIMIT * 2).await.map(|_| ())
    }

    /// Delivers a signal: its outcome at the chain's home, and then the chain goes on. Returns whether an earlier one counts.
    ///
    /// # Errors
    /// RW4003 if the chain has ended, RW4004 if it has no such signal or the payload doesn't fit, RW4010 if it came too late.
    pub(crate) async fn signal(self: &Arc<Self>, id: Uuid, step: &str, payload: &BTreeMap<String, Text>) -> FaultResult<bool> {
        let _pass = self.gate.pass().await;
        let row = self.row(id).await?;
        if row.status.is_ended() {
            let message = format!("chain {id} is {} since {}: it waits for nothing", row.status.name(), row.updated_at);
            return Err(Fault::refused("RW4003", message, format!("see `rootward chain show {id}`")));
        }
        let plan = plan_of(&row)?;
        let found = plan.step_named(step).and_then(|(at, step)| match &step.wait {
            Some(Wait::Signal { payload, .. }) => Some((Task { step: at, element: 0 }, payload.clone())),
            _ => None,
        });
        let Some((task, declared)) = found else {
            let names = plan.definition.steps.iter().filter(|step| matches!(step.wait, Some(Wait::Signal { .. })));
            let names = names.map(|step| format!("`{}`", step.name)).collect::<Vec<_>>().join(", ");
            let help = if names.is_empty() { "its definition has no signal".to_owned() } else { format!("it waits for {names}") };
            return Err(Fault::refused("RW4004", format!("chain {id} waits for no signal `{step}`"), help));
        };
        let payload = check_arguments(step, &declared, payload)?;
        let Some(resolved) = plan.resolve_wait(task) else { return Err(Fault::internal("a signal that is no wait")) };
        let execute = v1::Execute {
            mark: Some(show::mark(payload, false)),
            expires_at_ms: self.new_expiry_ms(),
            ..step_message(&identity_of(&row), task, v1::Direction::Do, &resolved)
        };
        let answer = self.routing.execute(Box::new(execute), Instant::now() + LOOK_LIMIT * 2).await?.result;
        let is_repeated = matches!(answer, reply::Result::Executed(response) if response.from_stored_outcome);
        // Its outcome is durable: whoever drives the chain finds it. If nobody does, somebody has to be woken.
        if self.row(id).await?.status == Status::Waiting {
            // A driver that is about to leave would keep the next one away.
            self.drivers.stop(id).await;
            let row = self.row(id).await?;
            if matches!(row.status, Status::Waiting | Status::Running) {
                self.recover_row(&row);
            }
        } else {
            self.drivers.poke(id);
        }
        Ok(is_repeated)
    }
}

/// Why the table of transitions does not allow it, and what it allows.
fn illegal(row: &ChainRow, verb: Event, why: &Illegal) -> Fault {
    let id = row.id;
    let name = verb.name();
    match why {
        Illegal::Pivot(pivot) => Fault::refused(
            "RW4003",
            format!("chain {id} has passed its pivot `{pivot}`: it only goes forward"),
            format!("let it end, or repair what it waits for and `rootward chain replay {id}`"),
        ),
        Illegal::Status => {
            let verbs: Vec<&str> = legal_verbs(row.status, &Standing::default()).into_iter().map(Event::name).collect();
            let help = match (row.status, verbs.is_empty()) {
                (Status::Running | Status::Compensating, _) => format!("it goes on by itself; watch it with `rootward chain watch {id}`"),
                (_, true) => format!("see it with `rootward chain show {id}`; to do its work again: `rootward chain fork {id}`"),
                (_, false) => format!("what can be done with it: {}", verbs.join(", ")),
            };
            let message = format!("chain {id} is {} since {}: nothing to {name}", row.status.name(), row.updated_at);
            Fault::refused("RW4003", message, help)
        }
    }
}

/// The code for a chain whose home is just moving: nobody can say anything about it for a moment.
pub(crate) const MOVING: &str = "RW5047";

pub(super) fn no_chain(id: Uuid) -> Fault {
    Fault::new("RW4001", RetryClass::NotFound, format!("there is no chain {id}"), "see `rootward chain list`")
}

pub(super) fn unread(error: &StoreError) -> Fault {
    if let StoreError::Moving(_) = error {
        return Fault::retry(MOVING, error.to_string(), "nothing was changed; try again in a moment");
    }
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Fault::retry("RW5002", format!("{error}: {cause}"), "nothing was changed; try again")
}
