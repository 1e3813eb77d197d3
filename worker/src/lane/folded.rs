//! The run in one trip: the functions that run the transactions store their outcomes too, and COMMIT goes along with them.
//!
//! Only for batches in which everything runs set-wise and is stored alike, chains' starts and their progress included. Whoever
//! misses an expectation before anything was written for it is told so and has no outcome yet: its refusal is recorded by a batch of its
//! own, before it is answered. Whatever would have to be taken back is an error, which COMMIT meets as a ROLLBACK; the batch runs in
//! two trips then, and that run judges.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU32, Ordering},
};

use rootward_proto::{Fault, v1::RetryClass};
use rootward_schema::Text;

use super::{
    batch::{
        Attempt, Batch, Failure, Manner, UNIQUE_VIOLATION, UNKNOWN_STATEMENT, before_commit, check_standing, not_warned, plain, request_of,
    },
    companions,
    outcome::NewOutcome,
    own,
    set_wise::{self, Given, Group},
    unit::{After, Answer, Done, Unit},
};
use crate::{
    fail_point,
    pg::{Call, Parameter, Pipeline, StatementResult},
};

/// Every so many batches run in two trips all the same: only there can the flush be told from the work.
const SAMPLE: u32 = 32;
/// So many batches run in two trips after one in which a unit was refused: a refusal costs a folded batch a second commit.
const PAUSE: u32 = 16;

/// Of so many units, one whose root comes twice is held back.
const FEW: usize = 8;

/// What a lane remembers to choose between one trip and two.
#[derive(Debug, Default)]
pub(crate) struct Folding {
    batches: AtomicU32,
    paused: AtomicU32,
}

impl Folding {
    /// Whether the next batch may be folded.
    pub(super) fn is_next(&self) -> bool {
        let is_paused = self.paused.load(Ordering::Relaxed) > 0;
        if is_paused {
            self.paused.fetch_sub(1, Ordering::Relaxed);
        }
        !is_paused && !self.batches.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE)
    }

    fn pause(&self) {
        self.paused.store(PAUSE, Ordering::Relaxed);
    }
}

/// Whether a batch of such units takes one trip.
pub(super) fn may_be_folded(unit: &Unit) -> bool {
    let Some(outcome) = &unit.outcome else {
        // Progress of a chain, which nothing can refuse.
        return unit.effect.is_none() && matches!(unit.after, Some(After::Row(_)));
    };
    let is_plain = !outcome.is_tombstone && !outcome.is_look_up && outcome.mark.is_none();
    let has_known_end = match &unit.after {
        None => true,
        Some(After::Row(row)) => row.sql_if_recorded.is_some(),
        Some(After::Call(_)) => false,
    };
    is_plain && has_known_end && is_set_wise(unit)
}

fn is_set_wise(unit: &Unit) -> bool {
    unit.effect.as_ref().is_some_and(|effect| effect.declared.set_wise.is_some())
}

/// Takes the few out of a batch whose root an earlier unit touches: they go first in the next one, and this one takes one trip.
pub(super) fn hold_back(batch: &mut Vec<Unit>) -> Vec<Unit> {
    if !batch.iter().all(may_be_folded) {
        return Vec::new();
    }
    let repeated = few_repeated(batch.iter().map(set_wise::root_of));
    // From behind, so that the places before stay what they are.
    let mut held: Vec<Unit> = repeated.into_iter().rev().map(|place| batch.remove(place)).collect();
    held.reverse();
    held
}

/// The places of roots that were there before, in order; none if they are many: those are a few hot roots, whose units had better share one
/// commit row by row than have one each.
fn few_repeated<R: Eq + std::hash::Hash>(roots: impl ExactSizeIterator<Item = Option<R>>) -> Vec<usize> {
    let units = roots.len();
    let mut seen = HashSet::with_capacity(units);
    let is_known = |root: Option<R>| root.is_some_and(|root| !seen.insert(root));
    let repeated: Vec<usize> = roots.map(is_known).enumerate().filter_map(|(place, is_known)| is_known.then_some(place)).collect();
    if repeated.len() * FEW > units { Vec::new() } else { repeated }
}

