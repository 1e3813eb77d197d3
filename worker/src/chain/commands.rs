//! What people ask of chains: list, show, replay, compensate.

use std::sync::Arc;

use futures_util::future::join_all;
use rootward_proto::{Fault, FaultResult, v1, v1::RetryClass};
use rootward_schema::Schema;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::{
    drivers::{ChainHome, identity_of, plan_of},
    plan::{Plan, Results, first_row},
    state::{Record, Recorded, Task},
    store::{self, ChainFilter, ChainRow, Note, StoreError},
};

/// How long a look at one root may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// The most chains that one command replays on a peer.
const MAX_REPLAYED: i64 = 100_000;

impl ChainHome {
    /// The chains at home here that match.
    pub(crate) async fn list(&self, filter: &ChainFilter, limit: u32) -> FaultResult<v1::ListChainsResponse> {
        self.settle().await;
        let (rows, matched, running) = store::list(&self.pool, filter, i64::from(limit)).await.map_err(|error| unread(&error))?;
        Ok(v1::ListChainsResponse {
            chains: rows.iter().map(|row| self.chain_of(row)).collect(),
            matched: u64::try_from(matched).unwrap_or_default(),
            running: u64::try_from(running).unwrap_or_default(),
            missing_peers: Vec::new(),
        })
    }

    /// Waits a moment for ends that are only known in memory to become rows, so that a list shows them.
    async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.drivers.has_ended_ones() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One chain with its steps as their roots have them.
    pub(crate) async fn show(&self, id: Uuid) -> FaultResult<v1::Chain> {
        self.settle().await;
        let row = self.row(id).await?;
        let schema = self.routing.catalog()?.schema.clone();
        let plan = plan_of(&row)?;
        let mut chain = self.chain_of(&row);
        chain.steps = self.look_at_steps(&row, &plan, &schema).await.1;
        let events = store::events(&self.pool, row.partition, id).await.map_err(|error| unread(&error))?;
        chain.events = events.into_iter().map(|(at, event, reason)| v1::ChainEvent { at, event, reason }).collect();
        Ok(chain)
    }

    async fn row(&self, id: Uuid) -> FaultResult<ChainRow> {
        store::get(&self.pool, id).await.map_err(|error| unread(&error))?.ok_or_else(|| no_chain(id))
    }

