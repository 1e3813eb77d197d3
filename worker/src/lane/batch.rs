//! One batch: one PostgreSQL transaction for all units that waited.
//!
//! First optimistically, all together. If anything is refused, everything is taken back and each unit runs again behind a
//! savepoint of its own, so that a refusal harms nobody else. Nothing is answered before COMMIT has been.

use std::{collections::HashMap, sync::Arc};

use rootward_proto::{Fault, v1::RetryClass};

use super::{
    context::LaneContext,
    outcome::{NewOutcome, StoredKind, encode_reply, stored_answer},
    positions::Positions,
    refusal,
    unit::{Answer, Unit},
};
use crate::{
    fail_point,
    pg::{Call, Connection, ConnectionLost, Pipeline, ServerError, StatementResult},
};

/// Says everything that a session's defaults would decide else: RESET ALL, which follows, comes too late for them.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE";

/// PostgreSQL's word for a prepared statement that is not there.
const UNKNOWN_STATEMENT: &str = "26000";

/// How a batch ended for its lane.
#[derive(Debug)]
pub(super) enum BatchEnd {
    /// The answers stand and the connection is fine.
    Answered,
    /// The connection is of no use any more; the answers say what that means for each unit.
    ConnectionLost,
    /// Another worker has taken the peer over.
    TermOver,
}

/// Runs all units and returns the answer to each, in order.
pub(super) async fn run_batch(context: &LaneContext, connection: &mut Connection, units: &[Unit]) -> (Vec<Answer>, BatchEnd) {
    let mut answers: Vec<Option<Answer>> = units.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..units.len()).collect();
    let mut has_prepared_again = false;
    let end = loop {
        let chosen: Vec<&Unit> = open.iter().map(|at| &units[*at]).collect();
        let mut batch = Batch { context, connection, units: &chosen };
        let attempt = match batch.together().await {
            // Somebody's SQL, perhaps in an earlier batch, deallocated our statements. They are prepared anew; if they are
            // gone once more, somebody in this batch does it, and finds out alone.
            Err(Failure::Unprepared(_)) if !has_prepared_again => {
                has_prepared_again = true;
                continue;
            }
            Err(Failure::Unprepared(error)) => Ok(Attempt::Refused(0, refusal::judge(chosen[0], None, &error))),
            attempt => attempt,
        };
        match attempt {
            Ok(Attempt::Committed(given)) => {
                fill(&mut answers, &open, given);
                break BatchEnd::Answered;
            }
            Ok(Attempt::Stored(found)) => {
                for (place, answer) in &found {
                    answers[open[*place]] = Some(answer.clone());
                }
                open = open.into_iter().enumerate().filter(|(place, _)| !found.contains_key(place)).map(|(_, at)| at).collect();
                if open.is_empty() {
                    break BatchEnd::Answered;
                }
            }
            Ok(Attempt::Refused(place, fault)) => {
                let given = batch.separately((place, fault)).await;
                break match given {
                    Ok(given) => {
                        fill(&mut answers, &open, given);
                        BatchEnd::Answered
                    }
                    Err(failure) => fail(&mut answers, &open, units, &batch.given_up(failure).await),
                };
            }
            Err(failure) => break fail(&mut answers, &open, units, &batch.given_up(failure).await),
        }
    };
    let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(Fault::internal("a unit was left without an answer"))));
    (answers.collect(), end)
}

fn fill(answers: &mut [Option<Answer>], open: &[usize], given: Vec<Answer>) {
    for (at, answer) in open.iter().zip(given) {
        answers[*at] = Some(answer);
    }
}

fn fail(answers: &mut [Option<Answer>], open: &[usize], units: &[Unit], failure: &Failure) -> BatchEnd {
    for at in open {
        answers[*at] = Some(Err(failure.fault(&units[*at])));
    }
    match failure {
        Failure::Lost { .. } => BatchEnd::ConnectionLost,
        Failure::TermOver => BatchEnd::TermOver,
        Failure::WrongOwner | Failure::NotCommitted(_) | Failure::Unprepared(_) => BatchEnd::Answered,
    }
}

/// Why a whole batch came to nothing.
#[derive(Debug)]
enum Failure {
    /// Before COMMIT was sent nothing can have taken effect; after it, only a look at the outcomes can tell.
    Lost {
        was_commit_sent: bool,
        cause: ConnectionLost,
    },
    TermOver,
    WrongOwner,
    NotCommitted(String),
    /// A prepared statement of ours is gone.
    Unprepared(ServerError),
}

