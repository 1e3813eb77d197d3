//! Where new work on chains waits while a snapshot is formed: starts, the recovery scan, people's commands, signals.
//!
//! It lies in front of the lanes, never in one. Chains that are under way pass: they are to end. Whoever came before the gate was
//! closed counts as under way too, so that gates that are closed one after the other let everybody through in between.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The gate of a peer during one term.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Somebody closed it, opened it, came or went.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Numbers those that come and those that close it, in order.
    next: u64,
    /// Those that keep it closed.
    closed: BTreeSet<u64>,
    /// Those that wait in front of it.
    waiting: BTreeSet<u64>,
    /// Those that are through and under way.
    passes: usize,
}

/// Work on a chain that is under way; a chain's driver has one as long as it lives.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Gate>);

/// The gate is closed as long as this lives.
#[derive(Debug)]
pub(crate) struct Closed {
    gate: Arc<Gate>,
    number: u64,
}

/// A place in front of the gate.
struct Place<'g> {
    gate: &'g Gate,
    number: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes through, when those have opened the gate who had closed it before.
    ///
    /// Cancel safety: whoever gives up gives the place up.
    pub(crate) async fn pass(self: &Arc<Self>) -> Pass {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            let number = state.next;
            state.waiting.insert(number);
            number
        };
        let place = Place { gate: self, number };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.closed.first().is_none_or(|first| *first > number) {
                    state.passes += 1;
                    break;
                }
            }
            changed.await;
        }
        drop(place);
        Pass(self.clone())
    }

    /// Goes through at once: for what follows from work that is through already.
    pub(crate) fn enter(self: &Arc<Self>) -> Pass {
        self.lock().passes += 1;
        Pass(self.clone())
    }

    /// Closes it for all that come from now on.
    pub(crate) fn close(self: &Arc<Self>) -> Closed {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.closed.insert(number);
        drop(state);
        Closed { gate: self.clone(), number }
    }
}

impl Closed {
    /// Waits until nothing is under way any more that came before.
    ///
    /// Cancel safety: the gate stays closed.
    pub(crate) async fn drained(&self) {
        loop {
            let changed = self.gate.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.gate.lock();
                if state.passes == 0 && state.waiting.first().is_none_or(|first| *first > self.number) {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.lock().waiting.remove(&self.number);
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let is_last = {
            let mut state = self.0.lock();
            state.passes -= 1;
            state.passes == 0
        };
        if is_last {
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.gate.lock().closed.remove(&self.number);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_is_through_is_waited_for_and_who_comes_later_waits() {
        let gate = Arc::<Gate>::default();
        let driver = gate.pass().await;
        let closed = gate.close();
        assert!(closed.drained().now_or_never().is_none(), "a chain is under way");
        assert!(gate.pass().now_or_never().is_none(), "it is closed");
        let follower = gate.enter();
        drop(driver);
        assert!(closed.drained().now_or_never().is_none(), "what followed from it is under way");
        drop(follower);
        closed.drained().now_or_never().expect("nobody is left; who gave up is not waited for");
        let (pass, ()) = tokio::join!(gate.pass(), async { drop(closed) });
        drop(pass);
    }

    #[tokio::test]
    async fn gates_closed_one_after_the_other_let_through_who_came_in_between() {
        let gate = Arc::<Gate>::default();
        let first = gate.close();
        let pass = gate.pass();
        tokio::pin!(pass);
        assert!(futures_util::poll!(&mut pass).is_pending());
        let second = gate.close();
        assert!(second.drained().now_or_never().is_none(), "somebody waits who came before");
        drop(first);
        let pass = pass.await;
        assert!(second.drained().now_or_never().is_none(), "it is under way");
        drop(pass);
        second.drained().now_or_never().expect("through");
        assert!(gate.pass().now_or_never().is_none(), "who comes now waits for the second");
    }
}
