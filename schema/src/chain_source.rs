//! `[chain.X]` as it was written.

use toml::Spanned;
use toml::de::DeValue;

use crate::codes;
use crate::definition::{Expression, OnFailure};
use crate::finding::{Finding, Located, Place};
use crate::manifest::{Entry, boolean, entries, missing, place_of, string, sub_entries, unknown, wrong_type};
use crate::names;
use crate::nearest::did_you_mean;
use crate::value::Type;

/// The types that a chain's parameter can have.
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
}

/// One step of a chain.
#[derive(Debug, Clone)]
pub struct StepSource {
    /// The step's name; that of its transaction if none is given.
    pub name: Located<String>,
    /// The transaction that it calls.
    pub call: Located<String>,
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
    let mut chain = ChainSource { name: entry.key.clone(), parameters: Vec::new(), steps: Vec::new() };
    let mut has_steps = false;
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "params" => {
                chain.parameters =
                    sub_entries(&setting, findings).iter().filter_map(|parameter| parse_parameter(parameter, findings)).collect()
            }
            "steps" => {
                has_steps = true;
                chain.steps = parse_steps(&setting, &section, findings);
            }
            _ => unknown(&setting.key, &["params", "steps"], &section, findings),
        }
    }
    if !has_steps {
        missing(entry, "steps", "list the steps: `steps = [ { name = …, call = …, root = { entity = \"$param\" } } ]`", findings);
    }
    Some(chain)
}

