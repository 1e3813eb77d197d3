//! Which results of a pipeline belong to which call.

use std::ops::Range;

use crate::pg::Call;

/// Which results belong to which call: an ad-hoc one gives two, every other one.
pub(super) struct Positions {
    /// For each call its first result.
    firsts: Vec<usize>,
    total: usize,
}

impl Positions {
    pub(super) fn new(calls: &[Call]) -> Positions {
        let mut total = 0;
        let firsts = calls
            .iter()
            .map(|call| {
                let first = total;
                total += call.result_count();
                first
            })
            .collect();
        Positions { firsts, total }
    }

    /// The first result of a call, or where the next one would be.
    pub(super) fn first_of(&self, call: usize) -> usize {
        self.firsts.get(call).copied().unwrap_or(self.total)
    }

    pub(super) fn results_of(&self, calls: &Range<usize>) -> Range<usize> {
        self.first_of(calls.start)..self.first_of(calls.end)
    }

    pub(super) fn call_at(&self, result: usize) -> usize {
        self.firsts.partition_point(|first| *first <= result).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::How;

    #[test]
    fn an_ad_hoc_call_has_two_results() {
        let calls = [Call::plain("begin"), Call::plain("one"), Call { how: How::AdHoc, ..Call::plain("two") }, Call::plain("three")];
        let positions = Positions::new(&calls);
        assert_eq!((positions.results_of(&(1..3)), positions.results_of(&(3..4))), (1..4, 4..5));
        assert_eq!((positions.call_at(0), positions.call_at(2), positions.call_at(3), positions.call_at(4)), (0, 2, 2, 3));
    }
}
