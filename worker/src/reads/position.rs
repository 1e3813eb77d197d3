//! Places in the log of a PostgreSQL, and what an earlier answer obliges a later one to show.

use rootward_proto::v1;

/// A place in the log, in bytes from its beginning.
pub(super) type LogPosition = u64;

/// Reads PostgreSQL's own form, such as `16/B374D848`.
pub(super) fn parse(text: &str) -> Option<LogPosition> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
    Some(u64::from(high) << 32 | u64::from(low))
}

/// What a server must show, so that nobody sees a root older than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// Any server that shows this epoch and this term: both began behind everything that was seen then.
    Nothing,
    /// One that is as far as this.
    Log(LogPosition),
    /// Another peer has owned the partition since.
    AnotherOwner,
    /// Another worker has served the peer since.
    AnotherTerm,
}

/// Compares an earlier answer with this worker's standing.
pub(super) fn needed(seen: Option<&v1::ReadPosition>, epoch: i64, term: i64) -> Needed {
    let Some(seen) = seen else { return Needed::Nothing };
    match (seen.epoch.cmp(&epoch), seen.term.cmp(&term)) {
        (std::cmp::Ordering::Greater, _) => Needed::AnotherOwner,
        // Terms and logs of another peer say nothing about this one's.
        (std::cmp::Ordering::Less, _) | (std::cmp::Ordering::Equal, std::cmp::Ordering::Less) => Needed::Nothing,
        (std::cmp::Ordering::Equal, std::cmp::Ordering::Greater) => Needed::AnotherTerm,
        (std::cmp::Ordering::Equal, std::cmp::Ordering::Equal) => Needed::Log(seen.log_position),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_postgresql_writes_them() {
        assert_eq!(parse("0/0"), Some(0));
        assert_eq!(parse("16/B374D848"), Some(0x16_B374_D848));
        for wrong in ["", "16", "x/0", "0/x", "1/2/3", "100000000/0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_later_read_needs_what_an_earlier_one_saw_in_the_same_epoch_and_term() {
        let seen = |epoch, term| Some(v1::ReadPosition { epoch, term, log_position: 7 });
        let of = |seen: Option<v1::ReadPosition>| needed(seen.as_ref(), 3, 5);
        assert_eq!(of(None), Needed::Nothing);
        assert_eq!(of(seen(3, 5)), Needed::Log(7));
        assert_eq!(of(seen(3, 4)), Needed::Nothing, "this term began behind it");
        assert_eq!(of(seen(2, 9)), Needed::Nothing, "the partition came behind it; the other peer's terms are its own");
        assert_eq!(of(seen(3, 6)), Needed::AnotherTerm);
        assert_eq!(of(seen(4, 1)), Needed::AnotherOwner);
    }
}
