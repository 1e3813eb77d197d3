//! What a chain does next, from what is recorded of it. One pure function for the first run, recovery and replay alike
//! (after steno's `next_status`); its statuses and their transitions are in [`status`].

mod status;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use status::{Event, Illegal, Standing, Status, legal_verbs, transition};

/// One element of one step; a step that doesn't fan out has element 0 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Task {
    pub step: u32,
    pub element: u32,
}

/// The shape of a chain: all that the order of its steps depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    steps: Vec<StepShape>,
    /// By step: every step that is before it, directly or not.
    before: Vec<BTreeSet<usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepShape {
    pub elements: u32,
    pub has_compensation: bool,
    pub is_pivot: bool,
    /// A refusal of this step keeps what took effect.
    pub keeps: bool,
    /// The steps that must be done before this one begins; all of them come earlier in the list.
    pub after: Vec<usize>,
}

/// How far one step is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// All steps before it are done. Until then nothing of it can have started, so nothing of it can take effect.
    can_begin: bool,
    is_done: bool,
}

/// The outcome of one task in its forward direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Done,
    /// A person counts it as done; nothing took effect, so nothing is undone.
    Skipped,
    Failed,
    Tombstone,
}

/// Why a chain goes back though no step was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CalledBack {
    /// A person cancelled it.
    Cancelled,
    /// A person asked for it while a root did not answer: if it turns out that the chain had completed before, it has.
    Asked,
    /// A person has it undone.
    Compensated,
    /// Its deadline has passed.
    Late,
    /// A step's attempts are used up.
    Exhausted,
}

/// Everything that decides about a chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub effects: BTreeMap<Task, Recorded>,
    /// Compensations that took effect, or that a person counts as such.
    pub undone: BTreeSet<Task>,
    pub called_back: Option<CalledBack>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run these, in any order; it is never empty.
    Run(Vec<Task>),
    /// See to it that these can't take effect any more, or learn that they have.
    CallOff(Vec<Task>),
    /// Undo these, in any order.
    Undo(Vec<Task>),
    /// Every step is done.
    Completed,
    /// A step was refused, and nothing that took effect is to be undone.
    Failed,
    /// A person cancelled it before anything took effect that would have to be undone.
    Cancelled,
    /// All that took effect and can be undone is undone.
    Compensated,
    /// A step behind the pivot is refused for good, which no chain that passed the check can be.
    Blocked(Task),
}

impl CalledBack {
    pub(crate) const ALL: [CalledBack; 5] =
        [CalledBack::Cancelled, CalledBack::Asked, CalledBack::Compensated, CalledBack::Late, CalledBack::Exhausted];

