//! The start of a chain: its row and its first step in one commit, and all other steps with them if they may be; else the chain's driver
//! goes on from there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rootward_proto::{Fault, FaultResult, v1, v1::reply};
use rootward_router::check_arguments;
use rootward_schema::{Schema, Text};
use tokio::{sync::oneshot, time::Instant};

use super::{LONGEST_WAIT, Limits, Opening, Request, answer, issued_at, place, run, unit_of};
use crate::{
    chain::{self, ChainHome, Identity, NewChain, Pinned, Plan, Resolved, Started, Status, Task},
    clock, fail_point,
    lane::{Answer, Answerer, Fingerprint, Unit, wrong_owner},
};

/// So many steps beside the first one may share its commit: more would make others wait for them.
const MOST_COMPANIONS: usize = 8;

/// A step that may share the commit of its chain's start.
struct Companion {
    task: Task,
    resolved: Resolved,
    request: Request,
    lane: u32,
    answered: oneshot::Receiver<Answer>,
}

/// All other steps of a chain that starts, if all of them run where the first one does.
fn companions(
    home: &ChainHome,
    limits: &Limits,
    schema: &Schema,
    start: &Request,
    (identity, plan): (&Identity, &Plan),
    (deadline_ms, expires_at_ms): (Option<i64>, i64),
) -> Option<(Vec<Companion>, Vec<Unit>)> {
    let (own, _) = home.serving.lane_of(start.partition).ok()?;
    let is_set_wise = |name: &str| home.serving.declared.get(name).is_some_and(|declared| declared.set_wise.is_some());
    if !is_set_wise(&start.execute.transaction) {
        return None;
    }
    // Behind the chain's own deadline nothing of it begins.
    let time_left = deadline_ms.map(|deadline| u64::try_from(deadline.saturating_sub(clock::now_ms())).unwrap_or(0));
    let deadline =
        time_left.map_or(start.deadline, |left| start.deadline.min(Instant::now() + Duration::from_millis(left).min(LONGEST_WAIT)));
    let (mut companions, mut units) = (Vec::new(), Vec::new());
    for (task, resolved) in plan.others(schema, MOST_COMPANIONS)? {
        let partition = schema.partition_of(schema.roots.get(&resolved.entity)?, &resolved.root_key).ok()?;
        let (lane, _) = home.serving.lane_of(i32::try_from(partition).ok()?).ok()?;
        // A test that names a step's transaction wants it to be sent.
        if lane.number() != own.number() || !is_set_wise(&resolved.transaction) || fail_point::names(&resolved.transaction) {
            return None;
        }
        let execute = chain::effect_message(identity, task, v1::Direction::Do, &resolved, expires_at_ms);
        let request = Request { deadline, ..place(schema, execute, start.received).ok()? };
        let (answer, answered) = oneshot::channel();
        let (lane, mut unit, _) = unit_of(home, limits, schema, &request, None, |_| Answerer::One(answer)).ok()?;
        unit.is_companion = true;
        companions.push(Companion { task, resolved, request, lane: lane.number(), answered });
        units.push(unit);
    }
    Some((companions, units))
}

/// What the other steps answered, if they were done with the first one.
async fn settle(home: &ChainHome, companions: Vec<Companion>) -> Vec<(Task, Resolved, v1::CallResponse)> {
    let mut settled = Vec::with_capacity(companions.len());
    for Companion { task, resolved, request, lane, answered } in companions {
        // Left out, or nobody can read what it answered: the driver asks its root.
        let Ok(Ok(done)) = answered.await else { return Vec::new() };
        settled.push((task, resolved, answer(home, &request, done, lane)));
    }
    settled
}

