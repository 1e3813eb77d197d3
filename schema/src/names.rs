//! What a name may look like.

use crate::codes;
use crate::finding::{Finding, Place};

/// Names appear in SQL, in TOML, on the command line and in labels of metrics; this much is safe in all of them.
const MAX_NAME_LENGTH: usize = 40;
const RESERVED_PREFIX: &str = "rootward";

/// Adds a finding if `name` is no good name for a `what`.
pub(crate) fn check(what: &str, name: &str, place: &Place, findings: &mut Vec<Finding>) {
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let reason = if name.is_empty() {
        "is missing"
    } else if !starts_well || !is_plain {
        "is no plain identifier"
    } else if name.len() > MAX_NAME_LENGTH {
        "is longer than 40 characters"
    } else if name.starts_with(RESERVED_PREFIX) {
        "begins with `rootward`, which is reserved"
    } else {
        return;
    };
    let message = if name.is_empty() { format!("the {what}'s name {reason}") } else { format!("the {what} name `{name}` {reason}") };
    findings.push(
        Finding::error(codes::NAME, place, message)
            .help("names are lower-case letters, digits and `_`, begin with a letter or `_`, and have 40 characters at most"),
    );
}
