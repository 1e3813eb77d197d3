//! A read on a session of its own: the statements of one transaction at one snapshot, inside its root, and nothing written.

use std::sync::Arc;

use rootward_proto::{Fault, v1};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    context::{How, LaneContext},
    declared::{Effect, Which},
    freshness::{Floors, Freshness},
    outcome::{Fingerprint, OutcomeKey},
    positions::Positions,
    refusal,
    unit::{Answerer, Claim, Unit, UnitOutcome},
};
use crate::pg::{Call, Connection, ConnectionLost, Pipeline, Ran, RowTypes, ServerError};

/// PostgreSQL's word for a statement that writes where it may not.
const READ_ONLY: &str = "25006";
/// A place behind everything that the read showed: at a standby what is replayed by now, at the primary what is written by now.
const POSITION: &str = "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() \
                        else pg_catalog.pg_current_wal_insert_lsn() end";
/// Results of statements of ours in front of the unit's.
const OPENING: usize = 2;

/// What makes reads of one term.
pub(crate) struct ReadContext(LaneContext);

/// How a read ended at one server.
pub(crate) enum ReadEnd {
    /// The answer, and the place behind it as PostgreSQL writes it.
    Answered(v1::CallResponse, String),
    /// The answer is a refusal.
    Refused(Fault),
    /// The server shows another term, or that the partition isn't owned.
    NotHere(ServerError),
    /// It went wrong here, and may go well elsewhere.
    Failed(Fault),
}

/// A transaction that only reads, at its root.
pub(crate) struct Root<'r> {
    pub entity: &'r str,
    pub root_key: &'r str,
    pub request_id: Uuid,
    /// What row security compares with.
    pub context: String,
}

impl ReadContext {
    /// With the secret and the number of the term.
    pub(crate) fn new(secret: &[u8], term: i64) -> ReadContext {
        let how = How { max_batch: 1, set_wise: false, stores_outcomes: true };
        ReadContext(LaneContext::new(
            0,
            secret,
            term,
            RowTypes::default(),
            &[],
            Arc::new(Floors::new(0, 0)),
            how,
            Arc::default(),
            Arc::default(),
        ))
    }

    /// Runs the unit on a connection that is in no transaction, and leaves it so.
    ///
    /// Cancel safety: as [`Connection::run`].
    ///
    /// # Errors
    /// [`ConnectionLost`]; the connection is of no use then.
    pub(crate) async fn run(&self, connection: &mut Connection, unit: &Unit) -> Result<ReadEnd, ConnectionLost> {
        let mut calls = vec![self.0.begin_read(unit.claim)];
        calls.extend(self.0.calls_of(unit, Which::All));
        calls.push(Call::plain(POSITION));
        let mut pipeline = Pipeline::default();
        // One snapshot for all statements; the position is read behind them, so it is not older than what they saw.
        pipeline.push_plain("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        if let Some(error) = connection.add(&mut pipeline, &calls).await? {
            // A standby may not know the tables yet.
            return Ok(ReadEnd::Failed(refusal::judge(unit, None, &error)));
        }
        pipeline.push_plain("ROLLBACK")?;
        let ran = connection.run(pipeline).await?;
        let end = self.judge(unit, &calls, &ran);
        if ran.error.is_some() {
            run_plain(connection, "ROLLBACK").await?;
        }
        if unit.effect.as_ref().is_some_and(|effect| effect.declared.may_change_settings) {
            // Whatever it left in the session, statements among it.
            run_plain(connection, "DISCARD ALL").await?;
            connection.forget_prepared();
        }
        Ok(end)
    }

    fn judge(&self, unit: &Unit, calls: &[Call], ran: &Ran) -> ReadEnd {
        let results = ran.results.get(OPENING..).unwrap_or_default();
        if let Some(error) = &ran.error {
            if ran.results.len() < OPENING {
                return match error.sqlstate.as_str() {
                    "RW001" | "RW002" => ReadEnd::NotHere(error.clone()),
                    _ => ReadEnd::Failed(refusal::judge(unit, None, error)),
                };
            }
            if let Some(fault) = self.0.missed_expectation(unit, Which::All, results) {
                return ReadEnd::Refused(fault);
            }
            let call = Positions::new(calls).call_at(ran.results.len().saturating_sub(1)).saturating_sub(1);
            let fault = match error.sqlstate.as_str() {
                READ_ONLY => writes(&unit.label).with_postgres(&error.sqlstate, error.detail.as_deref(), error.hint.as_deref()),
                _ => refusal::judge(unit, self.0.statement_at(unit, Which::All, call), error),
            };
            let is_final = fault.retry_class() == v1::RetryClass::Refused || fault.code() == "RW3104";
            return if is_final { ReadEnd::Refused(fault) } else { ReadEnd::Failed(fault) };
        }
        // The last two are the position and ROLLBACK.
        let (of_unit, position) = match results {
            [of_unit @ .., position, _] => (of_unit, position.scalar().map(str::to_owned)),
            _ => return ReadEnd::Failed(Fault::internal("a read was answered with nothing")),
        };
        match (self.0.answer_of(unit, Which::All, of_unit), position) {
            (Ok(done), Some(position)) => ReadEnd::Answered(done.response, position),
            (Err(fault), _) => ReadEnd::Refused(fault),
            (Ok(_), None) => ReadEnd::Failed(Fault::internal("a server told no place in its log")),
        }
    }
}

async fn run_plain(connection: &mut Connection, sql: &str) -> Result<(), ConnectionLost> {
    let mut pipeline = Pipeline::default();
    pipeline.push_plain(sql)?;
    connection.run(pipeline).await.map(drop)
}

/// A read that would write.
pub(crate) fn writes(label: &str) -> Fault {
    Fault::refused(
        "RW2040",
        format!("`{label}` may change rows, and a read with a staleness only reads"),
        "leave the staleness out: what changes rows runs at the owner of its root",
    )
}

impl Unit {
    /// The unit of a read.
    pub(crate) fn of_read(root: Root<'_>, claim: Claim, effect: Effect, deadline: Instant) -> Unit {
        let label = effect.declared.name.clone();
        let key = OutcomeKey {
            entity: root.entity.to_owned(),
            root_key: root.root_key.to_owned(),
            request_id: root.request_id,
            step: 0,
            element: 0,
            is_undo: false,
        };
        let fingerprint = Fingerprint::of_chain(&label, &[]);
        Unit {
            label,
            claim,
            context: Some(root.context),
            effect: Some(effect),
            after: None,
            // For messages only: nothing is stored.
            outcome: Some(UnitOutcome {
                key,
                fingerprint,
                is_tombstone: false,
                is_look_up: true,
                refusal_is_no_outcome: true,
                mark: None,
                in_chain: false,
                opens_chain: false,
                issued_at_ms: 0,
                is_journaled: false,
            }),
            is_alone: true,
            freshness: Freshness::Own,
            deadline,
            answer: Answerer::One(oneshot::channel().0),
            companions: Vec::new(),
            is_companion: false,
        }
    }
}
