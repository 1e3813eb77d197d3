//! What is too old to run: its outcome may have been collected, so nobody could tell whether it ran before.

use std::sync::atomic::{AtomicI64, Ordering};

use rootward_proto::{Fault, v1::RetryClass};

/// How old a unit is. The lane itself looks at it: what was fresh when it came may have waited while outcomes were collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// A request, by when it was issued, in milliseconds since 1970.
    Request(i64),
    /// A chain's step, by when it expires.
    Step(i64),
    /// Our own bookkeeping.
    Own,
}

/// The moments before which outcomes of this peer may have been collected, in milliseconds since 1970. They are stored with
/// the collection and raised before it runs, and never fall: whatever any clock says later, what is older stays refused.
#[derive(Debug)]
pub(crate) struct Floors {
    issued_before: AtomicI64,
    expired_before: AtomicI64,
}

impl Floors {
    pub(crate) fn new(issued_before: i64, expired_before: i64) -> Floors {
        Floors { issued_before: AtomicI64::new(issued_before), expired_before: AtomicI64::new(expired_before) }
    }

    /// To be called before the unit that collects requests issued before this moment is queued.
    pub(crate) fn raise_issued(&self, before_ms: i64) {
        self.issued_before.fetch_max(before_ms, Ordering::SeqCst);
    }

    /// To be called before the unit that forgets a chain which expired at this moment is queued.
    pub(crate) fn raise_expired(&self, at_ms: i64) {
        self.expired_before.fetch_max(at_ms, Ordering::SeqCst);
    }

    /// Why a unit is too old, if it is.
    pub(crate) fn refusal(&self, freshness: Freshness) -> Option<Fault> {
        match freshness {
            Freshness::Request(issued_at) if issued_at < self.issued_before.load(Ordering::SeqCst) => Some(expired_request()),
            Freshness::Step(expires_at) if expires_at <= self.expired_before.load(Ordering::SeqCst) => Some(expired_step()),
            Freshness::Request(_) | Freshness::Step(_) | Freshness::Own => None,
        }
    }
}

/// The refusal of a request whose outcome may be gone.
pub(crate) fn expired_request() -> Fault {
    Fault::refused(
        "RW3107",
        "the request was issued longer ago than outcomes are kept",
        "nothing was executed now; whether it was earlier only your data can tell",
    )
}

/// The refusal of a chain's step that comes later than its driver promised: another driver may have ended the chain since.
pub(crate) fn expired_step() -> Fault {
    Fault::new(
        "RW4008",
        RetryClass::Retry,
        "the step came later than its driver promised",
        "nothing was executed; the chain's home sends it again if the chain is still open",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_only_rise_and_what_is_older_is_refused() {
        let floors = Floors::new(100, 200);
        floors.raise_issued(50);
        floors.raise_expired(150);
        let code = |freshness| floors.refusal(freshness).map(|fault| fault.code().to_owned());
        assert_eq!(code(Freshness::Request(99)).as_deref(), Some("RW3107"));
        assert_eq!(code(Freshness::Request(100)), None);
        assert_eq!(code(Freshness::Step(200)).as_deref(), Some("RW4008"));
        assert_eq!(code(Freshness::Step(201)), None);
        floors.raise_issued(101);
        assert_eq!(code(Freshness::Request(100)).as_deref(), Some("RW3107"));
        assert_eq!(code(Freshness::Own), None);
    }
}
