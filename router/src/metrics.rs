//! What a router counts and shows on its page. docs/metrics.md says what each value means.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rootward_metrics::{ByCode, Measured, Page, write_process};
use rootward_proto::FaultResult;
use tokio::sync::Semaphore;

use crate::{Routing, snapshot::Snapshots};

/// What clients asked for and got: calls, queries and starts of chains.
#[derive(Debug)]
pub(crate) struct Counters {
    requests: AtomicU64,
    done: AtomicU64,
    failed: ByCode,
    pub streams: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            requests: AtomicU64::default(),
            done: AtomicU64::default(),
            failed: ByCode::new(rootward_schema::codes::all().map(|code| code.code)),
            streams: AtomicU64::default(),
        }
    }
}

impl Counters {
    pub(crate) fn came(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is answered; one whose client has left is not.
    pub(crate) fn answered<T>(&self, result: &FaultResult<T>) {
        match result {
            Ok(_) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
            Err(fault) => self.failed.add(fault.code()),
        }
    }
}

/// How a worker's stream is used.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    pub sent: AtomicU64,
    pub opened: AtomicU64,
}

/// A router's values.
pub(crate) struct RouterMetrics {
    pub counters: Arc<Counters>,
    pub routing: Routing,
    pub in_flight: Arc<Semaphore>,
    pub max_in_flight: usize,
    pub snapshots: Arc<Snapshots>,
}

impl fmt::Debug for RouterMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RouterMetrics").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Measured for RouterMetrics {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        write_process(page)?;
        let plain = |count: u64| [(Vec::new(), count)];
        page.counters(
            "rootward_router_requests",
            "Calls, queries and starts of chains that came from clients",
            plain(self.counters.requests.load(Ordering::Relaxed)),
        )?;
        let done = ("OK", self.counters.done.load(Ordering::Relaxed));
        let answers = [done].into_iter().chain(self.counters.failed.counted());
        page.counters(
            "rootward_router_answers",
            "Answers to them, by code; OK for those that were done",
            answers.map(|(code, count)| (vec![("code", code.to_owned())], count)),
        )?;
        page.counters(
            "rootward_router_client_streams",
            "Streams that clients have opened",
            plain(self.counters.streams.load(Ordering::Relaxed)),
        )?;
        let under_way = self.max_in_flight.saturating_sub(self.in_flight.available_permits());
        let under_way = i64::try_from(under_way).unwrap_or(i64::MAX);
        page.gauges("rootward_router_in_flight", "Requests under way in this router", [(Vec::new(), under_way)])?;
        page.counters("rootward_router_retries", "Requests that were sent to a worker once more", plain(self.routing.retries()))?;
        let map = self.routing.catalog().map_or(0, |catalog| catalog.version);
        page.gauges("rootward_router_map_version", "The version of the map that requests are routed by", [(Vec::new(), map)])?;
        let links = self.routing.links();
        let of = |pick: fn(&LinkCounters) -> &AtomicU64| {
            links.iter().map(move |(worker, link)| (vec![("worker", worker.clone())], pick(link).load(Ordering::Relaxed)))
        };
        page.counters("rootward_router_worker_requests", "Requests that were sent to a worker, retries included", of(|link| &link.sent))?;
        page.counters(
            "rootward_router_worker_streams",
            "Streams that were opened to a worker; more than one if it broke",
            of(|link| &link.opened),
        )?;
        let snapshots = &self.snapshots;
        let tries = [("taken", &snapshots.taken), ("busy", &snapshots.busy), ("given_up", &snapshots.given_up)];
        let tries = tries.map(|(end, count)| (vec![("end", end.to_owned())], count.load(Ordering::Relaxed)));
        page.counters("rootward_router_snapshots", "Tries to take a snapshot over all peers, by how they ended", tries)?;
        page.histograms(
            "rootward_router_snapshot_pause_seconds",
            "How long lanes were held for a snapshot, on the peer that held them longest",
            [(Vec::new(), &snapshots.pause)],
        )
    }
}
