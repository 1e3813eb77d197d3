//! The loop of one lane.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rootward_proto::Fault;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::{Admission, Recent},
    batch::{Answers, BatchEnd, Ran, run_batch},
    companions::board,
    context::LaneContext,
    counters::Counters,
    folded::hold_back,
    hold::LaneHold,
    outcome::OutcomeKey,
    pace::Pace,
    partition_hold::PartitionHold,
    parts::parts,
    queue::{Bounds, LaneHandle, Next, Queues, queue, stopped},
    unit::{Answer, Unit, wrong_owner},
};
use crate::pg::Connection;

/// How long progress waits for company before it gets a batch of its own.
const LAZY_DELAY: Duration = Duration::from_millis(200);
/// It rides in a batch of others when there is so much of it, or when it has waited for half of that: one by one it would make every
/// batch longer, and whoever waits for it.
const LAZY_COMPANY: usize = 64;

/// A connection of a lane, with what it knows of it.
pub(crate) struct Session {
    pub context: LaneContext,
    pub connection: Connection,
}

/// Starts a lane on open connections: the first one, and others for [`parts`] of batches. When a connection is lost or another worker
/// takes over, the lane cancels `stop`, which ends every lane of the peer: nothing in memory may outlive what PostgreSQL may have lost.
pub(crate) fn start_lane(
    (first, others): (Session, Vec<Session>),
    bounds: Bounds,
    pace: Option<Arc<Pace>>,
    (hold, parted): (Arc<LaneHold>, Arc<PartitionHold>),
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> LaneHandle {
    let context = &first.context;
    let (handle, queues) = queue(context.number(), bounds, context.how.max_batch, context.counters.clone());
    let lane = Lane { first, others, pace, recent: Recent::default(), tasks: tasks.clone() };
    tasks.spawn(run_lane(lane, queues, (hold, parted), stop));
    handle
}

struct Lane {
    first: Session,
    others: Vec<Session>,
    /// The worker's limit, if it has one.
    pace: Option<Arc<Pace>>,
    recent: Recent,
    tasks: TaskTracker,
}

async fn run_lane(mut lane: Lane, mut queues: Queues, (hold, parted): (Arc<LaneHold>, Arc<PartitionHold>), stop: CancellationToken) {
    // However this lane ends, a panic included, the term ends with it: a peer with a dead lane must not go on limping.
    let _end_of_term = stop.clone().drop_guard();
    let mut left_over: Vec<Unit> = Vec::new();
    let mut lazy_since: Option<Instant> = None;
    let mut lazies: Vec<Unit> = Vec::new();
    let mut hurried = hold.hurried();
    // What waits until its partition's owner is known.
    let mut aside: Vec<Unit> = Vec::new();
    let mut parted_changes = parted.changes();
    loop {
        // When there was work, so that what waits for its turn under a limit counts as slow.
        let mut since = (!queues.is_empty()).then(Instant::now);
        let most = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            room = lane.room() => room,
        };
        parted_changes.mark_unchanged();
        // What was set aside came before what is left over.
        let mut batch = parted.returning(&mut aside, most);
        batch.append(&mut left_over);
        let delay = if *hurried.borrow_and_update() > 0 { Duration::ZERO } else { LAZY_DELAY };
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(next) = queues.next() => match next {
                    Next::Work(unit) => batch.push(unit),
                    Next::Lazy(unit) => {
                        lazies.push(unit);
                        lazy_since.get_or_insert_with(Instant::now);
                    }
                },
                () = sleep_until(lazy_since.map(|since| since + delay)) => {}
                // Their senders live as long as this lane.
                _ = hurried.changed() => continue,
                _ = parted_changes.changed() => continue,
                () = sleep_until(if aside.is_empty() { None } else { parted.lapses_at() }) => continue,
            }
        }
        lazies.extend(std::iter::from_fn(|| queues.next_lazy()));
        if !lazies.is_empty() {
            lazy_since.get_or_insert_with(Instant::now);
        }
        let waited = lazy_since.map_or(Duration::ZERO, |since| since.elapsed());
        if batch.is_empty() && (waited < delay || lazies.is_empty()) && lazies.len() < lane.first.context.how.max_batch {
            continue;
        }
        let rides = batch.is_empty() || waited >= delay / 2 || lazies.len() >= LAZY_COMPANY;
        // A chain commits several times one after the other, so it is worth reading first what has come to this process meanwhile, which then
        // shares the commit. Calls of one root alone were slower that way.
        if batch.iter().any(is_of_chain) {
            tokio::task::yield_now().await;
        }
        queues.fill(&mut batch, most);
        if rides {
            batch.append(&mut lazies);
            lazy_since = None;
        }
        left_over = keep_apart(&mut batch);
        if lane.first.context.how.set_wise {
            left_over.splice(0..0, hold_back(&mut batch));
        }
        let (running, has_waited) = tokio::select! {
            biased;
            () = stop.cancelled() => {
                left_over.splice(0..0, batch);
                break;
            }
            begun = hold.begin() => begun,
        };
        if has_waited {
            // A hold says nothing about how fast the lane is.
            since = None;
        }
        let began = *since.get_or_insert_with(Instant::now);
        for unit in parted.sort_out(&mut batch, &mut aside) {
            let fault = wrong_owner(unit.claim.partition);
            refuse(&lane.first.context, unit, fault);
        }
        drop_expired(&lane.first.context, &mut batch);
        board(&mut batch, lane.first.context.how.max_batch, |unit| lane.may_run(unit) && parted.runs(unit));
        lane.spend(&batch);
        if batch.is_empty() {
            continue;
        }
        lane.run(batch, began, &queues.admission, &stop).await;
        drop(running);
        if stop.is_cancelled() {
            break;
        }
    }
    for unit in queues.close().into_iter().chain(left_over).chain(lazies).chain(aside) {
        unit.answer.send(Err(stopped()));
    }
}

