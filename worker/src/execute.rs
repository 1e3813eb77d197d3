//! From a message to a unit in a lane, and from the lane's answer to a message.

mod start;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rootward_proto::{Fault, FaultResult, v1, v1::reply};
use rootward_router::check_arguments;
use rootward_schema::{Column, Schema, Target, Text, Transaction, Type};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    chain::{self, ChainHome},
    clock::{self, timestamp},
    collect,
    lane::{
        After, Answerer, Asked, Declared, Done, Effect, Fingerprint, Finished, Freshness, LaneHandle, OutcomeKey, Outgoing, OwnRow, Root,
        Share, Ticket, Unit, UnitOutcome, expired_request, expired_step, lane_died, writes,
    },
    pg::Call,
    reads::Wanted,
};

/// The partition of reference data.
pub(crate) const REFERENCE_PARTITION: i32 = -1;
/// The place of the outcome that a scheduled start has: behind every step.
const START_STEP: u32 = i32::MAX as u32;
/// The longest that anybody may wait, whatever the message says.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long a chain's step waits here for a version of the reference data.
const STEP_PATIENCE: Duration = Duration::from_millis(250);

/// What the settings allow.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub allow_ad_hoc_sql: bool,
    pub retention: Duration,
}

/// A request that is checked and bound to its place.
struct Request {
    execute: v1::Execute,
    request_id: Uuid,
    partition: i32,
    root_key: String,
    received: Instant,
    deadline: Instant,
}

/// Runs one transaction and answers when it is durable.
///
/// # Errors
/// What kept it from taking effect, or that nobody knows whether it did.
pub(crate) async fn execute(home: &Arc<ChainHome>, limits: &Limits, execute: v1::Execute) -> FaultResult<reply::Result> {
    let schema = home.serving.schema.clone();
    let request = check(&schema, execute)?;
    if let Some(version) = request.execute.min_reference_version {
        // Before it is queued: a lane waits for nothing but PostgreSQL. A chain's step comes again, and doesn't fill this worker meanwhile.
        let is_step = !request.execute.chain_fingerprint.is_empty();
        let deadline = if is_step { request.deadline.min(Instant::now() + STEP_PATIENCE) } else { request.deadline };
        home.reference.require(&home.peer, version, deadline).await?;
    }
    if let Some(staleness) = request.execute.staleness {
        return Box::pin(read(home, limits, &schema, &request, staleness)).await.map(reply::Result::Executed);
    }
    let open_chain = request.execute.open_chain.clone();
    if request.execute.is_forgotten {
        let root = (request.execute.entity.as_str(), request.root_key.as_str());
        collect::forget(home, request.partition, root, request.request_id, request.execute.expires_at_ms).await?;
        return Ok(reply::Result::Executed(v1::CallResponse::default()));
    }
    match open_chain {
        // Boxed, so that the future of a plain call stays small.
        Some(open) => Box::pin(start::start_chain(home, limits, &schema, request, open)).await,
        None => {
            let (done, lane) = run(home, limits, &schema, &request, None).await?;
            let mut answer = answer(home, &request, done, lane);
            let tells_version = request.execute.min_reference_version.is_some() && request.execute.chain_fingerprint.is_empty();
            if tells_version && request.partition != REFERENCE_PARTITION {
                answer.reference_version = home.reference.seen(&home.pool).await;
            }
            Ok(reply::Result::Executed(answer))
        }
    }
}

/// Runs a transaction that only reads, at a standby if one is fresh enough. It has no outcome, and asking again runs it again.
async fn read(
    home: &Arc<ChainHome>,
    limits: &Limits,
    schema: &Schema,
    request: &Request,
    staleness: v1::Staleness,
) -> FaultResult<v1::CallResponse> {
    let execute = &request.execute;
    let label = if execute.transaction.is_empty() { "sql" } else { &execute.transaction };
    let (effect, _) = plan_effect(home, limits, schema, request)?;
    // Whether a statement from outside writes, PostgreSQL says.
    let may_write = |effect: &Effect| !execute.transaction.is_empty() && effect.declared.writes;
    let effect = effect.filter(|effect| !may_write(effect) && !execute.entity.is_empty()).ok_or_else(|| writes(label))?;
    let wanted = Wanted {
        partition: request.partition,
        most: Duration::from_millis(staleness.most_ms),
        not_before: staleness.not_before.as_ref(),
        deadline: request.deadline,
    };
    let unit = |claim| {
        let root = Root {
            entity: &execute.entity,
            root_key: &request.root_key,
            request_id: request.request_id,
            context: context_of(&execute.entity, &request.root_key),
        };
        Unit::of_read(root, claim, effect.clone(), request.deadline)
    };
    // Looks for an outcome that is not there: the lane answers when it is through with what came before.
    let look = Request {
        execute: v1::Execute { is_look_up: true, staleness: None, ..execute.clone() },
        root_key: request.root_key.clone(),
        ..*request
    };
    let behind_lane = async { run(home, limits, schema, &look, None).await.map(drop) };
    let response = home.reads.read(&home.serving, wanted, unit, behind_lane).await?;
    Ok(v1::CallResponse {
        request_id: request.request_id.to_string(),
        entity: execute.entity.clone(),
        root_key: request.root_key.clone(),
        partition: request.partition,
        peer: home.peer.clone(),
        worker_us: micros(request.received),
        ..response
    })
}

