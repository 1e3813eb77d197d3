//! Holds the queues of single partitions while they change their owner: what waits for them is set aside by their lane, which goes on
//! with everything else. A hold lapses by itself; then, or when the owner is known, what was set aside is run or sent on.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::unit::{Claim, Unit};

/// For how long work that waits in the queue of a partition that has gone is told so; what comes later doesn't get into the queue.
const GONE_FOR: Duration = Duration::from_secs(30);

/// Shared by the lanes of a peer during one term.
#[derive(Debug, Default)]
pub(crate) struct PartitionHold {
    state: Mutex<HashMap<i32, Standing>>,
    /// Whether there is any, so that batches pay one look for it.
    is_any: AtomicBool,
    changed: watch::Sender<()>,
}

#[derive(Debug, Clone, Copy)]
enum Standing {
    /// Until then its work is set aside; the claim that it was taken on with.
    Held(Instant, Claim),
    /// Another peer owns it. Forgotten then.
    Gone(Instant),
}

/// What a lane does with the units of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Run,
    Wait,
    SendOn,
}

impl PartitionHold {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Standing>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<i32, Standing>)) {
        let mut state = self.lock();
        let now = Instant::now();
        state.retain(|_, standing| !matches!(standing, Standing::Gone(until) if *until <= now));
        change(&mut state);
        self.is_any.store(!state.is_empty(), Ordering::Release);
        drop(state);
        self.changed.send_replace(());
    }

    /// Sets the work of these partitions aside until `until`, or until one of the others below is called.
    pub(crate) fn hold(&self, claims: &[Claim], until: Instant) {
        self.change(|state| state.extend(claims.iter().map(|claim| (claim.partition, Standing::Held(until, *claim)))));
    }

    /// Their work goes on here.
    pub(crate) fn let_go(&self, partitions: &[i32]) {
        self.change(|state| state.retain(|partition, _| !partitions.contains(partition)));
    }

    /// Their work is told that another peer owns them.
    pub(crate) fn send_on(&self, partitions: &[i32]) {
        let until = Instant::now() + GONE_FOR;
        self.change(|state| state.extend(partitions.iter().map(|partition| (*partition, Standing::Gone(until)))));
    }

    /// The claim with which work for a held partition is taken on, to wait with the rest.
    pub(crate) fn claim(&self, partition: i32) -> Option<Claim> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        match self.lock().get(&partition) {
            Some(Standing::Held(until, claim)) if *until > Instant::now() => Some(*claim),
            _ => None,
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether nothing keeps a unit's partition from running it.
    pub(super) fn runs(&self, unit: &Unit) -> bool {
        !self.is_any.load(Ordering::Acquire) || self.fates(std::slice::from_ref(unit)) == [Fate::Run]
    }

    /// Takes out of a batch what has to wait, which goes behind what waits already, and what has to be sent on, which is returned.
    pub(super) fn sort_out(&self, batch: &mut Vec<Unit>, aside: &mut Vec<Unit>) -> Vec<Unit> {
        if !self.is_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let fates = self.fates(batch);
        if fates.iter().all(|fate| *fate == Fate::Run) {
            return Vec::new();
        }
        let (mut kept, mut gone) = (Vec::with_capacity(batch.len()), Vec::new());
        for (unit, fate) in batch.drain(..).zip(fates) {
            match fate {
                Fate::Run => kept.push(unit),
                Fate::Wait => aside.push(unit),
                Fate::SendOn => gone.push(unit),
            }
        }
        *batch = kept;
        gone
    }

    /// Takes out of what was set aside what needs to wait no longer, at most so many.
    pub(super) fn returning(&self, aside: &mut Vec<Unit>, most: usize) -> Vec<Unit> {
        if aside.is_empty() {
            return Vec::new();
        }
        let fates = self.fates(aside);
        let (mut kept, mut returning) = (Vec::with_capacity(aside.len()), Vec::new());
        for (unit, fate) in aside.drain(..).zip(fates) {
            // Units of one partition keep their order: a later one doesn't return before an earlier one.
            if fate == Fate::Wait || returning.len() >= most { kept.push(unit) } else { returning.push(unit) }
        }
        *aside = kept;
        returning
    }

    /// When the first hold lapses.
    pub(super) fn lapses_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let until = |standing: &Standing| if let Standing::Held(until, _) = standing { Some(*until) } else { None };
        self.lock().values().filter_map(until).filter(|until| *until > now).min()
    }

    fn fates(&self, units: &[Unit]) -> Vec<Fate> {
        let (state, now) = (self.lock(), Instant::now());
        let fate = |unit: &Unit| match state.get(&unit.claim.partition) {
            Some(Standing::Held(until, _)) if *until > now => Fate::Wait,
            Some(Standing::Gone(_)) => Fate::SendOn,
            _ => Fate::Run,
        };
        units.iter().map(fate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(partition: i32, label: &str) -> Unit {
        Unit::of_test(label, partition)
    }

    fn claim(partition: i32) -> Claim {
        Claim { partition, epoch: 1, version: 1 }
    }

    fn labels(units: &[Unit]) -> Vec<&str> {
        units.iter().map(|unit| &*unit.label).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_of_held_partitions_waits_in_order_and_the_rest_goes_on() {
        let hold = PartitionHold::default();
        let (mut batch, mut aside) = (vec![unit(1, "a"), unit(2, "b"), unit(1, "c")], Vec::new());
        assert!(hold.sort_out(&mut batch, &mut aside).is_empty() && batch.len() == 3, "nothing is held");
        hold.hold(&[claim(1)], Instant::now() + Duration::from_secs(1));
        hold.sort_out(&mut batch, &mut aside);
        assert_eq!((labels(&batch), labels(&aside)), (vec!["b"], vec!["a", "c"]));
        assert!(hold.returning(&mut aside, 9).is_empty() && hold.claim(1).is_some() && hold.lapses_at().is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(hold.claim(1).is_none() && hold.lapses_at().is_none(), "it lapses by itself");
        assert_eq!(labels(&hold.returning(&mut aside, 1)), ["a"]);
        assert_eq!(labels(&hold.returning(&mut aside, 1)), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_partition_that_has_gone_is_sent_on() {
        let hold = PartitionHold::default();
        hold.hold(&[claim(1)], Instant::now() + Duration::from_secs(1));
        let (mut batch, mut aside) = (vec![unit(1, "a")], Vec::new());
        hold.sort_out(&mut batch, &mut aside);
        hold.send_on(&[1]);
        batch = hold.returning(&mut aside, 9);
        assert_eq!(labels(&hold.sort_out(&mut batch, &mut aside)), ["a"]);
        assert!(batch.is_empty() && aside.is_empty());
        hold.let_go(&[1]);
        batch.push(unit(1, "b"));
        assert!(hold.sort_out(&mut batch, &mut aside).is_empty() && batch.len() == 1, "it has come back");
    }
}
