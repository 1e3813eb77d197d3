//! Whether a compensation can be refused, judged against the step that it undoes.
//!
//! Taken alone, hardly any statement is safe: a CHECK looks at every balance, a foreign key at every entry. But a
//! compensation runs at a root where its step has just run, and gives back what that took. So of the reasons for which its
//! statements can be refused these are not counted:
//! - a demand of a table that it inserts a row into as its step did: what was good enough for the one is for the other.
//!   A key that may be taken is counted;
//! - NOT NULL: its values are those that the step took;
//! - a CHECK on a column that it sets to a constant, if it looks at nothing else;
//! - a CHECK on a column that it adds to and its step subtracted from: what was taken is given back;
//! - a CHECK on a column that it subtracts from and its step added to, if what it subtracts stands in a row of the tree,
//!   such as a reservation: it is there to be taken. A parameter proves nothing of the kind: the sum may be spent by then.
//!
//! This trusts that sums are positive and that no CHECK sets an upper limit.

use crate::check::assignments::{Assignment, Change};
use crate::check::refusal::{Demand, Reason};
use crate::check::transactions::Compiled;

/// The first reason for which `compensation` can be refused when it undoes `step`.
pub(crate) fn refusal<'a>(compensation: &'a Compiled, step: Option<&Compiled>) -> Option<&'a Reason> {
    compensation.reasons.iter().find(|reason| !is_excused(reason, compensation, step))
}

fn is_excused(reason: &Reason, compensation: &Compiled, step: Option<&Compiled>) -> bool {
    match reason {
        Reason::Insert { table, demand } => {
            let has_inserted = step.is_some_and(|step| step.inserts.contains(table));
            matches!(demand, Demand::NotNull(_)) || has_inserted || !compensation.inserts.contains(table)
        }
        Reason::Update { demand: Demand::NotNull(_), .. } => true,
        Reason::Update { table, column, demand: Demand::Check { is_of_one_column, .. } } => {
            let of = |compiled: &Compiled| -> Vec<Change> {
                let is_it = |known: &&Assignment| known.table == *table && known.column == *column;
                compiled.assignments.iter().filter(is_it).map(|known| known.change).collect()
            };
            let (done, undone) = (step.map(of).unwrap_or_default(), of(compensation));
            let is_reverse = |change: &Change| match change {
                Change::Constant => *is_of_one_column,
                Change::Adds => done.iter().any(|done| matches!(done, Change::Subtracts { .. })),
                Change::Subtracts { is_from_rows } => *is_from_rows && done.contains(&Change::Adds),
                Change::Other => false,
            };
            !undone.is_empty() && undone.iter().all(is_reverse)
        }
        _ => false,
    }
}
