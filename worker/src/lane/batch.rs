//! One batch: one PostgreSQL transaction for all units that waited.
//!
//! First optimistically, all together, set-wise where that is proven to be the same. If a unit is refused after it wrote,
//! everything is taken back and the others run again without it; if many are, each unit runs behind a savepoint of its own, so
//! that a refusal harms nobody else.
//! Nothing is answered before COMMIT has been.

use std::{collections::HashMap, sync::Arc};

use rootward_proto::{Fault, v1::RetryClass};
use tokio::time::Instant;

use super::{
    companions,
    context::LaneContext,
    folded::FoldedAnswers,
    journal,
    outcome::{NewOutcome, StoredKind, encode_reply},
    own, refusal,
    unit::{Answer, Unit},
};
use crate::{
    fail_point,
    pg::{Call, Connection, ConnectionLost, Pipeline, ServerError},
};

/// Says everything that a session's defaults would decide else: RESET ALL, which may follow, comes too late for them.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE";

/// PostgreSQL's word for a prepared statement that is not there.
pub(super) const UNKNOWN_STATEMENT: &str = "26000";

/// PostgreSQL's word for a key that is there already.
pub(super) const UNIQUE_VIOLATION: &str = "23505";

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

/// How many refused units a batch leaves out before each unit runs behind a savepoint: each costs two runs of all others.
const MOST_EXCLUDED: usize = 3;

/// How a batch is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Looks for stored outcomes first. The first run trusts that there are none: one that is there refuses the new one.
    pub looks: bool,
    /// Runs set-wise what may.
    pub set_wise: bool,
    /// Runs in one trip if the whole batch may.
    pub folds: bool,
}

/// What a batch gave.
pub(super) struct Ran {
    pub answers: Answers,
    pub end: BatchEnd,
    /// How many units were done set-wise.
    pub set_wise: usize,
}

/// The answers to all units of a batch.
pub(super) enum Answers {
    /// In the order of the units.
    Read(Vec<Answer>),
    /// Every unit took effect. The answers can be read from these while the next batch runs.
    Unread(FoldedAnswers),
}

