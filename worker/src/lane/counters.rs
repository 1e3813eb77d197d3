//! What a lane counts. It outlives the lane's connections, so that its numbers only grow while the worker runs.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rootward_metrics::{ByCode, Histogram};

use super::acknowledged::Acknowledged;

/// What a lane has done since the worker began.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Units that took effect, or were found to have done so before.
    pub committed: AtomicU64,
    /// The same by partition, to find a hot one.
    pub by_partition: Mutex<HashMap<i32, u64>>,
    /// Units that the lane took and did not execute, for whatever reason.
    pub refused: AtomicU64,
    /// The same by code, and those that found no room.
    pub refusals: ByCode,
    pub batches: AtomicU64,
    /// Units that a call for many did.
    pub set_wise: AtomicU64,
    /// All others that were in a batch.
    pub row_by_row: AtomicU64,
    /// From the queue's door to the batch.
    pub queue_time: Histogram,
    /// How many units a batch had.
    pub batch_units: Histogram,
    /// The trip with which a batch ends: outcomes, COMMIT, the flush.
    pub flush_time: Histogram,
    /// What it acknowledged last.
    pub acknowledged: Acknowledged,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            committed: AtomicU64::default(),
            by_partition: Mutex::default(),
            refused: AtomicU64::default(),
            refusals: ByCode::new(rootward_schema::codes::all().map(|code| code.code)),
            batches: AtomicU64::default(),
            set_wise: AtomicU64::default(),
            row_by_row: AtomicU64::default(),
            queue_time: Histogram::of_times(),
            batch_units: Histogram::of_sizes(),
            flush_time: Histogram::of_times(),
            acknowledged: Acknowledged::default(),
        }
    }
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Units of these partitions took effect.
    pub(super) fn committed_in(&self, partitions: impl Iterator<Item = i32>) {
        let mut by_partition = self.by_partition.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for partition in partitions {
            *by_partition.entry(partition).or_default() += 1;
            count += 1;
        }
        Counters::add(&self.committed, count);
    }

    pub(super) fn refused(&self, code: &str) {
        Counters::add(&self.refused, 1);
        self.refusals.add(code);
    }

    /// How the units of a batch ran.
    pub(super) fn ran(&self, set_wise: usize, row_by_row: usize) {
        Counters::add(&self.set_wise, set_wise);
        Counters::add(&self.row_by_row, row_by_row);
    }

    pub(super) fn flushed(&self, took: Duration) {
        self.flush_time.add(micros(took));
    }
}

/// A duration as histograms take it.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
