//! How old a place in the log is, by when the primary was asked how far it had flushed.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::position::LogPosition;

/// How far back places are known; a standby that is further behind is not used.
pub(super) const HISTORY: Duration = Duration::from_secs(120);
/// How many places are kept.
const MOST: usize = 2_048;

/// What the primary said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Before it was asked.
    pub at: Instant,
    /// Everything that was acknowledged before that moment lies before this place.
    pub flushed: LogPosition,
    /// How far all synchronous standbys had flushed; none if there are none.
    pub confirmed: Option<LogPosition>,
    /// The version of the table of owners.
    pub ownership_version: i64,
}

/// What it said lately, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Samples {
    pub(super) fn push(&mut self, sample: Sample) {
        // Two that asked at once may overtake each other.
        if self.0.back().is_some_and(|last| last.at > sample.at || last.flushed > sample.flushed) {
            return;
        }
        self.0.push_back(sample);
        while self.0.len() > MOST || self.0.front().is_some_and(|first| first.at + HISTORY < sample.at) {
            self.0.pop_front();
        }
    }

    pub(super) fn newest(&self) -> Option<Sample> {
        self.0.back().copied()
    }

    /// The newest moment before which everything that was acknowledged is shown by a server that has replayed up to `replayed`.
    pub(super) fn shown_by(&self, replayed: LogPosition) -> Option<Sample> {
        self.0.iter().rev().find(|sample| sample.flushed <= replayed).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(zero: Instant, seconds: u64, flushed: LogPosition) -> Sample {
        Sample { at: zero + Duration::from_secs(seconds), flushed, confirmed: None, ownership_version: 1 }
    }

    #[test]
    fn a_standby_is_as_old_as_the_last_place_that_it_has_passed() {
        let zero = Instant::now();
        let mut samples = Samples::default();
        for (seconds, flushed) in [(1, 10), (2, 20), (3, 20), (4, 40)] {
            samples.push(sample(zero, seconds, flushed));
        }
        assert_eq!(samples.shown_by(9), None, "nothing is known of what is so old");
        assert_eq!(samples.shown_by(10).map(|sample| sample.at), Some(zero + Duration::from_secs(1)));
        assert_eq!(samples.shown_by(39).map(|sample| sample.at), Some(zero + Duration::from_secs(3)), "nothing was written in between");
        assert_eq!(samples.shown_by(u64::MAX), samples.newest());
    }

    #[test]
    fn what_comes_out_of_order_or_is_too_old_is_not_kept() {
        let zero = Instant::now();
        let mut samples = Samples::default();
        samples.push(sample(zero, 2, 20));
        samples.push(sample(zero, 1, 10));
        assert_eq!(samples.shown_by(19), None);
        samples.push(sample(zero, 200, 30));
        assert_eq!(samples.shown_by(29), None, "the first one is older than is kept");
    }
}
