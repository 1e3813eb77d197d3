//! Drives one chain from its record to its end, or to where it waits. Dropping a driver loses nothing: what counts lies at
//! the roots.

mod notes;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rootward_proto::{Fault, v1};
use rootward_schema::{OnExhausted, Wait};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{Attempt, Kind, LONGEST_PAUSE_IN_PLACE, Settled, millis},
    drivers::{ChainHome, Identity},
    plan::{Plan, Resolved, Results, first_row},
    show,
    state::{CalledBack, Event, Next, Record, Recorded, Shape, Status, Task, next},
};
use crate::clock;

/// Tasks of one chain that are under way at once: a huge one leaves the lanes to others too.
const MAX_IN_FLIGHT: usize = 64;

/// What a chain's row says beside its plan.
#[derive(Debug, Clone)]
pub(super) struct Standpoint {
    pub status: Status,
    pub revision: i32,
    pub deadline_ms: Option<i64>,
    /// By step: when its timer is due or its signal too late.
    pub waits: BTreeMap<u32, i64>,
    /// Attempts that earlier drivers made at the step where it stands.
    pub attempts: u32,
    /// How often a driver was lost since the chain last came on.
    pub recoveries: u32,
    pub expires_at_ms: i64,
}

pub(super) struct Driver {
    pub home: Arc<ChainHome>,
    pub identity: Arc<Identity>,
    pub plan: Arc<Plan>,
    pub record: Record,
    pub results: Arc<Results>,
    pub at: Standpoint,
    pub view: watch::Sender<v1::Chain>,
    /// Somebody delivered a signal.
    pub poke: Arc<Notify>,
    /// A driver before this one may have told of the chain's end without writing it down.
    pub is_recovered: bool,
}

/// Why a chain can't go on by itself.
struct Halt {
    fault: Fault,
    task: Task,
    attempts: u32,
}

/// A task whose next attempt is far away.
struct Rest {
    fault: Fault,
    attempts: u32,
    until_ms: i64,
}

type Flight = FuturesUnordered<Pin<Box<dyn Future<Output = (Task, Kind, Settled)> + Send>>>;

/// What is under way and what stands still.
#[derive(Default)]
struct Work {
    flight: Flight,
    tasks: BTreeSet<Task>,
    is_back: bool,
    give_up: CancellationToken,
    resting: BTreeMap<Task, Rest>,
    /// Signals that had not come when we looked.
    absent: BTreeSet<Task>,
    halt: Option<Halt>,
    /// The row says `waiting`, but the chain goes on.
    has_woken: bool,
}

