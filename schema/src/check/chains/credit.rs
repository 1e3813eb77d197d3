//! A credit before its debit: what one root was given may be spent before another one refuses to give it.

use crate::chain_source::{ChainSource, StepSource};
use crate::check::arguments::find;
use crate::check::assignments::{Assignment, Change};
use crate::check::chains::order::Order;
use crate::check::transactions::Compiled;
use crate::codes;
use crate::finding::Finding;

/// Warns of a step that adds to a column at one root, if a step that isn't surely done by then subtracts from it at another
/// and can be refused. At the same root it is the step's own business: a reservation is made and used up there.
pub(crate) fn check(chain: &ChainSource, order: &Order, transactions: &[Compiled], findings: &mut Vec<Finding>) {
    let called = |step: &StepSource| step.call().and_then(|call| find(transactions, &call.value)).filter(|called| called.is_whole);
    for (credit_at, credit) in chain.steps.iter().enumerate() {
        for (debit_at, debit) in chain.steps.iter().enumerate() {
            if credit_at == debit_at || order.is_before(debit_at, credit_at) || is_same_root(credit, debit) {
                continue;
            }
            let (Some(giving), Some(taking)) = (called(credit), called(debit)) else { continue };
            if let (Some(moved), true) = (moved(giving, taking), taking.transaction.can_refuse) {
                let when = if order.is_beside(credit_at, debit_at) { "beside" } else { "before" };
                let message = format!(
                    "step `{}` adds to `{}.{}` {when} step `{}`, which subtracts from it and can be refused",
                    credit.name.value, moved.table, moved.column, debit.name.value
                );
                let help = format!(
                    "what was added may be spent by then; put `{}` first, or add to a column of its own, such as `reserved`",
                    debit.name.value
                );
                findings.push(Finding::warning(codes::CREDIT_FIRST, &credit.name.place, message).help(help));
            }
        }
    }
}

fn is_same_root(one: &StepSource, other: &StepSource) -> bool {
    let root = |step: &StepSource| step.root.as_ref().map(|(entity, key)| (entity.value.clone(), key.value.clone()));
    let list = |step: &StepSource| step.for_each.as_ref().map(|list| list.value.clone());
    root(one) == root(other) && list(one) == list(other)
}

/// A column that one transaction adds to and another subtracts from.
fn moved<'a>(giving: &'a Compiled, taking: &Compiled) -> Option<&'a Assignment> {
    let takes = |given: &Assignment| {
        let is_it = |taken: &&Assignment| taken.table == given.table && taken.column == given.column;
        taking.assignments.iter().filter(is_it).any(|taken| matches!(taken.change, Change::Subtracts { .. }))
    };
    giving.assignments.iter().find(|given| given.change == Change::Adds && takes(given))
}
