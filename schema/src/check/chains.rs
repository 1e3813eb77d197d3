//! Chains: steps that fit their transactions, and an order in which nothing can end half done.

use std::collections::BTreeMap;

use crate::chain_source::{ChainSource, CompensationSource, StepSource};
use crate::check::arguments::{Scope, find, inherited, is_assignable, plain};
use crate::check::transactions::Compiled;
use crate::check::trees::Trees;
use crate::codes;
use crate::definition::{Chain, Column, Compensation, Expression, OnExhausted, OnFailure, Retry, Step, Target};
use crate::finding::{Finding, Located};
use crate::nearest::did_you_mean;
use crate::source::Source;
use crate::value::Type;

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
    let mut steps: Vec<Step> = Vec::new();
    for (at, step) in chain.steps.iter().enumerate() {
        let earlier = chain.steps.get(..at).unwrap_or(&[]);
        if earlier.iter().any(|other| other.name.value == step.name.value) {
            let message = format!("chain `{}` has two steps named `{}`", chain.name.value, step.name.value);
            findings.push(Finding::error(codes::DUPLICATE, &step.name.place, message).help("give one of them another `name`"));
        }
        let scope = Scope { chain, earlier, step, transactions };
        steps.extend(compile_step(&scope, trees, findings));
    }
    check_order(chain, transactions, findings);
    let parameters = chain.parameters.iter().map(|(name, r#type)| Column { name: name.value.clone(), r#type: r#type.clone() });
    Chain { name: chain.name.value.clone(), parameters: parameters.collect(), steps, deadline_ms: None, result: BTreeMap::new() }
}

fn compile_step(scope: &Scope<'_>, trees: &Trees, findings: &mut Vec<Finding>) -> Option<Step> {
    let step = scope.step;
    if let Some(list) = &step.for_each {
        check_list(scope, list, findings);
    }
    if let Some((entity, key)) = &step.root {
        check_root(scope, trees, entity, key, findings);
    }
    if let Some(called) = find_called(scope, &step.call, findings) {
        check_entity(scope, &step.call, called, findings);
        scope.check_arguments(&step.call, called, &step.args, findings);
    }
    let compensate = step.compensate.as_ref().and_then(|compensation| compile_compensation(scope, compensation, findings));
    let (entity, key) = step.root.as_ref()?;
    Some(Step {
        name: step.name.value.clone(),
        call: step.call.value.clone(),
        entity: entity.value.clone(),
        root_key: key.value.clone(),
        args: plain(&step.args),
        for_each: step.for_each.as_ref().map(|list| list.value.clone()),
        compensate,
        is_pivot: step.is_pivot,
        on_failure: step.on_failure,
        after: None,
        retry: Retry::default(),
        on_exhausted: OnExhausted::default(),
        wait: None,
    })
}

fn find_called<'a>(scope: &Scope<'a>, call: &Located<String>, findings: &mut Vec<Finding>) -> Option<&'a Compiled> {
    let called = find(scope.transactions, &call.value);
    if called.is_none() {
        let names = scope.transactions.iter().map(|known| known.transaction.name.as_str());
        let help = did_you_mean(&call.value, names.collect::<Vec<_>>(), "declare it in `transactions/`");
        findings.push(Finding::error(codes::CALL, &call.place, format!("transaction `{}` is unknown", call.value)).help(help));
    }
    called
}

fn check_list(scope: &Scope<'_>, list: &Located<Expression>, findings: &mut Vec<Finding>) {
    let is_list = match &list.value {
        Expression::Parameter(_) | Expression::StepResult { .. } => match scope.resolve(list, findings) {
            Some(Some(found)) => is_assignable(&found, &Type::Json),
            _ => true,
        },
        Expression::Literal(_) | Expression::Element(_) => false,
    };
    if !is_list {
        findings.push(
            Finding::error(codes::FAN_OUT, &list.place, format!("step `{}` cannot fan out over this", scope.step.name.value))
                .help("use a parameter of type json: `for_each = \"$lines\"`"),
        );
    }
}

