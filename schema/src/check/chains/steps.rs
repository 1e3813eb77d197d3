//! One step: its transaction, its root, its arguments and what undoes it; or what it waits for.

use crate::chain_source::{ActionSource, CompensationSource, StepSource};
use crate::check::arguments::{Scope, find, inherited, is_assignable, plain};
use crate::check::chains::order::Order;
use crate::check::transactions::Compiled;
use crate::check::trees::Trees;
use crate::check::undo;
use crate::codes;
use crate::definition::{Compensation, Expression, Step, Target};
use crate::finding::{Finding, Located};
use crate::nearest::did_you_mean;
use crate::value::Type;

/// Compiles the step at a place; none if it has a finding without which there is nothing to compile.
pub(crate) fn compile(scope: &Scope<'_>, at: usize, order: &Order, trees: &Trees, findings: &mut Vec<Finding>) -> Option<Step> {
    let step = scope.chain.steps.get(at)?;
    if let Some(list) = &step.for_each {
        check_list(scope, step, list, findings);
    }
    if let Some((entity, key)) = &step.root {
        check_root(scope, trees, entity, key, findings);
    }
    let (mut call, mut wait) = (String::new(), None);
    match step.action.as_ref()? {
        ActionSource::Call(named) => {
            call = named.value.clone();
            if let Some(called) = find_called(scope, named, findings) {
                check_entity(step, named, called, findings);
                scope.check_arguments(named, called, &step.args, findings);
            }
        }
        ActionSource::Wait(waits) => {
            wait = Some(waits.clone());
            if at == 0 {
                let message = format!("chain `{}` begins with a wait", scope.chain.name.value);
                let help = "a chain starts at a root; to start it later, schedule the start: `rootward chain start … --start-at +10m`";
                findings.push(Finding::error(codes::WAIT, &step.name.place, message).help(help));
            }
        }
    }
    let compensate = step.compensate.as_ref().and_then(|compensation| compile_compensation(scope, at, step, compensation, findings));
    // A wait lies at the chain's home.
    let (entity, key) = if wait.is_some() { scope.chain.steps.first()?.root.as_ref()? } else { step.root.as_ref()? };
    Some(Step {
        name: step.name.value.clone(),
        call,
        entity: entity.value.clone(),
        root_key: key.value.clone(),
        args: plain(&step.args),
        for_each: step.for_each.as_ref().map(|list| list.value.clone()),
        compensate,
        is_pivot: step.is_pivot,
        on_failure: step.on_failure,
        after: step.after.as_ref().filter(|_| at > 0).map(|_| order.after(at)),
        retry: step.retry.clone(),
        on_exhausted: step.on_exhausted.value,
        wait,
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

fn check_list(scope: &Scope<'_>, step: &StepSource, list: &Located<Expression>, findings: &mut Vec<Finding>) {
    let name = &step.name.value;
    let is_list = match &list.value {
        Expression::Parameter(_) => match scope.resolve(list, findings) {
            Some(Some(found)) => is_assignable(&found, &Type::Json),
            _ => true,
        },
        Expression::StepResult { .. } => {
            if scope.resolve(list, findings).is_some() {
                let message = format!("step `{name}` fans out over the result of a step, which is not built yet");
                let help = "use a parameter of the chain: `for_each = \"$lines\"`";
                findings.push(Finding::error(codes::NOT_BUILT, &list.place, message).help(help));
            }
            true
        }
        Expression::Literal(_) | Expression::Element(_) => false,
    };
    if !is_list {
        findings.push(
            Finding::error(codes::FAN_OUT, &list.place, format!("step `{name}` cannot fan out over this"))
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
fn check_entity(step: &StepSource, call: &Located<String>, called: &Compiled, findings: &mut Vec<Finding>) {
    let Some((entity, _)) = &step.root else { return };
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

fn compile_compensation(
    scope: &Scope<'_>,
    at: usize,
    step: &StepSource,
    compensation: &CompensationSource,
    findings: &mut Vec<Finding>,
) -> Option<Compensation> {
    let called = find_called(scope, &compensation.call, findings)?;
    check_entity(step, &compensation.call, called, findings);
    let args = compensation.args.clone().unwrap_or_else(|| inherited(called, &step.args));
    // A compensation runs after its step, so it knows that step's answer too.
    let mut known = scope.known.clone();
    known.insert(at);
    let inner = Scope { known, ..*scope };
    // Inherited arguments have their findings at the step already, in the same place.
    let mut found = Vec::new();
    inner.check_arguments(&compensation.call, called, &args, &mut found);
    let is_told = |finding: &Finding, known: &[Finding]| known.iter().any(|known| known.code == finding.code && known.span == finding.span);
    found.retain(|finding| compensation.args.is_some() || !is_told(finding, findings));
    findings.extend(found);
    let undone = step.call().and_then(|call| find(scope.transactions, &call.value));
    if let Some(reason) = undo::refusal(called, undone).filter(|_| called.is_whole) {
        let message = format!("compensation `{}` can be refused: {reason}", called.transaction.name);
        let help = "a refused compensation leaves the chain stuck; call a transaction that only gives back what the step took";
        findings.push(Finding::warning(codes::COMPENSATION_REFUSES, &compensation.call.place, message).help(help));
    }
    Some(Compensation { call: compensation.call.value.clone(), args: plain(&args) })
}
