//! `retry`, `on_failure` and `on_exhausted`: what happens when a step doesn't succeed.

use crate::codes;
use crate::definition::{OnExhausted, OnFailure, Retry};
use crate::duration::{duration, duration_text};
use crate::finding::{Finding, Located};
use crate::manifest::{Entry, integer, number, string, strings, sub_entries, unknown};
use crate::nearest::did_you_mean;

/// More attempts than this are no retry but a chain that nobody hears of.
const MAX_ATTEMPTS: i64 = 1000;
const MAX_FACTOR: f64 = 100.0;
/// SQLSTATEs are five digits or capital letters.
const SQLSTATE_LENGTH: usize = 5;

const SETTINGS: &[&str] = &["initial", "factor", "max", "attempts", "jitter", "non_retryable"];

pub(super) fn parse_retry(entry: &Entry<'_>, section: &str, findings: &mut Vec<Finding>) -> Retry {
    let mut retry = Retry::default();
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "initial" => retry.initial_ms = duration(&setting, findings).unwrap_or(retry.initial_ms),
            "factor" => retry.factor = number(&setting, 1.0..=MAX_FACTOR, findings).unwrap_or(retry.factor),
            "max" => retry.max_ms = duration(&setting, findings).unwrap_or(retry.max_ms),
            "attempts" => {
                let attempts = integer(&setting, 1..=MAX_ATTEMPTS, findings).and_then(|attempts| u32::try_from(attempts).ok());
                retry.attempts = attempts.unwrap_or(retry.attempts);
            }
            "jitter" => retry.jitter = number(&setting, 0.0..=1.0, findings).unwrap_or(retry.jitter),
            "non_retryable" => retry.non_retryable = parse_sqlstates(&setting, findings),
            _ => unknown(&setting.key, SETTINGS, &format!("{section}.steps.retry"), findings),
        }
    }
    if retry.initial_ms > retry.max_ms {
        let (initial, max) = (duration_text(retry.initial_ms), duration_text(retry.max_ms));
        let message = format!("the first pause, {initial}, is longer than the longest one, {max}");
        let help = "`initial` is at most `max`; they are 50ms and 1m where they are not given";
        findings.push(Finding::error(codes::SETTING, &entry.key.place, message).help(help));
    }
    retry
}

fn parse_sqlstates(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Vec<String> {
    let mut known = Vec::new();
    for written in strings(entry, findings) {
        let is_one =
            |text: &str| text.len() == SQLSTATE_LENGTH && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        if is_one(&written.value) {
            known.push(written.value);
        } else {
            let upper = written.value.to_ascii_uppercase();
            let help = if is_one(&upper) {
                format!("did you mean `{upper}`?")
            } else {
                "an SQLSTATE is five digits or capital letters, such as `55P03`".to_owned()
            };
            findings.push(Finding::error(codes::SETTING, &written.place, format!("`{}` is no SQLSTATE", written.value)).help(help));
        }
    }
    known
}

pub(super) fn parse_on_failure(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> OnFailure {
    let choices = [("compensate", OnFailure::Compensate), ("park", OnFailure::Park), ("keep", OnFailure::Keep)];
    choice(entry, &choices, findings)
}

pub(super) fn parse_on_exhausted(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Located<OnExhausted> {
    let choices = [("park", OnExhausted::Park), ("fail", OnExhausted::Fail)];
    Located { value: choice(entry, &choices, findings), place: entry.place() }
}

/// One of a few words.
fn choice<T: Copy + Default>(entry: &Entry<'_>, choices: &[(&str, T)], findings: &mut Vec<Finding>) -> T {
    let Some(written) = string(entry, findings) else { return T::default() };
    if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == written.value) {
        return *chosen;
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let listed: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    let help = did_you_mean(&written.value, words, &format!("use one of {}", listed.join(", ")));
    let message = format!("`{} = \"{}\"` is unknown", entry.key.value, written.value);
    findings.push(Finding::error(codes::SETTING, &written.place, message).help(help));
    T::default()
}
