//! Requests that come while a snapshot is being taken share the next one, each under an id of its own: however many ask, new chains
//! and lanes are held once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use rand::RngExt as _;
use rootward_metrics::Histogram;
use rootward_proto::{Fault, FaultResult, v1};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::coordinate::{self, Cut, Failed, now_ms};
use crate::Routing;

/// The pause before the next try, in milliseconds: chains that were held go on meanwhile.
const PAUSE_MS: (u64, u64) = (80, 150);
/// New chains are let through for so many times as long as they were held before they are held again, so that readers who take one
/// snapshot after the other cost chains a tenth of their time at most.
const REST: u32 = 9;
/// But for no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How many requests share one snapshot.
const MOST_SHARED: usize = 256;
/// How long a snapshot lives if its taker doesn't say, and at most, in milliseconds; the workers do the same.
const LIFETIME_MS: u64 = 60_000;
const LONGEST_LIFETIME_MS: u64 = 600_000;

/// The snapshots that this router takes, one after the other.
pub(crate) struct Snapshots {
    /// Those who wait for the next one; apart from each other, those who want all peers and those who do without some.
    forming: Mutex<[Vec<Waiter>; 2]>,
    /// Whoever has it takes a snapshot, but not before this moment.
    turn: tokio::sync::Mutex<Instant>,
    /// For how long lanes were held, on the peer that held them longest, in microseconds.
    pub pause: Histogram,
    pub taken: AtomicU64,
    pub busy: AtomicU64,
    pub given_up: AtomicU64,
}

struct Waiter {
    id: Uuid,
    lifetime_ms: u64,
    deadline: Instant,
    answer: oneshot::Sender<FaultResult<v1::TakeSnapshotResponse>>,
}

impl Default for Snapshots {
    fn default() -> Snapshots {
        Snapshots {
            forming: Mutex::default(),
            turn: tokio::sync::Mutex::new(Instant::now()),
            pause: Histogram::of_times(),
            taken: AtomicU64::default(),
            busy: AtomicU64::default(),
            given_up: AtomicU64::default(),
        }
    }
}

impl Snapshots {
    fn lock(&self) -> MutexGuard<'_, [Vec<Waiter>; 2]> {
        // Nothing panics while it is held; a poisoned list would still be whole.
        self.forming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait and fit into the next one.
    fn take_waiters(&self, is_partial: bool, room: usize) -> Vec<Waiter> {
        let waiting = &mut self.lock()[usize::from(is_partial)];
        let count = waiting.len().min(room);
        waiting.drain(..count).collect()
    }

    /// Takes a snapshot, or shares the next one that is taken.
    ///
    /// Cancel safety: dropping the future gives the place in it up.
    ///
    /// # Errors
    /// RW5020 to RW5023; nothing is held any more.
    pub(crate) async fn take(
        self: &Arc<Self>,
        routing: &Routing,
        request: &v1::TakeSnapshotRequest,
        deadline: Instant,
    ) -> FaultResult<v1::TakeSnapshotResponse> {
        let wait = Duration::from_millis(request.wait_ms);
        let deadline = if request.wait_ms == 0 { deadline } else { deadline.min(Instant::now() + wait) };
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { id: Uuid::now_v7(), lifetime_ms: request.lifetime_ms, deadline, answer };
        let is_first = {
            let waiting = &mut self.lock()[usize::from(request.partial)];
            waiting.push(waiter);
            // Those whom the next one has no room for need somebody to take the one after it.
            waiting.len() % MOST_SHARED == 1
        };
        if is_first {
            let (snapshots, routing, is_partial) = (self.clone(), routing.clone(), request.partial);
            routing.tasks().spawn({
                let routing = routing.clone();
                async move { snapshots.take_next(&routing, is_partial).await }
            });
        }
        answered.await.unwrap_or_else(|_| Err(Fault::internal("a snapshot was left without an answer")))
    }

    /// Takes one for all who wait when its turn comes, again and again until it is there or nobody has time left.
    async fn take_next(&self, routing: &Routing, is_partial: bool) {
        let mut not_before = self.turn.lock().await;
        tokio::time::sleep_until(*not_before).await;
        let mut waiters = Vec::new();
        loop {
            // Who comes before the next try shares it.
            waiters.extend(self.take_waiters(is_partial, MOST_SHARED.saturating_sub(waiters.len())));
            waiters.retain(|waiter: &Waiter| !waiter.answer.is_closed());
            if waiters.is_empty() {
                return;
            }
            let mut held = Duration::ZERO;
            let tried = self.try_once(routing, is_partial, &waiters, &mut held).await;
            *not_before = Instant::now() + (held * REST).min(LONGEST_REST);
            let failed = match tried {
                Ok(cut) => return answer(waiters, &cut),
                Err(failed) => failed,
            };
            let (counter, fault, may_pass) = match failed {
                Failed::Busy(fault) => (&self.busy, fault, true),
                Failed::Torn(fault) => (&self.given_up, fault, true),
                Failed::For(fault) => (&self.given_up, fault, false),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%fault, "no snapshot was taken");
            let pause = Duration::from_millis(rand::rng().random_range(PAUSE_MS.0..PAUSE_MS.1));
            let next = not_before.max(Instant::now() + pause);
            let (staying, leaving): (Vec<Waiter>, Vec<Waiter>) = waiters.into_iter().partition(|waiter| may_pass && waiter.deadline > next);
            waiters = staying;
            for waiter in leaving {
                let _ = waiter.answer.send(Err(fault.clone()));
            }
            if !waiters.is_empty() {
                tokio::time::sleep_until(next).await;
            }
        }
    }

    async fn try_once(&self, routing: &Routing, is_partial: bool, waiters: &[Waiter], held: &mut Duration) -> Result<Cut, Failed> {
        let catalog = routing.catalog().map_err(Failed::For)?;
        let peers: Vec<_> = catalog.live_peers().cloned().collect();
        let mut cut = coordinate::take(&peers, is_partial, held).await.inspect_err(|_| routing.refresh())?;
        let ticket = |waiter: &Waiter| v1::SnapshotTicket { id: waiter.id.as_bytes().to_vec(), lifetime_ms: waiter.lifetime_ms };
        // Who has left meanwhile needs none.
        cut.keep(waiters.iter().filter(|waiter| !waiter.answer.is_closed()).map(ticket).collect()).await?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.pause.add(cut.facts.pause_us);
        Ok(cut)
    }
}

fn answer(waiters: Vec<Waiter>, cut: &Cut) {
    for waiter in waiters {
        let lifetime_ms = if waiter.lifetime_ms == 0 { LIFETIME_MS } else { waiter.lifetime_ms.min(LONGEST_LIFETIME_MS) };
        let facts = v1::TakeSnapshotResponse {
            snapshot_id: waiter.id.to_string(),
            expires_at_ms: now_ms().saturating_add(i64::try_from(lifetime_ms).unwrap_or(i64::MAX)),
            ..cut.facts.clone()
        };
        // Who has left meanwhile leaves a snapshot that expires by itself.
        let _ = waiter.answer.send(Ok(facts));
    }
}
