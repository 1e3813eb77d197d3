//! Chains: steps that fit their transactions, and an order in which nothing can end half done.

mod credit;
mod going_back;
mod order;
mod steps;

use std::collections::BTreeMap;

use crate::chain_source::ChainSource;
use crate::check::arguments::{Scope, find, plain};
use crate::check::transactions::Compiled;
use crate::check::trees::Trees;
use crate::codes;
use crate::definition::{Chain, Column, Expression, Step};
use crate::finding::Finding;
use crate::source::Source;
use order::Order;

pub(crate) fn compile(source: &Source, trees: &Trees, transactions: &[Compiled], findings: &mut Vec<Finding>) -> BTreeMap<String, Chain> {
    let mut chains = BTreeMap::new();
    for chain in &source.manifest.chains {
        let compiled = compile_chain(chain, trees, transactions, findings);
        if let Some(other) = find(transactions, &chain.name.value) {
            let message = format!("`{}` is a chain and a transaction", chain.name.value);
            let help = format!("rename one of them; the transaction is in `{}` line {}", other.transaction.file, other.transaction.line);
            findings.push(Finding::error(codes::DUPLICATE, &chain.name.place, message).help(help));
        }
        chains.insert(chain.name.value.clone(), compiled);
    }
    chains
}

fn compile_chain(chain: &ChainSource, trees: &Trees, transactions: &[Compiled], findings: &mut Vec<Finding>) -> Chain {
    let order = Order::of(chain);
    order::check_after(chain, findings);
    check_names(chain, findings);
    let mut steps: Vec<Step> = Vec::new();
    for at in 0..chain.steps.len() {
        let scope = Scope { chain, step: Some(at), known: order.before(at).clone(), transactions };
        steps.extend(steps::compile(&scope, at, &order, trees, findings));
    }
    check_result(chain, transactions, findings);
    going_back::check(chain, &order, transactions, findings);
    credit::check(chain, &order, transactions, findings);
    let parameters = chain.parameters.iter().map(|(name, r#type)| Column { name: name.value.clone(), r#type: r#type.clone() });
    Chain {
        name: chain.name.value.clone(),
        parameters: parameters.collect(),
        steps,
        deadline_ms: chain.deadline_ms.as_ref().map(|deadline| deadline.value),
        result: plain(&chain.result),
    }
}

fn check_names(chain: &ChainSource, findings: &mut Vec<Finding>) {
    for (at, step) in chain.steps.iter().enumerate().filter(|(_, step)| !step.name.value.is_empty()) {
        if chain.steps.iter().take(at).any(|other| other.name.value == step.name.value) {
            let message = format!("chain `{}` has two steps named `{}`", chain.name.value, step.name.value);
            findings.push(Finding::error(codes::DUPLICATE, &step.name.place, message).help("give one of them another `name`"));
        }
    }
}

/// A completed chain answers with its parameters and the answers of its steps, all of which are done by then.
fn check_result(chain: &ChainSource, transactions: &[Compiled], findings: &mut Vec<Finding>) {
    let scope = Scope { chain, step: None, known: (0..chain.steps.len()).collect(), transactions };
    for (name, expression) in &chain.result {
        if let Expression::Literal(text) = &expression.value {
            let message = format!("`{}` of the result is the fixed text `{text}`", name.value);
            let help = "write `$param` or `$steps.STEP.COLUMN`";
            findings.push(Finding::error(codes::STEP_REFERENCE, &expression.place, message).help(help));
        } else {
            scope.resolve(expression, findings);
        }
    }
}