impl Batch<'_> {
    /// The groups of a batch that runs in one trip; none if this one doesn't.
    pub(super) fn groups_to_fold(&self, manner: Manner) -> Option<Vec<Group>> {
        if !manner.folds
            || manner.looks
            || !manner.set_wise
            || !self.refused.is_empty()
            || !self.units.iter().all(|unit| may_be_folded(unit))
        {
            return None;
        }
        let label = self.label();
        // These points lie between the trips.
        if ["after_effect", "after_outcome"].iter().any(|point| fail_point::is_armed(point, &label)) {
            return None;
        }
        let (groups, rows) = set_wise::split(self.units, |place| is_set_wise(self.units[*place]), 1);
        (rows.is_empty() && !groups.is_empty()).then_some(groups)
    }

    /// Runs everything in one trip. From the moment that it is sent, nothing is cancelled.
    pub(super) async fn folded(&mut self, groups: Vec<Group>) -> Result<Attempt, Failure> {
        let mut calls: Vec<Call> = vec![self.standing()];
        let entries = self.context.journal.entries(self.units.iter().copied().enumerate())?;
        for group in &groups {
            let Some(set_wise) = &group.declared.set_wise else { return Ok(Attempt::Unfolded) };
            let outcomes: Vec<NewOutcome<'_>> = group.places.iter().filter_map(|place| request_of(self.units[*place])).collect();
            let stored = outcomes.iter().any(|outcome| self.context.stores(outcome)).then_some(outcomes.as_slice());
            let entries = entries.as_ref().map_or(Parameter::Null, |entries| entries.of(&group.places, self.context.row_types()));
            if stored.is_none() && entries != Parameter::Null {
                return Ok(Attempt::Unfolded);
            }
            calls.push(self.context.for_all(&group.declared, set_wise, &group.effects(self.units), stored, entries));
        }
        let own = own::calls(self.units.iter().copied().enumerate());
        let wanted = companions::wanted(self.units);
        calls.extend(own.iter().map(|call| self.context.own_if_recorded(call, &wanted)));
        let label = self.label();
        let mut pipeline = Pipeline::default();
        let opened = self.begin(&mut pipeline)?;
        fail_point::hit("before_begin", &label).await;
        if self.connection.add(&mut pipeline, &calls).await.map_err(before_commit)?.is_some() {
            return Ok(Attempt::Unfolded);
        }
        plain(&mut pipeline, "COMMIT")?;
        let lost = |cause| Failure::Lost { was_commit_sent: true, cause };
        let ran = fail_point::while_running("commit_sent", &label, self.connection.run(pipeline)).await.map_err(lost)?;
        fail_point::hit("after_commit", &label).await;
        if let Some(error) = &ran.error {
            self.roll_back().await?;
            check_standing(error)?;
            return match error.sqlstate.as_str() {
                UNKNOWN_STATEMENT => {
                    self.connection.forget_prepared();
                    Err(Failure::Unprepared(error.clone()))
                }
                UNIQUE_VIOLATION if error.constraint.as_deref() == Some("outcome_pkey") => Ok(Attempt::Conflict),
                _ => {
                    self.context.folding.pause();
                    Ok(Attempt::Unfolded)
                }
            };
        }
        not_warned(ran.last_warning)?;
        let mut results = ran.results;
        match results.pop() {
            Some(last) if last.tag == "COMMIT" => {}
            last => return Err(Failure::NotCommitted(format!("COMMIT was answered with {}", last.map_or(String::new(), |last| last.tag)))),
        }
        if let Some(entries) = entries {
            self.context.journal.keep(entries);
        }
        results.drain(..results.len().min(opened + 1));
        let of_own = results.split_off(results.len().min(groups.len()));
        let values = own.iter().zip(&of_own).flat_map(|(call, result)| call.values(result)).collect();
        let others = (0..self.units.len()).filter(|place| self.units[*place].effect.is_none()).collect();
        let folded = FoldedAnswers { groups, results, others, values };
        Ok(if folded.is_any_refused() { self.split_folded(folded) } else { Attempt::AllFolded(folded) })
    }

    /// Tells the units whose effects stand from those that missed an expectation.
    fn split_folded(&self, folded: FoldedAnswers) -> Attempt {
        self.context.folding.pause();
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for (place, answer) in folded.answers(self.units) {
            match answer {
                Err(fault) if fault.retry_class() != RetryClass::OutcomeUnknown => refused.push((place, fault)),
                answer => done.push((place, answer)),
            }
        }
        Attempt::Folded { done, refused }
    }
}

/// What the calls of a folded batch returned.
pub(super) struct FoldedAnswers {
    groups: Vec<Group>,
    results: Vec<StatementResult>,
    /// The places of the units that are in no group.
    others: Vec<usize>,
    /// What our own rows gave.
    values: HashMap<usize, Text>,
}

impl FoldedAnswers {
    fn is_any_refused(&self) -> bool {
        self.results.iter().flat_map(|result| &result.rows).any(|row| row.get(1).is_some_and(Option::is_some))
    }

    /// Each unit's answer with its place, in no order.
    pub(super) fn answers(mut self, units: &[&Unit]) -> Vec<(usize, Answer)> {
        let mut answers: Vec<(usize, Answer)> = self.others.iter().map(|place| (*place, Ok(Done::default()))).collect();
        for (at, group) in self.groups.iter().enumerate() {
            match self.results.get(at).map(|result| group.answers(units, result)) {
                Some(Given::Answers(given)) => answers.extend(given),
                // The function promises that these don't come together with a commit.
                _ => answers.extend(group.places.iter().map(|place| (*place, Err(unreadable(units[*place]))))),
            }
        }
        for (place, answer) in &mut answers {
            if let Ok(done) = answer {
                done.after = self.values.remove(place).flatten();
            }
        }
        answers
    }
}

fn unreadable(unit: &Unit) -> Fault {
    Fault::new(
        "RW3102",
        RetryClass::OutcomeUnknown,
        format!("`{}` was executed, and its answer can't be read", unit.label),
        "send it again with the same request id: it takes effect once",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_units_at_a_root_that_comes_again_wait_and_many_do_not() {
        let places = |roots: &str| few_repeated(roots.bytes().map(|root| (root != b'-').then_some(root)).collect::<Vec<_>>().into_iter());
        assert_eq!(places("abcdefgha"), [8]);
        assert_eq!(places("abcdefabghijklmn"), [6, 7], "every later one of a root waits, so that they stay in order");
        assert_eq!(places("abcdefaaghijklmn"), [6, 7]);
        for (roots, why) in [("abcdefaaahijklmn", "a hot root"), ("aa", "half"), ("---------", "no roots"), ("", "nothing")] {
            assert!(places(roots).is_empty(), "{why}");
        }
    }
}
