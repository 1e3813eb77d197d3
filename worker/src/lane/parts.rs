//! Parts of a batch that run at the same time, on a connection each.
//!
//! What runs row by row keeps one PostgreSQL process busy, and a lane would use no more than one core for it. So a batch with much of
//! it is parted by partition: each part is a batch like any other, and as all end before the next one begins, the order in a partition
//! is what it was. What runs set-wise is better off in one large batch.

use std::collections::HashMap;

use super::unit::Unit;

/// So many units that run row by row are worth a transaction of their own.
const WORTH: usize = 12;

/// Parts a batch into so many at most, each in the order that it had. What has a journal stays together: one connection
/// numbers the rows of a partition.
pub(super) fn parts(batch: Vec<Unit>, set_wise: bool, most: usize) -> Vec<Vec<Unit>> {
    let is_row = |unit: &&Unit| unit.effect.as_ref().is_some_and(|effect| !set_wise || effect.declared.set_wise.is_none());
    let rows = batch.iter().filter(is_row).count();
    let most = most.min(rows / WORTH);
    if most < 2 || batch.iter().any(Unit::is_journaled) {
        return vec![batch];
    }
    let places = places(batch.iter().filter(is_row).map(|unit| unit.claim.partition), most);
    let mut parts: Vec<Vec<Unit>> = std::iter::repeat_with(Vec::new).take(most).collect();
    for unit in batch {
        // What runs set-wise comes along with its partition's rows, else it stays in one part.
        let place = places.get(&unit.claim.partition).copied().unwrap_or_default();
        parts[place].push(unit);
    }
    // One hot partition leaves nothing for the others.
    parts.retain(|part| !part.is_empty());
    parts
}

/// The part of each partition, by those of all units that run row by row: the largest first, each to the part that has the least.
fn places(rows: impl Iterator<Item = i32>, most: usize) -> HashMap<i32, usize> {
    let mut counts: HashMap<i32, usize> = HashMap::new();
    for partition in rows {
        *counts.entry(partition).or_default() += 1;
    }
    let mut counts: Vec<(usize, i32)> = counts.into_iter().map(|(partition, count)| (count, partition)).collect();
    counts.sort_unstable();
    let mut sizes = vec![0; most];
    let mut least = |count| {
        let place = (0..most).min_by_key(|place| sizes[*place]).unwrap_or_default();
        sizes[place] += count;
        place
    };
    counts.into_iter().rev().map(|(count, partition)| (partition, least(count))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lane::{Declared, Effect};

    /// A unit that runs row by row, with its number as its label.
    fn unit(number: i32, partition: i32) -> Unit {
        let effect = Effect { declared: Arc::new(Declared::ad_hoc("select 1")), values: Vec::new() };
        Unit { effect: Some(effect), ..Unit::of_test(&number.to_string(), partition) }
    }

    #[test]
    fn each_partition_keeps_its_order_in_one_part() {
        let parts = parts((0..48).map(|number| unit(number, number % 7)).collect(), true, 2);
        assert_eq!(parts.len(), 2);
        let numbers = |part: &[Unit]| part.iter().map(|unit| unit.label.parse().expect("a number")).collect::<Vec<i32>>();
        for (one, other) in [(&parts[0], &parts[1]), (&parts[1], &parts[0])] {
            assert!(numbers(one).is_sorted(), "{:?}", numbers(one));
            assert!(one.iter().all(|unit| other.iter().all(|there| there.claim.partition != unit.claim.partition)));
        }
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 48);
    }

    #[test]
    fn a_hot_partition_and_a_small_batch_stay_whole() {
        assert_eq!(parts((0..48).map(|number| unit(number, 3)).collect(), true, 2).len(), 1);
        assert_eq!(parts((0..23).map(|number| unit(number, number)).collect(), true, 2).len(), 1);
    }

    fn sizes(rows: &[i32], most: usize) -> Vec<usize> {
        let places = places(rows.iter().copied(), most);
        let mut sizes = vec![0; most];
        rows.iter().for_each(|partition| sizes[places[partition]] += 1);
        sizes
    }

    #[test]
    fn rows_are_spread_evenly_and_a_partition_is_in_one_part_only() {
        let distinct: Vec<i32> = (0..16).collect();
        assert_eq!(sizes(&distinct, 2), [8, 8]);
        assert_eq!(sizes(&distinct, 3), [6, 5, 5]);
        assert_eq!(sizes(&[3; 40], 2), [40, 0], "one partition");
        assert_eq!(sizes(&[[3; 9].as_slice(), &[1, 1, 1], &[2; 5]].concat(), 2), [9, 8]);
    }
}
