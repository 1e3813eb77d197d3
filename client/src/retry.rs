//! When a request is sent again: always with the same id, inside its deadline, and never so often that retries become the
//! load. The budget follows gRPC's retry throttling (gRFC A6): every answer earns a part of a retry under overload.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rand::RngExt as _;
use rootward_proto::{Fault, v1::RetryClass};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// What a retry under overload costs; an answered request earns 1, so that retries add at most a tenth.
const COST: u32 = 10;
const MOST: u32 = 100;

/// How one kind of request may be sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// One try waits this long at most, so that a router that hangs costs a part of the deadline only.
    pub try_limit: Duration,
    /// Whether it may be sent again when nobody knows if it was done: it has an id that makes that harmless, or it
    /// changes nothing.
    pub repeats_unknown: bool,
}

impl Policy {
    /// For what has an id or changes nothing.
    pub(crate) const REPEATABLE: Policy = Policy { try_limit: Duration::from_secs(5), repeats_unknown: true };
    /// For commands that would be refused the second time, because the first one was done.
    pub(crate) const ONCE: Policy = Policy { try_limit: Duration::MAX, repeats_unknown: false };

    /// Whether a request that failed like this may be sent again; under overload it takes that from the budget.
    pub(crate) fn allows(self, fault: &Fault, budget: &Budget) -> bool {
        match fault.retry_class() {
            RetryClass::Retry if fault.code() == "RW3001" => budget.spend(),
            RetryClass::Retry | RetryClass::Reroute => true,
            RetryClass::OutcomeUnknown => self.repeats_unknown,
            RetryClass::Refused | RetryClass::NotFound | RetryClass::Internal | RetryClass::Unspecified => false,
        }
    }
}

/// Retries that may still be made under overload; shared by all requests of a client.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Budget {
        Budget(AtomicU32::new(MOST))
    }
}

impl Budget {
    /// A request was answered.
    pub(crate) fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left < MOST).then_some(left + 1));
    }

    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(COST)).is_ok()
    }
}

/// The pause after try number `tries` (from 1), with jitter.
pub(crate) fn pause(tries: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(LONGEST_PAUSE).mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_under_overload_run_out_and_are_earned_again() {
        let budget = Budget::default();
        let full = Fault::retry("RW3001", "full", "");
        let allows = |fault: &Fault| Policy::REPEATABLE.allows(fault, &budget);
        assert_eq!((0..1000).filter(|_| allows(&full)).count(), 10);
        (0..10).for_each(|_| budget.earn());
        assert!(allows(&full) && !allows(&full));
        assert!(allows(&Fault::retry("RW5002", "away", "")), "a peer that is away is no overload");
        assert!(!allows(&Fault::refused("RW3101", "refused", "")));
    }

    #[test]
    fn what_may_not_be_done_twice_is_not_repeated_when_its_outcome_is_unknown() {
        let unknown = Fault::new("RW5003", RetryClass::OutcomeUnknown, "no answer", "");
        assert!(Policy::REPEATABLE.allows(&unknown, &Budget::default()));
        assert!(!Policy::ONCE.allows(&unknown, &Budget::default()));
        assert!(Policy::ONCE.allows(&Fault::retry("RW5002", "away", ""), &Budget::default()), "it was not executed");
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert!(pause(1) < Duration::from_millis(40));
        assert!(pause(40) <= LONGEST_PAUSE.mul_f64(1.5));
    }
}
