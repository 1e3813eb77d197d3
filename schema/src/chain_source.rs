//! `[chain.X]` as it was written.

mod expression;
mod retry;
mod step;

use crate::codes;
use crate::definition::{Expression, OnExhausted, OnFailure, Retry, Wait};
use crate::duration::duration;
use crate::finding::{Finding, Located};
use crate::manifest::{Entry, missing, string, sub_entries, unknown};
use crate::names;
use crate::nearest::did_you_mean;
use crate::value::Type;
use expression::parse_arguments;
use step::parse_steps;

/// The types that a chain's parameter, or what a signal carries, can have.
const PARAMETER_TYPES: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric",
    "text",
    "varchar",
    "uuid",
    "timestamptz",
    "timestamp",
    "date",
    "json",
    "jsonb",
    "bytea",
];

/// `[chain.X]`
#[derive(Debug, Clone)]
pub struct ChainSource {
    /// The chain's name.
    pub name: Located<String>,
    /// Its parameters in order.
    pub parameters: Vec<(Located<String>, Type)>,
    /// Its steps in order.
    pub steps: Vec<StepSource>,
    /// How long after its start it is called back, in milliseconds.
    pub deadline_ms: Option<Located<u64>>,
    /// What a completed chain answers.
    pub result: Arguments,
}

/// One step of a chain.
#[derive(Debug, Clone)]
pub struct StepSource {
    /// The step's name; that of its transaction if none is given, empty if neither is.
    pub name: Located<String>,
    /// What it does; none if the file doesn't say, or not rightly.
    pub action: Option<ActionSource>,
    /// The root entity and its key.
    pub root: Option<(Located<String>, Located<Expression>)>,
    /// The arguments.
    pub args: Arguments,
    /// The list to fan out over.
    pub for_each: Option<Located<Expression>>,
    /// What undoes the step.
    pub compensate: Option<CompensationSource>,
    /// Whether the chain only goes forward after it.
    pub is_pivot: bool,
    /// What a refusal does.
    pub on_failure: OnFailure,
    /// The steps that must be done before it; none means the step before it in the list.
    pub after: Option<Vec<Located<String>>>,
    /// How transient errors are retried.
    pub retry: Retry,
    /// What happens when the attempts are used up.
    pub on_exhausted: Located<OnExhausted>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum ActionSource {
    /// It calls this transaction.
    Call(Located<String>),
    /// It waits.
    Wait(Wait),
}

impl StepSource {
    /// The transaction that it calls.
    pub fn call(&self) -> Option<&Located<String>> {
        match &self.action {
            Some(ActionSource::Call(call)) => Some(call),
            _ => None,
        }
    }

    /// What it waits for.
    pub fn wait(&self) -> Option<&Wait> {
        match &self.action {
            Some(ActionSource::Wait(wait)) => Some(wait),
            _ => None,
        }
    }
}

/// Names of parameters with the expressions that fill them.
pub type Arguments = Vec<(Located<String>, Located<Expression>)>;

/// What undoes a step.
#[derive(Debug, Clone)]
pub struct CompensationSource {
    /// The transaction that it calls.
    pub call: Located<String>,
    /// Its arguments; none means the step's arguments of the same names.
    pub args: Option<Arguments>,
}

pub(crate) fn parse(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<ChainSource> {
    let section = format!("chain.{}", entry.key.value);
    let mut chain =
        ChainSource { name: entry.key.clone(), parameters: Vec::new(), steps: Vec::new(), deadline_ms: None, result: Vec::new() };
    let mut has_steps = false;
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "params" => chain.parameters = parse_parameters("parameter", &setting, findings),
            "deadline" => {
                chain.deadline_ms = duration(&setting, findings).map(|value| Located { value, place: setting.key.place.clone() });
            }
            "result" => {
                chain.result = parse_arguments(&setting, findings);
                chain.result.iter().for_each(|(name, _)| names::check("result", &name.value, &name.place, findings));
            }
            "steps" => {
                has_steps = true;
                chain.steps = parse_steps(&setting, &section, findings);
            }
            _ => unknown(&setting.key, &["params", "deadline", "result", "steps"], &section, findings),
        }
    }
    if !has_steps {
        missing(entry, "steps", "list the steps: `steps = [ { name = …, call = …, root = { entity = \"$param\" } } ]`", findings);
    }
    Some(chain)
}

/// Names with their types, each of them a `what`.
fn parse_parameters(what: &str, entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Vec<(Located<String>, Type)> {
    sub_entries(entry, findings).iter().filter_map(|parameter| parse_parameter(what, parameter, findings)).collect()
}

fn parse_parameter(what: &str, entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<(Located<String>, Type)> {
    names::check(what, &entry.key.value, &entry.key.place, findings);
    let written = string(entry, findings)?;
    let r#type = Type::from_name(&written.value);
    if matches!(r#type, Type::Other(_)) {
        let help = did_you_mean(&written.value, PARAMETER_TYPES.iter().copied(), "use one of PostgreSQL's simple types, `text` or `json`");
        let message = format!("{what} `{}` has the unknown type `{}`", entry.key.value, written.value);
        findings.push(Finding::error(codes::SETTING, &written.place, message).help(help));
        return None;
    }
    Some((entry.key.clone(), r#type))
}
