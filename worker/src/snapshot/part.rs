//! One peer's way through a snapshot: drain, take, confirm, keep. Each step is asked for by the coordinator, and the stream is the
//! lease: when it ends, or nothing is asked in time, everything is let go of.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, snapshot_state::State, snapshot_step::Step},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    cut::{Cut, Prepared, prepare},
    kept::{Open, Snapshots},
};
use crate::{
    chain::{self, ChainHome, Closed, shown},
    clock, fail_point,
    lane::Held,
};

/// How long the coordinator may take to ask for the next step, but for those while lanes are held.
const LEASE: Duration = Duration::from_secs(5);
/// How many chains are named that are still under way.
const MOST_NAMED: i64 = 10;
/// The name of everything here for fail points.
const LABEL: &str = "snapshot";

/// The coordinator's end of the stream.
pub(crate) struct Coordinator {
    pub steps: Streaming<v1::SnapshotStep>,
    pub states: mpsc::Sender<Result<v1::SnapshotState, Status>>,
}

impl Coordinator {
    async fn tell(&self, state: State) -> FaultResult<()> {
        self.states.send(Ok(v1::SnapshotState { state: Some(state) })).await.map_err(|_| left())
    }

    /// The next step that is asked for.
    async fn next(&mut self, until: Instant) -> FaultResult<Step> {
        match timeout_at(until, self.steps.message()).await {
            Ok(Ok(Some(v1::SnapshotStep { step: Some(step) }))) => Ok(step),
            Ok(_) => Err(left()),
            Err(_) => Err(lapsed("nothing was asked for in time, so this peer has let go")),
        }
    }
}

/// Nobody hears of it.
fn left() -> Fault {
    lapsed("the coordinator has left")
}

fn lapsed(why: &str) -> Fault {
    Fault::retry("RW5022", why, "take the snapshot again")
}

/// Takes part in one snapshot.
pub(crate) async fn take_part(snapshots: Arc<Snapshots>, home: Arc<ChainHome>, mut coordinator: Coordinator) {
    let part = Part { snapshots, home };
    let states = coordinator.states.clone();
    let ended = tokio::select! {
        ended = part.run(&mut coordinator) => ended,
        // Whatever it was about to do, what it holds goes with it.
        () = states.closed() => return,
        () = part.home.serving.stop.cancelled() => Err(part.lapsed("its term has ended")),
    };
    if let Err(fault) = ended {
        tracing::debug!(%fault, "a snapshot was given up");
        let _ = coordinator.tell(State::Failure(fault.into_wire())).await;
    }
}

struct Part {
    snapshots: Arc<Snapshots>,
    home: Arc<ChainHome>,
}

/// A snapshot that is fixed, and the lanes that are held for it.
struct Taken {
    cut: Cut,
    held: Held,
    since: Instant,
    /// Until then they may be held.
    until: Instant,
}

impl Part {
    async fn run(&self, coordinator: &mut Coordinator) -> FaultResult<()> {
        let place = self.snapshots.place()?;
        coordinator.tell(State::Draining(v1::SnapshotDraining {})).await?;
        let Step::Drain(drain) = coordinator.next(Instant::now() + LEASE).await? else { return Err(out_of_order()) };
        let hurry = self.home.serving.hold.hurry();
        let closed = self.home.gate.close();
        let prepared = async { prepare(&self.snapshots.config, &self.snapshots.idle).await.map_err(|error| error.fault(&self.home.peer)) };
        let (busy, prepared) = tokio::try_join!(self.drain(&closed, drain.lists_running), prepared)?;
        if let Some(busy) = busy {
            return coordinator.tell(State::Busy(busy)).await;
        }
        fail_point::hit("snapshot_drained", LABEL).await;
        coordinator.tell(State::Drained(v1::SnapshotDrained {})).await?;
        let Step::Take(_) = coordinator.next(Instant::now() + self.drain_limit() + LEASE).await? else { return Err(out_of_order()) };
        let taken = self.take(prepared).await.inspect_err(|_| self.count_lapsed())?;
        fail_point::hit("snapshot_taken", LABEL).await;
        let confirmed = self.confirm(coordinator, taken, closed).await.inspect_err(|_| self.count_lapsed());
        drop(hurry);
        let (cut, pause) = confirmed?;
        self.snapshots.taken.fetch_add(1, Ordering::Relaxed);
        fail_point::hit("snapshot_confirmed", LABEL).await;
        let (in_flight, in_flight_total) = cut.in_flight(&self.home.peer).await.map_err(|error| error.fault(&self.home.peer))?;
        coordinator.tell(State::Confirmed(v1::SnapshotConfirmed { pause_us: pause, in_flight, in_flight_total })).await?;
        loop {
            match coordinator.next(Instant::now() + LEASE).await? {
                Step::Outcomes(asked) => {
                    let chains: Vec<Uuid> = asked.chains.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect();
                    let effects = cut.effects(&self.home.peer, &chains).await.map_err(|error| error.fault(&self.home.peer))?;
                    coordinator.tell(State::Holds(v1::SnapshotHolds { effects })).await?;
                }
                Step::Keep(keep) => {
                    let open = Arc::new(Open { cut, peers: keep.peers, end_of_term: self.home.serving.stop.clone(), _place: place });
                    for ticket in &keep.tickets {
                        let id = Uuid::from_slice(&ticket.id).map_err(|_| out_of_order())?;
                        self.snapshots.keep(&self.home, id, ticket.lifetime_ms, open.clone());
                    }
                    return coordinator.tell(State::Kept(v1::SnapshotKept {})).await;
                }
                Step::Drain(_) | Step::Take(_) | Step::Confirm(_) => return Err(out_of_order()),
            }
        }
    }

