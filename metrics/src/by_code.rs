//! Counts by error code. The codes are known from the start, so that counting needs no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter for each code.
#[derive(Debug)]
pub struct ByCode {
    /// Sorted by code.
    counts: Box<[(&'static str, AtomicU64)]>,
    /// Codes that nobody named; a newer process may send some.
    others: AtomicU64,
}

impl ByCode {
    /// Counters for these codes.
    pub fn new(codes: impl IntoIterator<Item = &'static str>) -> ByCode {
        let mut counts: Vec<(&'static str, AtomicU64)> = codes.into_iter().map(|code| (code, AtomicU64::new(0))).collect();
        counts.sort_unstable_by_key(|(code, _)| *code);
        ByCode { counts: counts.into(), others: AtomicU64::new(0) }
    }

    /// Counts one more.
    pub fn add(&self, code: &str) {
        let at = self.counts.binary_search_by_key(&code, |(known, _)| known);
        at.map_or(&self.others, |at| &self.counts[at].1).fetch_add(1, Ordering::Relaxed);
    }

    /// The codes that were counted, with their counts.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = self.counts.iter().map(|(code, count)| (*code, count.load(Ordering::Relaxed)));
        known.chain([("other", self.others.load(Ordering::Relaxed))]).filter(|(_, count)| *count > 0)
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.counted().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_count_and_a_strange_one_is_not_lost() {
        let counts = ByCode::new(["RW3101", "RW2001", "RW3001"]);
        for code in ["RW3001", "RW2001", "RW3001", "RW8888"] {
            counts.add(code);
        }
        assert_eq!(counts.counted().collect::<Vec<_>>(), [("RW2001", 1), ("RW3001", 2), ("other", 1)]);
        assert_eq!(counts.total(), 4);
    }
}