/// Runs all units.
pub(super) async fn run_batch(context: &LaneContext, connection: &mut Connection, units: &[Unit]) -> Ran {
    let mut answers: Vec<Option<Answer>> = units.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..units.len()).collect();
    let mut has_prepared_again = false;
    let mut set_wise = 0;
    let changes_settings = units.iter().any(|unit| unit.effect.as_ref().is_some_and(|effect| effect.declared.may_change_settings));
    let asks = |unit: &Unit| unit.outcome.as_ref().is_some_and(|outcome| outcome.is_look_up);
    let mut manner =
        Manner { looks: units.iter().any(asks), set_wise: context.how.set_wise, folds: context.how.set_wise && context.folding.is_next() };
    let mut excluded: HashMap<usize, Fault> = HashMap::new();
    connection.may_be_changed |= changes_settings;
    if let Err(failure) = journal::learn_heads(context, connection, units).await {
        let end = fail(&mut answers, &open, units, &failure);
        let answers = answers.into_iter().flatten().collect();
        return Ran { answers: Answers::Read(answers), end, set_wise };
    }
    let end = loop {
        let chosen: Vec<&Unit> = open.iter().map(|at| &units[*at]).collect();
        let refused = open.iter().enumerate().filter_map(|(place, at)| Some((place, excluded.get(at)?.clone()))).collect();
        let mut batch = Batch { context, connection, units: &chosen, refused };
        let attempt = match batch.groups_to_fold(manner) {
            Some(groups) => batch.folded(groups).await,
            None if companions::leave_out(units, &mut open) => continue,
            None => batch.together(manner).await,
        };
        let attempt = match attempt {
            // Somebody's SQL, perhaps in an earlier batch, deallocated our statements. They are prepared anew; if they are
            // gone once more, somebody in this batch does it, and finds out alone.
            Err(Failure::Unprepared(_)) if !has_prepared_again => {
                has_prepared_again = true;
                continue;
            }
            Err(Failure::Unprepared(error)) => Ok(Attempt::RefusedAmong(refusal::judge(chosen[0], None, &error))),
            attempt => attempt,
        };
        match attempt {
            Ok(Attempt::Committed(given, in_groups)) => {
                // What RESET ALL did stands with COMMIT only.
                batch.connection.may_be_changed &= changes_settings;
                set_wise += in_groups;
                fill(&mut answers, &open, given);
                break BatchEnd::Answered;
            }
            Ok(Attempt::AllFolded(unread)) => {
                batch.connection.may_be_changed = false;
                return Ran { answers: Answers::Unread(unread), end: BatchEnd::Answered, set_wise: units.len() };
            }
            Ok(Attempt::Folded { done, refused }) => {
                set_wise = done.len();
                for (place, answer) in done {
                    answers[open[place]] = Some(answer);
                }
                excluded.extend(refused.iter().map(|(place, fault)| (open[*place], fault.clone())));
                open = refused.iter().map(|(place, _)| open[*place]).collect();
                manner.folds = false;
                if open.is_empty() {
                    break BatchEnd::Answered;
                }
            }
            Ok(Attempt::Unfolded) => manner.folds = false,
            Ok(Attempt::Stored(found)) => {
                for (place, answer) in &found {
                    answers[open[*place]] = Some(answer.clone());
                }
                open = open.into_iter().enumerate().filter(|(place, _)| !found.contains_key(place)).map(|(_, at)| at).collect();
                if open.is_empty() {
                    break BatchEnd::Answered;
                }
            }
            // Whatever went wrong, a request that was answered before gets that answer.
            Ok(Attempt::Conflict | Attempt::Refused(..) | Attempt::RefusedAmong(_)) if !manner.looks => manner.looks = true,
            Ok(Attempt::RowByRow) => manner.set_wise = false,
            Ok(Attempt::Conflict) => {
                let failure = Failure::NotCommitted("an outcome was written by somebody else".to_owned());
                break fail(&mut answers, &open, units, &failure);
            }
            // Without it, the others run together once more; its refusal is recorded with them. If one is refused that was left out already,
            // leaving out is not the way, and would go on for ever.
            Ok(Attempt::Refused(place, fault))
                if excluded.len() < MOST_EXCLUDED && !excluded.contains_key(&open[place]) && batch.is_alone_at_its_root(place) =>
            {
                excluded.insert(open[place], fault);
                manner.set_wise = context.how.set_wise;
            }
            Ok(Attempt::Refused(_, fault) | Attempt::RefusedAmong(fault)) => {
                let given = batch.separately(fault).await;
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
    let answers = answers.into_iter().zip(units).map(|(answer, unit)| {
        answer.unwrap_or_else(|| Err(Fault::internal(if unit.is_companion { "left out" } else { "a unit was left without an answer" })))
    });
    Ran { answers: Answers::Read(answers.collect()), end, set_wise }
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
pub(super) enum Failure {
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
                format!("partition {} has another owner", unit.claim.partition),
                "nothing was executed; the router finds the owner by itself",
            ),
            Failure::Unprepared(ServerError { message: why, .. }) | Failure::NotCommitted(why) => {
                Fault::retry("RW3105", format!("`{}` was not executed: its batch came to nothing: {why}", unit.label), "send it again")
            }
        }
    }
}

pub(super) fn before_commit(cause: ConnectionLost) -> Failure {
    Failure::Lost { was_commit_sent: false, cause }
}

