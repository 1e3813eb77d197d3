//! Which chains, and moments as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rootward_client::{Fault, v1};

/// The statuses of a chain, as `--status` takes them.
const STATUSES: [&str; 12] = [
    "scheduled",
    "running",
    "waiting",
    "paused",
    "parked",
    "compensating",
    "stuck",
    "completed",
    "failed",
    "compensated",
    "cancelled",
    "abandoned",
];

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only these statuses, such as parked,stuck.
    #[arg(long, value_delimiter = ',', value_name = "STATUS", value_parser = STATUSES)]
    status: Vec<String>,
    /// Only chains of this name.
    #[arg(long = "type", value_name = "NAME")]
    definition: Option<String>,
    /// Only chains that began at this root, or at any of its kind.
    #[arg(long, value_name = "ENTITY[=KEY]")]
    root: Option<String>,
    /// Only chains with this label; can be given again.
    #[arg(long, value_name = "NAME=TEXT", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only chains whose error (code, SQLSTATE, message) is like this, with % for anything.
    #[arg(long, value_name = "PATTERN")]
    error: Option<String>,
    /// Only chains started since: how long ago (1h), or a time (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<i64>,
    /// Only chains started before: how long ago (7d), or a time.
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<i64>,
}

impl Filter {
    /// Whether it lets everything through.
    pub(super) fn is_empty(&self) -> bool {
        self.message(None) == v1::ChainFilter::default()
    }

    pub(super) fn message(&self, id: Option<&str>) -> v1::ChainFilter {
        let (entity, root_key) = match self.root.as_deref().map(|root| root.split_once('=')) {
            Some(Some((entity, key))) => (entity, key),
            Some(None) => (self.root.as_deref().unwrap_or_default(), ""),
            None => ("", ""),
        };
        v1::ChainFilter {
            statuses: self.status.clone(),
            definition: self.definition.clone().unwrap_or_default(),
            error: self.error.clone().unwrap_or_default(),
            id: id.unwrap_or_default().to_owned(),
            labels: self.label.iter().cloned().collect(),
            entity: entity.to_owned(),
            root_key: root_key.to_owned(),
            since_ms: self.since.unwrap_or_default(),
            until_ms: self.until.unwrap_or_default(),
        }
    }
}

/// `NAME=TEXT`
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err("a label is written NAME=TEXT, such as batch=nightly".to_owned()),
    }
}

/// A moment that lies as far back as the text says, or that it names.
fn past(text: &str) -> Result<i64, String> {
    moment(text, |now, length| now.saturating_sub(length))
}

/// A moment that comes after as long as the text says, or that it names.
pub(super) fn future(text: &str) -> Result<i64, String> {
    moment(text.strip_prefix('+').unwrap_or(text), |now, length| now.saturating_add(length))
}

fn moment(text: &str, from_now: impl Fn(i64, i64) -> i64) -> Result<i64, String> {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if let Ok(length) = humantime::parse_duration(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return Ok(from_now(millis(now), millis(length)));
    }
    let moment = humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("`{text}` is neither a length of time such as 90s, 10m, 7d nor a time such as 2026-01-31T12:00:00Z"))?;
    Ok(millis(moment.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// `50/s`, `600/m`, or a plain number a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let (number, seconds) = match text.split_once('/') {
        None => (text, 1.0),
        Some((number, "s")) => (number, 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => ("", 1.0),
    };
    let rate: f64 = number.parse().map_err(|_| "a rate is written 50/s, 600/m or 1000/h".to_owned())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate / seconds) } else { Err("a rate is more than 0".to_owned()) }
}

/// Who asks, for the record.
pub(super) fn whoami() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    user.unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()))
}

/// The refusal of a verb that would change everything there is.
pub(super) fn needs_filter(verb: &str) -> Fault {
    Fault::refused(
        "RW4004",
        format!("`{verb}` wants a chain's id or a filter"),
        format!("name what it is for, such as `rootward chain {verb} --status parked`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_lengths_or_moments() {
        assert_eq!(past("1970-01-01T00:00:01Z"), Ok(1000));
        assert!(past("1h").expect("a length") < past("1m").expect("a length"));
        assert!(future("+10m").expect("a length") > future("9m").expect("a length"));
        assert!(past("yesterday").is_err());
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate("50/s"), Ok(50.0));
        assert_eq!(rate("600/m"), Ok(10.0));
        assert_eq!(rate("5"), Ok(5.0));
        for wrong in ["0", "-1/s", "5/x", "fast", "inf"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
