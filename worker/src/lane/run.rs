//! The loop of one lane.

use std::{collections::HashSet, sync::Arc, time::Duration};

use rootward_proto::Fault;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    batch::{BatchEnd, run_batch},
    context::LaneContext,
    queue::{Counters, LaneHandle, stopped},
    unit::Unit,
};
use crate::pg::Connection;

/// How long progress waits for company before it gets a batch of its own.
const LAZY_DELAY: Duration = Duration::from_millis(200);

struct Queues {
    new: mpsc::Receiver<Unit>,
    under_way: mpsc::Receiver<Unit>,
    lazy: mpsc::Receiver<Unit>,
}

/// Starts a lane on an open connection. When the connection is lost or another worker takes over, the lane cancels `stop`,
/// which ends every lane of the peer: nothing in memory may outlive what PostgreSQL may have lost.
pub(crate) fn start_lane(
    context: LaneContext,
    connection: Connection,
    capacity: usize,
    counters: Arc<Counters>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> LaneHandle {
    let (new, new_queue) = mpsc::channel(capacity);
    let (under_way, under_way_queue) = mpsc::channel(capacity);
    let (lazy, lazy_queue) = mpsc::channel(capacity);
    let handle = LaneHandle { number: context.number(), new, under_way, lazy, counters: counters.clone() };
    let queues = Queues { new: new_queue, under_way: under_way_queue, lazy: lazy_queue };
    tasks.spawn(run_lane(context, connection, queues, counters, stop));
    handle
}

async fn run_lane(context: LaneContext, mut connection: Connection, mut queues: Queues, counters: Arc<Counters>, stop: CancellationToken) {
    // However this lane ends, a panic included, the term ends with it: a peer with a dead lane must not go on limping.
    let _end_of_term = stop.clone().drop_guard();
    let mut left_over: Vec<Unit> = Vec::new();
    let mut lazy_since: Option<Instant> = None;
    let mut lazies: Vec<Unit> = Vec::new();
    loop {
        let mut batch = std::mem::take(&mut left_over);
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(unit) = queues.under_way.recv() => batch.push(unit),
                Some(unit) = queues.new.recv() => batch.push(unit),
                Some(unit) = queues.lazy.recv() => {
                    lazies.push(unit);
                    lazy_since.get_or_insert_with(Instant::now);
                }
                () = sleep_until(lazy_since.map(|since| since + LAZY_DELAY)) => {}
            }
        }
        while let Ok(unit) = queues.lazy.try_recv() {
            lazies.push(unit);
        }
        let is_due = lazy_since.is_some_and(|since| since.elapsed() >= LAZY_DELAY) || lazies.len() >= context.how.max_batch;
        if batch.is_empty() && !is_due {
            continue;
        }
        batch.append(&mut lazies);
        lazy_since = None;
        take_waiting(&mut batch, &mut queues, context.how.max_batch);
        left_over = keep_apart(&mut batch);
        drop_expired(&context, &mut batch);
        if batch.is_empty() {
            continue;
        }
        let (answers, end, set_wise) = run_batch(&context, &mut connection, &batch).await;
        Counters::add(&counters.batches, 1);
        Counters::add(&counters.set_wise, set_wise);
        for (unit, answer) in batch.into_iter().zip(answers) {
            match &answer {
                Ok(_) => Counters::add(&counters.committed, 1),
                Err(_) => Counters::add(&counters.refused, 1),
            }
            unit.answer.send(answer);
        }
        match end {
            BatchEnd::Answered => {}
            BatchEnd::ConnectionLost => {
                tracing::warn!(lane = context.number(), "the lane's connection is lost; all lanes of this peer stop");
                stop.cancel();
            }
            BatchEnd::TermOver => {
                tracing::warn!(lane = context.number(), "another worker has taken this peer over; all lanes stop");
                stop.cancel();
            }
        }
        if stop.is_cancelled() {
            break;
        }
    }
    let Queues { mut new, mut under_way, mut lazy } = queues;
    for queue in [&mut new, &mut under_way, &mut lazy] {
        queue.close();
        while let Ok(unit) = queue.try_recv() {
            unit.answer.send(Err(stopped()));
        }
    }
    for unit in left_over.into_iter().chain(lazies) {
        unit.answer.send(Err(stopped()));
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn take_waiting(batch: &mut Vec<Unit>, queues: &mut Queues, most: usize) {
    for queue in [&mut queues.under_way, &mut queues.new] {
        while batch.len() < most {
            match queue.try_recv() {
                Ok(unit) => batch.push(unit),
                Err(_) => break,
            }
        }
    }
}

/// Takes out of the batch what must not share it: a second request with the same id, and ad-hoc SQL beside anything else.
fn keep_apart(batch: &mut Vec<Unit>) -> Vec<Unit> {
    let mut seen = HashSet::new();
    let mut kept: Vec<Unit> = Vec::with_capacity(batch.len());
    let mut later = Vec::new();
    for unit in batch.drain(..) {
        let is_repeated = unit.outcome.as_ref().is_some_and(|outcome| !seen.insert((unit.claim.partition, outcome.key.clone())));
        let must_wait =
            !later.is_empty() || is_repeated || (unit.is_alone && !kept.is_empty()) || kept.first().is_some_and(|first| first.is_alone);
        // Everything behind the first one that waits waits too, so that the order stays.
        if must_wait { later.push(unit) } else { kept.push(unit) }
    }
    *batch = kept;
    later
}

fn drop_expired(context: &LaneContext, batch: &mut Vec<Unit>) {
    let now = Instant::now();
    for unit in std::mem::take(batch) {
        match context.staleness(&unit) {
            Some(fault) => unit.answer.send(Err(fault)),
            None => batch.push(unit),
        }
    }
    let (live, expired): (Vec<Unit>, Vec<Unit>) = batch.drain(..).partition(|unit| unit.deadline > now);
    for unit in expired {
        unit.answer.send(Err(Fault::overloaded(
            "RW3103",
            format!("`{}` waited in the queue until its deadline", unit.label),
            "nothing was executed; the peer is busy: allow more time or send less",
        )));
    }
    *batch = live;
}