/// How a run ended; nothing was done but by `Committed`, `AllFolded` and `Folded`.
pub(super) enum Attempt {
    /// The answers, and how many of them come from a call for many units.
    Committed(Vec<Answer>, usize),
    /// Some units had been answered before.
    Stored(HashMap<usize, Answer>),
    /// A unit had been answered before.
    Conflict,
    /// One unit was refused.
    Refused(usize, Fault),
    /// One of several units was, for this reason, and nobody knows which.
    RefusedAmong(Fault),
    /// A call for many units failed, perhaps for one of them.
    RowByRow,
    /// All effects stand.
    AllFolded(FoldedAnswers),
    /// The effects of these stand; the others left none, and their refusals are not recorded yet.
    Folded { done: Vec<(usize, Answer)>, refused: Vec<(usize, Fault)> },
    /// It doesn't work in one trip.
    Unfolded,
}

/// How the end of a batch went.
pub(super) enum Closing {
    /// What our own rows gave.
    Done(HashMap<usize, rootward_schema::Text>),
    /// An outcome is there already.
    Conflict,
    /// An error, and the places of the units whose rows of ours one call writes: it concerns one of them.
    Not(ServerError, Vec<usize>),
}

/// A warning in the answer to COMMIT says that somebody broke off the wait for a standby: the commit is in PostgreSQL's own log, and may be
/// gone when a standby takes over. So nothing is known, and this lane's peer stops until a new term has made a commit that is not warned of.
///
/// # Errors
/// [`Failure::Lost`], if there was a warning.
pub(super) fn not_warned(warning: Option<String>) -> Result<(), Failure> {
    match warning {
        None => Ok(()),
        Some(warning) => {
            let cause = std::io::Error::other(format!("PostgreSQL warned at COMMIT: {warning}"));
            Err(Failure::Lost { was_commit_sent: true, cause: cause.into() })
        }
    }
}

pub(super) struct Batch<'a> {
    pub context: &'a LaneContext,
    pub connection: &'a mut Connection,
    pub units: &'a [&'a Unit],
    /// Units that are known to be refused and run no more, by their places.
    pub refused: HashMap<usize, Fault>,
}