impl Lane {
    /// How many units the next batch may take; waits until that is any.
    ///
    /// Cancel safety: nothing is taken yet.
    async fn room(&mut self) -> usize {
        let most = self.first.context.how.max_batch;
        let Some(pace) = &self.pace else { return most };
        loop {
            match pace.room(Instant::now()) {
                Ok(room) => return room.min(most),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Whether a unit is neither too old nor too late.
    fn may_run(&self, unit: &Unit) -> bool {
        self.first.context.staleness(unit).is_none() && unit.deadline > Instant::now()
    }

    /// Takes what these need off the limit. Nothing that expired in the queue, and no bookkeeping of our own.
    fn spend(&self, batch: &[Unit]) {
        if let Some(pace) = &self.pace {
            pace.spend(batch.iter().filter(|unit| unit.outcome.is_some()).count());
        }
    }

    /// Runs a batch and answers its units. There was work since `began`.
    async fn run(&mut self, batch: Vec<Unit>, began: Instant, admission: &Admission, stop: &CancellationToken) {
        let (units, counters) = (batch.len(), self.first.context.counters.clone());
        let flushed = counters.flush_time.totals().1;
        admission.begin(units, Instant::now());
        let parts = parts(batch, self.first.context.how.set_wise, 1 + self.others.len());
        let flushes = parts.len() as u64;
        // The answers of a part are given as soon as it is durable; the next batch waits for all of them.
        let sessions = std::iter::once(&mut self.first).chain(&mut self.others);
        join_all(sessions.zip(parts).map(|(session, part)| session.run(part, &self.tasks, stop))).await;
        let flush = match (counters.flush_time.totals().1 - flushed) / flushes {
            // Under a limit batches are small however much waits, and their flushes are no smaller.
            _ if self.pace.is_some() => Duration::ZERO,
            // In one trip nobody sees when the flush began.
            0 => admission.flush(),
            seen => Duration::from_micros(seen),
        };
        admission.end(&mut self.recent, units, began.elapsed(), flush);
    }
}

impl Session {
    /// Runs a batch, or a part of one, and answers its units as soon as they are durable.
    async fn run(&mut self, batch: Vec<Unit>, tasks: &TaskTracker, stop: &CancellationToken) {
        if batch.is_empty() {
            return;
        }
        let counters = self.context.counters.clone();
        let Ran { answers, end, set_wise } = run_batch(&self.context, &mut self.connection, &batch).await;
        let units = match &answers {
            Answers::Unread(_) => batch.len(),
            // Companions that were left out have not run.
            Answers::Read(answers) => batch.iter().zip(answers).filter(|(unit, answer)| !unit.is_companion || answer.is_ok()).count(),
        };
        Counters::add(&counters.batches, 1);
        counters.batch_units.add(units as u64);
        counters.ran(set_wise, units.saturating_sub(set_wise));
        match answers {
            Answers::Read(answers) => answer(&counters, batch, answers),
            // They are durable. PostgreSQL needn't wait for the next batch until they are written.
            Answers::Unread(unread) => {
                tasks.spawn(async move {
                    let mut answers = unread.answers(&batch.iter().collect::<Vec<_>>());
                    answers.sort_unstable_by_key(|(place, _)| *place);
                    answer(&counters, batch, answers.into_iter().map(|(_, answer)| answer));
                });
            }
        }
        match end {
            BatchEnd::Answered => {}
            BatchEnd::ConnectionLost => {
                tracing::warn!(lane = self.context.number(), "the lane's connection is lost; all lanes of this peer stop");
                stop.cancel();
            }
            BatchEnd::TermOver => {
                tracing::warn!(lane = self.context.number(), "another worker has taken this peer over; all lanes stop");
                stop.cancel();
            }
        }
    }
}

fn answer(counters: &Counters, batch: Vec<Unit>, answers: impl IntoIterator<Item = Answer>) {
    let answers: Vec<Answer> = answers.into_iter().collect();
    let committed = || batch.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(unit, _)| unit);
    counters.acknowledged.note(committed());
    counters.committed_in(committed().map(|unit| unit.claim.partition));
    for (unit, answer) in batch.into_iter().zip(answers) {
        if let Err(fault) = &answer
            && !unit.is_companion
        {
            counters.refused(fault.code());
        }
        unit.answer.send(answer);
    }
}

fn is_of_chain(unit: &Unit) -> bool {
    unit.outcome.as_ref().is_some_and(|outcome| outcome.in_chain || outcome.opens_chain)
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Takes out of the batch what must not share it: a second request with the same id, and ad-hoc SQL beside anything else.
fn keep_apart(batch: &mut Vec<Unit>) -> Vec<Unit> {
    let mut seen: HashSet<(i32, &OutcomeKey)> = HashSet::with_capacity(batch.len());
    let mut first = None;
    for (at, unit) in batch.iter().enumerate() {
        let is_repeated = unit.outcome.as_ref().is_some_and(|outcome| !seen.insert((unit.claim.partition, &outcome.key)));
        if is_repeated || (at > 0 && (unit.is_alone || batch[0].is_alone)) {
            first = Some(at);
            break;
        }
    }
    // Everything behind the first one that waits waits too, so that the order stays.
    first.map_or_else(Vec::new, |at| batch.split_off(at))
}

fn drop_expired(context: &LaneContext, batch: &mut Vec<Unit>) {
    let now = Instant::now();
    let is_live = |unit: &Unit| context.staleness(unit).is_none() && unit.deadline > now;
    if batch.iter().all(is_live) {
        return;
    }
    for unit in std::mem::take(batch) {
        if let Some(fault) = context.staleness(&unit) {
            refuse(context, unit, fault);
        } else if unit.deadline <= now {
            let message = format!("`{}` waited in the queue until its deadline", unit.label);
            let fault = Fault::overloaded("RW3103", message, "nothing was executed; the peer is busy: allow more time or send less");
            refuse(context, unit, fault);
        } else {
            batch.push(unit);
        }
    }
}

fn refuse(context: &LaneContext, unit: Unit, fault: Fault) {
    context.counters.refused(fault.code());
    unit.answer.send(Err(fault));
}
