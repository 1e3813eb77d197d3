//! Durations as people write them: `50ms`, `10m`, `24h`, `3d`.

use std::time::Duration;

use toml::de::DeValue;

use crate::codes;
use crate::finding::Finding;
use crate::manifest::{Entry, wrong_type};

/// Ten years of 365.25 days. Whoever writes more means something else.
const MAX_MS: u128 = 10 * 8_766 * 3_600_000;

/// Milliseconds as people write them; [`humantime`] reads the text back.
pub fn duration_text(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// The duration of a setting, in milliseconds.
pub(crate) fn duration(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<u64> {
    let key = &entry.key.value;
    let DeValue::String(written) = entry.value.get_ref() else {
        wrong_type(key, &entry.place(), "a duration in quotes, such as `\"10m\"`", entry.value.get_ref(), findings);
        return None;
    };
    let refuse = |message: String, help: &str| Finding::error(codes::SETTING, &entry.place(), message).help(help);
    let Ok(duration) = humantime::parse_duration(written) else {
        let message = format!("`{key} = \"{written}\"` is no duration");
        findings.push(refuse(message, "write a number with its unit: `50ms`, `10s`, `15m`, `24h` or `3d`"));
        return None;
    };
    let ms = duration.as_millis();
    if !(1..=MAX_MS).contains(&ms) || Duration::from_millis(u64::try_from(ms).unwrap_or(0)) != duration {
        let message = format!("`{key} = \"{written}\"` is out of range");
        findings.push(refuse(message, "a duration is a whole number of milliseconds, from `1ms` to `10years`"));
        return None;
    }
    u64::try_from(ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (ms, text) in [(50, "50ms"), (600_000, "10m"), (5_400_000, "1h 30m"), (259_200_000, "3days")] {
            assert_eq!(duration_text(ms), text);
            assert_eq!(humantime::parse_duration(text).expect("a duration"), Duration::from_millis(ms));
        }
    }
}
