//! The way into a lane: bounded, and with a share of its own for what is under way.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rootward_proto::{Fault, FaultResult};
use tokio::sync::mpsc;

use super::unit::Unit;

/// Which part of the queue a unit takes. New work can't starve later steps and compensations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Calls and starts of chains.
    New,
    /// Later steps of chains and compensations.
    UnderWay,
    /// Progress that may wait for company.
    Lazy,
}

/// What a lane has done since it began; only ever grows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub committed: AtomicU64,
    pub refused: AtomicU64,
    pub batches: AtomicU64,
    /// Units that a call for many did.
    pub set_wise: AtomicU64,
}

/// Puts units into a lane's queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    pub(super) number: u32,
    pub(super) new: mpsc::Sender<Unit>,
    pub(super) under_way: mpsc::Sender<Unit>,
    pub(super) lazy: mpsc::Sender<Unit>,
    pub(super) counters: Arc<Counters>,
}

impl LaneHandle {
    /// Puts a unit into the queue at once or refuses it.
    ///
    /// # Errors
    /// RW3001 if that share of the queue is full, RW5002 if the lane has stopped; nothing is executed then.
    pub(crate) fn submit(&self, unit: Unit, share: Share) -> FaultResult<()> {
        self.offer(unit, share).map_err(|(fault, _)| *fault)
    }

    /// Puts a unit into the queue, or gives it back with the refusal.
    fn offer(&self, unit: Unit, share: Share) -> Result<(), (Box<Fault>, Box<Unit>)> {
        let sender = match share {
            Share::New => &self.new,
            Share::UnderWay => &self.under_way,
            Share::Lazy => &self.lazy,
        };
        sender.try_send(unit).map_err(|error| match error {
            mpsc::error::TrySendError::Full(unit) => {
                let fault = Fault::overloaded(
                    "RW3001",
                    format!("lane {} is full ({} units wait)", self.number, sender.max_capacity()),
                    "nothing was executed; send it again a little later",
                );
                (Box::new(fault), Box::new(unit))
            }
            mpsc::error::TrySendError::Closed(unit) => (Box::new(stopped()), Box::new(unit)),
        })
    }

    /// As [`LaneHandle::submit`], but a refusal is the unit's answer.
    pub(crate) fn submit_or_answer(&self, unit: Unit, share: Share) {
        if let Err((fault, unit)) = self.offer(unit, share) {
            unit.answer.send(Err(*fault));
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many units wait.
    pub(crate) fn queued(&self) -> u64 {
        [&self.new, &self.under_way, &self.lazy].iter().map(|sender| (sender.max_capacity() - sender.capacity()) as u64).sum()
    }
}

/// The refusal of what a stopped lane still held.
pub(super) fn stopped() -> Fault {
    Fault::retry("RW5002", "the worker is not serving this peer at the moment", "nothing was executed; send it again")
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}
