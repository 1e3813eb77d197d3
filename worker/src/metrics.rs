//! What a worker shows on its page: its lanes, its chains, itself. docs/metrics.md says what each value means.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use rootward_metrics::{Histogram, Labels, Measured, Page, write_process};
use tokio::sync::{Semaphore, watch};

use crate::{chain::ChainHome, lane::Counters, reads::ReadCounters, service::MAX_IN_FLIGHT, snapshot::Snapshots};

/// A worker's values; counters outlive its terms, what is under way belongs to the one that is served.
#[derive(Clone)]
pub(crate) struct WorkerMetrics {
    pub peer: String,
    pub counters: Vec<Arc<Counters>>,
    pub home: watch::Receiver<Option<Arc<ChainHome>>>,
    pub in_flight: Arc<Semaphore>,
    pub snapshots: Arc<Snapshots>,
    pub reads: Arc<ReadCounters>,
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkerMetrics").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Measured for WorkerMetrics {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        write_process(page)?;
        self.write_state(page)?;
        self.write_counts(page)?;
        self.write_times(page)?;
        self.write_snapshots(page)
    }
}

impl WorkerMetrics {
    fn of_peer(&self) -> Labels {
        vec![("peer", self.peer.clone())]
    }

    fn of_lane(&self, lane: usize) -> Labels {
        vec![("peer", self.peer.clone()), ("lane", lane.to_string())]
    }

    fn lanes(&self) -> impl Iterator<Item = (usize, &Counters)> {
        self.counters.iter().map(|counters| &**counters).enumerate()
    }

    fn write_state(&self, page: &mut Page<'_>) -> fmt::Result {
        let home = self.home.borrow().clone();
        let (term, drivers) = home.as_ref().map_or((0, 0), |home| (home.serving.term, home.drivers.count()));
        let under_way = MAX_IN_FLIGHT.saturating_sub(self.in_flight.available_permits());
        let peer = |value: i64| [(self.of_peer(), value)];
        page.gauges(
            "rootward_worker_serving",
            "1 while this worker serves its peer, 0 while it waits or starts",
            peer(home.is_some().into()),
        )?;
        page.gauges("rootward_worker_term", "The term that is served; 0 if none is", peer(term))?;
        page.gauges("rootward_worker_in_flight", "Requests and steps under way in this worker", peer(whole(under_way)))?;
        page.gauges("rootward_chain_drivers", "Chains that are being driven here at the moment", peer(whole(drivers)))?;
        let open = home.iter().flat_map(|home| home.open.by_status());
        let open = open.map(|(status, count)| ([self.of_peer(), vec![("status", status.to_owned())]].concat(), count));
        page.gauges("rootward_chains_open", "Chains at home here that have not ended, by status, when they were last counted", open)?;
        let lanes = home.iter().flat_map(|home| home.serving.lanes.iter().enumerate());
        let queued = lanes.map(|(at, lane)| (self.of_lane(at), i64::try_from(lane.queued()).unwrap_or(i64::MAX)));
        page.gauges("rootward_lane_queued", "Units that wait in the lane's queue", queued)
    }

    fn write_counts(&self, page: &mut Page<'_>) -> fmt::Result {
        let committed = self.lanes().map(|(at, lane)| (self.of_lane(at), lane.committed.load(Ordering::Relaxed)));
        page.counters("rootward_lane_committed", "Units that took effect, or were answered from their stored outcome", committed)?;
        let refused = self.lanes().flat_map(|(at, lane)| {
            lane.refusals.counted().map(move |(code, count)| ([self.of_lane(at), vec![("code", code.to_owned())]].concat(), count))
        });
        page.counters("rootward_lane_refused", "Units that had no effect, by the code of the refusal", refused)?;
        let batches = self.lanes().map(|(at, lane)| (self.of_lane(at), lane.batches.load(Ordering::Relaxed)));
        page.counters("rootward_lane_batches", "Batches that were run", batches)?;
        let manners = self.lanes().flat_map(|(at, lane)| {
            [("set_wise", &lane.set_wise), ("row_by_row", &lane.row_by_row)]
                .map(|(manner, count)| ([self.of_lane(at), vec![("manner", manner.to_owned())]].concat(), count.load(Ordering::Relaxed)))
        });
        page.counters("rootward_lane_units", "Units that were in a batch, by how they ran", manners)?;
        let reads = [("standby", &self.reads.at_standbys), ("primary", &self.reads.at_primary)];
        let reads = reads.map(|(at, count)| ([self.of_peer(), vec![("at", at.to_owned())]].concat(), count.load(Ordering::Relaxed)));
        page.counters("rootward_reads", "Reads with a staleness that were answered, by where they ran", reads)
    }

    fn write_times(&self, page: &mut Page<'_>) -> fmt::Result {
        let of = |pick: fn(&Counters) -> &Histogram| self.lanes().map(move |(at, lane)| (self.of_lane(at), pick(lane)));
        page.histograms("rootward_lane_queue_seconds", "How long units waited for their batch", of(|lane| &lane.queue_time))?;
        page.histograms("rootward_lane_batch_units", "How many units batches had", of(|lane| &lane.batch_units))?;
        page.histograms(
            "rootward_lane_flush_seconds",
            "How long the last trip of batches took: outcomes, COMMIT, flush",
            of(|lane| &lane.flush_time),
        )
    }
}

impl WorkerMetrics {
    fn write_snapshots(&self, page: &mut Page<'_>) -> fmt::Result {
        let snapshots = &self.snapshots;
        page.gauges("rootward_snapshots_open", "Snapshots that are open or being taken", [(self.of_peer(), whole(snapshots.open()))])?;
        let ended = [("confirmed", &snapshots.taken), ("given_up", &snapshots.lapsed)];
        let ended = ended.map(|(end, count)| ([self.of_peer(), vec![("end", end.to_owned())]].concat(), count.load(Ordering::Relaxed)));
        page.counters("rootward_snapshots", "Snapshots for which the lanes were held, by how they ended", ended)?;
        page.histograms(
            "rootward_snapshot_pause_seconds",
            "How long the lanes were held for a snapshot",
            [(self.of_peer(), &snapshots.pause)],
        )
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
