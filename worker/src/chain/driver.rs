//! Drives one chain from its record to its end. Dropping a driver loses nothing: what counts lies at the roots.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rand::RngExt as _;
use rootward_proto::{
    Fault,
    v1::{self, RetryClass, reply},
};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{
    drivers::ChainHome,
    plan::{Plan, Resolved, Results, first_row},
    state::{Next, Record, Recorded, Task, next},
    store::Note,
};

/// Attempts of one step before the chain is parked.
const MAX_ATTEMPTS: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A peer that is away is asked this often at least.
const LONGEST_WAIT_FOR_PEER: Duration = Duration::from_millis(500);
/// How long one attempt waits for its answer.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Where a chain lies and what it is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub id: Uuid,
    pub partition: i32,
    pub entity: String,
    pub root_key: String,
    pub fingerprint: Vec<u8>,
    pub issued_at_ms: i64,
}

pub(super) struct Driver {
    pub home: Arc<ChainHome>,
    pub identity: Identity,
    pub plan: Plan,
    pub record: Record,
    pub results: Results,
    /// Attempts that earlier drivers made; counted on a recovery, so that a step that kills its worker ends by parking.
    pub attempts: u32,
    pub view: watch::Sender<v1::Chain>,
}

/// Why a chain can't go on by itself.
struct Halt {
    fault: Fault,
    task: Task,
    attempts: u32,
}

impl Driver {
    /// Goes on until the chain has ended or is parked or stuck, and writes that down at home.
    pub(super) async fn run(mut self) {
        let shape = self.plan.shape();
        loop {
            let step = next(&shape, &self.record);
            let halt = match step {
                Next::Run(tasks) => self.run_effects(tasks).await,
                Next::CallOff(tasks) => self.call_off(tasks).await,
                Next::Undo(tasks) => self.undo(tasks).await,
                Next::Completed => return self.end("completed").await,
                Next::Failed => return self.end("failed").await,
                Next::Compensated => return self.end("compensated").await,
            };
            if let Err(halt) = halt {
                return self.halt(halt).await;
            }
        }
    }

    async fn run_effects(&mut self, tasks: Vec<Task>) -> Result<(), Halt> {
        self.show("running", tasks.first().copied());
        let outcomes = join_all(tasks.iter().map(|task| self.one(*task, false, false))).await;
        let mut halted = None;
        for (task, outcome) in tasks.into_iter().zip(outcomes) {
            match outcome {
                Ok((Ok(response), place)) => {
                    self.results.insert(task, first_row(&response));
                    self.record.effects.insert(task, Recorded::Done);
                    self.show_step(task, "do", "done", &place, Some(&response), None);
                }
                // A refusal that stands at its root: the way goes back from here.
                Ok((Err(fault), place)) => {
                    let recorded = if fault.code() == "RW4005" { Recorded::Tombstone } else { Recorded::Failed };
                    self.record.effects.insert(task, recorded);
                    self.show_step(
                        task,
                        "do",
                        if recorded == Recorded::Failed { "failed" } else { "tombstone" },
                        &place,
                        None,
                        Some(&fault),
                    );
                    self.view.send_modify(|view| view.failure = Some(fault.into_wire()));
                }
                Err(halt) => halted = Some(halt),
            }
        }
        halted.map_or(Ok(()), Err)
    }

    async fn call_off(&mut self, tasks: Vec<Task>) -> Result<(), Halt> {
        self.show("compensating", tasks.first().copied());
        let outcomes = join_all(tasks.iter().map(|task| self.one(*task, false, true))).await;
        for (task, outcome) in tasks.into_iter().zip(outcomes) {
            let (answer, place) = outcome?;
            // A tombstone of ours is answered without a stored outcome; else the step had been decided before.
            let recorded = match &answer {
                Ok(response) if response.from_stored_outcome => Recorded::Done,
                Ok(_) => Recorded::Tombstone,
                Err(fault) if fault.code() == "RW4005" => Recorded::Tombstone,
                Err(_) => Recorded::Failed,
            };
            self.record.effects.insert(task, recorded);
            if let (Recorded::Done, Ok(response)) = (recorded, &answer) {
                self.results.insert(task, first_row(response));
            }
            let name = match recorded {
                Recorded::Done => "done",
                Recorded::Failed => "failed",
                Recorded::Tombstone => "tombstone",
            };
            self.show_step(task, "do", name, &place, answer.as_ref().ok(), answer.as_ref().err());
        }
        Ok(())
    }

