//! What a driver writes down at home, and what it shows to those who watch.

use rootward_proto::{Fault, v1};

use super::{Driver, Halt, Leave, Work};
use crate::{
    chain::{
        plan::Resolved,
        show,
        state::{CalledBack, Event, Shape, Standing, Status, Task, transition},
        store::Note,
    },
    clock,
};

impl Driver {
    /// A deadline or used-up attempts turn the chain back: durable before anything is called off, because no outcome at any
    /// root says so.
    pub(super) async fn turn_back(&mut self, cause: CalledBack, fault: Fault) -> bool {
        self.view.send_modify(|view| view.failure = Some(fault.into_wire()));
        let Some(status) = self.after(Event::TurnBack) else { return false };
        let is_noted = self.note_firmly(Note { called_back: Some(cause), ..self.note_of(status) }).await;
        if is_noted {
            self.record.called_back = Some(cause);
            self.at.status = status;
        }
        is_noted
    }

    /// If the pivot was done before it could be called off, what called the chain back came too late, and the row says so; false
    /// if the row is somebody else's.
    pub(super) async fn go_on(&mut self, shape: &Shape) -> bool {
        let pivot = shape.passed_pivot(&self.record).and_then(|at| self.plan.definition.steps.get(at));
        let Some(pivot) = pivot.filter(|_| self.at.status == Status::Compensating) else { return true };
        let message = format!("the chain had passed its pivot `{}`: it only goes forward", pivot.name);
        let Some(status) = self.after(Event::GoOn) else { return false };
        let fault = Fault::refused("RW4003", message, "let it end, or repair what it waits for and replay it");
        self.view.send_modify(|view| view.failure = Some(fault.into_wire()));
        let is_noted = self.note_firmly(self.note_of(status)).await;
        if is_noted {
            self.record.called_back = None;
            self.at.status = status;
        }
        is_noted
    }

    /// Writes the row firmly. If that fails, the chain is somebody else's now, or the scan finds it again.
    pub(super) async fn note_firmly(&mut self, note: Note) -> bool {
        match self.home.note(&self.identity, note).await {
            Ok(true) => {
                self.at.revision += 1;
                true
            }
            Ok(false) => false,
            Err(fault) => {
                tracing::debug!(chain = %self.identity.id, %fault, "a chain's row could not be written; the scan finds it again");
                false
            }
        }
    }

    /// After a refusal the outcome at the root says that the chain goes back; home hears of it for its lists.
    pub(super) fn note_turn(&mut self) {
        if self.at.status == Status::Waiting {
            self.at.status = Status::Running;
        }
        if let Some(status) = self.after(Event::TurnBack) {
            self.at.status = status;
            self.note_soon();
        }
    }

    pub(super) fn note_soon(&self) {
        let (home, identity) = (self.home.clone(), self.identity.clone());
        let note = self.note_of(self.at.status);
        self.home.serving.tasks.spawn(async move { home.note_lazily(&identity, note).await });
    }

    /// The status after an event of the chain's own; none, with a word in the log, if the table doesn't know it.
    fn after(&self, event: Event) -> Option<Status> {
        let status = transition(self.at.status, event, &Standing::default()).ok();
        if status.is_none() {
            tracing::error!(chain = %self.identity.id, status = self.at.status.name(), event = event.name(), "a chain made an unknown step");
        }
        status
    }

    /// The row as it is now; it is looked at again at once.
    pub(super) fn note_of(&self, status: Status) -> Note {
        let view = self.view.borrow();
        Note {
            revision: self.at.revision,
            status,
            called_back: None,
            step: (!view.step.is_empty()).then(|| view.step.clone()),
            error: view.failure.clone().map(|failure| show::error_json(&Fault::from(failure))),
            result: None,
            waits: Some(self.at.waits.clone()),
            attempts: self.at.attempts,
            recoveries: self.at.recoveries,
            next_attempt_at_ms: Some(clock::now_ms()),
            expires_at_ms: self.at.expires_at_ms,
            ended_at_ms: None,
            deed: None,
        }
    }