/// Checks a request and binds it to its place.
fn check(schema: &Schema, execute: v1::Execute) -> FaultResult<Request> {
    let received = Instant::now();
    if execute.schema_version > schema.version {
        return Err(Fault::retry(
            "RW2006",
            format!("this worker knows schema version {} and was asked by version {}", schema.version, execute.schema_version),
            "nothing was executed; `rootward schema apply` has not reached this peer yet",
        ));
    }
    place(schema, execute, received)
}

fn place(schema: &Schema, execute: v1::Execute, received: Instant) -> FaultResult<Request> {
    let request_id = Uuid::from_slice(&execute.request_id)
        .map_err(|_| Fault::refused("RW2002", "the request id is no UUID", "send 16 bytes, or let the router make one"))?;
    let (partition, root_key) = if execute.entity.is_empty() {
        (REFERENCE_PARTITION, String::new())
    } else {
        // Computed anew: a worker trusts no router about ownership.
        let root = schema.roots.get(&execute.entity).ok_or_else(|| {
            Fault::refused("RW2003", format!("there is no root entity `{}`", execute.entity), "see `rootward schema show DIR`")
        })?;
        let bad_key =
            |why: String| Fault::refused("RW2003", format!("root key of {}: {why}", execute.entity), "see `rootward schema show DIR`");
        let key = root.key_type.canonical(&execute.root_key).map_err(|error| bad_key(error.to_string()))?;
        let partition = schema.partition_of(root, &key).map_err(|error| bad_key(error.to_string()))?;
        (i32::try_from(partition).unwrap_or(i32::MAX), key)
    };
    let wait = Duration::from_millis(execute.time_left_ms).min(LONGEST_WAIT);
    Ok(Request { request_id, partition, root_key, received, deadline: received + wait, execute })
}

/// How a chain's row comes to be.
struct Opening {
    row: OwnRow,
    /// Nothing runs yet.
    is_scheduled: bool,
    /// All other steps, if they may share the first one's commit.
    companions: Vec<Unit>,
}

/// Runs it and waits.
async fn run(
    home: &Arc<ChainHome>,
    limits: &Limits,
    schema: &Schema,
    request: &Request,
    opening: Option<Opening>,
) -> FaultResult<(Done, u32)> {
    let (answer, answered) = oneshot::channel();
    let (lane, unit, share) = unit_of(home, limits, schema, request, opening, |_| Answerer::One(answer))?;
    lane.submit(unit, share)?;
    // The lane always answers; a lane that died took its answers with it, and only the outcome can tell.
    let done = answered.await.map_err(|_| lane_died())??;
    Ok((done, lane.number()))
}

/// Puts a transaction that opens no chain into its lane; the answer goes into the stream. Never waits.
///
/// # Errors
/// What kept it from the queue; nothing goes into the stream then.
pub(crate) fn submit(
    home: &Arc<ChainHome>,
    limits: &Limits,
    execute: v1::Execute,
    (correlation, permit): (u64, OwnedSemaphorePermit),
    answers: &mpsc::Sender<Outgoing>,
) -> FaultResult<()> {
    let schema = &home.serving.schema;
    let request = check(schema, execute)?;
    let ticket = |lane: u32| Ticket {
        correlation,
        request_id: request.request_id,
        entity: request.execute.entity.clone(),
        root_key: request.root_key.clone(),
        partition: request.partition,
        lane,
        received: request.received,
        permit,
    };
    let (lane, unit, share) =
        unit_of(home, limits, schema, &request, None, |lane| Answerer::Stream(Asked::new(answers.clone(), ticket(lane))))?;
    // A unit that finds no room is dropped, but its answer is not: the refusal says more than that.
    lane.submit_or_answer(unit, share);
    Ok(())
}