impl Failure {
    fn fault(&self, unit: &Unit) -> Fault {
        match self {
            Failure::Lost { was_commit_sent: false, cause } => {
                Fault::retry("RW5002", format!("`{}` was not executed: {cause}", unit.label), "send it again")
            }
            Failure::Lost { was_commit_sent: true, cause } => Fault::new(
                "RW3102",
                RetryClass::OutcomeUnknown,
                format!("whether `{}` was executed is unknown: {cause}", unit.label),
                "send it again with the same request id: it takes effect once",
            ),
            Failure::TermOver => Fault::new(
                "RW5005",
                RetryClass::Reroute,
                "another worker has taken this peer over",
                "nothing was executed; the router finds the new worker by itself",
            ),
            Failure::WrongOwner => Fault::new(
                "RW2005",
                RetryClass::Reroute,
                format!("partition {} has another owner", unit.partition),
                "nothing was executed; the router finds the owner by itself",
            ),
            Failure::Unprepared(ServerError { message: why, .. }) | Failure::NotCommitted(why) => {
                Fault::retry("RW3105", format!("`{}` was not executed: its batch came to nothing: {why}", unit.label), "send it again")
            }
        }
    }
}

fn before_commit(cause: ConnectionLost) -> Failure {
    Failure::Lost { was_commit_sent: false, cause }
}

/// How the optimistic run ended.
enum Attempt {
    Committed(Vec<Answer>),
    /// Some units had been answered before; nothing else was done.
    Stored(HashMap<usize, Answer>),
    /// One unit was refused; nothing was done.
    Refused(usize, Fault),
}

struct Batch<'a> {
    context: &'a LaneContext,
    connection: &'a mut Connection,
    units: &'a [&'a Unit],
}