fn parse_parameter(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<(Located<String>, Type)> {
    names::check("parameter", &entry.key.value, &entry.key.place, findings);
    let written = string(entry, findings)?;
    let r#type = Type::from_name(&written.value);
    if matches!(r#type, Type::Other(_)) {
        let help = did_you_mean(&written.value, PARAMETER_TYPES.iter().copied(), "use one of PostgreSQL's simple types, `text` or `json`");
        let message = format!("parameter `{}` has the unknown type `{}`", entry.key.value, written.value);
        findings.push(Finding::error(codes::SETTING, &written.place, message).help(help));
        return None;
    }
    Some((entry.key.clone(), r#type))
}

fn parse_steps(entry: &Entry<'_>, section: &str, findings: &mut Vec<Finding>) -> Vec<StepSource> {
    let DeValue::Array(array) = entry.value.get_ref() else {
        wrong_type("steps", &entry.place(), "a list of tables", entry.value.get_ref(), findings);
        return Vec::new();
    };
    if array.is_empty() {
        findings
            .push(Finding::error(codes::CHAIN_SHAPE, &entry.place(), format!("`{section}` has no step")).help("list at least one step"));
    }
    array.iter().filter_map(|step| parse_step(step, section, findings)).collect()
}

fn parse_step<'a>(step: &'a Spanned<DeValue<'a>>, section: &str, findings: &mut Vec<Finding>) -> Option<StepSource> {
    let place = place_of(step.span());
    let DeValue::Table(table) = step.get_ref() else {
        wrong_type("steps", &place, "a list of tables", step.get_ref(), findings);
        return None;
    };
    let nowhere = || Located { value: String::new(), place: place.clone() };
    let mut name = None;
    let mut call = None;
    let mut parsed = StepSource {
        name: nowhere(),
        call: nowhere(),
        root: None,
        args: Vec::new(),
        for_each: None,
        compensate: None,
        is_pivot: false,
        on_failure: OnFailure::default(),
    };
    for setting in entries(table) {
        match setting.key.value.as_str() {
            "name" => name = string(&setting, findings),
            "call" => call = string(&setting, findings),
            "root" => parsed.root = parse_root(&setting, findings),
            "args" => parsed.args = parse_arguments(&setting, findings),
            "for_each" => parsed.for_each = expression(&setting, findings),
            "compensate" => parsed.compensate = parse_compensation(&setting, section, findings),
            "pivot" => parsed.is_pivot = boolean(&setting, findings).unwrap_or(false),
            "on_failure" => parsed.on_failure = parse_on_failure(&setting, findings),
            _ => {
                let known = ["name", "call", "root", "args", "for_each", "compensate", "pivot", "on_failure"];
                unknown(&setting.key, &known, &format!("{section}.steps"), findings);
            }
        }
    }
    let Some(call) = call else {
        let finding = Finding::error(codes::SETTING, &place, format!("a step of `{section}` lacks `call`"));
        findings.push(finding.help("name the transaction that the step calls: `call = \"withdraw\"`"));
        return None;
    };
    if !table.contains_key("root") {
        let finding = Finding::error(codes::STEP_ROOT, &call.place, format!("the step that calls `{}` names no root", call.value));
        findings.push(finding.help("say where it runs: `root = { account = \"$from\" }`"));
    }
    parsed.name = name.unwrap_or_else(|| call.clone());
    names::check("step", &parsed.name.value, &parsed.name.place, findings);
    parsed.call = call;
    Some(parsed)
}

fn parse_root(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<(Located<String>, Located<Expression>)> {
    let settings = sub_entries(entry, findings);
    let ([only], true) = (settings.as_slice(), matches!(entry.value.get_ref(), DeValue::Table(_))) else {
        if matches!(entry.value.get_ref(), DeValue::Table(_)) {
            let finding = Finding::error(codes::STEP_ROOT, &entry.place(), "a step runs at exactly one root");
            findings.push(finding.help("write `root = { account = \"$from\" }`; work over several roots is several steps"));
        }
        return None;
    };
    Some((only.key.clone(), expression(only, findings)?))
}

fn parse_arguments(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Arguments {
    let settings = sub_entries(entry, findings);
    settings.iter().filter_map(|setting| Some((setting.key.clone(), expression(setting, findings)?))).collect()
}

fn parse_compensation(entry: &Entry<'_>, section: &str, findings: &mut Vec<Finding>) -> Option<CompensationSource> {
    if let DeValue::String(_) = entry.value.get_ref() {
        return Some(CompensationSource { call: string(entry, findings)?, args: None });
    }
    let (mut call, mut args) = (None, None);
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "call" => call = string(&setting, findings),
            "args" => args = Some(parse_arguments(&setting, findings)),
            _ => unknown(&setting.key, &["call", "args"], &format!("{section}.steps.compensate"), findings),
        }
    }
    if call.is_none() && matches!(entry.value.get_ref(), DeValue::Table(_)) {
        missing(entry, "call", "name the transaction that undoes the step", findings);
    }
    Some(CompensationSource { call: call?, args })
}

fn parse_on_failure(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> OnFailure {
    let Some(written) = string(entry, findings) else { return OnFailure::default() };
    match written.value.as_str() {
        "compensate" => OnFailure::Compensate,
        "park" => OnFailure::Park,
        other => {
            let help = did_you_mean(other, ["compensate", "park"], "use `compensate` or `park`");
            findings.push(Finding::error(codes::SETTING, &written.place, format!("`on_failure = \"{other}\"` is unknown")).help(help));
            OnFailure::default()
        }
    }
}

/// The expression of a setting: a `$` form, or a fixed value.
fn expression(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<Located<Expression>> {
    let place = entry.place();
    let value = match entry.value.get_ref() {
        DeValue::String(text) => reference(text, &place, findings)?,
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Expression::Literal(number.to_string())
        }
        DeValue::Float(number) => Expression::Literal(number.as_str().to_owned()),
        DeValue::Boolean(value) => Expression::Literal(value.to_string()),
        other => {
            wrong_type(&entry.key.value, &place, "a string, a number or a truth value", other, findings);
            return None;
        }
    };
    Some(Located { value, place })
}

fn reference(text: &str, place: &Place, findings: &mut Vec<Finding>) -> Option<Expression> {
    let Some(path) = text.strip_prefix('$') else { return Some(Expression::Literal(text.to_owned())) };
    // `$$` is a dollar sign.
    if path.starts_with('$') {
        return Some(Expression::Literal(path.to_owned()));
    }
    let parts: Vec<&str> = path.split('.').collect();
    let parsed = match parts.as_slice() {
        ["element"] => Some(Expression::Element(None)),
        ["element", field] if !field.is_empty() => Some(Expression::Element(Some((*field).to_owned()))),
        ["steps", step, column] if !step.is_empty() && !column.is_empty() => {
            Some(Expression::StepResult { step: (*step).to_owned(), column: (*column).to_owned() })
        }
        [parameter] if !parameter.is_empty() => Some(Expression::Parameter((*parameter).to_owned())),
        _ => None,
    };
    if parsed.is_none() {
        findings.push(
            Finding::error(codes::STEP_REFERENCE, place, format!("`{text}` refers to nothing")).help(
                "the forms are `$param`, `$element`, `$element.field` and `$steps.STEP.COLUMN`; `$$` begins a text with a dollar sign",
            ),
        );
    }
    parsed
}