/// The first step and the chain's row in one commit; then the rest, by the chain's driver.
pub(super) async fn start_chain(
    home: &Arc<ChainHome>,
    limits: &Limits,
    schema: &Arc<Schema>,
    mut request: Request,
    open: v1::OpenChain,
) -> FaultResult<reply::Result> {
    let definition = schema.chains.get(&open.definition).ok_or_else(|| {
        Fault::refused(
            "RW4004",
            format!("there is no chain `{}` in schema version {}", open.definition, schema.version),
            "see `rootward schema show DIR`",
        )
    })?;
    let input: BTreeMap<String, Text> = serde_json::from_str(&open.input)
        .map_err(|error| Fault::refused("RW4004", format!("the chain's input can't be read: {error}"), "send it through the router"))?;
    let input = check_arguments(&definition.name, &definition.parameters, &input)?;
    let fingerprint = Fingerprint::new(&format!("chain {}", definition.name), &definition.parameters, &input);
    let min_reference_version = request.execute.min_reference_version.filter(|version| *version > 0);
    let pinned = Pinned { definition: definition.clone(), min_reference_version };
    let plan_json = serde_json::to_string(&pinned).map_err(|error| Fault::internal(error.to_string()))?;
    let home_root = (request.execute.entity.clone(), request.root_key.clone());
    let plan =
        pinned.plan(input, home_root).map_err(|error| Fault::refused("RW4004", error.to_string(), "see the chain in rootward.toml"))?;
    request.execute.chain_fingerprint.clone_from(&fingerprint.hash);
    let now = clock::now_ms();
    let is_scheduled = open.start_at_ms > now;
    let begins_at = open.start_at_ms.max(now);
    let deadline_ms = match (open.deadline_ms, definition.deadline_ms) {
        (0, None) => None,
        (0, Some(after)) => Some(begins_at.saturating_add(i64::try_from(after).unwrap_or(i64::MAX))),
        (given, _) if given <= begins_at => {
            return Err(Fault::refused("RW4004", "the deadline is before the start", "give it more time with --deadline"));
        }
        (given, _) => Some(given),
    };
    // Its only step is its end, if nothing is to be made of the answer.
    let tasks = plan.shape().all_tasks().count();
    let status = match (is_scheduled, tasks == 1 && definition.result.is_empty()) {
        (true, _) => Status::Scheduled,
        (false, true) => Status::Completed,
        (false, false) => Status::Running,
    };
    let labels: BTreeMap<String, String> = open.labels.into_iter().collect();
    let expires_at_ms = home.new_expiry_ms();
    let identity = Identity {
        id: request.request_id,
        partition: request.partition,
        entity: request.execute.entity.clone(),
        root_key: request.root_key.clone(),
        fingerprint: fingerprint.hash,
        issued_at_ms: issued_at(&request),
    };
    let row = NewChain {
        partition: identity.partition,
        entity: &identity.entity,
        root_key: &identity.root_key,
        id: identity.id,
        definition: &definition.name,
        version: schema.version,
        plan: plan_json,
        input: open.input.clone(),
        labels: serde_json::to_string(&labels).map_err(|error| Fault::internal(error.to_string()))?,
        fingerprint: &identity.fingerprint,
        issued_at_ms: identity.issued_at_ms,
        deadline_ms,
        status,
        next_attempt_at_ms: begins_at,
        expires_at_ms,
        ended_at_ms: status.is_ended().then_some(now),
        ends_with_companions_at_ms: definition.result.is_empty().then_some(now),
    };
    let brought =
        if is_scheduled { None } else { companions(home, limits, schema, &request, (&identity, &plan), (deadline_ms, expires_at_ms)) };
    let (companions, units) = brought.unwrap_or_default();
    let opening = Opening { row: chain::open_row(row), is_scheduled, companions: units };
    let pass = tokio::time::timeout_at(request.deadline, home.gate.pass()).await.map_err(|_| {
        let message = format!("the start of chain `{}` was held for a snapshot until its deadline", definition.name);
        Fault::overloaded("RW3103", message, "nothing was executed; send it again, or allow more time")
    })?;
    let starting = home.drivers.starting(identity.id);
    let ran = run(home, limits, schema, &request, Some(opening)).await;
    // Its scheduled start was asked for before: the same request once more, after the start was due. Its first step may have
    // been refused or called off by now.
    let may_be_known = |fault: &Fault| fault.code() == "RW4009" || fault.as_wire().from_stored_outcome;
    if ran.as_ref().is_err_and(may_be_known) && home.is_same_chain(&identity).await? {
        let chain = Some(at_home(home, home.show(identity.id).await, identity.partition)?);
        return Ok(reply::Result::Chain(Box::new(v1::StartChainResponse { chain, from_stored_outcome: true })));
    }
    let (done, lane) = ran?;
    let others = settle(home, companions).await;
    let status = if others.is_empty() || !definition.result.is_empty() { status } else { Status::Completed };
    fail_point::hit("before_driver", &definition.name).await;
    let is_repeated = done.response.from_stored_outcome;
    let first = answer(home, &request, done, lane);
    let view = match (is_repeated, status) {
        (true, _) | (false, Status::Scheduled) => home.drivers.view(identity.id),
        (false, _) => home.drive_started(Started {
            identity: identity.clone(),
            plan,
            version: schema.version,
            labels,
            deadline_ms,
            expires_at_ms,
            first,
            others,
            status,
        }),
    };
    drop((starting, pass));
    let chain = match view {
        Some(mut view) => {
            if open.wait == i32::from(v1::ChainWait::Done) {
                // It has ended, or waits for a moment, a signal or a person.
                let is_over = |chain: &v1::Chain| !matches!(chain.status.as_str(), "running" | "compensating");
                // A moment before the sender stops waiting, so that it hears at least where the chain stands.
                let deadline = request.deadline - (request.deadline - request.received) / 20;
                let ended = tokio::time::timeout_at(deadline, view.wait_for(is_over)).await.map(|shown| shown.is_ok());
                // Its driver has gone without an end: its home moves, and the new owner tells how it ends.
                if ended == Ok(false) && home.serving.is_leaving(identity.partition) {
                    return Err(wrong_owner(identity.partition));
                }
            }
            view.borrow().clone()
        }
        None if is_repeated && open.wait == i32::from(v1::ChainWait::Done) => {
            at_home(home, home.show_when_over(identity.id, request.deadline).await, identity.partition)?
        }
        None => at_home(home, home.show(identity.id).await, identity.partition)?,
    };
    Ok(reply::Result::Chain(Box::new(v1::StartChainResponse { chain: Some(chain), from_stored_outcome: is_repeated })))
}

/// A chain that was just here and is not shown any more: its home moves, and the new owner tells.
fn at_home(home: &ChainHome, shown: FaultResult<v1::Chain>, partition: i32) -> FaultResult<v1::Chain> {
    shown.map_err(|fault| match fault.code() {
        chain::MOVING => wrong_owner(partition),
        "RW4001" if home.serving.is_leaving(partition) => wrong_owner(partition),
        _ => fault,
    })
}
