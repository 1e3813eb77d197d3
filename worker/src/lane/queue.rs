//! The way into a lane: bounded, and with a share of its own for what is under way.

use std::{sync::Arc, time::Duration};

use rootward_metrics::Tally;
use rootward_proto::{Fault, FaultResult};
use tokio::{sync::mpsc, time::Instant};

use super::{
    admission::{Admission, Slots},
    counters::{Counters, micros},
    unit::Unit,
};

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

/// How much a queue takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Units in each share.
    pub units: usize,
    /// How long new work may have to wait.
    pub time: Duration,
    /// What a unit takes at least, by a limit of the settings.
    pub least: Duration,
}

/// A unit in the queue.
pub(super) struct Waiting {
    unit: Unit,
    since: Instant,
    /// Where its root counts it; new work only.
    slots: Option<Slots>,
}

/// A refusal and what was refused.
type GivenBack = (Box<Fault>, Box<Unit>);

/// Puts units into a lane's queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    number: u32,
    new: mpsc::Sender<Waiting>,
    under_way: mpsc::Sender<Waiting>,
    lazy: mpsc::Sender<Unit>,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
}

/// The lane's end of it.
pub(super) struct Queues {
    new: mpsc::Receiver<Waiting>,
    under_way: mpsc::Receiver<Waiting>,
    lazy: mpsc::Receiver<Unit>,
    pub admission: Arc<Admission>,
    counters: Arc<Counters>,
    /// How long the units of the batch that is being formed have waited.
    waited: Tally,
}

/// What comes out of the queue.
pub(super) enum Next {
    Work(Unit),
    /// It may wait for company.
    Lazy(Unit),
}

/// A queue with its two ends.
pub(super) fn queue(number: u32, bounds: Bounds, max_batch: usize, counters: Arc<Counters>) -> (LaneHandle, Queues) {
    let (new, new_queue) = mpsc::channel(bounds.units);
    let (under_way, under_way_queue) = mpsc::channel(bounds.units);
    let (lazy, lazy_queue) = mpsc::channel(bounds.units);
    let admission = Arc::new(Admission::new(bounds, max_batch));
    let handle = LaneHandle { number, new, under_way, lazy, admission: admission.clone(), counters: counters.clone() };
    let waited = counters.queue_time.tally();
    (handle, Queues { new: new_queue, under_way: under_way_queue, lazy: lazy_queue, admission, counters, waited })
}

impl LaneHandle {
    /// Puts a unit into the queue at once or refuses it.
    ///
    /// # Errors
    /// RW3001 if that share of the queue is full, or if new work would wait too long or is too much of one root; RW5002 if the
    /// lane has stopped. Nothing is executed then.
    pub(crate) fn submit(&self, unit: Unit, share: Share) -> FaultResult<()> {
        self.offer(unit, share).map_err(|(fault, _)| *fault)
    }

    /// Puts a unit into the queue, or gives it back with the refusal.
    fn offer(&self, unit: Unit, share: Share) -> Result<(), GivenBack> {
        let since = Instant::now();
        let offered = match share {
            Share::New => self.offer_new(unit, since),
            Share::UnderWay => self.put(&self.under_way, Waiting { unit, since, slots: None }).map_err(given_back),
            Share::Lazy => self.put(&self.lazy, unit).map_err(|(fault, unit)| (Box::new(fault), Box::new(unit))),
        };
        offered.inspect_err(|(fault, _)| self.counters.refusals.add(fault.code()))
    }

    fn offer_new(&self, unit: Unit, since: Instant) -> Result<(), GivenBack> {
        match self.admission.enter(&unit, length(&self.new) + length(&self.under_way), since) {
            Ok(slots) => self.put(&self.new, Waiting { unit, since, slots: Some(slots) }).map_err(|back| {
                self.admission.leave(slots);
                given_back(back)
            }),
            Err(fault) => Err((Box::new(fault), Box::new(unit))),
        }
    }

    fn put<T>(&self, sender: &mpsc::Sender<T>, unit: T) -> Result<(), (Fault, T)> {
        sender.try_send(unit).map_err(|error| match error {
            mpsc::error::TrySendError::Full(unit) => {
                let fault = Fault::overloaded(
                    "RW3001",
                    format!("lane {} is full ({} units wait)", self.number, sender.max_capacity()),
                    "nothing was executed; send it again a little later",
                );
                (fault, unit)
            }
            mpsc::error::TrySendError::Closed(unit) => (stopped(), unit),
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
        (length(&self.new) + length(&self.under_way) + length(&self.lazy)) as u64
    }
}

impl Queues {
    /// Waits for a unit; none when there can't be any.
    ///
    /// Cancel safety: a unit is taken only if it is returned.
    pub(super) async fn next(&mut self) -> Option<Next> {
        let waiting = tokio::select! {
            biased;
            Some(waiting) = self.under_way.recv() => waiting,
            Some(waiting) = self.new.recv() => waiting,
            Some(unit) = self.lazy.recv() => return Some(Next::Lazy(unit)),
            else => return None,
        };
        Some(Next::Work(self.taken(waiting)))
    }

    pub(super) fn next_lazy(&mut self) -> Option<Unit> {
        self.lazy.try_recv().ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.new.is_empty()
    }

    /// Fills a batch with what waits.
    pub(super) fn fill(&mut self, batch: &mut Vec<Unit>, most: usize) {
        while batch.len() < most {
            let Ok(waiting) = self.under_way.try_recv().or_else(|_| self.new.try_recv()) else { break };
            let unit = self.taken(waiting);
            batch.push(unit);
        }
        self.counters.queue_time.add_all(&mut self.waited);
    }

    /// Everything that is left, when nothing more may come.
    pub(super) fn close(mut self) -> Vec<Unit> {
        self.new.close();
        self.under_way.close();
        self.lazy.close();
        let mut left = Vec::new();
        while let Ok(waiting) = self.under_way.try_recv().or_else(|_| self.new.try_recv()) {
            left.push(self.taken(waiting));
        }
        left.extend(std::iter::from_fn(|| self.lazy.try_recv().ok()));
        left
    }

    fn taken(&mut self, waiting: Waiting) -> Unit {
        self.waited.add(micros(waiting.since.elapsed()));
        if let Some(slots) = waiting.slots {
            self.admission.leave(slots);
        }
        waiting.unit
    }
}

fn given_back((fault, waiting): (Fault, Waiting)) -> GivenBack {
    (Box::new(fault), Box::new(waiting.unit))
}

fn length<T>(sender: &mpsc::Sender<T>) -> usize {
    sender.max_capacity() - sender.capacity()
}

/// The refusal of what a stopped lane still held.
pub(super) fn stopped() -> Fault {
    Fault::retry("RW5002", "the worker is not serving this peer at the moment", "nothing was executed; send it again")
}