impl Driver {
    /// Goes on until the chain has ended, waits for a moment that is far away, or waits for a person, and writes that down
    /// at home.
    pub(super) async fn run(mut self) {
        let shape = self.plan.shape();
        let mut work = Work::default();
        loop {
            let now = clock::now_ms();
            let next = next(&shape, &self.record);
            let is_back = matches!(next, Next::CallOff(_) | Next::Undo(_) | Next::Compensated | Next::Cancelled | Next::Failed);
            let is_late = !is_back && self.is_late(&shape, now);
            // What is under way in the old direction ends first. Nothing that was sent is cancelled, but nothing is sent again.
            if !work.flight.is_empty() && (is_back != work.is_back || is_late || work.halt.is_some()) {
                work.give_up.cancel();
                if let Some(done) = work.flight.next().await {
                    self.apply(&mut work, done);
                }
                continue;
            }
            if is_back != work.is_back {
                // The way forward halted, but a refusal has turned the chain back meanwhile: that decides.
                work = Work { is_back, ..Work::default() };
            }
            if work.give_up.is_cancelled() {
                work.give_up = CancellationToken::new();
            }
            // Until the row says so, a crash would leave the chain asleep.
            if std::mem::take(&mut work.has_woken) && !self.note_firmly(self.note_of(self.at.status)).await {
                return;
            }
            if is_late && work.halt.is_none() {
                match self.look_before_turning(&mut work, &next, now).await {
                    Looked::All => {}
                    Looked::Some => continue,
                    Looked::Gone => return,
                }
                let fault = Fault::refused("RW4007", "the chain's deadline has passed", "start it again, with more time if need be");
                if !self.turn_back(CalledBack::Late, fault).await {
                    return;
                }
                continue;
            }
            if let Some(halt) = work.halt.take() {
                if !is_back && self.fails_when_exhausted(&shape, halt.task, &halt.fault) {
                    match self.look_before_turning(&mut work, &next, now).await {
                        Looked::All => {}
                        Looked::Some => {
                            // It still stands unless a root knew more of its step.
                            work.halt = Some(halt).filter(|halt| !self.record.effects.contains_key(&halt.task));
                            continue;
                        }
                        Looked::Gone => return,
                    }
                    if !self.turn_back(CalledBack::Exhausted, halt.fault).await {
                        return;
                    }
                    continue;
                }
                return self.halt(halt).await;
            }
            if is_back && self.at.status != Status::Compensating {
                self.note_turn();
            }
            if matches!(next, Next::Run(_)) && !self.go_on(&shape).await {
                return;
            }
            let wake = match next {
                Next::Run(tasks) => self.start_forward(&mut work, tasks, now),
                Next::CallOff(tasks) => self.start_back(&mut work, tasks, &Kind::CallOff, now),
                Next::Undo(tasks) => self.start_back(&mut work, tasks, &Kind::Undo, now),
                Next::Completed => return self.end(Event::Complete).await,
                Next::Failed => return self.end(Event::Fail).await,
                Next::Cancelled => return self.end(Event::CallOff).await,
                Next::Compensated => return self.end(Event::Undo).await,
                Next::Blocked(task) => {
                    let fault = Fault::internal("a step behind the pivot was refused for good");
                    return self.halt(Halt { fault, task, attempts: 0 }).await;
                }
            };
            let wake = wake.into_iter().chain(self.at.deadline_ms.filter(|deadline| *deadline > now && !is_back)).min();
            if work.flight.is_empty() {
                let pause = wake.map(|wake| wake - now);
                if pause.is_none_or(|pause| pause > millis(LONGEST_PAUSE_IN_PLACE)) {
                    match self.leave(&mut work, wake).await {
                        Leave::Gone => return,
                        Leave::LookAgain => continue,
                    }
                }
            }
            tokio::select! {
                Some(done) = work.flight.next() => self.apply(&mut work, done),
                () = sleep_until(wake, now) => {}
                () = self.poke.notified() => work.absent.clear(),
            }
        }
    }

    /// Asks the roots of all tasks that may have started and have no outcome here: a driver that was lost may have told of
    /// the chain's end already, and what was told stays.
    async fn look_before_turning(&mut self, work: &mut Work, next: &Next, now: i64) -> Looked {
        if !self.is_recovered {
            return Looked::All;
        }
        let Next::Run(open) = next else { return Looked::All };
        let unseen: Vec<Task> = open.iter().copied().filter(|task| !work.absent.contains(task)).take(MAX_IN_FLIGHT).collect();
        if unseen.is_empty() {
            return Looked::All;
        }
        work.resting.clear();
        for task in unseen {
            self.launch(work, task, Kind::Look, 0);
        }
        while let Some(done) = work.flight.next().await {
            self.apply(work, done);
        }
        if work.resting.is_empty() {
            return Looked::Some;
        }
        // A root that does not answer may have what is missing: the scan comes back to it.
        self.leave(work, Some(now + millis(LONGEST_PAUSE_IN_PLACE))).await;
        Looked::Gone
    }

    fn is_late(&self, shape: &Shape, now: i64) -> bool {
        self.at.deadline_ms.is_some_and(|deadline| deadline <= now)
            && self.record.called_back.is_none()
            && shape.passed_pivot(&self.record).is_none()
            && !matches!(next(shape, &self.record), Next::Completed)
    }