    async fn undo(&mut self, tasks: Vec<Task>) -> Result<(), Halt> {
        self.show("compensating", tasks.first().copied());
        let outcomes = join_all(tasks.iter().map(|task| self.one(*task, true, false))).await;
        for (task, outcome) in tasks.into_iter().zip(outcomes) {
            let (answer, place) = outcome?;
            match answer {
                Ok(response) => {
                    self.record.undone.insert(task, ());
                    self.show_step(task, "undo", "done", &place, Some(&response), None);
                }
                Err(fault) => return Err(Halt { fault, task, attempts: 1 }),
            }
        }
        Ok(())
    }

    /// Runs one task until it is decided. The outer error is a halt; the inner one a refusal that stands at the root.
    async fn one(&self, task: Task, is_undo: bool, is_tombstone: bool) -> Result<(Result<v1::CallResponse, Fault>, Resolved), Halt> {
        let halt = |fault, attempts| Halt { fault, task, attempts };
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        let mut wait_for_peer = FIRST_PAUSE;
        loop {
            let schema = self.home.routing.catalog().map(|catalog| catalog.schema.clone());
            let schema = schema.map_err(|fault| halt(fault, attempts))?;
            let resolved = self
                .plan
                .resolve(&schema, task, is_undo, &self.results)
                .map_err(|error| halt(Fault::refused("RW4006", error.to_string(), "bring the definition back, then replay"), attempts))?;
            let execute = self.message(task, is_undo, is_tombstone, &resolved);
            let fault = match self.home.routing.try_once(&execute, Instant::now() + ATTEMPT_LIMIT).await {
                Ok(reply::Result::Executed(response)) => return Ok((Ok(response), resolved)),
                Ok(_) => Fault::internal("a step was answered with something that is no step's answer"),
                Err(fault) => fault,
            };
            match fault.retry_class() {
                // Only what stands at the root may turn the chain back: else the step could still take effect after its
                // predecessors were undone. The rest waits for a person, such as arguments that a new schema doesn't take.
                RetryClass::Refused if !stands_at_root(&fault, is_tombstone) => return Err(halt(fault, attempts + 1)),
                RetryClass::Refused if !is_tombstone && resolved.parks_on_refusal && fault.code() != "RW4005" => {
                    return Err(halt(fault, attempts + 1));
                }
                RetryClass::Refused => return Ok((Err(fault), resolved)),
                // Never reached it: no attempt. It goes on at once when the peer is back.
                RetryClass::Reroute => {
                    self.home.routing.refresh();
                    sleep(wait_for_peer).await;
                    wait_for_peer = (wait_for_peer * 2).min(LONGEST_WAIT_FOR_PEER);
                    continue;
                }
                RetryClass::Retry if is_away(&fault) => {
                    sleep(wait_for_peer).await;
                    wait_for_peer = (wait_for_peer * 2).min(LONGEST_WAIT_FOR_PEER);
                    continue;
                }
                _ => attempts += 1,
            }
            if attempts + self.attempts >= MAX_ATTEMPTS {
                return Err(halt(fault, attempts + self.attempts));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn message(&self, task: Task, is_undo: bool, is_tombstone: bool, resolved: &Resolved) -> v1::Execute {
        let direction = if is_undo { v1::Direction::Undo } else { v1::Direction::Do };
        v1::Execute {
            transaction: resolved.transaction.clone(),
            entity: resolved.entity.clone(),
            root_key: resolved.root_key.clone(),
            arguments: resolved.arguments.iter().map(|(name, text)| v1::TextArgument { name: name.clone(), text: text.clone() }).collect(),
            request_id: self.identity.id.as_bytes().to_vec(),
            step: task.step,
            element: task.element,
            direction: direction.into(),
            issued_at_ms: self.identity.issued_at_ms,
            chain_fingerprint: self.identity.fingerprint.clone(),
            refusal_is_no_outcome: resolved.parks_on_refusal,
            is_tombstone,
            ..v1::Execute::default()
        }
    }

    async fn end(self, status: &'static str) {
        // Every outcome is durable at its root, so the end is a fact already; home hears of it when there is company.
        let note = Note { from: &["running", "compensating"], status, error: self.error_json(), ..Note::default() };
        self.show(status, None);
        self.home.note_lazily(&self.identity, note).await;
    }

    async fn halt(self, halt: Halt) {
        let is_back = self.record.is_called_back || self.record.effects.values().any(|outcome| *outcome != Recorded::Done);
        let status = if is_back && !self.plan.shape().is_past_pivot(&self.record) { "stuck" } else { "parked" };
        let step = self.step_text(halt.task);
        let error = error_json(&halt.fault);
        let note = Note {
            from: &["running", "compensating"],
            status,
            step: Some(step.clone()),
            error: Some(error),
            attempts: halt.attempts,
            event: None,
        };
        // Whoever waits is told only what is durable.
        let noted = self.home.note(&self.identity, note).await;
        tracing::info!(chain = %self.identity.id, status, step, fault = %halt.fault, "a chain waits for a person");
        if noted.is_ok() {
            self.view.send_modify(|view| {
                view.status = status.to_owned();
                view.step = step;
                view.attempts = halt.attempts;
                view.failure = Some(halt.fault.into_wire());
            });
        }
    }

    fn error_json(&self) -> Option<String> {
        self.view.borrow().failure.clone().map(|failure| error_json(&Fault::from(failure)))
    }

    fn step_text(&self, task: Task) -> String {
        let name = self.plan.step(task).map(|step| step.name.as_str()).unwrap_or_default();
        format!("{}/{} {name}", task.step + 1, self.plan.definition.steps.len())
    }

    fn show(&self, status: &str, task: Option<Task>) {
        self.view.send_modify(|view| {
            view.status = status.to_owned();
            view.step = task.map(|task| self.step_text(task)).unwrap_or_default();
        });
    }

    fn show_step(
        &self,
        task: Task,
        direction: &str,
        outcome: &str,
        resolved: &Resolved,
        response: Option<&v1::CallResponse>,
        fault: Option<&Fault>,
    ) {
        let step = v1::ChainStep {
            name: self.plan.step(task).map(|step| step.name.clone()).unwrap_or_default(),
            step: task.step,
            element: task.element,
            direction: direction.to_owned(),
            outcome: outcome.to_owned(),
            entity: resolved.entity.clone(),
            root_key: resolved.root_key.clone(),
            peer: response.map(|response| response.peer.clone()).unwrap_or_default(),
            transaction: resolved.transaction.clone(),
            worker_us: response.map_or(0, |response| response.worker_us),
            at: String::new(),
            failure: fault.map(|fault| fault.as_wire().clone()),
        };
        self.view.send_modify(|view| view.steps.push(step));
    }
}

/// The refusals that say: the peer could not take it now. They are no attempts.
fn is_away(fault: &Fault) -> bool {
    matches!(fault.code(), "RW5002" | "RW5004" | "RW3001" | "RW3103" | "RW2006")
}

/// Whether a refusal is an outcome at the step's root: one that was stored before, or one that a lane has just recorded.
/// What is refused before it reaches a lane leaves nothing there, and a tombstone is refused by a stored outcome only.
fn stands_at_root(fault: &Fault, is_tombstone: bool) -> bool {
    let is_recorded_by_lane = matches!(fault.code(), "RW3101" | "RW2004" | "RW3108");
    fault.as_wire().from_stored_outcome || (is_recorded_by_lane && !is_tombstone)
}

pub(super) fn error_json(fault: &Fault) -> String {
    let failure = fault.as_wire();
    serde_json::json!({
        "code": failure.code, "message": failure.message, "help": failure.help, "sqlstate": failure.sqlstate,
        "detail": failure.detail, "hint": failure.hint,
    })
    .to_string()
}

async fn sleep(pause: Duration) {
    let jittered = pause.mul_f64(rand::rng().random_range(0.8..1.2));
    tokio::time::sleep(jittered).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_stands_at_the_root_turns_a_chain_back() {
        let fresh = |code| Fault::refused(code, "", "");
        for code in ["RW3101", "RW2004", "RW3108"] {
            assert!(stands_at_root(&fresh(code), false), "{code}");
            assert!(!stands_at_root(&fresh(code), true), "{code}");
        }
        // No transaction, other arguments, another root, an id of somebody else's: nothing was recorded.
        for code in ["RW2001", "RW2002", "RW2003", "RW2007", "RW3106", "RW3107"] {
            assert!(!stands_at_root(&fresh(code), false) && !stands_at_root(&fresh(code), true), "{code}");
        }
        assert!(stands_at_root(&fresh("RW3101").from_stored_outcome(), true));
        assert!(stands_at_root(&fresh("RW4005").from_stored_outcome(), false));
    }
}
