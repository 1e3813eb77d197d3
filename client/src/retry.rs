//! When a request is sent again: always with the same id, inside its deadline, and never so often that retries become the
//! load: each request earns a tenth of a retry under overload. What follows a change of owner, a peer that is away or an unknown
//! outcome costs nothing, so that a failover isn't held up by the load that it causes.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rand::RngExt as _;
use rootward_proto::{Fault, v1::RetryClass};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// What a retry under overload costs; a request earns 1, so that retries add at most a tenth.
const COST: u32 = 10;
/// What is there from the start and can be saved up: ten retries.
const MOST: u32 = 100;

/// How one kind of request may be sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// One try waits this long at most, so that a router that hangs costs a part of the deadline only.
    pub try_limit: Duration,
    /// Whether it may be sent again when nobody knows if it was done: it has an id that makes that harmless, or it
    /// changes nothing.
    pub repeats_unknown: bool,
    /// Codes that would pass, but that the caller wants to hear of at once.
    pub gives_up_on: &'static [&'static str],
}

impl Policy {
    /// For what has an id or changes nothing.
    pub(crate) const REPEATABLE: Policy = Policy { try_limit: Duration::from_secs(5), repeats_unknown: true, gives_up_on: &[] };
    /// For commands that would be refused the second time, because the first one was done.
    pub(crate) const ONCE: Policy = Policy { try_limit: Duration::MAX, repeats_unknown: false, gives_up_on: &[] };

    /// For snapshots: the router has waited already as long as it may, and a peer that is missing is told at once.
    pub(crate) const SNAPSHOT: Policy =
        Policy { try_limit: Duration::MAX, repeats_unknown: true, gives_up_on: &["RW5020", "RW5021", "RW5022", "RW5023"] };

    /// Whether a request that failed like this may be sent again; under overload it takes that from the budget, unless an earlier
    /// try's outcome is unknown: only another try settles it.
    pub(crate) fn allows(self, fault: &Fault, is_unknown: bool, budget: &Budget) -> bool {
        match fault.retry_class() {
            _ if self.gives_up_on.contains(&fault.code()) => false,
            RetryClass::Retry if fault.is_overload() && !is_unknown => budget.spend(),
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
    /// A request is sent for the first time.
    pub(crate) fn earn(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left < MOST).then_some(left + 1));
    }

    fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(COST)).is_ok()
    }
}

/// The pause after try number `tries` (from 1), with jitter; never shorter than the other side asked for.
pub(crate) fn pause(tries: u32, asked_for: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
    let mut random = rand::rng();
    let own = doubled.min(LONGEST_PAUSE).mul_f64(random.random_range(0.5..1.5));
    // Later than asked for by up to half, so that those who were refused together don't come back together.
    let asked_for = asked_for.unwrap_or_default().min(LONGEST_PAUSE).mul_f64(random.random_range(1.0..1.5));
    own.max(asked_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "RW3001";

    #[test]
    fn retries_under_overload_run_out_and_are_earned_again() {
        let budget = Budget::default();
        let allows = |fault: &Fault| Policy::REPEATABLE.allows(fault, false, &budget);
        let full = Fault::overloaded(FULL, "full", "");
        assert_eq!((0..1000).filter(|_| allows(&full)).count(), 10);
        (0..10).for_each(|_| budget.earn());
        assert!(allows(&Fault::overloaded("RW3103", "late", "")) && !allows(&full));
        assert!(allows(&Fault::retry("RW5002", "away", "")), "a peer that is away is no overload");
        assert!(allows(&Fault::new("RW2005", RetryClass::Reroute, "another owner", "")));
        assert!(!allows(&Fault::refused("RW3101", "refused", "")));
    }

    #[test]
    fn an_unknown_outcome_is_settled_though_the_budget_is_empty() {
        let budget = Budget(AtomicU32::new(0));
        let full = Fault::overloaded(FULL, "full", "");
        assert!(!Policy::REPEATABLE.allows(&full, false, &budget));
        assert!(Policy::REPEATABLE.allows(&full, true, &budget));
    }

    #[test]
    fn under_lasting_overload_retries_add_a_tenth_at_most() {
        const REQUESTS: u32 = 10_000;
        let budget = Budget::default();
        let full = Fault::overloaded(FULL, "full", "");
        let mut sent = 0_u32;
        for _ in 0..REQUESTS {
            budget.earn();
            sent += 1;
            while Policy::REPEATABLE.allows(&full, false, &budget) {
                sent += 1;
            }
        }
        assert!(sent <= REQUESTS + REQUESTS / 10 + MOST / COST, "{sent} for {REQUESTS}");
        assert!(sent > REQUESTS + REQUESTS / 11, "the budget is earned: {sent}");
    }

    #[test]
    fn what_may_not_be_done_twice_is_not_repeated_when_its_outcome_is_unknown() {
        let unknown = Fault::new("RW5003", RetryClass::OutcomeUnknown, "no answer", "");
        let allows = |policy: Policy, fault: &Fault| policy.allows(fault, false, &Budget::default());
        assert!(allows(Policy::REPEATABLE, &unknown));
        assert!(!allows(Policy::ONCE, &unknown));
        assert!(allows(Policy::ONCE, &Fault::retry("RW5002", "away", "")), "it was not executed");
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert!(pause(1, None) < Duration::from_millis(40));
        assert!(pause(40, None) <= LONGEST_PAUSE.mul_f64(1.5));
    }

    #[test]
    fn a_pause_is_never_shorter_than_asked_for_and_differs_from_one_to_the_next() {
        let asked = Duration::from_millis(200);
        let pauses: std::collections::BTreeSet<Duration> = (0..100).map(|_| pause(1, Some(asked))).collect();
        assert!(pauses.iter().all(|pause| (asked..asked.mul_f64(1.5)).contains(pause)), "{pauses:?}");
        assert!(pauses.len() > 50);
        assert!(pause(1, Some(Duration::MAX)) <= LONGEST_PAUSE.mul_f64(1.5), "no router can hold a client up for long");
    }
}
