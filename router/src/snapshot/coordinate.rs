//! Takes one snapshot: all peers drain, all take, all confirm. A step is asked for when all have answered the one before. Whatever
//! goes wrong, the streams end, and with them whatever the peers held.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{join_all, try_join_all};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, snapshot_state::State, snapshot_step::Step},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use crate::{CatalogPeer, link};

/// How long a peer may take to say that it takes part.
const OPEN_LIMIT: Duration = Duration::from_secs(1);
/// The longest that the workers' settings allow for a step, and what the way takes.
const DRAIN_LIMIT: Duration = Duration::from_secs(65);
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How many chains in flight are listed.
const MOST_LISTED: usize = 100;
/// What an id without a text stands for.
const HELP: &str = "nothing is held any more; `rootward peer list` shows how the peer is";

/// Why there is no snapshot.
#[derive(Debug)]
pub(super) enum Failed {
    /// Chains are still under way; the next chance may be a better one.
    Busy(Fault),
    /// It might have been torn; the next one may not.
    Torn(Fault),
    /// It would fail again.
    For(Fault),
}

/// A snapshot that counts, and the streams by which the peers keep it until somebody says under which ids.
pub(super) struct Cut {
    peers: Vec<Peer>,
    pub facts: v1::TakeSnapshotResponse,
}

/// The stream to one peer's worker.
struct Peer {
    peer: CatalogPeer,
    steps: mpsc::Sender<v1::SnapshotStep>,
    states: Streaming<v1::SnapshotState>,
}

impl Peer {
    async fn open(peer: &CatalogPeer) -> FaultResult<Peer> {
        let open = async {
            let mut client = link::connect(&peer.worker_address).await.map_err(|why| link::unreachable(&peer.worker_address, &why))?;
            let (steps, asked) = mpsc::channel(1);
            let states = client.snapshot(ReceiverStream::new(asked)).await.map_err(|status| Fault::from_status(&status))?.into_inner();
            let mut opened = Peer { peer: peer.clone(), steps, states };
            match opened.state().await? {
                State::Draining(_) => Ok(opened),
                _ => Err(out_of_order()),
            }
        };
        timeout(OPEN_LIMIT, open)
            .await
            .unwrap_or_else(|_| Err(Fault::retry("RW5002", format!("no answer within {OPEN_LIMIT:?}"), HELP)))
            .map_err(|fault| match fault.code() {
                "RW5023" => fault,
                _ => Fault::retry(
                    "RW5020",
                    format!("peer {}: {}", peer.id, fault.message()),
                    "see `rootward peer list`; `--partial` does without it",
                ),
            })
    }

    async fn state(&mut self) -> FaultResult<State> {
        match self.states.message().await {
            Ok(Some(v1::SnapshotState { state: Some(State::Failure(failure)) })) => Err(Fault::from(failure)),
            Ok(Some(v1::SnapshotState { state: Some(state) })) => Ok(state),
            Ok(_) => Err(self.torn("its worker has left")),
            Err(status) => Err(self.torn(Fault::from_status(&status).message())),
        }
    }

    async fn ask(&mut self, step: Step, limit: Duration) -> Result<State, Failed> {
        let asked = async {
            self.steps.send(v1::SnapshotStep { step: Some(step) }).await.map_err(|_| self.torn("its worker has left"))?;
            self.state().await
        };
        let answer = timeout(limit, asked).await;
        match answer.unwrap_or_else(|_| Err(self.torn("it did not answer in time"))) {
            Ok(state) => Ok(state),
            Err(fault) if fault.code() == "RW5022" => Err(Failed::Torn(fault)),
            Err(fault) => Err(Failed::For(fault)),
        }
    }

    fn torn(&self, why: &str) -> Fault {
        Fault::retry("RW5022", format!("peer {}: {why}", self.peer.id), HELP)
    }
}

fn out_of_order() -> Fault {
    Fault::internal("a worker answered another step of a snapshot than the one that was asked for")
}

/// Asks all peers for the same step, and gives up as soon as one fails.
async fn ask_all(peers: &mut [Peer], step: &Step, limit: Duration) -> Result<Vec<State>, Failed> {
    try_join_all(peers.iter_mut().map(|peer| peer.ask(step.clone(), limit))).await
}

/// What the peers answered while they held new chains and then their lanes.
struct Answers {
    taken_at_ms: i64,
    drain_us: u64,
    taken: Vec<State>,
    confirmed: Vec<State>,
}

/// Drains, takes and confirms: from the first step on new chains are held, until the last one is answered.
async fn hold(peers: &mut [Peer], lists_running: bool) -> Result<Answers, Failed> {
    let began = Instant::now();
    let drained = ask_all(peers, &Step::Drain(v1::SnapshotDrain { lists_running }), DRAIN_LIMIT).await?;
    if let Some(fault) = busy(&drained) {
        return Err(Failed::Busy(fault));
    }
    let (drain_us, taken_at_ms) = (micros(began), now_ms());
    let taken = ask_all(peers, &Step::Take(v1::SnapshotTake {}), STEP_LIMIT).await?;
    // All have it: at this moment every lane of every peer was held.
    let confirmed = ask_all(peers, &Step::Confirm(v1::SnapshotConfirm {}), STEP_LIMIT).await?;
    Ok(Answers { taken_at_ms, drain_us, taken, confirmed })
}

