use super::*;
use Recorded::{Done, Failed, Skipped, Tombstone};

/// A step: how many elements, whether it can be undone, whether it is the pivot, after which steps.
fn step(elements: u32, has_compensation: bool, is_pivot: bool, after: &[usize]) -> StepShape {
    StepShape { elements, has_compensation, is_pivot, keeps: false, after: after.to_vec() }
}

/// One after the other.
fn line(steps: &[(u32, bool, bool)]) -> Shape {
    let steps = steps.iter().enumerate().map(|(at, (elements, has_compensation, is_pivot))| {
        step(*elements, *has_compensation, *is_pivot, &at.checked_sub(1).into_iter().collect::<Vec<_>>())
    });
    Shape::new(steps.collect())
}

/// A first step, two side by side, a pivot, and a last one.
fn diamond() -> Shape {
    Shape::new(vec![
        step(1, true, false, &[]),
        step(1, true, false, &[0]),
        step(2, true, false, &[0]),
        step(1, false, true, &[1, 2]),
        step(1, false, false, &[3]),
    ])
}

fn task(step: u32, element: u32) -> Task {
    Task { step, element }
}

fn record(effects: &[(Task, Recorded)]) -> Record {
    Record { effects: effects.iter().copied().collect(), ..Record::default() }
}

#[test]
fn steps_run_in_order_and_the_last_one_completes() {
    let shape = line(&[(1, true, false), (1, false, false)]);
    assert_eq!(next(&shape, &record(&[])), Next::Run(vec![task(0, 0)]));
    assert_eq!(next(&shape, &record(&[(task(0, 0), Done)])), Next::Run(vec![task(1, 0)]));
    assert_eq!(next(&shape, &record(&[(task(0, 0), Done), (task(1, 0), Done)])), Next::Completed);
}

#[test]
fn a_refusal_undoes_what_was_done_in_reverse() {
    let shape = line(&[(1, true, false), (1, true, false), (1, false, false)]);
    let mut record = record(&[(task(0, 0), Done), (task(1, 0), Done), (task(2, 0), Failed)]);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(1, 0)]));
    record.undone.insert(task(1, 0));
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
    record.undone.insert(task(0, 0));
    assert_eq!(next(&shape, &record), Next::Compensated);
}

#[test]
fn before_the_first_compensation_every_undecided_element_is_called_off() {
    let shape = line(&[(3, true, false), (1, false, true)]);
    let mut record = record(&[(task(0, 0), Done), (task(0, 1), Failed)]);
    assert_eq!(next(&shape, &record), Next::CallOff(vec![task(0, 2)]));
    record.effects.insert(task(0, 2), Tombstone);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
}

#[test]
fn a_refused_first_step_leaves_nothing_to_undo() {
    let shape = line(&[(1, true, false), (1, false, false)]);
    assert_eq!(next(&shape, &record(&[(task(0, 0), Failed)])), Next::Failed);
}

#[test]
fn after_the_pivot_a_chain_only_goes_forward() {
    let shape = line(&[(1, true, false), (1, false, true), (1, false, false)]);
    let mut record = record(&[(task(0, 0), Done), (task(1, 0), Done)]);
    record.called_back = Some(CalledBack::Cancelled);
    assert_eq!(next(&shape, &record), Next::Run(vec![task(2, 0)]));
    record.effects.insert(task(2, 0), Failed);
    assert_eq!(next(&shape, &record), Next::Blocked(task(2, 0)));
}

#[test]
fn called_back_it_settles_each_step_before_it_undoes_any() {
    let shape = line(&[(1, true, false), (1, true, false), (1, false, true)]);
    let mut record = Record { called_back: Some(CalledBack::Compensated), ..Record::default() };
    assert_eq!(next(&shape, &record), Next::CallOff(vec![task(0, 0)]));
    record.effects.insert(task(0, 0), Done);
    assert_eq!(next(&shape, &record), Next::CallOff(vec![task(1, 0)]));
    record.effects.insert(task(1, 0), Tombstone);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
}

#[test]
fn a_cancel_with_nothing_done_is_cancelled_and_with_something_done_compensated() {
    let shape = line(&[(1, true, false), (1, false, false)]);
    let mut record = record(&[(task(0, 0), Tombstone)]);
    record.called_back = Some(CalledBack::Cancelled);
    assert_eq!(next(&shape, &record), Next::Cancelled);
    record.effects = BTreeMap::from([(task(0, 0), Done), (task(1, 0), Tombstone)]);
    record.undone.insert(task(0, 0));
    assert_eq!(next(&shape, &record), Next::Compensated);
}

/// Whoever asked for it was told that it may come too late; whoever was told `completed` was not.
#[test]
fn a_cancel_that_was_only_asked_for_undoes_no_chain_that_was_through() {
    let shape = line(&[(1, true, false), (1, true, false)]);
    let mut record = record(&[(task(0, 0), Done)]);
    record.called_back = Some(CalledBack::Asked);
    assert_eq!(next(&shape, &record), Next::CallOff(vec![task(1, 0)]));
    for outcome in [Done, Skipped] {
        record.effects.insert(task(1, 0), outcome);
        assert_eq!(next(&shape, &record), Next::Completed);
    }
    for outcome in [Failed, Tombstone] {
        record.effects.insert(task(1, 0), outcome);
        assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
    }
    record.effects.insert(task(1, 0), Done);
    record.called_back = Some(CalledBack::Cancelled);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(1, 0)]), "one that was judged holds");
    record.effects = BTreeMap::from([(task(0, 0), Tombstone)]);
    record.called_back = Some(CalledBack::Asked);
    assert_eq!(next(&shape, &record), Next::Cancelled);
}