fn check_root(scope: &Scope<'_>, trees: &Trees, entity: &Located<String>, key: &Located<Expression>, findings: &mut Vec<Finding>) {
    if !trees.has_entity(&entity.value) {
        let help = did_you_mean(&entity.value, trees.entity_names(), "declare it as `[root.…]`");
        findings.push(Finding::error(codes::STEP_ROOT, &entity.place, format!("root entity `{}` is unknown", entity.value)).help(help));
    }
    match trees.root_key(&entity.value) {
        Some(root_key) => scope.check_type(&format!("the root key of `{}`", entity.value), &root_key.r#type, key, findings),
        None => {
            scope.resolve(key, findings);
        }
    }
}

/// A step runs at the root entity of its transaction.
fn check_entity(scope: &Scope<'_>, call: &Located<String>, called: &Compiled, findings: &mut Vec<Finding>) {
    let Some((entity, _)) = &scope.step.root else { return };
    if !called.has_target {
        return;
    }
    let transaction = &called.transaction;
    match &transaction.target {
        Target::Root { entity: wanted, .. } if *wanted == entity.value => {}
        Target::Root { entity: wanted, .. } => findings.push(
            Finding::error(
                codes::STEP_ROOT,
                &call.place,
                format!("transaction `{}` runs at `{wanted}`, the step at `{}`", transaction.name, entity.value),
            )
            .help(format!("write `root = {{ {wanted} = … }}`, or call a transaction of `{}`", entity.value)),
        ),
        Target::Reference => findings.push(
            Finding::error(
                codes::STEP_ROOT,
                &call.place,
                format!("transaction `{}` writes reference data and runs at no root", transaction.name),
            )
            .help("a step calls a transaction of a root; write reference data beside the chain"),
        ),
    }
}

fn compile_compensation(scope: &Scope<'_>, compensation: &CompensationSource, findings: &mut Vec<Finding>) -> Option<Compensation> {
    let called = find_called(scope, &compensation.call, findings)?;
    check_entity(scope, &compensation.call, called, findings);
    let args = compensation.args.clone().unwrap_or_else(|| inherited(called, &scope.step.args));
    // A compensation runs after its step, so it knows that step's answer too.
    let at = scope.earlier.len();
    let inner = Scope { earlier: scope.chain.steps.get(..=at).unwrap_or(scope.earlier), ..*scope };
    // Inherited arguments have their findings at the step already, in the same place.
    let mut found = Vec::new();
    inner.check_arguments(&compensation.call, called, &args, &mut found);
    let is_told = |finding: &Finding, known: &[Finding]| known.iter().any(|known| known.code == finding.code && known.span == finding.span);
    found.retain(|finding| compensation.args.is_some() || !is_told(finding, findings));
    findings.extend(found);
    if called.transaction.statements.iter().any(|statement| statement.expect.is_some()) {
        findings.push(
            Finding::warning(
                codes::COMPENSATION_REFUSES,
                &compensation.call.place,
                format!("compensation `{}` expects rows and can be refused", called.transaction.name),
            )
            .help("a refused compensation leaves the chain stuck; call a transaction without `-- expect:`"),
        );
    }
    Some(Compensation { call: compensation.call.value.clone(), args: plain(&args) })
}

/// Nothing after the pivot can be refused, and nothing that cannot be undone stands before something that can.
fn check_order(chain: &ChainSource, transactions: &[Compiled], findings: &mut Vec<Finding>) {
    let pivots: Vec<usize> = chain.steps.iter().enumerate().filter(|(_, step)| step.is_pivot).map(|(at, _)| at).collect();
    if let Some(second) = pivots.get(1).and_then(|at| chain.steps.get(*at)) {
        let message = format!("chain `{}` has two pivots", chain.name.value);
        findings.push(
            Finding::error(codes::CHAIN_SHAPE, &second.name.place, message).help("after the first one there is no way back; keep one"),
        );
    }
    let can_fail = |step: &StepSource| {
        let called = find(transactions, &step.call.value).filter(|called| called.is_whole);
        step.on_failure == OnFailure::Compensate && called.is_some_and(|called| called.transaction.can_refuse)
    };
    let pivot = pivots.first().copied().unwrap_or(chain.steps.len());
    for step in chain.steps.iter().skip(pivot + 1).filter(|step| can_fail(step)) {
        findings.push(
            Finding::error(
                codes::REFUSED_AFTER_PIVOT,
                &step.name.place,
                format!("step `{}` stands after the pivot and can be refused", step.name.value),
            )
            .help("move it before the pivot, or let it wait for a person: `on_failure = \"park\"`"),
        );
    }
    for (at, step) in chain.steps.iter().enumerate().take(pivot.saturating_add(1)) {
        let writes = find(transactions, &step.call.value).is_some_and(|called| called.is_whole && called.writes);
        let refused = chain.steps.iter().take(pivot.saturating_add(1)).skip(at + 1).find(|later| can_fail(later));
        // The elements of one step are done one by one, so an earlier one may have to be undone for a later one.
        let refused = refused.or((step.for_each.is_some() && can_fail(step)).then_some(step));
        if let (Some(later), true, true) = (refused, writes, step.compensate.is_none()) {
            findings.push(
                Finding::error(
                    codes::NOT_UNDONE,
                    &step.name.place,
                    format!("step `{}` cannot be undone when `{}` is refused", step.name.value, later.name.value),
                )
                .help("give it `compensate = \"…\"`, make it the pivot, or let the later steps park"),
            );
        }
    }
}