impl Batch<'_> {
    async fn together(&mut self) -> Result<Attempt, Failure> {
        let mut calls = self.opening();
        let mut effects = Vec::with_capacity(self.units.len());
        for unit in self.units {
            let first = calls.len();
            calls.extend(self.context.calls_of(unit));
            effects.push(first..calls.len());
        }
        let mut pipeline = Pipeline::default();
        // Preparing may need a trip of its own, which must not stand between BEGIN and the rest.
        plain(&mut pipeline, BEGIN)?;
        plain(&mut pipeline, "RESET ALL")?;
        fail_point::hit("before_begin", &self.label()).await;
        if let Some(error) = self.connection.add(&mut pipeline, &calls).await.map_err(before_commit)? {
            return self.refused_at_preparation(&error).await;
        }
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        let results = ran.results.get(2..).unwrap_or_default();
        let positions = Positions::new(&calls, effects);
        let found = self.stored(results.get(1));
        if !found.is_empty() {
            self.roll_back().await?;
            return Ok(Attempt::Stored(found));
        }
        if let Some(error) = &ran.error {
            self.roll_back().await?;
            if error.sqlstate == UNKNOWN_STATEMENT {
                self.connection.forget_prepared();
                return Err(Failure::Unprepared(error.clone()));
            }
            // Nobody's fault among the units: the lock for a change of owner was not to be had in time, for example.
            let Some(place) = positions.unit_at(results.len()) else {
                check_standing(error)?;
                return Err(Failure::NotCommitted(error.message.clone()));
            };
            if !self.is_users(place, &positions, results.len()) {
                check_standing(error)?;
            }
            let own = &results[positions.results_of(place).start.min(results.len())..];
            let fault = self.context.missed_expectation(self.units[place], own);
            return Ok(Attempt::Refused(place, fault.unwrap_or_else(|| self.judge(place, &positions, results.len(), error))));
        }
        let mut answers = Vec::with_capacity(self.units.len());
        for (place, unit) in self.units.iter().enumerate() {
            match self.context.answer_of(unit, &results[positions.results_of(place)]) {
                Ok(done) => answers.push(Ok(done)),
                Err(fault) => {
                    self.roll_back().await?;
                    return Ok(Attempt::Refused(place, fault));
                }
            }
        }
        fail_point::hit("after_effect", &self.label()).await;
        let outcomes: Vec<NewOutcome<'_>> =
            self.units.iter().zip(&answers).filter_map(|(unit, answer)| new_outcome(unit, answer)).collect();
        self.commit(&outcomes).await?;
        Ok(Attempt::Committed(answers))
    }

    /// Each unit behind a savepoint; what is refused is taken back, and its refusal recorded in the same commit.
    async fn separately(&mut self, culprit: (usize, Fault)) -> Result<Vec<Answer>, Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, BEGIN)?;
        plain(&mut pipeline, "RESET ALL")?;
        self.connection.add(&mut pipeline, &self.opening()[..1]).await.map_err(before_commit)?;
        if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
            self.roll_back().await?;
            check_standing(&error)?;
            return Err(Failure::NotCommitted(error.message));
        }
        let mut answers: Vec<Answer> = Vec::with_capacity(self.units.len());
        for place in 0..self.units.len() {
            // Alone in its batch, it has been refused already and need not be asked again.
            let answer = if self.units.len() == 1 { Err(culprit.1.clone()) } else { self.one(place).await? };
            answers.push(answer);
        }
        let outcomes: Vec<NewOutcome<'_>> =
            self.units.iter().zip(&answers).filter_map(|(unit, answer)| new_outcome(unit, answer)).collect();
        self.commit(&outcomes).await?;
        Ok(answers)
    }

    async fn one(&mut self, place: usize) -> Result<Answer, Failure> {
        let unit = self.units[place];
        let calls: Vec<Call> = self.context.calls_of(unit);
        // Somebody's SQL before it may have deallocated our statements. If they are gone once more, it does so itself.
        for is_last in [false, true] {
            let mut pipeline = Pipeline::default();
            plain(&mut pipeline, "SAVEPOINT unit")?;
            if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
                return Err(Failure::NotCommitted(error.message));
            }
            let answer = self.behind_savepoint(unit, &calls).await?;
            let mut pipeline = Pipeline::default();
            if !matches!(answer, Ok(Ok(_))) {
                plain(&mut pipeline, "ROLLBACK TO SAVEPOINT unit")?;
            }
            plain(&mut pipeline, "RELEASE SAVEPOINT unit")?;
            if let Some(error) = self.connection.run(pipeline).await.map_err(before_commit)?.error {
                return Err(Failure::NotCommitted(error.message));
            }
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Unprepared(fault)) if is_last => return Ok(Err(fault)),
                Err(Unprepared(_)) => self.connection.forget_prepared(),
            }
        }
        Err(Failure::NotCommitted("a unit was left without an answer".to_owned()))
    }

    async fn behind_savepoint(&mut self, unit: &Unit, calls: &[Call]) -> Result<Result<Answer, Unprepared>, Failure> {
        let mut pipeline = Pipeline::default();
        if let Some(error) = self.connection.add(&mut pipeline, calls).await.map_err(before_commit)? {
            return Ok(Ok(Err(refusal::judge(unit, None, &error))));
        }
        let ran = self.connection.run(pipeline).await.map_err(before_commit)?;
        let Some(error) = &ran.error else { return Ok(Ok(self.context.answer_of(unit, &ran.results))) };
        let call = Positions::new(calls, Vec::new()).call_at(ran.results.len());
        let statement = self.context.statement_at(unit, call);
        let is_unprepared = error.sqlstate == UNKNOWN_STATEMENT;
        if statement.is_none() && !is_unprepared {
            check_standing(error)?;
        }
        let judged = || refusal::judge(unit, statement, error);
        let fault = self.context.missed_expectation(unit, &ran.results).unwrap_or_else(judged);
        Ok(if is_unprepared { Err(Unprepared(fault)) } else { Ok(Err(fault)) })
    }

    /// What a fail point compares with: the transaction that it names if that is in the batch, whatever else is.
    fn label(&self) -> Arc<str> {
        let named = self.units.iter().find(|unit| fail_point::names(&unit.label));
        named.unwrap_or(&self.units[0]).label.clone()
    }

    /// Records the outcomes and commits. From the moment that COMMIT is sent, nothing is cancelled.
    async fn commit(&mut self, outcomes: &[NewOutcome<'_>]) -> Result<(), Failure> {
        let label = self.label();
        let mut pipeline = Pipeline::default();
        if !outcomes.is_empty() {
            let call = self.context.record(outcomes);
            if let Some(error) = self.connection.add(&mut pipeline, &[call]).await.map_err(before_commit)? {
                return Err(Failure::NotCommitted(error.message));
            }
        }
        if fail_point::is_armed("after_outcome", &label) {
            self.connection.run(std::mem::take(&mut pipeline)).await.map_err(before_commit)?;
            fail_point::hit("after_outcome", &label).await;
        }
        plain(&mut pipeline, "COMMIT")?;
        let sent = self.connection.run(pipeline);
        let lost = |cause| Failure::Lost { was_commit_sent: true, cause };
        let ran = fail_point::while_running("commit_sent", &label, sent).await.map_err(lost)?;
        fail_point::hit("after_commit", &label).await;
        if let Some(error) = ran.error {
            self.roll_back().await?;
            check_standing(&error)?;
            return Err(Failure::NotCommitted(error.message));
        }
        // PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, not with an error.
        match ran.results.last() {
            Some(last) if last.tag == "COMMIT" => Ok(()),
            last => Err(Failure::NotCommitted(format!("COMMIT was answered with {}", last.map_or("nothing", |result| &result.tag)))),
        }
    }

    /// Leaves no transaction open behind a failure; a ROLLBACK too many is no error.
    async fn given_up(&mut self, failure: Failure) -> Failure {
        match failure {
            Failure::Lost { .. } => failure,
            _ => {
                // Whatever it was, the next batch starts from what it has prepared itself.
                self.connection.forget_prepared();
                self.roll_back().await.err().unwrap_or(failure)
            }
        }
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, "ROLLBACK")?;
        self.connection.run(pipeline).await.map_err(before_commit)?;
        Ok(())
    }

    /// The check of term and ownership, and the look for outcomes that are there already.
    fn opening(&self) -> Vec<Call> {
        let mut epochs: Vec<(i32, i64)> = self.units.iter().map(|unit| (unit.partition, unit.epoch)).collect();
        epochs.sort_unstable();
        epochs.dedup();
        vec![self.context.begin(&epochs), self.context.find(self.units)]
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

    fn judge(&self, place: usize, positions: &Positions, result: usize, error: &ServerError) -> Fault {
        let unit = self.units[place];
        let call = positions.call_at(result) - positions.effects[place].start;
        refusal::judge(unit, self.context.statement_at(unit, call), error)
    }

    /// Whether a result belongs to a statement of the users'. Their SQL can raise any SQLSTATE, and call our functions
    /// with a wrong secret: that says nothing about the worker's standing.
    fn is_users(&self, place: usize, positions: &Positions, result: usize) -> bool {
        let call = positions.call_at(result).checked_sub(positions.effects[place].start);
        call.is_some_and(|call| self.context.statement_at(self.units[place], call).is_some())
    }

    /// A statement that PostgreSQL doesn't take: nothing of the batch has run. Answers what is stored, else finds out whose
    /// it is by preparing each unit's alone.
    async fn refused_at_preparation(&mut self, error: &ServerError) -> Result<Attempt, Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, BEGIN)?;
        self.connection.add(&mut pipeline, &self.opening()).await.map_err(before_commit)?;
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
        for (place, unit) in self.units.iter().enumerate() {
            let calls = self.context.calls_of(unit);
            let mut unused = Pipeline::default();
            if let Some(own) = self.connection.add(&mut unused, &calls).await.map_err(before_commit)? {
                return Ok(Attempt::Refused(place, refusal::judge(unit, None, &own)));
            }
        }
        Err(Failure::NotCommitted(error.message.clone()))
    }
}

