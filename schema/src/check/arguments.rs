//! Arguments of steps: names, references and types.

use std::collections::BTreeMap;

use crate::chain_source::{Arguments, ChainSource, StepSource};
use crate::check::transactions::{Compiled, built_in};
use crate::codes;
use crate::definition::{Expression, Target, Transaction};
use crate::finding::{Finding, Located, Place};
use crate::nearest::did_you_mean;
use crate::value::Type;

/// What an expression of a step may refer to.
pub(crate) struct Scope<'a> {
    pub chain: &'a ChainSource,
    /// The steps whose answers are known by then.
    pub earlier: &'a [StepSource],
    pub step: &'a StepSource,
    pub transactions: &'a [Compiled],
}

/// The type of an expression: `Some(None)` is one that only the run can tell, `None` one that has a finding.
type Known = Option<Option<Type>>;

impl Scope<'_> {
    /// Resolves an expression; adds a finding if it refers to nothing.
    pub fn resolve(&self, expression: &Located<Expression>, findings: &mut Vec<Finding>) -> Known {
        match &expression.value {
            Expression::Literal(_) => Some(None),
            Expression::Parameter(name) => self.parameter(name, &expression.place, findings),
            Expression::Element(_) if self.step.for_each.is_some() => Some(None),
            Expression::Element(_) => {
                let message = format!("step `{}` has no `$element`", self.step.name.value);
                let help = "an element exists in a step with `for_each` only";
                findings.push(Finding::error(codes::STEP_REFERENCE, &expression.place, message).help(help));
                None
            }
            Expression::StepResult { step, column } => self.step_result(step, column, &expression.place, findings),
        }
    }

    fn parameter(&self, name: &str, place: &Place, findings: &mut Vec<Finding>) -> Known {
        let known = self.chain.parameters.iter().find(|(parameter, _)| parameter.value == name);
        if let Some((_, r#type)) = known {
            return Some(Some(r#type.clone()));
        }
        let names = self.chain.parameters.iter().map(|(parameter, _)| parameter.value.as_str());
        let help = did_you_mean(name, names, "declare it in `params`");
        let message = format!("chain `{}` has no parameter `${name}`", self.chain.name.value);
        findings.push(Finding::error(codes::STEP_REFERENCE, place, message).help(help));
        None
    }

    fn step_result(&self, name: &str, column: &str, place: &Place, findings: &mut Vec<Finding>) -> Known {
        let Some(earlier) = self.earlier.iter().find(|earlier| earlier.name.value == name) else {
            let is_later = self.chain.steps.iter().any(|step| step.name.value == name);
            let (message, help) = if is_later {
                (
                    format!("step `{name}` has not run before step `{}`", self.step.name.value),
                    "a step knows the answers of earlier steps only".to_owned(),
                )
            } else {
                let names: Vec<&str> = self.earlier.iter().map(|step| step.name.value.as_str()).collect();
                (
                    format!("`$steps.{name}.{column}` names no step"),
                    did_you_mean(name, names, "a step knows the answers of earlier steps only"),
                )
            };
            findings.push(Finding::error(codes::STEP_REFERENCE, place, message).help(help));
            return None;
        };
        let list = |step: &StepSource| step.for_each.as_ref().map(|list| list.value.clone());
        if list(earlier).is_some() && list(earlier) != list(self.step) {
            let message = format!("step `{name}` has one answer for each element");
            let help = "refer to it from a step with the same `for_each`";
            findings.push(Finding::error(codes::STEP_REFERENCE, place, message).help(help));
            return None;
        }
        let Some(called) = find(self.transactions, &earlier.call.value).filter(|called| called.is_whole) else { return Some(None) };
        if let Some(found) = called.transaction.columns.iter().find(|known| known.name == column) {
            return Some(Some(found.r#type.clone()));
        }
        let columns: Vec<&str> = called.transaction.columns.iter().map(|known| known.name.as_str()).collect();
        let help = did_you_mean(column, columns, "let its last statement return the column");
        let message = format!("transaction `{}` answers with no column `{column}`", called.transaction.name);
        findings.push(Finding::error(codes::STEP_REFERENCE, place, message).help(help));
        None
    }

    /// Adds a finding if an expression cannot fill a parameter of type `wanted`.
    pub fn check_type(&self, what: &str, wanted: &Type, expression: &Located<Expression>, findings: &mut Vec<Finding>) {
        let Some(found) = self.resolve(expression, findings) else { return };
        let message = match (&expression.value, found) {
            (Expression::Literal(text), _) => match wanted.canonical(text) {
                Ok(_) => return,
                Err(error) => format!("{what} is {}, and {error}", wanted.name()),
            },
            (_, Some(found)) if !is_assignable(&found, wanted) => format!("{what} is {}, but this is {}", wanted.name(), found.name()),
            _ => return,
        };
        findings.push(
            Finding::error(codes::ARGUMENT_TYPE, &expression.place, message)
                .help(format!("declare the chain's parameter as `{}`, or cast it in the transaction", wanted.name())),
        );
    }

    /// Checks the arguments of a call against the transaction's parameters.
    pub fn check_arguments(&self, call: &Located<String>, called: &Compiled, args: &Arguments, findings: &mut Vec<Finding>) {
        let transaction = &called.transaction;
        for (name, expression) in args {
            let Some(parameter) = transaction.parameters.iter().find(|parameter| parameter.name == name.value) else {
                unknown_argument(transaction, name, findings);
                self.resolve(expression, findings);
                continue;
            };
            if root_parameter(transaction) == Some(name.value.as_str()) {
                let message = format!("argument `{}` of `{}` is the root key", name.value, transaction.name);
                findings.push(Finding::error(codes::ARGUMENTS, &name.place, message).help("leave it out; `root` gives it"));
            } else if called.is_whole {
                self.check_type(&format!("`{}` of `{}`", name.value, transaction.name), &parameter.r#type, expression, findings);
            } else {
                self.resolve(expression, findings);
            }
        }
        let missing: Vec<String> = wanted(transaction)
            .filter(|parameter| !args.iter().any(|(name, _)| name.value == **parameter))
            .map(|parameter| format!("`{parameter}`"))
            .collect();
        if !missing.is_empty() {
            let message = format!("step `{}` calls `{}` without {}", self.step.name.value, transaction.name, missing.join(" and "));
            findings.push(Finding::error(codes::ARGUMENTS, &call.place, message).help("add it to `args`"));
        }
    }
}

fn unknown_argument(transaction: &Transaction, name: &Located<String>, findings: &mut Vec<Finding>) {
    let message = format!("transaction `{}` has no parameter `{}`", transaction.name, name.value);
    let help = if built_in(&name.value).is_some() {
        format!("leave it out; `:{}` is built in", name.value)
    } else {
        did_you_mean(&name.value, wanted(transaction).collect::<Vec<_>>(), "remove it")
    };
    findings.push(Finding::error(codes::ARGUMENTS, &name.place, message).help(help));
}

/// The parameters that `args` has to give.
fn wanted(transaction: &Transaction) -> impl Iterator<Item = &str> {
    transaction.parameters.iter().map(|parameter| parameter.name.as_str()).filter(|name| root_parameter(transaction) != Some(name))
}

pub(crate) fn root_parameter(transaction: &Transaction) -> Option<&str> {
    match &transaction.target {
        Target::Root { parameter, .. } => Some(parameter),
        Target::Reference => None,
    }
}

/// The compensation's arguments if none are written: the step's of the same names.
pub(crate) fn inherited(called: &Compiled, args: &Arguments) -> Arguments {
    let has = |name: &str| wanted(&called.transaction).any(|parameter| parameter == name);
    args.iter().filter(|(name, _)| has(&name.value)).cloned().collect()
}

pub(crate) fn find<'a>(transactions: &'a [Compiled], name: &str) -> Option<&'a Compiled> {
    transactions.iter().find(|known| known.transaction.name == name)
}

pub(crate) fn plain(args: &Arguments) -> BTreeMap<String, Expression> {
    args.iter().map(|(name, expression)| (name.value.clone(), expression.value.clone())).collect()
}

/// Whether every value of one type is one of the other, by its text.
pub(crate) fn is_assignable(from: &Type, to: &Type) -> bool {
    let rank = |r#type: &Type| match r#type {
        Type::Smallint => Some(1),
        Type::Integer => Some(2),
        Type::Bigint => Some(3),
        Type::Numeric => Some(4),
        _ => None,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (Type::Json, Type::Jsonb) | (Type::Jsonb, Type::Json) | (Type::Real, Type::Double) => true,
        // Text is what every value is written in.
        (_, Type::Text | Type::Varchar) => true,
        (from, to) => matches!((rank(from), rank(to)), (Some(from), Some(to)) if from <= to),
    }
}