impl Batch<'_> {
    /// Records the outcomes, does our own rows (if they are not done yet) of units that took effect, and commits. From the moment that COMMIT is sent,
    /// nothing is cancelled.
    pub(super) async fn close(&mut self, answers: &[Answer], has_own: bool) -> Result<Closing, Failure> {
        let label = self.label();
        let effective =
            self.units.iter().enumerate().filter(|(place, _)| has_own && answers[*place].is_ok()).map(|(place, unit)| (place, *unit));
        let own = own::calls(effective);
        let mut calls: Vec<Call> = own.iter().map(|call| self.context.own(call)).collect();
        let outcomes = self.units.iter().zip(answers).filter_map(|(unit, answer)| new_outcome(unit, answer));
        let outcomes: Vec<NewOutcome<'_>> = outcomes.filter(|outcome| self.context.stores(outcome)).collect();
        if !outcomes.is_empty() {
            calls.push(self.context.record(&outcomes));
        }
        let done = self.units.iter().copied().enumerate().filter(|(place, _)| answers[*place].is_ok());
        let entries = self.context.journal.entries(done)?;
        calls.extend(entries.as_ref().map(|entries| entries.call(self.context.row_types(), self.context.secret())));
        let mut pipeline = Pipeline::default();
        if let Some(error) = self.connection.add(&mut pipeline, &calls).await.map_err(before_commit)? {
            return Err(Failure::NotCommitted(error.message));
        }
        let mut results = Vec::new();
        if fail_point::is_armed("after_outcome", &label) {
            let ran = self.connection.run(std::mem::take(&mut pipeline)).await.map_err(before_commit)?;
            if let Some(error) = ran.error {
                return Ok(closing(&own, ran.results.len(), error));
            }
            results = ran.results;
            fail_point::hit("after_outcome", &label).await;
        }
        plain(&mut pipeline, "COMMIT")?;
        let sent = self.connection.run(pipeline);
        let lost = |cause| Failure::Lost { was_commit_sent: true, cause };
        let began = Instant::now();
        let ran = fail_point::while_running("commit_sent", &label, sent).await.map_err(lost)?;
        self.context.counters.flushed(began.elapsed());
        fail_point::hit("after_commit", &label).await;
        results.extend(ran.results);
        if let Some(error) = ran.error {
            return Ok(closing(&own, results.len(), error));
        }
        not_warned(ran.last_warning)?;
        // PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, not with an error.
        match results.last() {
            Some(last) if last.tag == "COMMIT" => {
                if let Some(entries) = entries {
                    self.context.journal.keep(entries);
                }
                Ok(Closing::Done(own.iter().zip(&results).flat_map(|(call, result)| call.values(result)).collect()))
            }
            last => Err(Failure::NotCommitted(format!("COMMIT was answered with {}", last.map_or("nothing", |result| &result.tag)))),
        }
    }

    /// Adds BEGIN, and RESET ALL if settings may have been changed; how many results that gives. Neither is prepared: a function of the
    /// users' could EXECUTE it by its name.
    pub(super) fn begin(&self, pipeline: &mut Pipeline) -> Result<usize, Failure> {
        plain(pipeline, BEGIN)?;
        if self.connection.may_be_changed {
            plain(pipeline, "RESET ALL")?;
        }
        Ok(1 + usize::from(self.connection.may_be_changed))
    }

    /// What a fail point compares with: the transaction that it names if that is in the batch, whatever else is.
    pub(super) fn label(&self) -> Arc<str> {
        let named = self.units.iter().find(|unit| fail_point::names(&unit.label));
        named.unwrap_or(&self.units[0]).label.clone()
    }

    /// Whether a unit is one of several, and the only one of them that touches its root: then the others are the same
    /// without it, and it was refused by what its root is when they commit.
    fn is_alone_at_its_root(&self, place: usize) -> bool {
        let root = |unit: &Unit| {
            let key = unit.outcome.as_ref().map(|outcome| (outcome.key.entity.clone(), outcome.key.root_key.clone()));
            (unit.claim.partition, key)
        };
        let own = root(self.units[place]);
        own.1.is_some() && self.units.len() > 1 && self.units.iter().filter(|unit| root(unit) == own).count() == 1
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

    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        let mut pipeline = Pipeline::default();
        plain(&mut pipeline, "ROLLBACK")?;
        self.connection.run(pipeline).await.map_err(before_commit)?;
        Ok(())
    }
}

/// What an error at a place behind the effects means: our own rows come first, then the outcomes.
fn closing(own: &[own::OwnCall<'_>], at: usize, error: ServerError) -> Closing {
    match own.get(at) {
        Some(call) => Closing::Not(error, call.places.clone()),
        None if error.sqlstate == UNIQUE_VIOLATION && error.constraint.as_deref() != Some("journal_pkey") => Closing::Conflict,
        None => Closing::Not(error, Vec::new()),
    }
}

pub(super) fn plain(pipeline: &mut Pipeline, sql: &str) -> Result<(), Failure> {
    pipeline.push_plain(sql).map_err(|error| before_commit(error.into()))
}

/// Errors of our own functions concern the whole batch.
pub(super) fn check_standing(error: &ServerError) -> Result<(), Failure> {
    match error.sqlstate.as_str() {
        "RW001" => Err(Failure::TermOver),
        "RW002" => Err(Failure::WrongOwner),
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
    Some(NewOutcome { kind, reply, in_chain, ..request_of(unit)? })
}

/// The outcome of a unit that took effect, but for its reply.
pub(super) fn request_of(unit: &Unit) -> Option<NewOutcome<'_>> {
    let outcome = unit.outcome.as_ref()?;
    Some(NewOutcome {
        partition: unit.claim.partition,
        key: &outcome.key,
        fingerprint: &outcome.fingerprint,
        kind: StoredKind::Done,
        reply: Vec::new(),
        in_chain: outcome.in_chain,
        issued_at_ms: outcome.issued_at_ms,
    })
}
