//! Chains as messages.

use rootward_proto::{Fault, v1};
use rootward_schema::{Text, Wait};
use serde_json::{Value, json};

use super::{
    plan::{Plan, Resolved, first_row},
    state::{Recorded, Standing, Status, Task, legal_verbs},
    store::ChainRow,
};
use crate::clock::timestamp;

pub(super) fn outcome_name(recorded: Recorded) -> &'static str {
    match recorded {
        Recorded::Done => "done",
        Recorded::Skipped => "skipped",
        Recorded::Failed => "failed",
        Recorded::Tombstone => "tombstone",
    }
}

/// One task of a chain, as it was decided.
pub(super) fn step(
    plan: &Plan,
    task: Task,
    direction: &str,
    outcome: &str,
    resolved: &Resolved,
    response: Option<&v1::CallResponse>,
    fault: Option<&Fault>,
) -> v1::ChainStep {
    let result = response.map(first_row).filter(|row| !row.is_empty());
    v1::ChainStep {
        name: plan.step(task).map(|step| step.name.clone()).unwrap_or_default(),
        step: task.step,
        element: task.element,
        direction: direction.to_owned(),
        outcome: outcome.to_owned(),
        entity: resolved.entity.clone(),
        root_key: resolved.root_key.clone(),
        peer: response.map(|response| response.peer.clone()).unwrap_or_default(),
        transaction: resolved.transaction.clone(),
        worker_us: response.map_or(0, |response| response.worker_us),
        at: response.map(|response| response.recorded_at_ms).filter(|at| *at > 0).map(timestamp).unwrap_or_default(),
        failure: fault.map(|fault| fault.as_wire().clone()),
        result: result.and_then(|row| serde_json::to_string(&row).ok()).unwrap_or_default(),
        waits_for: match plan.wait(task) {
            Some(Wait::Timer { .. }) => "timer".to_owned(),
            Some(Wait::Signal { .. }) => "signal".to_owned(),
            None => String::new(),
        },
    }
}

/// What a person can do with a chain, by what its row says; whether its pivot is done only its roots know.
pub(super) fn verbs(status: Status, plan: Option<&Plan>) -> Vec<String> {
    let mut verbs: Vec<String> = legal_verbs(status, &Standing::default()).into_iter().map(|verb| verb.name().to_owned()).collect();
    let has_signal = plan.is_some_and(|plan| plan.definition.steps.iter().any(|step| matches!(step.wait, Some(Wait::Signal { .. }))));
    if status == Status::Waiting && has_signal {
        verbs.insert(0, "signal".to_owned());
    }
    if status.is_ended() {
        verbs.push("fork".to_owned());
    }
    verbs
}

/// A chain's row, without its steps.
pub(crate) fn chain(peer: &str, row: &ChainRow) -> v1::Chain {
    v1::Chain {
        id: row.id.to_string(),
        definition: row.definition.clone(),
        version: u32::try_from(row.version).unwrap_or_default(),
        status: row.status.name().to_owned(),
        step: row.step.clone().unwrap_or_default(),
        attempts: row.attempts,
        input: row.input.to_string(),
        entity: row.entity.clone(),
        root_key: row.root_key.clone(),
        partition: row.partition,
        peer: peer.to_owned(),
        failure: row.error.as_ref().map(failure),
        created_at: row.created_at.clone(),
        updated_at: row.updated_at.clone(),
        steps: Vec::new(),
        events: Vec::new(),
        age_s: row.age_s,
        labels: row.labels.clone().into_iter().collect(),
        result: row.result.as_ref().map(Value::to_string).unwrap_or_default(),
        deadline: row.deadline_ms.map(timestamp).unwrap_or_default(),
        next_attempt_at: if row.status.is_ended() { None } else { row.next_attempt_at_ms }.map(timestamp).unwrap_or_default(),
        ended_at: row.ended_at.clone().unwrap_or_default(),
        verbs: verbs(row.status, super::drivers::plan_of(row).ok().as_ref()),
    }
}

pub(super) fn error_json(fault: &Fault) -> String {
    let failure = fault.as_wire();
    json!({
        "code": failure.code, "message": failure.message, "help": failure.help, "sqlstate": failure.sqlstate,
        "detail": failure.detail, "hint": failure.hint,
    })
    .to_string()
}

fn failure(json: &Value) -> v1::Failure {
    let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    v1::Failure {
        code: text("code"),
        message: text("message"),
        help: text("help"),
        sqlstate: text("sqlstate"),
        detail: text("detail"),
        hint: text("hint"),
        ..v1::Failure::default()
    }
}

/// An answer of one row, for an outcome that no statement gives: a signal's payload, or what a person says.
pub(super) fn mark(values: impl IntoIterator<Item = (String, Text)>, is_skipped: bool) -> v1::CallResponse {
    let (mut columns, mut row) = (Vec::new(), v1::Row::default());
    for (name, text) in values {
        columns.push(v1::Column { name, r#type: "text".to_owned() });
        row.values.push(rootward_proto::to_wire(text.as_deref(), &rootward_schema::Type::Text));
    }
    let rows = if columns.is_empty() { Vec::new() } else { vec![row] };
    v1::CallResponse { row_count: rows.len() as u64, columns, rows, is_skipped, ..v1::CallResponse::default() }
}
