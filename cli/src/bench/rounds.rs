//! What the rounds of one side gave.

use super::{closed_loop::Sample, figures::Series};

/// One side's rounds with one number of clients.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub per_second: Series,
    pub p50_us: Series,
    pub p99_us: Series,
}

impl Rounds {
    pub(super) fn push(&mut self, sample: &Sample) {
        self.per_second.push(sample.per_second());
        self.p50_us.push(sample.percentile_us(0.5));
        self.p99_us.push(sample.percentile_us(0.99));
    }
}
