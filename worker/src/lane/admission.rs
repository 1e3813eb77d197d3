//! Who may join the queue: as many as the lane gets through in the time of the settings; once half of that is taken, an eighth of one
//! root.
//!
//! How long a queue takes is computed from what recent batches took. Their end, the flush, is paid once a batch and counted by
//! itself: a lane without load spends nearly all its time there, and would seem slower by far than it is.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use rootward_proto::{Fault, FaultResult};
use tokio::time::Instant;

use super::{queue::Bounds, unit::Unit};

/// How many counters roots share. Each root has two, and only where both are high it has many units here, so that hardly ever one
/// root answers for another.
const SLOTS: usize = 4096;
/// What part of the queue one root may fill once half of it is full.
const ROOT_PART: usize = 8;
/// What one root may have here however slow the lane is.
const ROOT_LEAST: usize = 16;
/// What older batches count for beside a new one, at least: a small batch says less.
const MEMORY: f64 = 0.75;
/// A batch of so many units says all that it can.
const TELLING: f64 = 64.0;
/// A batch counts as this many times slower than expected at most: one that hangs says little about the next, while a few in a row
/// are believed.
const SURPRISE: f64 = 16.0;
/// What a unit is taken to need while nothing is known, in microseconds.
const FIRST_GUESS_US: f64 = 100.0;
/// The same for a flush.
const FIRST_FLUSH_US: f64 = 5_000.0;
/// The pauses that a refusal asks for, in milliseconds.
const RETRY_AFTER_MS: (u64, u64) = (50, 1_000);

/// Where a root counts its units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots([u16; 2]);

/// Judges new work; the lane tells it how its batches go.
#[derive(Debug)]
pub(super) struct Admission {
    longest: Duration,
    max_batch: usize,
    capacity: usize,
    /// A limit of the settings, by which a unit needs this long at least, in nanoseconds.
    least_ns: u64,
    hasher: RandomState,
    roots: Box<[AtomicU32]>,
    began: Instant,
    /// What a unit takes beside the flush, in nanoseconds.
    unit_ns: AtomicU64,
    /// What a flush takes, in nanoseconds.
    flush_ns: AtomicU64,
    /// When the batch under way began, and when it should end, in nanoseconds after `began`; 0 if there is none.
    busy_since: AtomicU64,
    busy_until: AtomicU64,
}

/// What the lane remembers of its batches; its own, while [`Admission`] is read by all.
#[derive(Debug, Default)]
pub(super) struct Recent {
    units: f64,
    work_us: f64,
    batches: f64,
    flush_us: f64,
}

impl Admission {
    pub(super) fn new(bounds: Bounds, max_batch: usize) -> Admission {
        let least_ns = u64::try_from(bounds.least.as_nanos()).unwrap_or(u64::MAX);
        Admission {
            longest: bounds.time,
            max_batch,
            capacity: bounds.units,
            least_ns,
            hasher: RandomState::new(),
            roots: std::iter::repeat_with(AtomicU32::default).take(SLOTS).collect(),
            began: Instant::now(),
            unit_ns: AtomicU64::new(least_ns.max((FIRST_GUESS_US * 1e3) as u64)),
            flush_ns: AtomicU64::default(),
            busy_since: AtomicU64::default(),
            busy_until: AtomicU64::default(),
        }
    }

    /// Lets a unit in behind `queued` others; whoever takes it out of the queue gives the slots back with [`Admission::leave`].
    ///
    /// # Errors
    /// RW3001 if it would wait too long, or too much of its root waits.
    pub(super) fn enter(&self, unit: &Unit, queued: usize, now: Instant) -> FaultResult<Slots> {
        let wait = self.expected(queued, now);
        let longest = self.longest.min(unit.deadline.saturating_duration_since(now));
        if wait > longest {
            let (wait, longest) = (wait.as_millis(), longest.as_millis());
            return Err(self.refusal(queued, format!("`{}` would wait for {wait} ms in its lane, and may for {longest}", unit.label)));
        }
        let slots = self.slots_of(unit);
        let [one, other] = slots.0.map(|slot| self.roots[usize::from(slot)].fetch_add(1, Ordering::Relaxed));
        let most = self.most_of_one_root();
        // As long as half of the room is free, nobody needs what a busy root takes beyond its share.
        if wait * 2 > longest && one.min(other) as usize >= most {
            self.leave(slots);
            return Err(
                self.refusal(most, format!("{most} units of the root of `{}` wait already, which is its share of the lane", unit.label))
            );
        }
        Ok(slots)
    }