#[test]
fn side_by_side_steps_run_and_are_undone_together() {
    let shape = diamond();
    let mut record = record(&[(task(0, 0), Done)]);
    assert_eq!(next(&shape, &record), Next::Run(vec![task(1, 0), task(2, 0), task(2, 1)]));
    record.effects.insert(task(2, 1), Done);
    record.effects.insert(task(1, 0), Done);
    assert_eq!(next(&shape, &record), Next::Run(vec![task(2, 0)]), "the pivot waits for all of them");
    record.effects.insert(task(2, 0), Failed);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(1, 0), task(2, 1)]));
    record.undone.extend([task(1, 0), task(2, 1)]);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
}

#[test]
fn what_is_skipped_lets_on_and_is_not_undone() {
    let shape = line(&[(1, true, false), (1, true, false), (1, false, false)]);
    let mut record = record(&[(task(0, 0), Done), (task(1, 0), Skipped)]);
    assert_eq!(next(&shape, &record), Next::Run(vec![task(2, 0)]));
    record.effects.insert(task(2, 0), Failed);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
}

#[test]
fn a_kept_refusal_ends_the_chain_and_a_person_may_still_have_it_undone() {
    let mut shape = line(&[(1, true, false), (1, false, false)]);
    shape.steps[1].keeps = true;
    let mut record = record(&[(task(0, 0), Done), (task(1, 0), Failed)]);
    assert_eq!(next(&shape, &record), Next::Failed);
    record.called_back = Some(CalledBack::Compensated);
    assert_eq!(next(&shape, &record), Next::Undo(vec![task(0, 0)]));
}

#[test]
fn a_step_over_an_empty_list_is_done_when_it_could_begin() {
    let shape = line(&[(1, true, false), (0, false, true), (1, false, false)]);
    assert_eq!(shape.passed_pivot(&record(&[])), None);
    assert_eq!(shape.passed_pivot(&record(&[(task(0, 0), Done)])), Some(1));
    assert_eq!(next(&shape, &record(&[(task(0, 0), Done)])), Next::Run(vec![task(2, 0)]));
}

/// Follows a chain to its end, each task meeting the outcome that `choice` gives it, and checks every promise on the way.
fn follow(shape: &Shape, choice: usize, called_back_at: Option<(usize, CalledBack)>) -> Next {
    let tasks: Vec<Task> = shape.all_tasks().collect();
    let outcome_of = |task: &Task| {
        let at = tasks.iter().position(|other| other == task).expect("known");
        [Done, Failed, Skipped][choice / 3_usize.pow(u32::try_from(at).expect("few")) % 3]
    };
    let mut record = Record::default();
    let mut has_gone_back = false;
    for turn in 0..64 {
        if let Some((at, cause)) = called_back_at
            && at == turn
        {
            record.called_back = Some(cause);
        }
        let passed = shape.passed_pivot(&record).is_some();
        match next(shape, &record) {
            Next::Run(open) => {
                assert!(!open.is_empty());
                assert!(!has_gone_back || passed, "forward after back");
                // One outcome at a time: between any two the state must be right.
                let task = open[turn % open.len()];
                // Behind the pivot refusals leave no outcome.
                let outcome = if passed && outcome_of(&task) == Failed { Done } else { outcome_of(&task) };
                assert!(record.effects.insert(task, outcome).is_none(), "decided twice");
            }
            Next::CallOff(open) => {
                has_gone_back = true;
                assert!(!passed && record.undone.is_empty(), "called off after something was undone");
                // Half of them had taken effect before the tombstone came.
                let task = open[turn % open.len()];
                record.effects.insert(task, if choice.is_multiple_of(2) { Tombstone } else { Done });
            }
            Next::Undo(open) => {
                has_gone_back = true;
                assert!(!passed, "undone behind the pivot");
                let task = open[turn % open.len()];
                let later_ones = record.effects.keys().filter(|later| shape.is_before(task, **later));
                assert!(
                    later_ones.clone().all(|later| !shape.is_undoable(*later, &record) || record.undone.contains(later)),
                    "undone before what builds on it"
                );
                assert!(shape.is_undoable(task, &record) && record.undone.insert(task), "undone twice or for nothing");
            }
            end @ (Next::Completed | Next::Failed | Next::Cancelled | Next::Compensated) => {
                let lets_on = |task: &Task| record.effects.get(task).is_some_and(|outcome| outcome.lets_on());
                let holds = !matches!(record.called_back, None | Some(CalledBack::Asked));
                assert_eq!(end == Next::Completed, tasks.iter().all(lets_on) && (!holds || passed));
                let is_left = tasks.iter().any(|task| shape.is_undoable(*task, &record) && !record.undone.contains(task));
                assert!(end == Next::Completed || !is_left, "something is left that can be undone");
                return end;
            }
            Next::Blocked(task) => panic!("blocked at {task:?}"),
        }
    }
    panic!("no end");
}

/// Every shape, with every combination of outcomes, called back at every moment for every reason, reaches an end.
#[test]
fn every_record_leads_to_an_end() {
    let shapes = [
        line(&[(2, true, false), (1, true, false), (1, false, true), (2, false, false)]),
        diamond(),
        line(&[(1, true, false), (2, true, false)]),
    ];
    let mut ends = BTreeMap::new();
    for shape in &shapes {
        let count = u32::try_from(shape.all_tasks().count()).expect("few");
        for choice in 0..3_usize.pow(count) {
            let mut moments = vec![None];
            moments.extend((0..6).flat_map(|at| CalledBack::ALL.map(|cause| Some((at, cause)))));
            for called_back_at in moments {
                *ends.entry(format!("{:?}", follow(shape, choice, called_back_at))).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(ends.len(), 4, "each end is reached: {ends:?}");
}