    /// Asks the root of every task for its outcome; nothing is written.
    async fn look_at_steps(&self, row: &ChainRow, plan: &Plan, schema: &Schema) -> (Record, Vec<v1::ChainStep>) {
        let shape = plan.shape();
        let (mut record, mut results, mut steps) = (Record::default(), Results::new(), Vec::new());
        for (at, step) in shape.steps.iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let tasks: Vec<Task> = (0..step.elements).map(|element| Task { step: number, element }).collect();
            let looks = tasks.iter().map(|task| self.look(row, plan, schema, *task, false, &results));
            for (task, (shown, response)) in tasks.iter().zip(join_all(looks).await) {
                match shown.outcome.as_str() {
                    "done" => record.effects.insert(*task, Recorded::Done),
                    "failed" => record.effects.insert(*task, Recorded::Failed),
                    "tombstone" => record.effects.insert(*task, Recorded::Tombstone),
                    _ => None,
                };
                if let Some(response) = response {
                    results.insert(*task, first_row(&response));
                }
                steps.push(shown);
            }
        }
        let done: Vec<Task> = record.effects.iter().filter(|(_, outcome)| **outcome == Recorded::Done).map(|(task, _)| *task).collect();
        let undoable = done.iter().rev().filter(|task| plan.step(**task).is_some_and(|step| step.compensate.is_some()));
        let looks = undoable.map(|task| self.look(row, plan, schema, *task, true, &results));
        steps.extend(join_all(looks).await.into_iter().map(|(shown, _)| shown).filter(|shown| shown.outcome != "open"));
        (record, steps)
    }

    async fn look(
        &self,
        row: &ChainRow,
        plan: &Plan,
        schema: &Schema,
        task: Task,
        is_undo: bool,
        results: &Results,
    ) -> (v1::ChainStep, Option<v1::CallResponse>) {
        let mut shown = v1::ChainStep {
            name: plan.step(task).map(|step| step.name.clone()).unwrap_or_default(),
            step: task.step,
            element: task.element,
            direction: if is_undo { "undo" } else { "do" }.to_owned(),
            outcome: "open".to_owned(),
            ..v1::ChainStep::default()
        };
        let Ok(resolved) = plan.resolve(schema, task, is_undo, results) else { return (shown, None) };
        let execute = v1::Execute {
            transaction: resolved.transaction.clone(),
            entity: resolved.entity.clone(),
            root_key: resolved.root_key.clone(),
            request_id: row.id.as_bytes().to_vec(),
            step: task.step,
            element: task.element,
            direction: if is_undo { v1::Direction::Undo } else { v1::Direction::Do }.into(),
            chain_fingerprint: row.fingerprint.clone(),
            issued_at_ms: row.issued_at_ms,
            is_look_up: true,
            ..v1::Execute::default()
        };
        (shown.entity, shown.root_key, shown.transaction) = (resolved.entity, resolved.root_key, resolved.transaction);
        if let Ok(catalog) = self.routing.catalog() {
            shown.peer = catalog.owner_of(&shown.entity, &shown.root_key).map(|owner| owner.peer.id.clone()).unwrap_or_default();
        }
        match self.routing.try_once(&execute, Instant::now() + LOOK_LIMIT).await {
            Ok(v1::reply::Result::Executed(response)) if response.from_stored_outcome => {
                shown.outcome = "done".to_owned();
                shown.worker_us = response.worker_us;
                (shown, Some(response))
            }
            Ok(_) => (shown, None),
            Err(fault) => {
                match (fault.as_wire().from_stored_outcome, fault.code()) {
                    (true, "RW4005") => shown.outcome = "tombstone".to_owned(),
                    (true, _) => shown.outcome = "failed".to_owned(),
                    (false, _) => shown.outcome = "unknown".to_owned(),
                }
                shown.failure = Some(fault.into_wire());
                (shown, None)
            }
        }
    }

    /// Runs parked and stuck chains on from their state. With `is_dry_run` it only says which.
    pub(crate) async fn replay(
        self: &Arc<Self>,
        filter: ChainFilter,
        reason: &str,
        is_dry_run: bool,
    ) -> FaultResult<v1::ReplayChainsResponse> {
        self.settle().await;
        let mut open = filter.clone();
        open.statuses.retain(|status| status == "parked" || status == "stuck");
        if filter.statuses.is_empty() {
            open.statuses = vec!["parked".to_owned(), "stuck".to_owned()];
        }
        let nothing = open.statuses.is_empty();
        let (rows, matched, _) = store::list(&self.pool, &open, MAX_REPLAYED).await.map_err(|error| unread(&error))?;
        if rows.is_empty() || nothing {
            if let Some(id) = filter.id {
                return Err(nothing_to_replay(&self.row(id).await?));
            }
            return Ok(v1::ReplayChainsResponse::default());
        }
        let chains: Vec<v1::Chain> = rows.iter().map(|row| self.chain_of(row)).collect();
        let mut replayed = 0;
        for row in rows.iter().filter(|_| !is_dry_run) {
            let (from, status): (&'static [&'static str], _) =
                if row.status == "stuck" { (&["stuck"], "compensating") } else { (&["parked"], "running") };
            let note = Note { from, status, event: Some(("replay", reason.to_owned())), ..Note::default() };
            // The person's change is durable before it is answered.
            if self.note(&identity_of(row), note).await? {
                let go_on = Note { from: &["running", "compensating"], status, attempts: 1, ..Note::default() };
                self.drive_row(row, go_on)?;
                replayed += 1;
            }
        }
        Ok(v1::ReplayChainsResponse { matched: u64::try_from(matched).unwrap_or_default(), replayed, chains, missing_peers: Vec::new() })
    }

    /// Undoes what a parked chain has done.
    pub(crate) async fn compensate(self: &Arc<Self>, id: Uuid, reason: &str) -> FaultResult<v1::Chain> {
        self.settle().await;
        let row = self.row(id).await?;
        if row.status != "parked" {
            return Err(Fault::refused(
                "RW4003",
                format!("chain {id} is {}: only a parked chain can be compensated", row.status),
                format!("see `rootward chain show {id}`"),
            ));
        }
        let plan = plan_of(&row)?;
        let schema = self.routing.catalog()?.schema.clone();
        let (record, _) = self.look_at_steps(&row, &plan, &schema).await;
        if plan.shape().is_past_pivot(&record) {
            let pivot = plan.definition.steps.iter().find(|step| step.is_pivot).map_or("", |step| &step.name);
            return Err(Fault::refused(
                "RW4003",
                format!("chain {id} has passed its pivot `{pivot}`: it only goes forward"),
                format!("repair the cause, then `rootward chain replay {id}`"),
            ));
        }
        let note = Note { from: &["parked"], status: "compensating", event: Some(("compensate", reason.to_owned())), ..Note::default() };
        if !self.note(&identity_of(&row), note).await? {
            return Err(Fault::retry(
                "RW4003",
                format!("chain {id} was changed by somebody else just now"),
                format!("see `rootward chain show {id}`"),
            ));
        }
        let go_on = Note { from: &["compensating"], status: "compensating", attempts: 1, ..Note::default() };
        let view = self.drive_row(&row, go_on)?;
        if let Some(mut view) = view {
            let ended = view.wait_for(|chain| matches!(chain.status.as_str(), "compensated" | "failed" | "stuck" | "completed"));
            let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
        }
        self.show(id).await
    }
}

fn nothing_to_replay(row: &ChainRow) -> Fault {
    Fault::refused(
        "RW4003",
        format!("chain {} is {} since {}: nothing to replay", row.id, row.status, row.updated_at),
        match row.status.as_str() {
            "running" | "compensating" => format!("it goes on by itself; watch it with `rootward chain show {}`", row.id),
            _ => "only parked and stuck chains are replayed; see `rootward chain list --status parked,stuck`".to_owned(),
        },
    )
}

pub(super) fn no_chain(id: Uuid) -> Fault {
    Fault::new("RW4001", RetryClass::NotFound, format!("there is no chain {id}"), "see `rootward chain list`")
}

fn unread(error: &StoreError) -> Fault {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Fault::retry("RW5002", format!("{error}: {cause}"), "nothing was changed; try again")
}