/// The answer to a request of a stream.
pub(crate) fn finish(peer: &str, finished: Finished) -> v1::Reply {
    let Finished { ticket, answer } = finished;
    let ticket = *ticket;
    drop(ticket.permit);
    let result = match answer {
        Ok(done) => reply::Result::Executed(v1::CallResponse {
            request_id: ticket.request_id.to_string(),
            entity: ticket.entity,
            root_key: ticket.root_key,
            partition: ticket.partition,
            peer: peer.to_owned(),
            lane: ticket.lane,
            worker_us: micros(ticket.received),
            ..done.response
        }),
        Err(fault) => reply::Result::Failure(fault.into_wire()),
    };
    v1::Reply { correlation: ticket.correlation, result: Some(result) }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The unit of a request, with its lane and its share of the queue.
fn unit_of<'h>(
    home: &'h ChainHome,
    limits: &Limits,
    schema: &Schema,
    request: &Request,
    opening: Option<Opening>,
    answer: impl FnOnce(u32) -> Answerer,
) -> FaultResult<(&'h LaneHandle, Unit, Share)> {
    let (lane, claim) = home.serving.lane_of(request.partition)?;
    let execute = &request.execute;
    let is_undo = execute.direction() == v1::Direction::Undo;
    let (effect, fingerprint) = plan_effect(home, limits, schema, request)?;
    let has_journal = schema.roots.get(&execute.entity).is_some_and(|root| root.has_journal);
    let is_journaled = has_journal && effect.as_ref().is_some_and(|effect| effect.declared.writes);
    let freshness = freshness(limits, request)?;
    let is_scheduled = opening.as_ref().is_some_and(|opening| opening.is_scheduled);
    let writes_nothing = execute.is_tombstone || execute.is_look_up || execute.mark.is_some() || is_scheduled;
    let opens_chain = opening.is_some();
    let is_new = opens_chain || execute.chain_fingerprint.is_empty();
    let (row, companions) = opening.map(|opening| (opening.row, opening.companions)).unzip();
    let mut after = row.map(After::Row);
    if request.partition == REFERENCE_PARTITION && !writes_nothing {
        after = Some(After::Call(Call::prepared("select rootward.bump_reference($1)", vec![home.serving.secret.clone()])));
    }
    let unit = Unit {
        label: match &effect {
            Some(effect) => effect.declared.name.clone(),
            None => execute.transaction.as_str().into(),
        },
        claim,
        context: (request.partition >= 0 && !writes_nothing).then(|| context_of(&execute.entity, &request.root_key)),
        effect: effect.filter(|_| !writes_nothing),
        after,
        outcome: Some(UnitOutcome {
            key: OutcomeKey {
                entity: execute.entity.clone(),
                root_key: request.root_key.clone(),
                request_id: request.request_id,
                step: if is_scheduled { START_STEP } else { execute.step },
                element: execute.element,
                is_undo,
            },
            fingerprint,
            is_tombstone: execute.is_tombstone,
            is_look_up: execute.is_look_up,
            refusal_is_no_outcome: execute.refusal_is_no_outcome,
            mark: execute.mark.clone().map(Box::new),
            in_chain: !execute.chain_fingerprint.is_empty(),
            opens_chain,
            issued_at_ms: issued_at(request),
            is_journaled,
        }),
        is_alone: execute.transaction.is_empty() && !writes_nothing,
        freshness,
        deadline: request.deadline,
        answer: answer(lane.number()),
        companions: companions.unwrap_or_default(),
        is_companion: false,
    };
    Ok((lane, unit, if is_new { Share::New } else { Share::UnderWay }))
}

/// What row security compares with: the entity, and the key in a form that the parameter's alphabet allows.
fn context_of(entity: &str, root_key: &str) -> String {
    format!("r_{entity} {}", hex::encode(root_key))
}

/// When a request was first issued. An id of version 7 carries its own time, which a sender that forgets when it first issued
/// the request can't freshen.
fn issued_at(request: &Request) -> i64 {
    let issued = request.execute.issued_at_ms;
    let born = request.request_id.get_timestamp().map(|stamp| {
        let (seconds, nanos) = stamp.to_unix();
        i64::try_from(seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000))).unwrap_or(i64::MAX)
    });
    born.map_or(issued, |born| issued.min(born))
}

/// By what the lane tells whether it is too old, once it is found fresh enough by the clock.
fn freshness(limits: &Limits, request: &Request) -> FaultResult<Freshness> {
    let execute = &request.execute;
    if execute.is_look_up {
        return Ok(Freshness::Own);
    }
    if !execute.chain_fingerprint.is_empty() && execute.open_chain.is_none() {
        return if clock::now_ms() > execute.expires_at_ms { Err(expired_step()) } else { Ok(Freshness::Step(execute.expires_at_ms)) };
    }
    let issued = issued_at(request);
    let retention = i64::try_from(limits.retention.as_millis()).unwrap_or(i64::MAX);
    if clock::now_ms().saturating_sub(issued) > retention {
        return Err(expired_request());
    }
    Ok(Freshness::Request(issued))
}

