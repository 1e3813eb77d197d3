//! Arguments of steps: names, references and types.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain_source::{ActionSource, Arguments, ChainSource, StepSource};
use crate::check::transactions::{Compiled, built_in};
use crate::codes;
use crate::definition::{Expression, Target, Transaction, Wait};
use crate::finding::{Finding, Located, Place};
use crate::nearest::did_you_mean;
use crate::value::Type;

/// What an expression of a step, or of the chain's result, may refer to.
pub(crate) struct Scope<'a> {
    pub chain: &'a ChainSource,
    /// The step that the expression belongs to, by its place; none for the chain's result.
    pub step: Option<usize>,
    /// The places of the steps that are surely done by then.
    pub known: BTreeSet<usize>,
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
            Expression::Element(_) if self.list().is_some() => Some(None),
            Expression::Element(_) => {
                let message = format!("{} has no `$element`", self.who());
                let help = "an element exists in a step with `for_each` only";
                findings.push(Finding::error(codes::STEP_REFERENCE, &expression.place, message).help(help));
                None
            }
            Expression::StepResult { step, column } => self.step_result(step, column, &expression.place, findings),
        }
    }

    fn step(&self) -> Option<&StepSource> {
        self.step.and_then(|at| self.chain.steps.get(at))
    }

    /// The list that the step fans out over.
    fn list(&self) -> Option<&Expression> {
        self.step().and_then(|step| step.for_each.as_ref()).map(|list| &list.value)
    }

    fn who(&self) -> String {
        self.step().map_or_else(|| "the result".to_owned(), |step| format!("step `{}`", step.name.value))
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
        let mut refuse = |message: String, help: String| {
            findings.push(Finding::error(codes::STEP_REFERENCE, place, message).help(help));
            None
        };
        let steps = &self.chain.steps;
        let Some((at, earlier)) = steps.iter().enumerate().find(|(_, step)| step.name.value == name) else {
            let names: Vec<&str> = self.known.iter().filter_map(|at| steps.get(*at)).map(|step| step.name.value.as_str()).collect();
            let help = did_you_mean(name, names, "a step knows the answers of earlier steps only");
            return refuse(format!("`$steps.{name}.{column}` names no step"), help);
        };
        if !self.known.contains(&at) {
            return match self.step.zip(self.step()) {
                Some((own, step)) if at < own => refuse(
                    format!("step `{name}` may not be done when {} begins", self.who()),
                    format!("add it to `after` of `{}`: `after = [{}]`", step.name.value, after_with(step, name)),
                ),
                _ => {
                    let help = "a step knows the answers of earlier steps only";
                    refuse(format!("step `{name}` has not run before {}", self.who()), help.to_owned())
                }
            };
        }
        let list = earlier.for_each.as_ref().map(|list| &list.value);
        if list.is_some() && list != self.list() {
            let help = "refer to it from a step with the same `for_each`";
            return refuse(format!("step `{name}` has one answer for each element"), help.to_owned());
        }
        let (what, answers, otherwise) = match &earlier.action {
            None => return Some(None),
            Some(ActionSource::Call(call)) => match find(self.transactions, &call.value).filter(|called| called.is_whole) {
                None => return Some(None),
                Some(called) => (
                    format!("transaction `{}` answers with no column `{column}`", called.transaction.name),
                    called.transaction.columns.as_slice(),
                    "let its last statement return the column",
                ),
            },
            Some(ActionSource::Wait(Wait::Signal { payload, .. })) => {
                (format!("signal `{name}` carries no `{column}`"), payload.as_slice(), "name it in `signal` of the step")
            }
            Some(ActionSource::Wait(Wait::Timer { .. })) => {
                (format!("step `{name}` lets time pass and answers nothing"), [].as_slice(), "refer to a step that calls or is signalled")
            }
        };
        if let Some(found) = answers.iter().find(|known| known.name == column) {
            return Some(Some(found.r#type.clone()));
        }
        let help = did_you_mean(column, answers.iter().map(|known| known.name.as_str()), otherwise);
        refuse(what, help)
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
            let message = format!("{} calls `{}` without {}", self.who(), transaction.name, missing.join(" and "));
            findings.push(Finding::error(codes::ARGUMENTS, &call.place, message).help("add it to `args`"));
        }
    }
}

/// The names in `after` of a step, and one more.
fn after_with(step: &StepSource, name: &str) -> String {
    let named = step.after.iter().flatten().map(|known| known.value.as_str());
    named.chain([name]).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
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
