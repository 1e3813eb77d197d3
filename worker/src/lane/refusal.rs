//! What an error of PostgreSQL means for the one who asked: a refusal that stays, or something that may pass.

use rootward_proto::Fault;

use super::{
    batch::UNIQUE_VIOLATION,
    declared::Statement,
    unit::{After, Unit},
};
use crate::pg::{MAX_RESULT_BYTES, ServerError};

/// A refusal of the unit, judged by the SQLSTATE.
pub(super) fn judge(unit: &Unit, statement: Option<&Statement>, error: &ServerError) -> Fault {
    let label = &unit.label;
    let at = root_of(unit);
    let place = statement.map(|statement| format!("; see {}", statement.location)).unwrap_or_default();
    let message = &error.message;
    let fault = match error.sqlstate.as_str() {
        UNIQUE_VIOLATION if statement.is_none() && error.constraint.as_deref() == Some("chain_pkey") => Fault::refused(
            "RW4009",
            format!("chain {} is there already; it was scheduled, or started with other words", own_key(unit)),
            "nothing was executed; see it with `rootward chain show`, or start another one with an id of its own",
        ),
        // A guard of ours that users' SQL called, or that it pretends to be; or the session's statements, which it deallocated.
        "42501" | "RW001" | "RW002" | "RW003" | "26000" => Fault::refused(
            "RW2004",
            format!("`{label}` on {at} reached outside its root: {message}"),
            format!("a transaction touches the tree of one root and reads reference data; work over several roots is a chain{place}"),
        ),
        "57014" => Fault::retry(
            "RW3104",
            format!("`{label}` on {at} ran into its time limit: {message}"),
            format!("nothing was executed; make it faster or raise `statement_timeout_ms` of the worker{place}"),
        ),
        state if is_transient(state) => Fault::retry("RW3105", format!("`{label}` on {at} was not executed: {message}"), "send it again"),
        state if is_refusal(state) => Fault::refused("RW3101", format!("`{label}` on {at} was refused: {message}"), help(error, &place)),
        state => {
            tracing::error!(transaction = %label, sqlstate = state, message, "PostgreSQL failed in a lane");
            Fault::internal(format!("`{label}` on {at} failed in PostgreSQL: {message}"))
        }
    };
    fault.with_postgres(&error.sqlstate, error.detail.as_deref(), error.hint.as_deref())
}

/// A refusal because a statement changed or returned another number of rows than `-- expect:` wants.
pub(super) fn missed(unit: &Unit, statement: &Statement, reason: &str, rows: u64) -> Fault {
    Fault::refused(
        "RW3101",
        format!("`{}` on {} was refused: {reason}", unit.label, root_of(unit)),
        format!("the statement met {rows} rows; see {}", statement.location),
    )
    .with_postgres("P0001", None, None)
}

/// A refusal because the answer would not fit into memory or a message.
pub(super) fn too_large(unit: &Unit) -> Fault {
    Fault::refused(
        "RW3108",
        format!("the answer of `{}` on {} is larger than {} MiB", unit.label, root_of(unit), MAX_RESULT_BYTES >> 20),
        "nothing was executed; ask for less, for example with LIMIT",
    )
}

/// What names the row of ours that the unit writes.
fn own_key(unit: &Unit) -> String {
    match &unit.after {
        Some(After::Row(row)) => row.key.to_string(),
        _ => String::new(),
    }
}

fn root_of(unit: &Unit) -> String {
    match &unit.outcome {
        Some(outcome) if outcome.key.entity.is_empty() => "reference data".to_owned(),
        Some(outcome) => format!("{} {}", outcome.key.entity, outcome.key.root_key),
        None => format!("partition {}", unit.claim.partition),
    }
}

fn help(error: &ServerError, place: &str) -> String {
    match (&error.detail, &error.hint, &error.constraint) {
        (_, Some(hint), _) => format!("{hint}{place}"),
        (Some(detail), _, _) => format!("{detail}{place}"),
        (_, _, Some(constraint)) => format!("constraint `{constraint}` is violated{place}"),
        _ => place.trim_start_matches("; ").to_owned(),
    }
}

/// Serialization failures, deadlocks, lack of resources, an operator's intervention, a connection's end.
fn is_transient(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01" | "55P03") || ["53", "57P", "08", "58"].iter().any(|class| sqlstate.starts_with(class))
}

/// Data that don't fit, constraints, RAISE, WITH CHECK, statements that make no sense: the same request meets them again.
fn is_refusal(sqlstate: &str) -> bool {
    ["P0", "21", "22", "23", "42", "44", "2F", "38", "39", "0A", "25", "26", "34", "55"].iter().any(|class| sqlstate.starts_with(class))
}

/// Whether this refusal is worth an outcome row: it would be the same again. That a chain is there already is none: the row
/// would be the outcome of that chain's first step.
pub(super) fn is_outcome(fault: &Fault) -> bool {
    fault.retry_class() == rootward_proto::v1::RetryClass::Refused && fault.code() != "RW4009"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_state_is_both_transient_and_a_refusal() {
        for state in ["40001", "40P01", "55P03", "53300", "57P01", "08006", "58030"] {
            assert!(is_transient(state), "{state}");
        }
        for state in ["P0001", "23514", "23505", "22003", "42601", "21000", "0A000"] {
            assert!(is_refusal(state) && !is_transient(state), "{state}");
        }
        assert!(!is_refusal("XX000"));
    }
}
