//! A histogram that many may fill: whoever has many values sorts them by itself first and adds them at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many buckets a histogram has: each bound is twice the one before, and the last bucket has none.
const BUCKETS: usize = 21;

/// Values in buckets, from below `first` on.
#[derive(Debug)]
pub struct Histogram {
    first: u64,
    /// What one is in the unit of the page: 0.000001 for microseconds, which are shown as seconds.
    scale: f64,
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// Values that one thread has sorted and not added yet.
#[derive(Debug, Clone)]
pub struct Tally {
    first: u64,
    counts: [u32; BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Of times, which are given in microseconds and shown in seconds: from 64 microseconds to a minute.
    pub fn of_times() -> Histogram {
        Histogram::new(64, 0.000_001)
    }

    /// Of sizes, from 1 to half a million.
    pub fn of_sizes() -> Histogram {
        Histogram::new(1, 1.0)
    }

    fn new(first: u64, scale: f64) -> Histogram {
        Histogram { first, scale, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Adds one value.
    pub fn add(&self, value: u64) {
        self.counts[bucket(self.first, value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// For values that are to be added all at once.
    pub fn tally(&self) -> Tally {
        Tally { first: self.first, counts: [0; BUCKETS], sum: 0 }
    }

    /// Adds what was sorted, and leaves the tally empty.
    pub fn add_all(&self, tally: &mut Tally) {
        for (count, more) in self.counts.iter().zip(&mut tally.counts).filter(|(_, more)| **more > 0) {
            count.fetch_add(u64::from(std::mem::take(more)), Ordering::Relaxed);
        }
        self.sum.fetch_add(std::mem::take(&mut tally.sum), Ordering::Relaxed);
    }

    /// How many values there are, and their sum, as they were given.
    pub fn totals(&self) -> (u64, u64) {
        (self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum(), self.sum.load(Ordering::Relaxed))
    }

    /// The sum in the unit of the page, and for each bucket its upper bound and its count.
    pub(crate) fn shown(&self) -> (f64, Vec<(f64, u64)>) {
        let bound = |at: usize| if at + 1 == BUCKETS { f64::MAX } else { (self.first << at) as f64 * self.scale };
        let buckets = self.counts.iter().enumerate().map(|(at, count)| (bound(at), count.load(Ordering::Relaxed)));
        (self.sum.load(Ordering::Relaxed) as f64 * self.scale, buckets.collect())
    }
}

impl Tally {
    /// Sorts one value in.
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(self.first, value)] += 1;
        self.sum += value;
    }
}

/// The first bucket whose bound is not below the value.
fn bucket(first: u64, value: u64) -> usize {
    let doublings = value.div_ceil(first).max(1).next_power_of_two().trailing_zeros();
    usize::try_from(doublings).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::of_times();
        for (value, bound) in [(0, 64), (64, 64), (65, 128), (128, 128), (129, 256), (1_000_000, 1_048_576)] {
            let before = histogram.shown().1;
            histogram.add(value);
            let after = histogram.shown().1;
            let changed: Vec<f64> = before.iter().zip(&after).filter(|(old, new)| old.1 != new.1).map(|(_, new)| new.0).collect();
            assert_eq!(changed, [f64::from(bound) * 0.000_001], "{value}");
        }
        histogram.add(u64::MAX / 4);
        assert_eq!(histogram.shown().1.last(), Some(&(f64::MAX, 1)));
    }

    #[test]
    fn a_tally_adds_what_single_values_would() {
        let (one, many) = (Histogram::of_sizes(), Histogram::of_sizes());
        let mut tally = many.tally();
        for value in [1, 2, 3, 500, 100_000_000] {
            one.add(value);
            tally.add(value);
        }
        assert_eq!(many.totals(), (0, 0));
        many.add_all(&mut tally);
        many.add_all(&mut tally);
        assert_eq!(one.shown(), many.shown());
        assert_eq!(many.totals(), (5, 100_000_506));
    }
}
