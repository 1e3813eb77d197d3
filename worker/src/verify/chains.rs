//! What this peer knows of each chain: its row, and the outcomes of its steps. Both are read in the order of the chains' ids, a page at
//! a time, so that whoever compares all peers needs to hold one chain only.

use std::collections::VecDeque;

use prost::Message as _;
use rootward_proto::v1;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Counts, Transaction, VerifyError};

/// Rows that are read at once.
const ROWS: i32 = 500;
/// Chains that go out in one message.
const CHAINS: usize = 500;
/// How many bytes a message has before the next one begins.
const BYTES: usize = 1 << 20;

/// Rows in the order of their first column, an id.
struct Source {
    portal: tokio_postgres::Portal,
    rows: VecDeque<Row>,
    is_over: bool,
}

impl Source {
    async fn open(transaction: &Transaction<'_>, sql: &str) -> Result<Source, VerifyError> {
        let statement = transaction.prepare(sql).await?;
        Ok(Source { portal: transaction.bind(&statement, &[]).await?, rows: VecDeque::new(), is_over: false })
    }

    /// The id of the next row; none at the end.
    async fn next_id(&mut self, transaction: &Transaction<'_>) -> Result<Option<Uuid>, VerifyError> {
        if self.rows.is_empty() && !self.is_over {
            self.rows = transaction.query_portal(&self.portal, ROWS).await?.into();
            self.is_over = self.rows.is_empty();
        }
        Ok(self.rows.front().map(|row| row.try_get(0)).transpose()?)
    }

    /// The next row, if it is this chain's.
    async fn take(&mut self, transaction: &Transaction<'_>, id: Uuid) -> Result<Option<Row>, VerifyError> {
        Ok(if self.next_id(transaction).await? == Some(id) { self.rows.pop_front() } else { None })
    }
}

/// Tells of all chains, until nobody listens any more.
pub(super) async fn tell(transaction: &Transaction<'_>, counts: &Counts) -> Result<(), VerifyError> {
    let sql =
        "/* verify_chains */ select id, status, definition, plan, input, fingerprint, is_collected from rootward_move.chain order by id";
    let mut chains = Source::open(transaction, sql).await?;
    // The mark of a scheduled start is no step.
    let sql = "/* verify_outcomes_of_chains */ select request_id, step, element, direction, kind, fingerprint, reply from rootward_move.outcome \
               where in_chain and step < 2147483647 order by request_id";
    let mut outcomes = Source::open(transaction, sql).await?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    loop {
        let next = [chains.next_id(transaction).await?, outcomes.next_id(transaction).await?];
        let next = next.into_iter().flatten().min();
        if let Some(id) = next {
            let mut evidence = v1::ChainEvidence { id: id.as_bytes().to_vec(), ..v1::ChainEvidence::default() };
            while let Some(row) = chains.take(transaction, id).await? {
                if row.try_get(6)? {
                    evidence.is_collected = true;
                } else {
                    evidence.facts.push(fact_of(&row)?);
                }
            }
            while let Some(row) = outcomes.take(transaction, id).await? {
                evidence.outcomes.push(outcome_of(&row)?);
            }
            bytes += evidence.encoded_len();
            page.push(evidence);
        }
        let is_full = page.len() >= CHAINS || bytes >= BYTES;
        if (is_full || next.is_none()) && !page.is_empty() {
            let message = v1::VerifyPeerResponse { evidence: std::mem::take(&mut page), ..v1::VerifyPeerResponse::default() };
            bytes = 0;
            if counts.send(Ok(message)).await.is_err() {
                return Ok(());
            }
        }
        if next.is_none() {
            return Ok(());
        }
    }
}

fn fact_of(row: &Row) -> Result<v1::ChainFact, VerifyError> {
    let (plan, input): (serde_json::Value, serde_json::Value) = (row.try_get(3)?, row.try_get(4)?);
    let status: String = row.try_get(1)?;
    let (expected, mut undoable) = expected_outcomes(&plan, &input);
    if status == "failed" && keeps(&plan) {
        undoable.clear();
    }
    Ok(v1::ChainFact { status, definition: row.try_get(2)?, expected, undoable, fingerprint: row.try_get(5)? })
}

fn outcome_of(row: &Row) -> Result<v1::OutcomeFact, VerifyError> {
    let kind: &str = row.try_get(4)?;
    let is_skipped = kind == "done" && v1::CallResponse::decode(row.try_get::<_, &[u8]>(6)?).is_ok_and(|reply| reply.is_skipped);
    Ok(v1::OutcomeFact {
        step: u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or_default(),
        element: u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or_default(),
        direction: if row.try_get::<_, &str>(3)? == "undo" { v1::Direction::Undo } else { v1::Direction::Do }.into(),
        kind: if is_skipped { "skipped" } else { kind }.to_owned(),
        fingerprint: row.try_get(5)?,
    })
}

/// Whether a refusal of one of the steps keeps what took effect.
fn keeps(plan: &serde_json::Value) -> bool {
    let steps = plan.get("steps").and_then(serde_json::Value::as_array);
    steps.is_some_and(|steps| steps.iter().any(|step| step.get("on_failure").and_then(serde_json::Value::as_str) == Some("keep")))
}

/// The (step, element) pairs of a plan, and those of them that a compensation undoes, each flattened.
fn expected_outcomes(plan: &serde_json::Value, input: &serde_json::Value) -> (Vec<u32>, Vec<u32>) {
    let (mut expected, mut undoable) = (Vec::new(), Vec::new());
    let steps = plan.get("steps").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    for (at, step) in steps.iter().enumerate() {
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        let list = step.pointer("/for_each/parameter").and_then(serde_json::Value::as_str).and_then(|name| input.get(name));
        let elements =
            match list.and_then(serde_json::Value::as_str).and_then(|text| serde_json::from_str::<Vec<serde_json::Value>>(text).ok()) {
                Some(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
                None => 1,
            };
        for element in 0..elements {
            expected.extend([number, element]);
            if !step.get("compensate").is_none_or(serde_json::Value::is_null) {
                undoable.extend([number, element]);
            }
        }
    }
    (expected, undoable)
}
