//! How far a query over all peers is, for whoever waits for it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rootward_proto::{Fault, FaultResult, v1};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::chains::BoxStream;

/// Answers that say how far it is come no more often.
const SHORTEST: Duration = Duration::from_millis(20);

/// Counts what the peers have sent.
#[derive(Debug, Default)]
pub(super) struct Progress {
    peers: AtomicU32,
    begun: AtomicU32,
    done: AtomicU32,
    rows: AtomicU64,
}

impl Progress {
    /// So many peers were asked.
    pub(super) fn asked(&self, peers: usize) {
        self.peers.store(u32::try_from(peers).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// A peer has answered, with so many rows to begin with.
    pub(super) fn begun(&self, rows: usize) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.read(rows);
    }

    /// So many more rows have come.
    pub(super) fn read(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// A peer has sent all its rows.
    pub(super) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn answer(&self) -> v1::QuerySnapshotResponse {
        let progress = v1::QueryProgress {
            peers: self.peers.load(Ordering::Relaxed),
            peers_begun: self.begun.load(Ordering::Relaxed),
            peers_done: self.done.load(Ordering::Relaxed),
            rows_read: self.rows.load(Ordering::Relaxed),
        };
        v1::QuerySnapshotResponse { progress: Some(progress), ..v1::QuerySnapshotResponse::default() }
    }
}

type Opening = Pin<Box<dyn Future<Output = FaultResult<BoxStream<v1::QuerySnapshotResponse>>> + Send>>;

/// What is read: a result that is still to come, or its pages.
enum Source {
    Opening(Opening),
    Pages(BoxStream<v1::QuerySnapshotResponse>),
}

/// The answers of a result, and between them how far it is, once in each period.
pub(super) fn with_progress(opening: Opening, progress: Arc<Progress>, every: Duration) -> BoxStream<v1::QuerySnapshotResponse> {
    let every = every.max(SHORTEST);
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = (Some(Source::Opening(opening)), ticks);
    Box::pin(stream::unfold(state, move |(mut source, mut ticks)| {
        let progress = progress.clone();
        async move {
            let answer = next(&mut source, &mut ticks, &progress).await?;
            Some((answer, (source, ticks)))
        }
    }))
}

/// The next answer; none at the end, which is also behind the first failure.
async fn next(
    source: &mut Option<Source>,
    ticks: &mut Interval,
    progress: &Progress,
) -> Option<Result<v1::QuerySnapshotResponse, tonic::Status>> {
    loop {
        match source {
            None => return None,
            Some(Source::Opening(opening)) => tokio::select! {
                biased;
                opened = opening => match opened {
                    Ok(pages) => *source = Some(Source::Pages(pages)),
                    Err(fault) => {
                        *source = None;
                        return Some(Err(Fault::into_status(fault)));
                    }
                },
                _ = ticks.tick() => return Some(Ok(progress.answer())),
            },
            Some(Source::Pages(pages)) => tokio::select! {
                // Pages that come all the time must not keep it silent.
                biased;
                _ = ticks.tick() => return Some(Ok(progress.answer())),
                page = pages.next() => return page,
            },
        }
    }
}
