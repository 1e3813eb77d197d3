//! `$param`, `$element`, `$steps.STEP.COLUMN`, and fixed values.

use toml::de::DeValue;

use super::Arguments;
use crate::codes;
use crate::definition::Expression;
use crate::finding::{Finding, Located, Place};
use crate::manifest::{Entry, sub_entries, wrong_type};

/// Names with the expressions that fill them.
pub(super) fn parse_arguments(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Arguments {
    let settings = sub_entries(entry, findings);
    settings.iter().filter_map(|setting| Some((setting.key.clone(), expression(setting, findings)?))).collect()
}

/// The expression of a setting: a `$` form, or a fixed value.
pub(super) fn expression(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<Located<Expression>> {
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