    pub(super) async fn end(mut self, event: Event) {
        if self.at.status == Status::Waiting {
            self.at.status = Status::Running;
        }
        let Some(status) = self.after(event) else { return };
        // Every outcome is durable at its root, so the end is a fact already; home hears of it when there is company.
        let result = if event == Event::Complete { self.plan.result(&self.results) } else { None };
        let mut note = Note { result: result.clone(), step: None, ended_at_ms: Some(clock::now_ms()), ..self.note_of(status) };
        if event == Event::Complete {
            note.error = None;
        }
        note.attempts = 0;
        self.view.send_modify(|view| {
            view.status = status.name().to_owned();
            view.step = String::new();
            view.result = result.unwrap_or_default();
            if event == Event::Complete {
                view.failure = None;
            }
        });
        self.home.note_lazily(&self.identity, note).await;
    }

    pub(super) async fn halt(mut self, halt: Halt) {
        if self.at.status == Status::Waiting {
            self.at.status = Status::Running;
        }
        let Some(status) = self.after(Event::Exhaust) else { return };
        let step = self.plan.step_text(halt.task);
        let note = Note {
            step: Some(step.clone()),
            error: Some(show::error_json(&halt.fault)),
            attempts: halt.attempts,
            recoveries: 0,
            next_attempt_at_ms: None,
            ..self.note_of(status)
        };
        // Whoever waits is told only what is durable.
        let is_noted = self.note_firmly(note).await;
        tracing::info!(chain = %self.identity.id, status = status.name(), step, fault = %halt.fault, "a chain waits for a person");
        if is_noted {
            self.view.send_modify(|view| {
                view.status = status.name().to_owned();
                view.step = step;
                view.attempts = halt.attempts;
                view.failure = Some(halt.fault.into_wire());
            });
        }
    }

    /// Makes room for others until the next moment that counts.
    pub(super) async fn leave(&mut self, work: &mut Work, wake: Option<i64>) -> Leave {
        let is_waiting = work.resting.is_empty() && !work.is_back;
        if is_waiting && self.at.status == Status::Waiting {
            return Leave::Gone;
        }
        let status = match (is_waiting, self.at.status) {
            (true, _) => self.after(Event::Await),
            (false, Status::Waiting) => Some(Status::Running),
            (false, status) => Some(status),
        };
        let Some(status) = status else { return Leave::Gone };
        let mut note = Note { next_attempt_at_ms: wake, recoveries: 0, ..self.note_of(status) };
        if let Some((task, rest)) = work.resting.iter().min_by_key(|(_, rest)| rest.until_ms) {
            note.step = Some(self.plan.step_text(*task));
            note.attempts = rest.attempts;
            note.error = Some(show::error_json(&rest.fault));
        }
        let (step, attempts) = (note.step.clone(), note.attempts);
        if !self.note_firmly(note).await || !is_waiting {
            return Leave::Gone;
        }
        self.at.status = status;
        self.at.recoveries = 0;
        self.view.send_modify(|view| {
            view.status = status.name().to_owned();
            view.step = step.unwrap_or_default();
            view.attempts = attempts;
        });
        // A signal that came while the row was still `running` woke nobody: now that it says `waiting`, one more look is enough.
        work.absent.clear();
        Leave::LookAgain
    }

    pub(super) fn show(&self, tasks: &[Task]) {
        let step = tasks.first().map(|task| self.plan.step_text(*task)).unwrap_or_default();
        let status = self.at.status.name();
        self.view.send_if_modified(|view| {
            let is_new = view.step != step || view.status != status;
            if is_new {
                view.step = step;
                view.status = status.to_owned();
            }
            is_new
        });
    }

    pub(super) fn show_step(
        &self,
        task: Task,
        direction: &str,
        outcome: &str,
        resolved: &Resolved,
        response: Option<&v1::CallResponse>,
        fault: Option<&Fault>,
    ) {
        let step = show::step(&self.plan, task, direction, outcome, resolved, response, fault);
        self.view.send_modify(|view| view.steps.push(step));
    }
}
