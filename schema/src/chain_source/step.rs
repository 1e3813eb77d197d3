//! One step of a chain as it was written.

use toml::Spanned;
use toml::de::DeValue;

use super::expression::{expression, parse_arguments};
use super::retry::{parse_on_exhausted, parse_on_failure, parse_retry};
use super::{ActionSource, CompensationSource, StepSource, parse_parameters};
use crate::codes;
use crate::definition::{Column, Expression, OnExhausted, OnFailure, Retry, Wait};
use crate::duration::duration;
use crate::finding::{Finding, Located, Place};
use crate::manifest::{Entry, boolean, entries, missing, place_of, string, strings, sub_entries, unknown, wrong_type};
use crate::names;

const SETTINGS: &[&str] = &[
    "name",
    "call",
    "wait",
    "signal",
    "timeout",
    "root",
    "args",
    "for_each",
    "compensate",
    "pivot",
    "after",
    "retry",
    "on_exhausted",
    "on_failure",
];

/// What a step does: exactly one of these.
const ACTIONS: &[&str] = &["call", "wait", "signal"];

/// Settings that a step which waits can't have, and what to do instead.
const NOT_OF_WAITS: &[(&str, &str)] = &[
    ("root", "leave it out; a wait lies at the chain's home, the root of the first step"),
    ("args", "leave it out; a timer is given nothing, and what a signal carries is named in `signal`"),
    ("for_each", "leave it out; one wait is enough for all elements"),
    ("compensate", "leave it out; a wait has no effect that would have to be undone"),
    ("pivot", "make the step behind it the pivot"),
    ("retry", "leave it out; a wait makes no attempts"),
    ("on_exhausted", "leave it out; a wait makes no attempts"),
];

pub(super) fn parse_steps(entry: &Entry<'_>, section: &str, findings: &mut Vec<Finding>) -> Vec<StepSource> {
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
    let settings = entries(table);
    let action = parse_action(&settings, &place, section, findings);
    let mut name = None;
    let mut parsed = StepSource {
        name: Located { value: String::new(), place: place.clone() },
        action,
        root: None,
        args: Vec::new(),
        for_each: None,
        compensate: None,
        is_pivot: false,
        on_failure: OnFailure::default(),
        after: None,
        retry: Retry::default(),
        on_exhausted: nothing_exhausted(&place),
    };
    for setting in &settings {
        match setting.key.value.as_str() {
            "name" => name = string(setting, findings),
            "call" | "wait" | "signal" | "timeout" => {}
            "root" => parsed.root = parse_root(setting, findings),
            "args" => parsed.args = parse_arguments(setting, findings),
            "for_each" => parsed.for_each = expression(setting, findings),
            "compensate" => parsed.compensate = parse_compensation(setting, section, findings),
            "pivot" => parsed.is_pivot = boolean(setting, findings).unwrap_or(false),
            "after" => parsed.after = Some(strings(setting, findings)),
            "retry" => parsed.retry = parse_retry(setting, section, findings),
            "on_exhausted" => parsed.on_exhausted = parse_on_exhausted(setting, findings),
            "on_failure" => parsed.on_failure = parse_on_failure(setting, findings),
            _ => unknown(&setting.key, SETTINGS, &format!("{section}.steps"), findings),
        }
    }
    if parsed.wait().is_some() {
        // It has a finding for each of these; more would be about nothing.
        parsed = StepSource { compensate: None, is_pivot: false, on_exhausted: nothing_exhausted(&place), ..parsed };
    }
    if let Some(call) = parsed.call()
        && !table.contains_key("root")
    {
        let finding = Finding::error(codes::STEP_ROOT, &call.place, format!("the step that calls `{}` names no root", call.value));
        findings.push(finding.help("say where it runs: `root = { account = \"$from\" }`"));
    }
    if let Some(name) = name.or_else(|| parsed.call().cloned()) {
        names::check("step", &name.value, &name.place, findings);
        parsed.name = name;
    } else if parsed.action.is_some() && !table.contains_key("name") {
        let finding = Finding::error(codes::SETTING, &place, format!("a step of `{section}` that waits has no name"));
        findings.push(finding.help("give it one, by which it is shown and signalled: `name = \"approval\"`"));
    }
    Some(parsed)
}

fn nothing_exhausted(place: &Place) -> Located<OnExhausted> {
    Located { value: OnExhausted::default(), place: place.clone() }
}

/// What the step does, and a finding for each setting that doesn't go with it.
fn parse_action(settings: &[Entry<'_>], place: &Place, section: &str, findings: &mut Vec<Finding>) -> Option<ActionSource> {
    let find = |key: &str| settings.iter().find(|setting| setting.key.value == key);
    let given: Vec<&Entry<'_>> = settings.iter().filter(|setting| ACTIONS.contains(&setting.key.value.as_str())).collect();
    let only =
        match given.as_slice() {
            [only] => *only,
            [] => {
                let finding = Finding::error(codes::SETTING, place, format!("a step of `{section}` lacks `call`"));
                findings.push(finding.help(
                    "name the transaction that the step calls: `call = \"withdraw\"`; or let it wait: `wait = \"24h\"`, `signal = {}`",
                ));
                return None;
            }
            [first, second, ..] => {
                let message = format!("a step of `{section}` has both `{}` and `{}`", first.key.value, second.key.value);
                findings.push(Finding::error(codes::WAIT, &second.key.place, message).help("a step does one thing; make it two steps"));
                return None;
            }
        };
    let timeout = find("timeout");
    let timeout_ms = timeout.and_then(|timeout| duration(timeout, findings));
    let mut refuse = |setting: &Entry<'_>, message: &str, help: &str| {
        let message = format!("`{}` {message}", setting.key.value);
        findings.push(Finding::error(codes::WAIT, &setting.key.place, message).help(help));
    };
    if let Some(timeout) = timeout.filter(|_| only.key.value != "signal") {
        refuse(timeout, "belongs to a step that waits for a signal", "leave it out; the whole chain can have a `deadline`");
    }
    if only.key.value == "call" {
        return string(only, findings).map(ActionSource::Call);
    }
    for (key, help) in NOT_OF_WAITS {
        if let Some(setting) = find(key) {
            refuse(setting, "has no meaning in a step that waits", help);
        }
    }
    if let Some(on_failure) = find("on_failure").filter(|_| timeout.is_none()) {
        refuse(on_failure, "has no effect: nothing can refuse this wait", "leave it out, or give a signal a `timeout`");
    }
    if only.key.value == "wait" {
        return duration(only, findings).map(|after_ms| ActionSource::Wait(Wait::Timer { after_ms }));
    }
    let payload = parse_parameters("field", only, findings).into_iter().map(|(name, r#type)| Column { name: name.value, r#type });
    Some(ActionSource::Wait(Wait::Signal { payload: payload.collect(), timeout_ms }))
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