/// A unit alone met a prepared statement that is not there.
struct Unprepared(Fault);

fn plain(pipeline: &mut Pipeline, sql: &str) -> Result<(), Failure> {
    pipeline.push_plain(sql).map_err(|error| before_commit(error.into()))
}

/// Errors of our own functions concern the whole batch.
fn check_standing(error: &ServerError) -> Result<(), Failure> {
    match error.sqlstate.as_str() {
        "RW001" => Err(Failure::TermOver),
        "RW002" => Err(Failure::WrongOwner),
        "RW003" => Err(Failure::NotCommitted(error.message.clone())),
        _ => Ok(()),
    }
}

fn new_outcome<'a>(unit: &'a Unit, answer: &Answer) -> Option<NewOutcome<'a>> {
    let outcome = unit.outcome.as_ref().filter(|outcome| !outcome.is_look_up)?;
    if let Err(fault) = answer
        && (outcome.refusal_is_no_outcome || !refusal::is_outcome(fault))
    {
        return None;
    }
    let (kind, reply) = if outcome.is_tombstone { (StoredKind::Tombstone, Vec::new()) } else { encode_reply(answer) };
    let in_chain = outcome.in_chain && !(outcome.opens_chain && answer.is_err());
    let issued_at_ms = outcome.issued_at_ms;
    Some(NewOutcome {
        partition: unit.partition,
        key: &outcome.key,
        fingerprint: &outcome.fingerprint,
        kind,
        reply,
        in_chain,
        issued_at_ms,
    })
}