fn plan_effect(home: &ChainHome, limits: &Limits, schema: &Schema, request: &Request) -> FaultResult<(Option<Effect>, Fingerprint)> {
    let execute = &request.execute;
    if execute.is_look_up || execute.is_tombstone || execute.mark.is_some() {
        return Ok((None, Fingerprint::of_chain(&execute.transaction, &execute.chain_fingerprint)));
    }
    if execute.transaction.is_empty() {
        return plan_ad_hoc(limits, execute);
    }
    let known = schema.transactions.get(&execute.transaction).zip(home.serving.declared.get(&execute.transaction));
    let (transaction, declared) = known.ok_or_else(|| {
        Fault::refused(
            "RW2001",
            format!("there is no transaction `{}` in schema version {}", execute.transaction, schema.version),
            "see `rootward schema show DIR`",
        )
    })?;
    check_target(transaction, execute)?;
    let given: BTreeMap<String, Text> = execute.arguments.iter().map(|argument| (argument.name.clone(), argument.text.clone())).collect();
    let arguments = check_arguments(&transaction.name, &transaction.parameters, &given)?;
    if let Target::Root { parameter, .. } = &transaction.target
        && arguments.get(parameter).and_then(Option::as_deref) != Some(request.root_key.as_str())
    {
        return Err(Fault::refused(
            "RW2003",
            format!("`{}`: argument `{parameter}` is not the root key it was sent to", transaction.name),
            "send it through the router",
        ));
    }
    let fingerprint = if execute.chain_fingerprint.is_empty() {
        Fingerprint::new(&transaction.name, &transaction.parameters, &arguments)
    } else {
        Fingerprint::of_chain(&transaction.name, &execute.chain_fingerprint)
    };
    let built_in = built_in(request);
    let values = declared.parameters.iter().map(|column| value_of(column, &arguments, &built_in)).collect();
    Ok((Some(Effect { declared: declared.clone(), values }), fingerprint))
}

fn value_of(column: &Column, arguments: &BTreeMap<String, Text>, built_in: &BTreeMap<&'static str, Text>) -> Text {
    arguments.get(&column.name).or_else(|| built_in.get(column.name.as_str())).cloned().flatten()
}

fn built_in(request: &Request) -> BTreeMap<&'static str, Text> {
    let execute = &request.execute;
    let task = chain::Task { step: execute.step, element: execute.element };
    let is_undo = execute.direction() == v1::Direction::Undo;
    let is_in_chain = !execute.chain_fingerprint.is_empty();
    let request_id = if is_in_chain { chain::step_request_id(request.request_id, task, is_undo) } else { request.request_id };
    chain::built_in(request_id, is_in_chain.then_some(request.request_id), execute.element, timestamp(execute.issued_at_ms))
}

fn check_target(transaction: &Transaction, execute: &v1::Execute) -> FaultResult<()> {
    let is_right = match &transaction.target {
        Target::Root { entity, .. } => *entity == execute.entity,
        Target::Reference => execute.entity.is_empty(),
    };
    if is_right {
        return Ok(());
    }
    Err(Fault::refused("RW2003", format!("`{}` does not run at `{}`", transaction.name, execute.entity), "send it through the router"))
}

fn plan_ad_hoc(limits: &Limits, execute: &v1::Execute) -> FaultResult<(Option<Effect>, Fingerprint)> {
    if !limits.allow_ad_hoc_sql {
        return Err(Fault::refused(
            "RW2007",
            "this worker runs declared transactions only",
            "declare the statement in the schema, or set `allow_ad_hoc_sql = true` in the worker's file",
        ));
    }
    if execute.entity.is_empty() {
        return Err(Fault::refused("RW2003", "ad-hoc SQL runs inside a root", "name one with --root ENTITY=KEY"));
    }
    let declared = [Column { name: "sql".to_owned(), r#type: Type::Text }];
    let fingerprint = Fingerprint::new("sql", &declared, &BTreeMap::from([("sql".to_owned(), Some(execute.sql.clone()))]));
    let declared = Arc::new(Declared::ad_hoc(&execute.sql));
    Ok((Some(Effect { declared, values: Vec::new() }), fingerprint))
}

fn answer(home: &ChainHome, request: &Request, done: Done, lane: u32) -> v1::CallResponse {
    v1::CallResponse {
        request_id: request.request_id.to_string(),
        entity: request.execute.entity.clone(),
        root_key: request.root_key.clone(),
        partition: request.partition,
        peer: home.peer.clone(),
        lane,
        worker_us: micros(request.received),
        ..done.response
    }
}