/// Takes one snapshot of these peers; without those that can't be asked, if that is allowed. `held` becomes the time for which new chains were
/// held, however it ends.
pub(super) async fn take(wanted: &[CatalogPeer], is_partial: bool, held: &mut Duration) -> Result<Cut, Failed> {
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for (peer, opened) in wanted.iter().zip(join_all(wanted.iter().map(Peer::open)).await) {
        match opened {
            Ok(opened) => peers.push(opened),
            Err(fault) if is_partial && fault.code() == "RW5020" => missing.push((peer.id.clone(), fault)),
            Err(fault) => return Err(Failed::For(fault)),
        }
    }
    if let (true, Some((_, fault))) = (peers.is_empty(), missing.first()) {
        return Err(Failed::For(fault.clone()));
    }
    let began = Instant::now();
    let answers = hold(&mut peers, !missing.is_empty()).await;
    *held = began.elapsed();
    let Answers { taken_at_ms, drain_us, taken, confirmed } = answers?;
    let mut facts = v1::TakeSnapshotResponse {
        taken_at_ms,
        drain_us,
        missing_peers: missing.into_iter().map(|(id, _)| id).collect(),
        ..v1::TakeSnapshotResponse::default()
    };
    for ((peer, taken), confirmed) in peers.iter().zip(taken).zip(confirmed) {
        let (State::Taken(taken), State::Confirmed(confirmed)) = (taken, confirmed) else { return Err(Failed::For(out_of_order())) };
        facts.pause_us = facts.pause_us.max(confirmed.pause_us);
        facts.in_flight_total += confirmed.in_flight_total;
        facts.in_flight.extend(confirmed.in_flight);
        facts.peers.push(v1::SnapshotPeer {
            peer: peer.peer.id.clone(),
            term: taken.term,
            reference_version: taken.reference_version,
            pause_us: confirmed.pause_us,
        });
    }
    facts.in_flight.sort_by(|left, right| (&left.created_at, &left.id).cmp(&(&right.created_at, &right.id)));
    facts.in_flight.truncate(MOST_LISTED);
    let mut cut = Cut { peers, facts };
    cut.tell_what_they_hold().await?;
    Ok(cut)
}

impl Cut {
    /// Fills in what the listed chains did at all roots, by the same snapshot.
    async fn tell_what_they_hold(&mut self) -> Result<(), Failed> {
        let chains: Vec<Vec<u8>> =
            self.facts.in_flight.iter().filter_map(|chain| Uuid::parse_str(&chain.id).ok()).map(|id| id.as_bytes().to_vec()).collect();
        if chains.is_empty() {
            return Ok(());
        }
        let holds = ask_all(&mut self.peers, &Step::Outcomes(v1::SnapshotOutcomes { chains }), STEP_LIMIT).await?;
        let mut steps: HashMap<String, Vec<v1::ChainStep>> = HashMap::new();
        for state in holds {
            let State::Holds(holds) = state else { return Err(Failed::For(out_of_order())) };
            for effect in holds.effects {
                let id = Uuid::from_slice(&effect.chain).unwrap_or_default().to_string();
                steps.entry(id).or_default().extend(effect.step);
            }
        }
        for chain in &mut self.facts.in_flight {
            let names: HashMap<u32, String> = chain.steps.drain(..).map(|step| (step.step, step.name)).collect();
            chain.steps = steps.remove(&chain.id).unwrap_or_default();
            chain.steps.sort_by(|left, right| (&left.at, left.step, left.element).cmp(&(&right.at, right.step, right.element)));
            for step in &mut chain.steps {
                step.name = names.get(&step.step).cloned().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Has all peers keep it under these ids. From then on it outlives the streams.
    pub(super) async fn keep(&mut self, tickets: Vec<v1::SnapshotTicket>) -> Result<(), Failed> {
        let peers = self.peers.iter().map(|peer| peer.peer.id.clone()).collect();
        ask_all(&mut self.peers, &Step::Keep(v1::SnapshotKeep { tickets, peers }), STEP_LIMIT).await.map(|_| ())
    }
}

fn busy(drained: &[State]) -> Option<Fault> {
    let busy = || drained.iter().filter_map(|state| if let State::Busy(busy) = state { Some(busy) } else { None });
    let total: u64 = busy().map(|busy| busy.total).sum();
    let named: Vec<String> = busy().flat_map(|busy| &busy.chains).take(10).map(described).collect();
    let first = busy().flat_map(|busy| &busy.chains).next()?;
    let message = format!("{total} chains are still under way: {}", named.join("; "));
    Some(Fault::retry(
        "RW5021",
        message,
        format!("nothing is held any more; allow more time with --wait, or see what it waits for with `rootward chain show {}`", first.id),
    ))
}

fn described(chain: &v1::Chain) -> String {
    let step = if chain.step.is_empty() { String::new() } else { format!(" at {}", chain.step) };
    let why = chain.failure.as_ref().map(|failure| format!(" ({}: {})", failure.code, failure.message)).unwrap_or_default();
    format!("{} {}{step}{why}", chain.definition, chain.id)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