    fn fails_when_exhausted(&self, shape: &Shape, task: Task, fault: &Fault) -> bool {
        // A refusal that parks is no exhaustion.
        let is_exhausted = fault.retry_class() != v1::RetryClass::Refused;
        let fails = self.plan.step(task).is_some_and(|step| step.on_exhausted == OnExhausted::Fail);
        is_exhausted && fails && shape.passed_pivot(&self.record).is_none()
    }

    /// Starts what can start; returns when the next thing that rests is due.
    fn start(&self, work: &mut Work, tasks: Vec<Task>, kind: &Kind, now: i64) -> Option<i64> {
        let mut wake: Option<i64> = None;
        for task in tasks {
            let rested = work.resting.get(&task).map(|rest| (rest.until_ms, rest.attempts));
            match rested {
                Some((until, _)) if until > now => wake = wake.into_iter().chain([until]).min(),
                _ if work.tasks.contains(&task) => {}
                _ if work.tasks.len() >= MAX_IN_FLIGHT => break,
                _ => {
                    work.resting.remove(&task);
                    self.launch(work, task, kind.clone(), rested.map_or(self.at.attempts, |(_, attempts)| attempts));
                }
            }
        }
        wake
    }

    fn start_back(&self, work: &mut Work, tasks: Vec<Task>, kind: &Kind, now: i64) -> Option<i64> {
        self.show(&tasks);
        self.start(work, tasks, kind, now)
    }

    fn start_forward(&mut self, work: &mut Work, tasks: Vec<Task>, now: i64) -> Option<i64> {
        let (waits, calls): (Vec<Task>, Vec<Task>) = tasks.into_iter().partition(|task| self.plan.wait(*task).is_some());
        self.show(if calls.is_empty() { &waits } else { &calls });
        let mut wake = self.start(work, calls, &Kind::Effect, now);
        let in_flight = work.tasks.clone();
        for task in waits.into_iter().filter(|task| !in_flight.contains(task)) {
            let due = self.due_of(task, now);
            wake = wake.into_iter().chain(due.filter(|due| *due > now)).min();
            let is_due = due.is_some_and(|due| due <= now);
            match (self.plan.wait(task), is_due) {
                (Some(Wait::Timer { .. }), true) => self.launch(work, task, Kind::Due, 0),
                // A signal that came in time counts, however late it is found.
                (Some(Wait::Signal { .. }), _) if !work.absent.contains(&task) => self.launch(work, task, Kind::Look, 0),
                (Some(Wait::Signal { .. }), true) => {
                    let parks = self.plan.resolve_wait(task).is_some_and(|resolved| resolved.parks_on_refusal);
                    if parks {
                        let fault = Fault::refused(
                            "RW4010",
                            "the signal did not come in time",
                            "send it with `rootward chain signal`, then replay",
                        );
                        work.halt = Some(Halt { fault, task, attempts: 0 });
                        return Some(now);
                    }
                    self.launch(work, task, Kind::CallOff, 0);
                }
                _ => {}
            }
        }
        wake
    }

    /// When a wait is over: fixed when the step begins, and then kept.
    fn due_of(&mut self, task: Task, now: i64) -> Option<i64> {
        let length = match self.plan.wait(task)? {
            Wait::Timer { after_ms } => Some(*after_ms),
            Wait::Signal { timeout_ms, .. } => *timeout_ms,
        }?;
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        Some(*self.at.waits.entry(task.step).or_insert_with(|| now.saturating_add(length)))
    }

    fn launch(&self, work: &mut Work, task: Task, kind: Kind, attempts: u32) {
        work.tasks.insert(task);
        let attempt = Attempt {
            home: self.home.clone(),
            identity: self.identity.clone(),
            plan: self.plan.clone(),
            results: self.results.clone(),
            task,
            kind,
            attempts,
            expires_at_ms: self.at.expires_at_ms,
            give_up: work.give_up.clone(),
        };
        work.flight.push(Box::pin(attempt.settle()));
    }

