//! The optimistic run: all units of a batch at once.

use std::{collections::HashMap, ops::Range};

use super::{
    batch::{Attempt, BEGIN, Batch, Closing, Failure, Manner, UNKNOWN_STATEMENT, before_commit, check_standing, plain},
    declared::Which,
    outcome::stored_answer,
    positions::Positions,
    refusal,
    set_wise::{self, Given, Group},
    unit::{Answer, Claim, Unit},
};
use crate::{
    fail_point,
    pg::{Call, Parameter, Pipeline, ServerError, StatementResult},
};

/// Fewer units than this run row by row: beside others a call for many costs more than one alone.
const FEWEST: usize = 2;

/// Which calls of the first trip are whose.
struct Layout {
    groups: Vec<Group>,
    /// The call of the first group; one for each follows.
    first_group: usize,
    which: Which,
    /// Units that run row by row, with their calls.
    rows: Vec<(usize, Range<usize>)>,
    positions: Positions,
}

impl Batch<'_> {
    pub(super) async fn together(&mut self, manner: Manner) -> Result<Attempt, Failure> {
        let mut calls = self.opening(manner.looks);
        let runs = |place: &usize| !self.refused.contains_key(place);
        let (groups, rows) = if manner.set_wise {
            set_wise::split(self.units, runs, FEWEST)
        } else {
            (Vec::new(), (0..self.units.len()).filter(runs).collect())
        };
        let first_group = calls.len();
        for group in &groups {
            if let Some(set_wise) = &group.declared.set_wise {
                calls.push(self.context.for_all(&group.declared, set_wise, &group.effects(self.units), None, Parameter::Null));
            }
        }
        // Whoever looks does so since the run before was refused, or may be: then all statements are asked what they tell.
        let which = if manner.looks { Which::All } else { Which::Untold };
        let mut ranges = Vec::with_capacity(rows.len());
        for place in rows {
            let first = calls.len();
            calls.extend(self.context.calls_of(self.units[place], which));
            ranges.push((place, first..calls.len()));
        }
        let layout = Layout { groups, first_group, which, rows: ranges, positions: Positions::new(&calls) };
        let mut pipeline = Pipeline::default();
        // Preparing may need a trip of its own, which goes before all of this.
        let opened = self.begin(&mut pipeline)?;
        fail_point::hit("before_begin", &self.label()).await;
        if let Some(error) = self.connection.add(&mut pipeline, &calls).await.map_err(before_commit)? {
            return self.refused_at_preparation(&error, !layout.groups.is_empty()).await;
        }
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        let results = ran.results.get(opened..).unwrap_or_default();
        if manner.looks {
            let found = self.stored(results.get(1));
            if !found.is_empty() {
                self.roll_back().await?;
                return Ok(Attempt::Stored(found));
            }
        }
        if let Some(error) = &ran.error {
            self.roll_back().await?;
            return self.failed(&layout, results, error);
        }
        let attempt = self.read(&layout, results);
        let mut answers = match attempt {
            Attempt::Committed(answers, _) => answers,
            other => {
                self.roll_back().await?;
                return Ok(other);
            }
        };
        fail_point::hit("after_effect", &self.label()).await;
        match self.close(&answers, true).await? {
            Closing::Done(values) => {
                for (place, value) in values {
                    if let Ok(done) = &mut answers[place] {
                        done.after = value;
                    }
                }
                Ok(Attempt::Committed(answers, layout.groups.iter().map(|group| group.places.len()).sum()))
            }
            Closing::Conflict => {
                self.roll_back().await?;
                Ok(Attempt::Conflict)
            }
            Closing::Not(error, places) => {
                self.roll_back().await?;
                check_standing(&error)?;
                let judge = |place: usize| refusal::judge(self.units[place], None, &error);
                match places[..] {
                    [place] => Ok(Attempt::Refused(place, judge(place))),
                    [first, ..] => Ok(Attempt::RefusedAmong(judge(first))),
                    [] => Err(Failure::NotCommitted(error.message)),
                }
            }
        }
    }

    /// What all results of the first trip mean.
    fn read(&self, layout: &Layout, results: &[StatementResult]) -> Attempt {
        let mut answers: Vec<Option<Answer>> = (0..self.units.len()).map(|place| self.refused.get(&place).cloned().map(Err)).collect();
        for (at, group) in layout.groups.iter().enumerate() {
            let Some(result) = results.get(layout.positions.first_of(layout.first_group + at)) else { return Attempt::RowByRow };
            match group.answers(self.units, result) {
                Given::Answers(given) => given.into_iter().for_each(|(place, answer)| answers[place] = Some(answer)),
                Given::Dirty(place, fault) => return Attempt::Refused(place, fault),
                Given::Unusable => return Attempt::RowByRow,
            }
        }
        for (place, calls) in &layout.rows {
            match self.context.answer_of(self.units[*place], layout.which, &results[layout.positions.results_of(calls)]) {
                Ok(done) => answers[*place] = Some(Ok(done)),
                Err(fault) => return Attempt::Refused(*place, fault),
            }
        }
        let missing = || Err(rootward_proto::Fault::internal("a unit was left without an answer"));
        Attempt::Committed(answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect(), 0)
    }

    /// Whose the error is that ended the first trip.
    fn failed(&mut self, layout: &Layout, results: &[StatementResult], error: &ServerError) -> Result<Attempt, Failure> {
        if error.sqlstate == UNKNOWN_STATEMENT {
            self.connection.forget_prepared();
            return Err(Failure::Unprepared(error.clone()));
        }
        let call = layout.positions.call_at(results.len());
        if (layout.first_group..layout.first_group + layout.groups.len()).contains(&call) {
            check_standing(error)?;
            tracing::debug!(sqlstate = error.sqlstate, message = error.message, "a call for many units failed; they run row by row");
            return Ok(Attempt::RowByRow);
        }
        // Nobody's fault among the units: the lock for a change of owner was not to be had in time, for example.
        let Some((place, calls)) = layout.rows.iter().find(|(_, calls)| calls.contains(&call)) else {
            check_standing(error)?;
            return Err(Failure::NotCommitted(error.message.clone()));
        };
        let unit = self.units[*place];
        let statement = self.context.statement_at(unit, layout.which, call - calls.start);
        // The users' SQL can raise any SQLSTATE, and call our functions with a wrong secret: that says nothing about the
        // worker's standing.
        if statement.is_none() {
            check_standing(error)?;
        }
        let own = &results[layout.positions.first_of(calls.start).min(results.len())..];
        let missed = self.context.missed_expectation(unit, layout.which, own);
        Ok(Attempt::Refused(*place, missed.unwrap_or_else(|| refusal::judge(unit, statement, error))))
    }

    /// The check of term and ownership, and the look for outcomes that are there already.
    fn opening(&self, looks: bool) -> Vec<Call> {
        let mut calls = vec![self.standing()];
        if looks {
            calls.push(self.context.find(self.units));
        }
        calls
    }

    /// The check of term and ownership.
    pub(super) fn standing(&self) -> Call {
        let mut claims: Vec<Claim> = self.units.iter().map(|unit| unit.claim).collect();
        claims.sort_unstable();
        claims.dedup_by_key(|claim| (claim.partition, claim.epoch));
        self.context.begin(&claims)
    }

    fn stored(&self, found: Option<&StatementResult>) -> HashMap<usize, Answer> {
        let asked: Vec<(usize, &Unit)> = self.units.iter().copied().enumerate().filter(|(_, unit)| unit.outcome.is_some()).collect();
        let mut answers = HashMap::new();
        for row in found.map_or(&[][..], |result| &result.rows) {
            let ordinal: Option<usize> = row.first().and_then(Option::as_deref).and_then(|text| text.parse().ok());
            if let Some((place, unit)) = ordinal.and_then(|at| asked.get(at))
                && let Some(outcome) = &unit.outcome
            {
                answers.insert(*place, stored_answer(&outcome.fingerprint, &outcome.key, &row[1..]));
            }
        }
        answers
    }

    /// A statement that PostgreSQL doesn't take: nothing of the batch has run. Answers what is stored, else finds out whose
    /// it is by preparing each unit's alone.
    async fn refused_at_preparation(&mut self, error: &ServerError, has_groups: bool) -> Result<Attempt, Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, BEGIN)?;
        self.connection.add(&mut pipeline, &self.opening(true)).await.map_err(before_commit)?;
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        self.roll_back().await?;
        if let Some(error) = &ran.error {
            check_standing(error)?;
            return Err(Failure::NotCommitted(error.message.clone()));
        }
        let found = self.stored(ran.results.get(2));
        if !found.is_empty() {
            return Ok(Attempt::Stored(found));
        }
        if has_groups {
            tracing::warn!(
                sqlstate = error.sqlstate,
                message = error.message,
                "a call for many units can't be prepared; they run row by row"
            );
            return Ok(Attempt::RowByRow);
        }
        // Those that are known to be refused run no more.
        for (place, unit) in self.units.iter().enumerate().filter(|(place, _)| !self.refused.contains_key(place)) {
            let calls = self.context.calls_of(unit, Which::All);
            let mut unused = Pipeline::default();
            if let Some(own) = self.connection.add(&mut unused, &calls).await.map_err(before_commit)? {
                return Ok(Attempt::Refused(place, refusal::judge(unit, None, &own)));
            }
        }
        Err(Failure::NotCommitted(error.message.clone()))
    }
}
