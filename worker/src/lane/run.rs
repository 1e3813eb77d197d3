//! The loop of one lane.

use std::{collections::HashSet, sync::Arc, time::Duration};

use rootward_proto::Fault;
use rootward_schema::{DeferrableConstraint, Text, quoted};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    batch::{BatchEnd, run_batch},
    outcome::NewOutcome,
    queue::{Counters, LaneHandle, stopped},
    unit::Unit,
};
use crate::pg::{Call, Connection};

/// The most units in one batch.
const MAX_BATCH: usize = 512;
/// How long progress waits for company before it gets a batch of its own.
const LAZY_DELAY: Duration = Duration::from_millis(200);

/// What a lane knows besides its connection.
pub(crate) struct LaneContext {
    number: u32,
    secret: Text,
    term: Text,
    closing: Vec<Call>,
}

impl LaneContext {
    pub(crate) fn new(number: u32, secret: &[u8], term: i64, deferrable: &[DeferrableConstraint]) -> LaneContext {
        LaneContext {
            number,
            secret: Some(format!("\\x{}", hex::encode(secret))),
            term: Some(term.to_string()),
            closing: closing_calls(deferrable),
        }
    }

    pub(super) fn begin(&self, epochs: &[(i32, i64)]) -> Call {
        let partitions = array(epochs.iter().map(|(partition, _)| partition.to_string()));
        let epochs = array(epochs.iter().map(|(_, epoch)| epoch.to_string()));
        Call::prepared(
            "select rootward.begin_batch($1, $2, $3, $4)",
            vec![self.secret.clone(), self.term.clone(), Some(partitions), Some(epochs)],
        )
    }

    pub(super) fn enter(&self, context: &str) -> Call {
        Call::prepared("select rootward.enter($1, $2)", vec![self.secret.clone(), Some(context.to_owned())])
    }

    pub(super) fn find(&self, units: &[&Unit]) -> Call {
        let outcomes: Vec<_> = units.iter().filter_map(|unit| Some((unit.partition, &unit.outcome.as_ref()?.key))).collect();
        let column = |of: &dyn Fn(&(i32, &super::OutcomeKey)) -> String| Some(array(outcomes.iter().map(of)));
        Call::prepared(
            "select * from rootward.find_outcomes($1, $2, $3, $4, $5, $6, $7, $8)",
            vec![
                self.secret.clone(),
                column(&|(partition, _)| partition.to_string()),
                column(&|(_, key)| key.entity.clone()),
                column(&|(_, key)| key.root_key.clone()),
                column(&|(_, key)| key.request_id.to_string()),
                column(&|(_, key)| key.step.to_string()),
                column(&|(_, key)| key.element.to_string()),
                column(&|(_, key)| key.direction().to_owned()),
            ],
        )
    }

