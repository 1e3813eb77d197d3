//! `--staleness` and `--not-before`: reads that may be a little old.

use std::time::Duration;

use clap::Args;
use rootward_client::v1;
use serde_json::{Value as Json, json};

use crate::output;

/// How old the answer of a read may be.
#[derive(Debug, Clone, Args)]
pub(crate) struct Staleness {
    /// Let a standby answer that shows everything which was acknowledged this long before, such as 5s; the answer says how old it is.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub staleness: Option<Duration>,
    /// Show nothing older than an earlier answer about this root did: the `position` that it came with.
    #[arg(long, value_name = "POSITION", value_parser = position, requires = "staleness")]
    pub not_before: Option<v1::ReadPosition>,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "a duration is a number with its unit, such as 500ms or 5s".to_owned())
}

/// Three numbers: the epoch, the term, and the place in the log as hexadecimal digits.
fn position(text: &str) -> Result<v1::ReadPosition, String> {
    let parts: Vec<&str> = text.split('.').collect();
    let parsed = match parts.as_slice() {
        [epoch, term, place] => epoch.parse().ok().zip(term.parse().ok()).zip(u64::from_str_radix(place, 16).ok()),
        _ => None,
    };
    let ((epoch, term), log_position) = parsed.ok_or("it is what an answer printed behind `position`, such as 1.3.16b374d848")?;
    Ok(v1::ReadPosition { epoch, term, log_position })
}

fn position_text(position: &v1::ReadPosition) -> String {
    format!("{}.{}.{:x}", position.epoch, position.term, position.log_position)
}

/// Words behind an answer.
pub(super) fn text_of(freshness: &v1::Freshness) -> String {
    let server = if freshness.from_standby {
        format!("standby {}  lag {}", freshness.server, output::duration(freshness.lag_us))
    } else {
        "primary".to_owned()
    };
    let position = freshness.position.map(|position| format!("  position {}", position_text(&position))).unwrap_or_default();
    format!("{server}{position}")
}

pub(super) fn json_of(freshness: &v1::Freshness) -> Json {
    json!({
        "from_standby": freshness.from_standby, "server": freshness.server, "lag_us": freshness.lag_us,
        "position": freshness.position.map(|position| position_text(&position)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let one = v1::ReadPosition { epoch: 2, term: 31, log_position: 0x16_b374_d848 };
        assert_eq!(position_text(&one), "2.31.16b374d848");
        assert_eq!(position(&position_text(&one)), Ok(one));
        for wrong in ["", "1.2", "1.2.x", "a.2.3", "1.2.3.4"] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_says_how_old_it_is() {
        let of = |from_standby, server: &str, lag_us| v1::Freshness { from_standby, server: server.to_owned(), lag_us, position: None };
        assert_eq!(text_of(&of(true, "10.0.0.22:5432", 12_300)), "standby 10.0.0.22:5432  lag 12.3 ms");
        assert_eq!(text_of(&of(false, "", 0)), "primary");
    }
}
