//! What a chain does next, from what is recorded of it. One pure function for the first run, recovery and replay alike
//! (after steno's `next_status`).

use std::collections::BTreeMap;

/// One element of one step; a step that doesn't fan out has element 0 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Task {
    pub step: u32,
    pub element: u32,
}

/// The shape of a chain: all that the order of its steps depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    pub steps: Vec<StepShape>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepShape {
    pub elements: u32,
    pub has_compensation: bool,
    pub is_pivot: bool,
}

/// The outcome of one direction of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Done,
    Failed,
    Tombstone,
}

/// Everything that decides about a chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub effects: BTreeMap<Task, Recorded>,
    /// Compensations that took effect.
    pub undone: BTreeMap<Task, ()>,
    /// A person asked to go back.
    pub is_called_back: bool,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run these, in any order.
    Run(Vec<Task>),
    /// See to it that these can't take effect any more, or learn that they have.
    CallOff(Vec<Task>),
    /// Undo these, in any order.
    Undo(Vec<Task>),
    /// Every step is done.
    Completed,
    /// Nothing took effect that would have to be undone.
    Failed,
    /// All that took effect and can be undone is undone.
    Compensated,
}

impl Shape {
    fn tasks(&self, step: usize) -> impl Iterator<Item = Task> + use<> {
        let elements = self.steps.get(step).map_or(0, |shape| shape.elements);
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        (0..elements).map(move |element| Task { step, element })
    }

    /// Whether the pivot is done, after which a chain only goes forward.
    pub(crate) fn is_past_pivot(&self, record: &Record) -> bool {
        (0..self.steps.len())
            .any(|step| self.steps[step].is_pivot && self.tasks(step).all(|task| record.effects.get(&task) == Some(&Recorded::Done)))
    }
}

/// What `record` of a chain of this `shape` asks for.
pub(crate) fn next(shape: &Shape, record: &Record) -> Next {
    let is_refused = record.effects.values().any(|outcome| *outcome != Recorded::Done);
    if (is_refused || record.is_called_back) && !shape.is_past_pivot(record) {
        return go_back(shape, record);
    }
    for step in 0..shape.steps.len() {
        let open: Vec<Task> = shape.tasks(step).filter(|task| !record.effects.contains_key(task)).collect();
        if !open.is_empty() {
            return Next::Run(open);
        }
    }
    Next::Completed
}