    fn drain_limit(&self) -> Duration {
        Duration::from_millis(self.snapshots.config.snapshot_drain_ms)
    }

    fn lapsed(&self, why: &str) -> Fault {
        lapsed(&format!("peer {}: {why}", self.home.peer))
    }

    fn count_lapsed(&self) {
        self.snapshots.lapsed.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing is under way; those that still are when the bound is over, if they are not to be listed.
    async fn drain(&self, closed: &Closed, lists_running: bool) -> FaultResult<Option<v1::SnapshotBusy>> {
        // A negative control of the tests: without this, snapshots have half chains in them.
        if fail_point::is_armed("without_drain", LABEL) {
            return Ok(None);
        }
        let began_ms = clock::now_ms();
        let is_drained = timeout_at(Instant::now() + self.drain_limit(), closed.drained()).await.is_ok();
        if lists_running {
            return Ok(None);
        }
        let chains = if is_drained {
            // What is on its way by its row and has no driver: one was lost, or there is no room for more of them.
            let rows = chain::cut::under_way(&self.home.pool, began_ms, MOST_NAMED).await;
            let rows = rows.map_err(|error| self.lapsed(&error.to_string()))?;
            rows.iter().map(|row| shown(&self.home.peer, row)).collect()
        } else {
            self.home.drivers.some(usize::try_from(MOST_NAMED).unwrap_or_default())
        };
        if is_drained && chains.is_empty() {
            return Ok(None);
        }
        let total = if is_drained { chains.len() } else { self.home.drivers.count() } as u64;
        Ok(Some(v1::SnapshotBusy { chains, total }))
    }

    /// Holds the lanes, waits for what they have under way, and fixes the snapshot.
    async fn take(&self, prepared: Prepared) -> FaultResult<Taken> {
        fail_point::hit("snapshot_take", LABEL).await;
        let since = Instant::now();
        let until = since + Duration::from_millis(self.snapshots.config.snapshot_hold_ms);
        let held = self.home.serving.hold.hold();
        let fix = async {
            held.at_rest().await;
            prepared.fix().await.map_err(|error| error.fault(&self.home.peer))
        };
        let cut = timeout_at(until, fix).await.map_err(|_| self.lapsed("its lanes did not come to rest within `snapshot_hold_ms`"))??;
        if cut.term != self.home.serving.term {
            return Err(self.lapsed("another worker has taken it over"));
        }
        if cut.is_switching {
            return Err(self.lapsed("some of its partitions are just changing their owner"));
        }
        Ok(Taken { cut, held, since, until })
    }

    /// Tells that the snapshot is fixed, and waits with held lanes until all peers have theirs. Then it counts only if nobody can
    /// have written here meanwhile: the lanes were held all the time, and by the database there is no newer term, whose worker
    /// has lanes of its own.
    async fn confirm(&self, coordinator: &mut Coordinator, taken: Taken, closed: Closed) -> FaultResult<(Cut, u64)> {
        let Taken { cut, held, since, until } = taken;
        // A negative control of the tests: without the hold, an effect may be in a snapshot and its cause not.
        let (held, until) = match fail_point::is_armed("without_hold", LABEL) {
            true => {
                drop(held);
                (None, Instant::now() + LEASE)
            }
            false => (Some(held), until),
        };
        let (term, reference_version) = (cut.term, cut.reference_version);
        coordinator.tell(State::Taken(v1::SnapshotTaken { term, reference_version })).await?;
        let asked = coordinator.next(until).await;
        let is_late = Instant::now() > until;
        // Both let go before anything else: every peer has its snapshot.
        drop((held, closed));
        let pause = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.snapshots.pause.add(pause);
        let Step::Confirm(_) = asked? else { return Err(out_of_order()) };
        if is_late || self.home.serving.stop.is_cancelled() {
            return Err(self.lapsed("it did not hold its lanes long enough (`snapshot_hold_ms`)"));
        }
        let term_now = self.term_now().await.map_err(|why| self.lapsed(&why))?;
        if term_now != self.home.serving.term || self.home.serving.stop.is_cancelled() {
            return Err(self.lapsed("another worker has taken it over"));
        }
        Ok((cut, pause))
    }

    /// The term by the database, outside of the snapshot.
    async fn term_now(&self) -> Result<i64, String> {
        let client = self.home.pool.get().await.map_err(|error| error.to_string())?;
        let sql = "/* read_term */ select term from rootward.peer_state";
        client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(|error| error.to_string())
    }
}

fn out_of_order() -> Fault {
    Fault::internal("the steps of a snapshot came out of order")
}
