//! Holds all lanes of a peer between two batches, for a snapshot: what waits stays in the queues.
//!
//! A lane asks before each batch and says when its batch is committed and answered; that is all that it waits for but PostgreSQL,
//! and the time for which anybody may hold lanes is bounded (`snapshot_hold_ms`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedMutexGuard, watch};

/// Shared by the lanes of a peer during one term. Holds count: several may overlap.
#[derive(Debug)]
pub(crate) struct LaneHold {
    state: Mutex<State>,
    /// A hold came or went, or a batch ended.
    changed: Notify,
    /// How many want lazy work to be done at once.
    hurry: watch::Sender<usize>,
    /// Those that want to be alone come one after the other: two of them would wait for each other.
    turns: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    holds: usize,
    /// Lanes with a batch under way.
    running: usize,
}

/// A batch is under way.
#[derive(Debug)]
pub(super) struct Running<'h>(&'h LaneHold);

/// No lane begins a batch as long as this lives.
#[derive(Debug)]
pub(crate) struct Held(Arc<LaneHold>);

/// No lane has a batch under way as long as this lives, and no snapshot is fixed.
#[derive(Debug)]
pub(crate) struct Alone {
    // The order is the order of dropping: whoever is next finds the lanes held by nobody.
    held: Held,
    _turn: OwnedMutexGuard<()>,
}

/// Lazy work waits for no company as long as this lives.
#[derive(Debug)]
pub(crate) struct Hurry(Arc<LaneHold>);

impl Default for LaneHold {
    fn default() -> LaneHold {
        LaneHold { state: Mutex::default(), changed: Notify::new(), hurry: watch::Sender::new(0), turns: Arc::default() }
    }
}

impl LaneHold {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_begin(&self) -> bool {
        let mut state = self.lock();
        state.running += usize::from(state.holds == 0);
        state.holds == 0
    }

    /// Begins a batch, when nobody holds the lanes. Returns whether it had to wait.
    ///
    /// Cancel safety: nothing has begun yet.
    pub(super) async fn begin(&self) -> (Running<'_>, bool) {
        let mut has_waited = false;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.try_begin() {
                return (Running(self), has_waited);
            }
            has_waited = true;
            changed.await;
        }
    }

    /// From now on no batch begins; those under way go on.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.lock().holds += 1;
        Held(self.clone())
    }

    /// Waits until no batch is under way and nobody else holds the lanes, and counts as a batch from then on: a change of owners
    /// falls into no snapshot's hold, so that what a peer has fixed stays what is committed there.
    ///
    /// Cancel safety: whoever gives up holds nothing.
    pub(crate) async fn alone(self: &Arc<Self>) -> Alone {
        let turn = self.turns.clone().lock_owned().await;
        let held = self.hold();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.holds == 1 && state.running == 0 {
                    state.running = 1;
                    break;
                }
            }
            changed.await;
        }
        Alone { held, _turn: turn }
    }

    /// From now on lazy work is done at once.
    pub(crate) fn hurry(self: &Arc<Self>) -> Hurry {
        self.hurry.send_modify(|count| *count += 1);
        Hurry(self.clone())
    }

    pub(super) fn hurried(&self) -> watch::Receiver<usize> {
        self.hurry.subscribe()
    }
}

impl Held {
    /// Waits until no batch is under way: what was acknowledged is committed, and nothing else will be until this is dropped.
    ///
    /// Cancel safety: the lanes stay held.
    pub(crate) async fn at_rest(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.0.lock().running == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let is_last = {
            let mut state = self.0.lock();
            state.running -= 1;
            state.running == 0 && state.holds > 0
        };
        if is_last {
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.held.0.lock().running -= 1;
        self.held.0.changed.notify_waiters();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().holds -= 1;
        self.0.changed.notify_waiters();
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.hurry.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_held_lane_begins_nothing_and_what_runs_is_waited_for() {
        let lanes = Arc::<LaneHold>::default();
        let (running, has_waited) = lanes.begin().await;
        assert!(!has_waited);
        let held = lanes.hold();
        assert!(held.at_rest().now_or_never().is_none(), "a batch is under way");
        assert!(lanes.begin().now_or_never().is_none(), "the lanes are held");
        drop(running);
        held.at_rest().await;
        let other = lanes.hold();
        drop(held);
        assert!(lanes.begin().now_or_never().is_none(), "somebody else holds them still");
        let (begun, ()) = tokio::join!(lanes.begin(), async { drop(other) });
        assert!(begun.1, "it waited");
    }

    #[tokio::test]
    async fn a_change_of_owners_is_alone_with_neither_batches_nor_snapshots() {
        let lanes = Arc::<LaneHold>::default();
        let snapshot = lanes.hold();
        let change = lanes.alone();
        tokio::pin!(change);
        assert!(futures_util::poll!(&mut change).is_pending(), "a snapshot holds the lanes");
        snapshot.at_rest().now_or_never().expect("who waits to be alone doesn't keep a snapshot from being fixed");
        drop(snapshot);
        let alone = change.now_or_never().expect("nobody else is there");
        assert!(lanes.begin().now_or_never().is_none(), "no batch begins");
        let snapshot = lanes.hold();
        assert!(snapshot.at_rest().now_or_never().is_none(), "and no snapshot is fixed");
        assert!(lanes.alone().now_or_never().is_none(), "and no other change begins");
        drop(alone);
        snapshot.at_rest().now_or_never().expect("it is over");
        drop(snapshot);
        drop(lanes.alone().now_or_never().expect("the next one"));
        lanes.begin().now_or_never().expect("nothing is held any more");
    }
}