    pub(super) fn leave(&self, slots: Slots) {
        for slot in slots.0 {
            self.roots[usize::from(slot)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How long a unit waits until its batch begins that comes now and finds `queued` others. Nobody waits for a lane without work,
    /// however slow it was, so that it finds out when it has become faster.
    fn expected(&self, queued: usize, now: Instant) -> Duration {
        let nanos = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let at = self.nanos_at(now);
        let since = nanos(&self.busy_since);
        let elapsed = if since == 0 { 0 } else { at.saturating_sub(since) };
        // A batch that hangs is no sign that the next will not.
        if Duration::from_nanos(elapsed) > self.longest {
            return Duration::from_nanos(elapsed);
        }
        let rest = if since == 0 { 0 } else { nanos(&self.busy_until).saturating_sub(at) };
        let batches = (queued / self.max_batch) as u64;
        let queue = nanos(&self.unit_ns).saturating_mul(queued as u64).saturating_add(nanos(&self.flush_ns).saturating_mul(batches));
        Duration::from_nanos(rest.saturating_add(queue))
    }

    /// How many units of one root may wait.
    fn most_of_one_root(&self) -> usize {
        let in_time = self.longest.as_nanos() / u128::from(self.unit_ns.load(Ordering::Relaxed).max(1));
        (usize::try_from(in_time).unwrap_or(usize::MAX).min(self.capacity) / ROOT_PART).max(ROOT_LEAST)
    }

    fn slots_of(&self, unit: &Unit) -> Slots {
        let root = unit.outcome.as_ref().map(|outcome| (&outcome.key.entity, &outcome.key.root_key));
        let hash = self.hasher.hash_one((unit.claim.partition, root));
        let slot = |bits: u64| u16::try_from(bits % SLOTS as u64).unwrap_or_default();
        Slots([slot(hash), slot(hash >> 32)])
    }

    /// Nothing was executed; half of what waits should be gone when it comes back.
    fn refusal(&self, ahead: usize, message: String) -> Fault {
        let half_ms = self.unit_ns.load(Ordering::Relaxed).saturating_mul(ahead as u64) / 2_000_000;
        Fault::overloaded("RW3001", message, "nothing was executed; send it again a little later")
            .with_retry_after(Duration::from_millis(half_ms.clamp(RETRY_AFTER_MS.0, RETRY_AFTER_MS.1)))
    }

    fn nanos_at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A batch of this many units begins.
    pub(super) fn begin(&self, units: usize, now: Instant) {
        let takes = self.unit_ns.load(Ordering::Relaxed).saturating_mul(units as u64) + self.flush_ns.load(Ordering::Relaxed);
        let at = self.nanos_at(now).max(1);
        self.busy_until.store(at.saturating_add(takes), Ordering::Relaxed);
        self.busy_since.store(at, Ordering::Relaxed);
    }

    /// What a flush takes, as far as it is known.
    pub(super) fn flush(&self) -> Duration {
        Duration::from_nanos(self.flush_ns.load(Ordering::Relaxed))
    }

    /// It ended: from the moment that there was work it took `took`, of it `flush` in its last trip.
    pub(super) fn end(&self, recent: &mut Recent, units: usize, took: Duration, flush: Duration) {
        self.busy_since.store(0, Ordering::Relaxed);
        recent.add(units, took.saturating_sub(flush).as_secs_f64() * 1e6, flush.as_secs_f64() * 1e6);
        self.unit_ns.store(self.least_ns.max((recent.unit_us() * 1e3) as u64), Ordering::Relaxed);
        self.flush_ns.store((recent.flush_us / recent.batches * 1e3) as u64, Ordering::Relaxed);
    }
}

impl Recent {
    fn unit_us(&self) -> f64 {
        if self.units > 0.0 { self.work_us / self.units } else { FIRST_GUESS_US }
    }

    fn add(&mut self, units: usize, work_us: f64, flush_us: f64) {
        let units = units.max(1) as f64;
        let believable = units * SURPRISE * self.unit_us().max(FIRST_GUESS_US);
        let kept = (1.0 - units / TELLING).max(MEMORY);
        self.work_us = self.work_us * kept + work_us.min(believable);
        self.units = self.units * kept + units;
        let believable = SURPRISE * (self.flush_us / self.batches.max(1.0)).max(FIRST_FLUSH_US);
        self.flush_us = self.flush_us * kept + flush_us.min(believable);
        self.batches = self.batches * kept + 1.0;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::lane::{Fingerprint, OutcomeKey, UnitOutcome};

    const LONGEST: Duration = Duration::from_millis(500);

    fn unit(root_key: &str, time: Duration) -> Unit {
        let key = OutcomeKey {
            entity: "account".to_owned(),
            root_key: root_key.to_owned(),
            request_id: Uuid::nil(),
            step: 0,
            element: 0,
            is_undo: false,
        };
        let outcome = UnitOutcome {
            key,
            fingerprint: Fingerprint::of_chain("deposit", &[]),
            is_tombstone: false,
            is_look_up: false,
            refusal_is_no_outcome: false,
            mark: None,
            in_chain: false,
            opens_chain: false,
            issued_at_ms: 0,
            is_journaled: false,
        };
        Unit { outcome: Some(outcome), deadline: Instant::now() + time, ..Unit::of_test("deposit", 0) }
    }

    /// A lane whose batches of `units` took this long, the flush included.
    fn lane(units: usize, took_ms: u64, flush_ms: u64) -> Admission {
        let admission = Admission::new(Bounds { units: 2048, time: LONGEST, least: Duration::ZERO }, 512);
        let mut recent = Recent::default();
        for _ in 0..40 {
            admission.begin(units, Instant::now());
            admission.end(&mut recent, units, Duration::from_millis(took_ms), Duration::from_millis(flush_ms));
        }
        admission
    }

    /// How many units of as many roots such a lane lets in.
    fn room(admission: &Admission) -> usize {
        let enters = |at: usize| admission.enter(&unit(&at.to_string(), Duration::from_secs(10)), at, Instant::now());
        (0..100_000).find(|at| enters(*at).is_err()).expect("a bound")
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_as_long_as_the_lane_works_off_in_time() {
        assert!((245..=265).contains(&room(&lane(10, 20, 0))), "2 ms a unit");
        assert!((4_000..=5_000).contains(&room(&lane(200, 22, 2))), "0.1 ms a unit and 2 ms a batch");
        assert!(room(&lane(1, 12, 12)) > 10_000, "a flush is paid once a batch, however slow it is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_becomes_slow_is_known_to_be_after_a_few_batches() {
        let admission = lane(10, 1, 0);
        assert!(room(&admission) > 4_000);
        let mut recent = Recent { units: 64.0, work_us: 6_400.0, batches: 6.4, flush_us: 0.0 };
        for _ in 0..4 {
            admission.end(&mut recent, 10, Duration::from_millis(100), Duration::ZERO);
        }
        assert!(room(&admission) < 150, "10 ms a unit leave room for 50 in the end");
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_batch_shuts_nobody_out_after_it_and_everybody_while_it_lasts() {
        let admission = lane(100, 10, 1);
        admission.begin(1, Instant::now());
        tokio::time::advance(LONGEST * 2).await;
        let fault = admission.enter(&unit("1", Duration::from_secs(10)), 0, Instant::now()).expect_err("the lane hangs");
        assert_eq!(fault.code(), "RW3001");
        let mut recent = Recent { units: 400.0, work_us: 36_000.0, batches: 4.0, flush_us: 4_000.0 };
        admission.end(&mut recent, 1, LONGEST * 2, Duration::ZERO);
        assert!(room(&admission) > 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_too_late_is_refused_at_once_and_told_when_to_come_back() {
        let admission = lane(10, 20, 0);
        let late = admission.enter(&unit("1", Duration::from_millis(50)), 100, Instant::now()).expect_err("200 ms wait");
        assert!(late.retry_after().is_some_and(|pause| pause >= Duration::from_millis(50)), "{late}");
        assert!(admission.enter(&unit("1", Duration::from_millis(50)), 10, Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hot_root_has_its_share_of_a_queue_that_is_half_full_and_gives_it_back() {
        let admission = lane(10, 20, 0);
        // Of 250 units.
        let half_full = 130;
        let hot = unit("hot", Duration::from_secs(10));
        let entered: Vec<Slots> = (0..1_000).map_while(|_| admission.enter(&hot, half_full, Instant::now()).ok()).collect();
        assert!((ROOT_LEAST..=250 / ROOT_PART).contains(&entered.len()), "{}", entered.len());
        for at in 0..2_000 {
            let other = unit(&at.to_string(), Duration::from_secs(10));
            admission.leave(admission.enter(&other, half_full, Instant::now()).expect("the others are not kept out"));
        }
        admission.leave(admission.enter(&hot, 100, Instant::now()).expect("there is room for all"));
        admission.leave(entered[0]);
        assert!(admission.enter(&hot, half_full, Instant::now()).is_ok());
        assert!(admission.enter(&hot, half_full, Instant::now()).is_err());
    }
}