    fn apply(&mut self, work: &mut Work, (task, kind, settled): (Task, Kind, Settled)) {
        work.tasks.remove(&task);
        match settled {
            Settled::Answered(response, resolved) => self.answered(work, task, &kind, *response, &resolved),
            Settled::Refused(fault, resolved) => match kind {
                Kind::Undo => work.halt = Some(Halt { fault, task, attempts: 1 }),
                Kind::Effect | Kind::CallOff | Kind::Look | Kind::Due => {
                    let recorded = if fault.code() == "RW4005" { Recorded::Tombstone } else { Recorded::Failed };
                    self.decided(task, recorded, &resolved, None, Some(&fault));
                    if matches!(kind, Kind::Effect) {
                        self.view.send_modify(|view| view.failure = Some(fault.into_wire()));
                    }
                }
            },
            Settled::Halted { fault, attempts } => work.halt = Some(Halt { fault, task, attempts }),
            Settled::Resting { fault, attempts, until_ms } => {
                work.resting.insert(task, Rest { fault, attempts, until_ms });
            }
            Settled::GivenUp => {}
        }
    }

    fn answered(&mut self, work: &mut Work, task: Task, kind: &Kind, response: v1::CallResponse, resolved: &Resolved) {
        let is_stored = response.from_stored_outcome;
        match kind {
            Kind::Look if !is_stored => {
                work.absent.insert(task);
                return;
            }
            Kind::CallOff if !is_stored => {
                if let Some(Wait::Signal { .. }) = self.plan.wait(task)
                    && self.record.called_back.is_none()
                {
                    let fault = Fault::refused("RW4010", "the signal did not come in time", "start the chain again");
                    self.view.send_modify(|view| view.failure = Some(fault.into_wire()));
                }
                return self.decided(task, Recorded::Tombstone, resolved, None, None);
            }
            Kind::Undo => {
                self.record.undone.insert(task);
                let outcome = if response.is_skipped { "skipped" } else { "done" };
                self.show_step(task, "undo", outcome, resolved, Some(&response), None);
            }
            Kind::Effect | Kind::Look | Kind::Due | Kind::CallOff => {
                Arc::make_mut(&mut self.results).insert(task, first_row(&response));
                let recorded = if response.is_skipped { Recorded::Skipped } else { Recorded::Done };
                self.decided(task, recorded, resolved, Some(&response), None);
            }
        }
        if self.at.status == Status::Waiting {
            self.at.status = Status::Running;
            work.has_woken = true;
        }
        if !is_stored {
            self.has_come_on();
        }
    }

    /// The chain is further than any driver before got it: what they lost no longer counts.
    fn has_come_on(&mut self) {
        self.at.attempts = 0;
        if std::mem::take(&mut self.at.recoveries) > 0 {
            self.note_soon();
        }
    }

    fn decided(&mut self, task: Task, recorded: Recorded, resolved: &Resolved, response: Option<&v1::CallResponse>, fault: Option<&Fault>) {
        self.record.effects.insert(task, recorded);
        self.show_step(task, "do", show::outcome_name(recorded), resolved, response, fault);
    }
}

enum Looked {
    /// What is not recorded here did not take effect before.
    All,
    /// More is known; there may be more to ask.
    Some,
    /// A root did not answer in time, and the driver makes room.
    Gone,
}

enum Leave {
    /// The row says where it stands; or somebody else has changed it, and it is theirs.
    Gone,
    /// Before it goes, a last look for signals.
    LookAgain,
}

/// Until a moment of the wall clock, which may be set meanwhile: it is looked at again each second.
async fn sleep_until(wake: Option<i64>, now: i64) {
    match wake {
        Some(wake) => tokio::time::sleep(Duration::from_millis(u64::try_from(wake - now).unwrap_or(0)).min(LONGEST_PAUSE_IN_PLACE)).await,
        None => std::future::pending().await,
    }
}
