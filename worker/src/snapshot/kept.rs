//! Snapshots that may be read, each until it is released or was not used for its lifetime.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use rootward_metrics::Histogram;
use rootward_proto::{Fault, FaultResult, v1::RetryClass};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cut::{Cut, Idle};
use crate::{chain::ChainHome, config::Config, pg::Connection};

/// How long a snapshot lives after it was used last, unless its taker says otherwise, and at most.
const LIFETIME: Duration = Duration::from_secs(60);
const LONGEST_LIFETIME: Duration = Duration::from_secs(600);
/// How many queries may read snapshots at once; each has a session of its own.
const MOST_READERS: usize = 16;

/// The snapshots of this process, over its terms; those of a term that is over are gone.
pub(crate) struct Snapshots {
    pub(super) config: Arc<Config>,
    /// Places for sessions that keep a snapshot open.
    room: Arc<Semaphore>,
    pub(super) readers: Arc<Semaphore>,
    pub(super) idle: Idle,
    /// A session whose query has ended, for the next one.
    idle_reader: Mutex<Option<Connection>>,
    kept: Mutex<HashMap<Uuid, Kept>>,
    /// For how long lanes were held, in microseconds.
    pub pause: Histogram,
    /// How many were confirmed, and how many were given up after the lanes were held.
    pub taken: AtomicU64,
    pub lapsed: AtomicU64,
}

struct Kept {
    open: Arc<Open>,
    lifetime: Duration,
    until: Instant,
}

/// A snapshot that is open; several ids may stand for it.
pub(crate) struct Open {
    pub cut: Cut,
    /// The peers that are in it.
    pub peers: Vec<String>,
    /// Cancelled when the term ends in which it was taken.
    pub end_of_term: CancellationToken,
    /// Free again when this is dropped.
    pub _place: OwnedSemaphorePermit,
}

impl Open {
    fn is_open(&self) -> bool {
        self.cut.is_open() && !self.end_of_term.is_cancelled()
    }

    /// Returns when it can't be read any more. It does not keep it open.
    fn closed(&self) -> impl Future<Output = ()> + use<> {
        let (session, end_of_term) = (self.cut.ended(), self.end_of_term.clone());
        async move {
            tokio::select! {
                () = session.cancelled() => {}
                () = end_of_term.cancelled() => {}
            }
        }
    }
}

impl Snapshots {
    pub(crate) fn new(config: Arc<Config>) -> Snapshots {
        Snapshots {
            room: Arc::new(Semaphore::new(config.max_snapshots)),
            readers: Arc::new(Semaphore::new(MOST_READERS)),
            idle: Idle::default(),
            idle_reader: Mutex::default(),
            config,
            kept: Mutex::default(),
            pause: Histogram::of_times(),
            taken: AtomicU64::default(),
            lapsed: AtomicU64::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Kept>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that an earlier query left.
    pub(super) fn idle_reader(&self) -> Option<Connection> {
        self.idle_reader.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn leave_reader(&self, session: Connection) {
        *self.idle_reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// A place for one more.
    ///
    /// # Errors
    /// RW5023 if there is none.
    pub(super) fn place(&self) -> FaultResult<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().map_err(|_| {
            let (peer, most) = (&self.config.peer, self.config.max_snapshots);
            Fault::retry(
                "RW5023",
                format!("peer {peer} keeps {most} snapshots open already (`max_snapshots`)"),
                "release one with `rootward snapshot release ID`; others expire when they are not used",
            )
        })
    }

    /// How many sessions keep a snapshot open, or are about to.
    pub(crate) fn open(&self) -> usize {
        self.config.max_snapshots.saturating_sub(self.room.available_permits())
    }

    /// Keeps a snapshot under an id, until it is released or not used for its lifetime (the usual one if it is 0).
    pub(super) fn keep(self: &Arc<Self>, home: &ChainHome, id: Uuid, lifetime_ms: u64, open: Arc<Open>) {
        let lifetime = if lifetime_ms == 0 { LIFETIME } else { Duration::from_millis(lifetime_ms).min(LONGEST_LIFETIME) };
        let closed = open.closed();
        self.lock().insert(id, Kept { open, lifetime, until: Instant::now() + lifetime });
        let snapshots = self.clone();
        home.serving.tasks.spawn(async move {
            let expired = async {
                while let Some(until) = snapshots.until(id) {
                    tokio::time::sleep_until(until).await;
                }
            };
            tokio::select! {
                () = expired => {}
                () = closed => snapshots.release(id),
            }
        });
    }

    /// When it expires; none if it is gone.
    fn until(&self, id: Uuid) -> Option<Instant> {
        let mut kept = self.lock();
        let until = kept.get(&id)?.until;
        if until <= Instant::now() {
            kept.remove(&id);
            return None;
        }
        Some(until)
    }

    /// A snapshot to be read; it lives on for its lifetime from now.
    ///
    /// # Errors
    /// RW5024 if it is not there.
    pub(crate) fn find(&self, id: Uuid) -> FaultResult<Arc<Open>> {
        let now = Instant::now();
        let mut kept = self.lock();
        let found = kept.get_mut(&id).filter(|kept| kept.until > now && kept.open.is_open());
        let Some(found) = found else { return Err(gone(id, &self.config.peer)) };
        found.until = now + found.lifetime;
        Ok(found.open.clone())
    }

    /// It is still being read.
    pub(super) fn touch(&self, id: Uuid) {
        if let Some(kept) = self.lock().get_mut(&id) {
            kept.until = Instant::now() + kept.lifetime;
        }
    }

    /// Lets go of it; queries that read it already come to their end.
    pub(crate) fn release(&self, id: Uuid) {
        let kept = self.lock().remove(&id);
        drop(kept);
    }
}

/// A snapshot that is not there, or not any more.
pub(super) fn gone(id: Uuid, peer: &str) -> Fault {
    Fault::new(
        "RW5024",
        RetryClass::NotFound,
        format!("snapshot {id} is not open on peer {peer}: it was released, has expired, or the peer has begun a new term since"),
        "take another one with `rootward snapshot take`",
    )
}