    pub(crate) fn name(self) -> &'static str {
        match self {
            CalledBack::Cancelled => "cancelled",
            CalledBack::Asked => "asked",
            CalledBack::Compensated => "compensated",
            CalledBack::Late => "late",
            CalledBack::Exhausted => "exhausted",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<CalledBack> {
        CalledBack::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

impl Recorded {
    /// Whether the steps behind it may run.
    pub(crate) fn lets_on(self) -> bool {
        matches!(self, Recorded::Done | Recorded::Skipped)
    }
}

impl Shape {
    pub(crate) fn new(steps: Vec<StepShape>) -> Shape {
        let mut before: Vec<BTreeSet<usize>> = Vec::with_capacity(steps.len());
        for (at, step) in steps.iter().enumerate() {
            let mut all = BTreeSet::new();
            // The check refuses references forward; were there one, it would not count.
            for direct in step.after.iter().copied().filter(|direct| *direct < at) {
                all.insert(direct);
                all.extend(before.get(direct).into_iter().flatten());
            }
            before.push(all);
        }
        Shape { steps, before }
    }

    pub(crate) fn steps(&self) -> &[StepShape] {
        &self.steps
    }

    fn tasks(&self, step: usize) -> impl Iterator<Item = Task> + use<> {
        let elements = self.steps.get(step).map_or(0, |shape| shape.elements);
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        (0..elements).map(move |element| Task { step, element })
    }

    pub(crate) fn all_tasks(&self) -> impl Iterator<Item = Task> + '_ {
        (0..self.steps.len()).flat_map(|step| self.tasks(step))
    }

    fn step(&self, task: Task) -> Option<&StepShape> {
        self.steps.get(place(task))
    }

    fn progress(&self, record: &Record) -> Vec<Progress> {
        let mut progress: Vec<Progress> = Vec::with_capacity(self.steps.len());
        for at in 0..self.steps.len() {
            let can_begin = self.before[at].iter().all(|before| progress[*before].is_done);
            let lets_on = |task| record.effects.get(&task).is_some_and(|outcome| outcome.lets_on());
            // A step over an empty list is done as soon as it could begin.
            progress.push(Progress { can_begin, is_done: can_begin && self.tasks(at).all(lets_on) });
        }
        progress
    }

    /// Tasks without an outcome that may have started.
    fn undecided(&self, record: &Record) -> Vec<Task> {
        let begun = self.progress(record).into_iter().enumerate().filter(|(_, progress)| progress.can_begin);
        begun.flat_map(|(step, _)| self.tasks(step)).filter(|task| !record.effects.contains_key(task)).collect()
    }

    /// The pivot's place if it is done, after which a chain only goes forward.
    pub(crate) fn passed_pivot(&self, record: &Record) -> Option<usize> {
        let progress = self.progress(record);
        (0..self.steps.len()).find(|step| self.steps[*step].is_pivot && progress[*step].is_done)
    }

    /// Whether a task took effect that a compensation would undo.
    pub(crate) fn is_undoable(&self, task: Task, record: &Record) -> bool {
        self.step(task).is_some_and(|step| step.has_compensation) && record.effects.get(&task) == Some(&Recorded::Done)
    }

    fn is_before(&self, earlier: Task, later: Task) -> bool {
        self.before.get(place(later)).is_some_and(|before| before.contains(&place(earlier)))
    }
}

fn place(task: Task) -> usize {
    usize::try_from(task.step).unwrap_or(usize::MAX)
}

/// Whether what is recorded turns the chain back: a refusal or a person's word, before the pivot.
pub(crate) fn goes_back(shape: &Shape, record: &Record) -> bool {
    let is_refused = record.effects.values().any(|outcome| !outcome.lets_on());
    (is_refused || record.called_back.is_some()) && shape.passed_pivot(record).is_none()
}

/// What `record` of a chain of this `shape` asks for.
pub(crate) fn next(shape: &Shape, record: &Record) -> Next {
    if goes_back(shape, record) {
        return go_back(shape, record);
    }
    let open = shape.undecided(record);
    if !open.is_empty() {
        return Next::Run(open);
    }
    match record.effects.iter().find(|(_, outcome)| !outcome.lets_on()) {
        Some((task, _)) => Next::Blocked(*task),
        None => Next::Completed,
    }
}

fn go_back(shape: &Shape, record: &Record) -> Next {
    // Before anything is undone, everything that may have started is decided: else it could still take effect afterwards.
    let open = shape.undecided(record);
    if !open.is_empty() {
        return Next::CallOff(open);
    }
    let refused = |task: &Task| record.effects.get(task).is_some_and(|outcome| !outcome.lets_on());
    // Every step was done before any could be called off, and whoever started it may have been told so.
    if record.called_back == Some(CalledBack::Asked) && !shape.all_tasks().any(|task| refused(&task)) {
        return Next::Completed;
    }
    let is_kept = shape.all_tasks().filter(refused).all(|task| shape.step(task).is_some_and(|step| step.keeps));
    if is_kept && record.called_back.is_none() {
        return Next::Failed;
    }
    let open: Vec<Task> = shape.all_tasks().filter(|task| shape.is_undoable(*task, record) && !record.undone.contains(task)).collect();
    let is_last = |task: &Task| !open.iter().any(|other| shape.is_before(*task, *other));
    let last: Vec<Task> = open.iter().copied().filter(is_last).collect();
    if !last.is_empty() {
        return Next::Undo(last);
    }
    match record.called_back {
        _ if shape.all_tasks().any(|task| shape.is_undoable(task, record)) => Next::Compensated,
        Some(CalledBack::Cancelled | CalledBack::Asked) => Next::Cancelled,
        _ => Next::Failed,
    }
}

#[cfg(test)]
mod tests;
