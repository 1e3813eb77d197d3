//! Which results of a pipeline belong to which call and unit.

use std::ops::Range;

use crate::pg::Call;

/// Which results belong to which unit: an ad-hoc call gives two, every other call one.
pub(super) struct Positions {
    /// The calls of each unit.
    pub(super) effects: Vec<Range<usize>>,
    /// For each call its first result.
    firsts: Vec<usize>,
    total: usize,
}

impl Positions {
    pub(super) fn new(calls: &[Call], effects: Vec<Range<usize>>) -> Positions {
        let mut total = 0;
        let firsts = calls
            .iter()
            .map(|call| {
                let first = total;
                total += call.result_count();
                first
            })
            .collect();
        Positions { effects, firsts, total }
    }

    pub(super) fn results_of(&self, unit: usize) -> Range<usize> {
        let calls = &self.effects[unit];
        let at = |call: usize| self.firsts.get(call).copied().unwrap_or(self.total);
        at(calls.start)..at(calls.end)
    }

    pub(super) fn call_at(&self, result: usize) -> usize {
        self.firsts.partition_point(|first| *first <= result).saturating_sub(1)
    }

    pub(super) fn unit_at(&self, result: usize) -> Option<usize> {
        let call = self.call_at(result);
        self.effects.iter().position(|range| range.contains(&call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ad_hoc_call_has_two_results() {
        let calls = [
            Call::prepared("begin", Vec::new()),
            Call::prepared("one", Vec::new()),
            Call::ad_hoc("two"),
            Call::prepared("three", Vec::new()),
        ];
        let positions = Positions::new(&calls, vec![1..3, 3..4]);
        assert_eq!((positions.results_of(0), positions.results_of(1)), (1..4, 4..5));
        assert_eq!((positions.call_at(0), positions.call_at(2), positions.call_at(3), positions.call_at(4)), (0, 2, 2, 3));
        assert_eq!((positions.unit_at(0), positions.unit_at(3), positions.unit_at(4)), (None, Some(0), Some(1)));
    }
}