fn go_back(shape: &Shape, record: &Record) -> Next {
    // A step starts only when all of the one before are done. So behind the first step with an element that is not done,
    // nothing can have started, and nothing ever will.
    for step in 0..shape.steps.len() {
        let open: Vec<Task> = shape.tasks(step).filter(|task| !record.effects.contains_key(task)).collect();
        if !open.is_empty() {
            return Next::CallOff(open);
        }
        if shape.tasks(step).any(|task| record.effects.get(&task) != Some(&Recorded::Done)) {
            break;
        }
        if shape.steps[step].is_pivot {
            return Next::Completed; // unreachable: the caller has asked for the pivot
        }
    }
    let undoable = |task: &Task| {
        let has_compensation =
            usize::try_from(task.step).ok().and_then(|step| shape.steps.get(step)).is_some_and(|step| step.has_compensation);
        has_compensation && record.effects.get(task) == Some(&Recorded::Done)
    };
    for step in (0..shape.steps.len()).rev() {
        let open: Vec<Task> = shape.tasks(step).filter(|task| undoable(task) && !record.undone.contains_key(task)).collect();
        if !open.is_empty() {
            return Next::Undo(open);
        }
    }
    if record.effects.keys().any(undoable) { Next::Compensated } else { Next::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(steps: &[(u32, bool, bool)]) -> Shape {
        let steps = steps.iter().map(|(elements, has_compensation, is_pivot)| StepShape {
            elements: *elements,
            has_compensation: *has_compensation,
            is_pivot: *is_pivot,
        });
        Shape { steps: steps.collect() }
    }

    fn task(step: u32, element: u32) -> Task {
        Task { step, element }
    }

    fn record(effects: &[(Task, Recorded)]) -> Record {
        Record { effects: effects.iter().copied().collect(), ..Record::default() }
    }

    use Recorded::{Done, Failed, Tombstone};

    #[test]
    fn steps_run_in_order_and_the_last_one_completes() {
        let shape = shape(&[(1, true, false), (1, false, false)]);
        assert_eq!(next(&shape, &record(&[])), Next::Run(vec![task(0, 0)]));
        assert_eq!(next(&shape, &record(&[(task(0, 0), Done)])), Next::Run(vec![task(1, 0)]));
        assert_eq!(next(&shape, &record(&[(task(0, 0), Done), (task(1, 0), Done)])), Next::Completed);
    }

    #[test]
    fn a_refusal_undoes_what_was_done_in_reverse() {
        let shape = shape(&[(1, true, false), (1, true, false), (1, false, false)]);
        let mut record = record(&[(task(0, 0), Done), (task(1, 0), Done), (task(2, 0), Failed)]);
        assert_eq!(next(&shape, &record), Next::Undo(vec![task(1, 0)]));
        record.undone.insert(task(1, 0), ());
        assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
        record.undone.insert(task(0, 0), ());
        assert_eq!(next(&shape, &record), Next::Compensated);
    }

    #[test]
    fn before_the_first_compensation_every_undecided_element_is_called_off() {
        let shape = shape(&[(3, true, false), (1, false, true)]);
        let mut record = record(&[(task(0, 0), Done), (task(0, 1), Failed)]);
        assert_eq!(next(&shape, &record), Next::CallOff(vec![task(0, 2)]));
        record.effects.insert(task(0, 2), Tombstone);
        assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
    }

    #[test]
    fn a_refused_first_step_leaves_nothing_to_undo() {
        let shape = shape(&[(1, true, false), (1, false, false)]);
        assert_eq!(next(&shape, &record(&[(task(0, 0), Failed)])), Next::Failed);
    }

    #[test]
    fn after_the_pivot_a_chain_only_goes_forward() {
        let shape = shape(&[(1, true, false), (1, false, true), (1, false, false)]);
        let mut record = record(&[(task(0, 0), Done), (task(1, 0), Done)]);
        record.is_called_back = true;
        assert_eq!(next(&shape, &record), Next::Run(vec![task(2, 0)]));
    }

    #[test]
    fn called_back_it_settles_each_step_before_it_undoes_any() {
        let shape = shape(&[(1, true, false), (1, true, false), (1, false, true)]);
        let mut record = Record { is_called_back: true, ..Record::default() };
        assert_eq!(next(&shape, &record), Next::CallOff(vec![task(0, 0)]));
        record.effects.insert(task(0, 0), Done);
        assert_eq!(next(&shape, &record), Next::CallOff(vec![task(1, 0)]));
        record.effects.insert(task(1, 0), Tombstone);
        assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
    }

    /// Every record of a small chain leads to an end, whatever each task's outcome is, and no step runs after a refusal.
    #[test]
    fn every_record_leads_to_an_end() {
        let shape = shape(&[(2, true, false), (1, true, false), (1, false, true), (2, false, false)]);
        let tasks: Vec<Task> = (0..4).flat_map(|step| shape.tasks(step)).collect();
        for choice in 0..3_usize.pow(u32::try_from(tasks.len()).expect("few")) {
            let outcome_of = |at: usize| [Done, Failed, Tombstone][choice / 3_usize.pow(u32::try_from(at).expect("few")) % 3];
            let mut record = Record::default();
            let mut has_gone_back = false;
            for _ in 0..32 {
                match next(&shape, &record) {
                    Next::Run(open) => {
                        assert!(!has_gone_back, "forward after back");
                        for task in open {
                            let at = tasks.iter().position(|other| *other == task).expect("known");
                            // Behind the pivot refusals leave no outcome.
                            record.effects.insert(task, if task.step > 2 { Done } else { outcome_of(at) });
                        }
                    }
                    Next::CallOff(open) => open.into_iter().for_each(|task| {
                        has_gone_back = true;
                        record.effects.insert(task, Tombstone);
                    }),
                    Next::Undo(open) => open.into_iter().for_each(|task| {
                        has_gone_back = true;
                        assert!(record.undone.insert(task, ()).is_none(), "undone twice");
                    }),
                    Next::Completed | Next::Failed | Next::Compensated => break,
                }
            }
            let end = next(&shape, &record);
            assert!(matches!(end, Next::Completed | Next::Failed | Next::Compensated), "{choice}: {end:?}");
            let is_all_done = tasks.iter().all(|task| record.effects.get(task) == Some(&Done));
            assert_eq!(end == Next::Completed, is_all_done, "{choice}");
        }
    }
}