    pub(super) fn record(&self, outcomes: &[NewOutcome<'_>]) -> Call {
        let column = |of: &dyn Fn(&NewOutcome<'_>) -> String| Some(array(outcomes.iter().map(of)));
        Call::prepared(
            "select rootward.record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            vec![
                self.secret.clone(),
                column(&|row| row.partition.to_string()),
                column(&|row| row.key.entity.clone()),
                column(&|row| row.key.root_key.clone()),
                column(&|row| row.key.request_id.to_string()),
                column(&|row| row.key.step.to_string()),
                column(&|row| row.key.element.to_string()),
                column(&|row| row.key.direction().to_owned()),
                column(&|row| row.kind.name().to_owned()),
                column(&|row| row.fingerprint.transaction.clone()),
                column(&|row| format!("\\x{}", hex::encode(&row.fingerprint.hash))),
                column(&|row| format!("\\x{}", hex::encode(&row.reply))),
            ],
        )
    }

    /// What ends each unit.
    pub(super) fn closing_calls(&self) -> &[Call] {
        &self.closing
    }
}

/// Makes every constraint that can wait immediate, which checks it now, and then again what the schema says. After that,
/// settings that a function of the users' changed become the session's own again: the next unit must not meet them, nor
/// COMMIT, which `synchronous_commit = off` would make a promise that PostgreSQL doesn't keep.
fn closing_calls(deferrable: &[DeferrableConstraint]) -> Vec<Call> {
    let mut calls = Vec::new();
    let names = |rows: Vec<&DeferrableConstraint>| rows.iter().map(|row| quoted(&row.name)).collect::<Vec<_>>().join(", ");
    if !deferrable.is_empty() {
        calls.push(Call::prepared(format!("set constraints {} immediate", names(deferrable.iter().collect())), Vec::new()));
    }
    let deferred: Vec<_> = deferrable.iter().filter(|row| row.is_initially_deferred).collect();
    if !deferred.is_empty() {
        calls.push(Call::prepared(format!("set constraints {} deferred", names(deferred)), Vec::new()));
    }
    calls.push(Call::prepared("reset all", Vec::new()));
    calls
}

/// An array in PostgreSQL's text form.
fn array(values: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = values.map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

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
    let handle = LaneHandle { number: context.number, new, under_way, lazy, counters: counters.clone() };
    let queues = Queues { new: new_queue, under_way: under_way_queue, lazy: lazy_queue };
    tasks.spawn(run_lane(context, connection, queues, counters, stop));
    handle
}

async fn run_lane(context: LaneContext, mut connection: Connection, mut queues: Queues, counters: Arc<Counters>, stop: CancellationToken) {
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
        let is_due = lazy_since.is_some_and(|since| since.elapsed() >= LAZY_DELAY) || lazies.len() >= MAX_BATCH;
        if batch.is_empty() && !is_due {
            continue;
        }
        batch.append(&mut lazies);
        lazy_since = None;
        take_waiting(&mut batch, &mut queues);
        left_over = keep_apart(&mut batch);
        drop_expired(&mut batch);
        if batch.is_empty() {
            continue;
        }
        let (answers, end) = run_batch(&context, &mut connection, &batch).await;
        Counters::add(&counters.batches, 1);
        for (unit, answer) in batch.into_iter().zip(answers) {
            match &answer {
                Ok(_) => Counters::add(&counters.committed, 1),
                Err(_) => Counters::add(&counters.refused, 1),
            }
            // Whoever asked may have gone away; the work is done all the same.
            let _ = unit.answer.send(answer);
        }
        match end {
            BatchEnd::Answered => {}
            BatchEnd::ConnectionLost => {
                tracing::warn!(lane = context.number, "the lane's connection is lost; all lanes of this peer stop");
                stop.cancel();
            }
            BatchEnd::TermOver => {
                tracing::warn!(lane = context.number, "another worker has taken this peer over; all lanes stop");
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
            let _ = unit.answer.send(Err(stopped()));
        }
    }
    for unit in left_over.into_iter().chain(lazies) {
        let _ = unit.answer.send(Err(stopped()));
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn take_waiting(batch: &mut Vec<Unit>, queues: &mut Queues) {
    for queue in [&mut queues.under_way, &mut queues.new] {
        while batch.len() < MAX_BATCH {
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
        let is_repeated = unit.outcome.as_ref().is_some_and(|outcome| !seen.insert((unit.partition, outcome.key.clone())));
        let must_wait =
            !later.is_empty() || is_repeated || (unit.is_alone && !kept.is_empty()) || kept.first().is_some_and(|first| first.is_alone);
        // Everything behind the first one that waits waits too, so that the order stays.
        if must_wait { later.push(unit) } else { kept.push(unit) }
    }
    *batch = kept;
    later
}

fn drop_expired(batch: &mut Vec<Unit>) {
    let now = Instant::now();
    let (live, expired): (Vec<Unit>, Vec<Unit>) = batch.drain(..).partition(|unit| unit.deadline > now);
    for unit in expired {
        let _ = unit.answer.send(Err(Fault::retry(
            "RW3103",
            format!("`{}` waited in the queue until its deadline", unit.label),
            "nothing was executed; the peer is busy: allow more time or send less",
        )));
    }
    *batch = live;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_quote_what_would_break_them() {
        assert_eq!(array(["a\"b".to_owned(), "c\\d".to_owned(), "e,f".to_owned()].into_iter()), r#"{"a\"b","c\\d","e,f"}"#);
        assert_eq!(array(std::iter::empty()), "{}");
    }
}
