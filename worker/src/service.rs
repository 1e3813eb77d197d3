//! The gRPC service of a worker.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    sync::atomic::Ordering,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, reply, worker_server},
};
use rootward_router::Catalog;
use rootward_schema::{Text, Type};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::{
    chain::{self, Bulk, ChainFilter, ChainHome, Change, Skip},
    describe,
    execute::{self, Limits},
    journal,
    lane::Outgoing,
    moves::{self, Mover, Parts},
    route,
    snapshot::{self, Coordinator, Snapshots, take_part},
    stage, verify,
};

/// How many answers go out in one message.
const MAX_COALESCED: usize = 512;
/// How many bytes go out in one message, unless one answer alone is larger.
const MAX_COALESCED_BYTES: usize = 16 << 20;
/// How many requests may be under way in this process; more are refused at once.
pub(crate) const MAX_IN_FLIGHT: usize = 16_384;
/// The longest wait for a version of the reference data.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// The most chains that one list returns.
const MAX_LISTED: u32 = 10_000;

/// What the service needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct WorkerService {
    /// The term that is being served, if any.
    pub home: watch::Receiver<Option<Arc<ChainHome>>>,
    pub catalog: watch::Receiver<Option<Arc<Catalog>>>,
    /// `serving`, `standby` or `starting`.
    pub state: watch::Receiver<&'static str>,
    pub limits: Limits,
    /// The id of the peer that is served.
    pub peer: Arc<str>,
    pub tasks: TaskTracker,
    pub in_flight: Arc<Semaphore>,
    pub snapshots: Arc<Snapshots>,
    pub parts: Arc<Parts>,
    /// There where the hub is served.
    pub mover: watch::Receiver<Option<Arc<Mover>>>,
    /// What is known of the last promotion.
    pub promoted: watch::Receiver<Option<v1::Promotion>>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkerService {
    pub(crate) fn in_flight() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_IN_FLIGHT))
    }

    fn home(&self) -> FaultResult<Arc<ChainHome>> {
        self.home.borrow().clone().ok_or_else(|| {
            let state = *self.state.borrow();
            Fault::retry(
                "RW5002",
                format!("the worker is not serving its peer at the moment ({state})"),
                "nothing was executed; send it again",
            )
        })
    }

    fn mover(&self) -> FaultResult<Arc<Mover>> {
        self.mover.borrow().clone().ok_or_else(|| {
            let message = format!("the worker of peer {} doesn't hold the hub, which drives moves", self.peer);
            Fault::retry("RW5002", message, "nothing was done; see `rootward peer list`")
        })
    }

    /// Takes the envelopes of one message; each is answered in its own time. Never waits: what finds no room is refused.
    fn take(&self, request: v1::ExchangeRequest, answers: &mpsc::Sender<Outgoing>) {
        let home = self.home();
        for envelope in request.envelopes {
            let correlation = envelope.correlation;
            if let Err(fault) = self.take_one(&home, correlation, envelope.execute, answers) {
                self.give_now(answers, reply_of(correlation, Err(fault)));
            }
        }
    }

    fn take_one(
        &self,
        home: &FaultResult<Arc<ChainHome>>,
        correlation: u64,
        execute: Option<v1::Execute>,
        answers: &mpsc::Sender<Outgoing>,
    ) -> FaultResult<()> {
        let permit = self.in_flight.clone().try_acquire_owned().map_err(|_| {
            Fault::overloaded(
                "RW3001",
                format!("the worker is full ({MAX_IN_FLIGHT} requests are under way)"),
                "nothing was executed; send it again a little later",
            )
        })?;
        let home = home.clone()?;
        let execute = execute.ok_or_else(|| Fault::internal("an envelope came without content"))?;
        let waits_for_more = execute.open_chain.is_some() || execute.min_reference_version.is_some() || execute.staleness.is_some();
        if !waits_for_more && !execute.is_forgotten {
            return execute::submit(&home, &self.limits, execute, (correlation, permit), answers);
        }
        let (limits, replies) = (self.limits.clone(), answers.clone());
        self.tasks.spawn(async move {
            let result = execute::execute(&home, &limits, execute).await;
            drop(permit);
            // A sender that is gone learns the answer when it asks again with the same id.
            let _ = replies.send(Outgoing::Reply(reply_of(correlation, result))).await;
        });
        Ok(())
    }

    /// What has no permit may find no room; then it waits, but not here.
    fn give_now(&self, answers: &mpsc::Sender<Outgoing>, reply: v1::Reply) {
        if let Err(mpsc::error::TrySendError::Full(reply)) = answers.try_send(Outgoing::Reply(reply)) {
            let answers = answers.clone();
            self.tasks.spawn(async move {
                let _ = answers.send(reply).await;
            });
        }
    }
}

fn reply_of(correlation: u64, result: FaultResult<reply::Result>) -> v1::Reply {
    v1::Reply { correlation, result: Some(result.unwrap_or_else(|fault| reply::Result::Failure(fault.into_wire()))) }
}

#[tonic::async_trait]
impl worker_server::Worker for WorkerService {
    type ExchangeStream = BoxStream<v1::ExchangeResponse>;
    type WatchCatalogStream = BoxStream<v1::WatchCatalogResponse>;
    type WatchPeerChainStream = BoxStream<v1::WatchChainResponse>;
    type ChangePeerChainsStream = BoxStream<v1::ChangeChainsResponse>;
    type VerifyPeerStream = BoxStream<v1::VerifyPeerResponse>;
    type SnapshotStream = BoxStream<v1::SnapshotState>;
    type QueryPeerSnapshotStream = BoxStream<v1::QueryPeerSnapshotResponse>;
    type SubscribePeerStream = BoxStream<v1::SubscribeResponse>;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeRequest>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, mut answered) = mpsc::channel::<Outgoing>(2 * MAX_IN_FLIGHT);
        let peer = self.peer.clone();
        let (outbox, outgoing) = mpsc::channel(16);
        let service = self.clone();
        self.tasks.spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                service.take(message, &answers);
            }
        });
        self.tasks.spawn(async move {
            let (mut outgoing, mut replies) = (Vec::new(), Vec::new());
            while answered.recv_many(&mut outgoing, MAX_COALESCED).await > 0 {
                replies.extend(outgoing.drain(..).map(|outgoing| match outgoing {
                    Outgoing::Finished(finished) => execute::finish(&peer, finished),
                    Outgoing::Reply(reply) => reply,
                }));
                while !replies.is_empty() {
                    if outbox.send(Ok(message(&mut replies))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn watch_catalog(&self, _: Request<v1::WatchCatalogRequest>) -> Result<Response<Self::WatchCatalogStream>, Status> {
        let stream = WatchStream::new(self.catalog.clone()).filter_map(async |catalog| catalog.map(|catalog| Ok(catalog.to_wire())));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_peer_status(&self, _: Request<v1::GetPeerStatusRequest>) -> Result<Response<v1::GetPeerStatusResponse>, Status> {
        let mut status = v1::PeerStatus {
            state: (*self.state.borrow()).to_owned(),
            resident_bytes: rootward_metrics::resident_bytes(),
            promotion: self.promoted.borrow().clone(),
            ..v1::PeerStatus::default()
        };
        status.map_version = self.catalog.borrow().as_ref().map_or(0, |catalog| catalog.version);
        let home = self.home.borrow().clone();
        if let Some(home) = home {
            let lanes = &home.serving.lanes;
            status.term = home.serving.term;
            status.lanes = u32::try_from(lanes.len()).unwrap_or_default();
            status.committed = lanes.iter().map(|lane| lane.counters().committed.load(Ordering::Relaxed)).sum();
            status.refused = lanes.iter().map(|lane| lane.counters().refused.load(Ordering::Relaxed)).sum();
            status.batches = lanes.iter().map(|lane| lane.counters().batches.load(Ordering::Relaxed)).sum();
            status.set_wise = lanes.iter().map(|lane| lane.counters().set_wise.load(Ordering::Relaxed)).sum();
            let both = |one: (u64, u64), other: (u64, u64)| (one.0 + other.0, one.1 + other.1);
            let waits = lanes.iter().map(|lane| lane.counters().queue_time.totals());
            (status.waited, status.waited_us) = waits.fold((0, 0), both);
            status.batch_units = lanes.iter().map(|lane| lane.counters().batch_units.totals().1).sum();
            status.queued = lanes.iter().map(crate::lane::LaneHandle::queued).sum();
            status.open_chains = home.drivers.count() as u64;
            status.schema_version = home.serving.schema.version;
            status.postgres_version.clone_from(&home.serving.postgres_version);
            if let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(1), home.pool.get()).await {
                status.reference_version = verify::reference_version(&client).await.unwrap_or_default();
                status.reference_source = route::current_route(&client).await.ok().flatten().unwrap_or_default();
            }
        }
        Ok(Response::new(v1::GetPeerStatusResponse { status: Some(status) }))
    }

    async fn list_peer_chains(&self, request: Request<v1::ListChainsRequest>) -> Result<Response<v1::ListChainsResponse>, Status> {
        let request = request.into_inner();
        let list = async {
            let limit = if request.limit == 0 { 100 } else { request.limit.min(MAX_LISTED) };
            self.home()?.list(&filter_of(request.filter)?, limit).await
        };
        list.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn get_peer_chain(&self, request: Request<v1::GetChainRequest>) -> Result<Response<v1::GetChainResponse>, Status> {
        let show = async { self.home()?.show(chain_id(&request.get_ref().id)?).await };
        let chain = show.await.map_err(Fault::into_status)?;
        Ok(Response::new(v1::GetChainResponse { chain: Some(chain) }))
    }

    async fn count_peer_chains(&self, request: Request<v1::CountChainsRequest>) -> Result<Response<v1::CountChainsResponse>, Status> {
        let count = async { self.home()?.count(&filter_of(request.into_inner().filter)?).await };
        count.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn watch_peer_chain(&self, request: Request<v1::WatchChainRequest>) -> Result<Response<Self::WatchPeerChainStream>, Status> {
        let watch = async { self.home()?.watch(chain_id(&request.get_ref().id)?).await };
        let told = ReceiverStream::new(watch.await.map_err(Fault::into_status)?);
        let stream = told.map(|chain| chain.map(|chain| v1::WatchChainResponse { chain: Some(chain) }).map_err(Fault::into_status));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn change_peer_chains(
        &self,
        request: Request<v1::ChangeChainsRequest>,
    ) -> Result<Response<Self::ChangePeerChainsStream>, Status> {
        let request = request.into_inner();
        let change = async {
            let (is_dry_run, per_second) = (request.dry_run, (request.per_second > 0.0).then_some(request.per_second));
            let filter = filter_of(request.filter.clone())?;
            self.home()?.change_all(bulk_of(request)?, filter, is_dry_run, per_second).await
        };
        let told = ReceiverStream::new(change.await.map_err(Fault::into_status)?);
        Ok(Response::new(Box::pin(told.map(|progress| progress.map_err(Fault::into_status)))))
    }

    async fn signal_peer_chain(&self, request: Request<v1::SignalChainRequest>) -> Result<Response<v1::SignalChainResponse>, Status> {
        let request = request.into_inner();
        let signal = async {
            let (home, id) = (self.home()?, chain_id(&request.id)?);
            let from_stored_outcome = home.signal(id, &request.step, &texts(request.payload)?).await?;
            let chain = Some(home.show_settled(id).await?);
            Ok(v1::SignalChainResponse { chain, from_stored_outcome })
        };
        signal.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn describe_sql(&self, request: Request<v1::DescribeSqlRequest>) -> Result<Response<v1::DescribeSqlResponse>, Status> {
        let describe = async { describe::describe(&self.home()?.pool, &request.get_ref().sql).await };
        describe.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn verify_peer(&self, request: Request<v1::VerifyPeerRequest>) -> Result<Response<Self::VerifyPeerStream>, Status> {
        let home = self.home().map_err(Fault::into_status)?;
        let request = request.into_inner();
        let open = match request.snapshot_id.as_str() {
            "" => None,
            id => Some(snapshot_id(id).and_then(|id| self.snapshots.find(id)).map_err(Fault::into_status)?),
        };
        let (counts, told) = mpsc::channel(1);
        self.tasks.spawn(async move {
            let at = open.as_ref().map(|open| open.cut.name.as_str());
            let counted = verify::count(&home.pool, &home.serving.schema, request.only_chains, at, &counts).await;
            if let Err(error) = counted {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                let fault = Fault::retry("RW5002", format!("{error}: {cause}"), "nothing was changed; try again");
                let _ = counts.send(Err(fault.into_status())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn snapshot(&self, request: Request<Streaming<v1::SnapshotStep>>) -> Result<Response<Self::SnapshotStream>, Status> {
        let home = self.home().map_err(Fault::into_status)?;
        let (states, told) = mpsc::channel(2);
        let coordinator = Coordinator { steps: request.into_inner(), states };
        self.tasks.spawn(take_part(self.snapshots.clone(), home, coordinator));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn query_peer_snapshot(
        &self,
        request: Request<v1::QueryPeerSnapshotRequest>,
    ) -> Result<Response<Self::QueryPeerSnapshotStream>, Status> {
        let request = request.into_inner();
        let id = snapshot_id(&request.snapshot_id).map_err(Fault::into_status)?;
        let (pages, told) = mpsc::channel(1);
        self.tasks.spawn(snapshot::read(self.snapshots.clone(), id, request.sql, pages));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn get_reference_data(
        &self,
        request: Request<v1::GetReferenceDataRequest>,
    ) -> Result<Response<v1::GetReferenceDataResponse>, Status> {
        let request = request.into_inner();
        let tell = async {
            let home = self.home()?;
            let until = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms).min(LONGEST_WAIT);
            let version = home.reference.wait(request.at_least, until).await;
            if !request.with_digests {
                return Ok(v1::GetReferenceDataResponse { version, ..v1::GetReferenceDataResponse::default() });
            }
            verify::reference_data(&home.pool, &home.serving.schema).await.map_err(away)
        };
        tell.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn subscribe_peer(&self, request: Request<v1::SubscribePeerRequest>) -> Result<Response<Self::SubscribePeerStream>, Status> {
        let home = self.home().map_err(Fault::into_status)?;
        let (events, told) = mpsc::channel(1);
        self.tasks.spawn(journal::subscribe(home, request.into_inner(), events));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn list_peer_staged(&self, request: Request<v1::ListStagedRequest>) -> Result<Response<v1::ListStagedResponse>, Status> {
        let request = request.into_inner();
        let list = async {
            let home = self.home()?;
            let client = home.pool.get().await.map_err(away)?;
            let mut all = v1::ListStagedResponse::default();
            for stage in stages(&home, &request.stage)? {
                let (rows, matched) =
                    stage::list(&client, stage, &request.state, request.limit.min(MAX_LISTED).into()).await.map_err(away)?;
                all.rows.extend(rows);
                all.matched += matched;
            }
            Ok(all)
        };
        list.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn replay_peer_staged(&self, request: Request<v1::ReplayStagedRequest>) -> Result<Response<v1::ReplayStagedResponse>, Status> {
        let request = request.into_inner();
        let replay = async {
            let home = self.home()?;
            let id = if request.id.is_empty() { None } else { Some(staged_id(&request.id)?) };
            let client = home.pool.get().await.map_err(away)?;
            let mut replayed = 0;
            for stage in stages(&home, &request.stage)? {
                replayed += stage::replay(&client, stage, id).await.map_err(away)?;
            }
            Ok(v1::ReplayStagedResponse { replayed, ..v1::ReplayStagedResponse::default() })
        };
        replay.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn drop_peer_staged(&self, request: Request<v1::DropStagedRequest>) -> Result<Response<v1::DropStagedResponse>, Status> {
        let request = request.into_inner();
        let drop = async {
            let home = self.home()?;
            let id = if request.id.is_empty() { None } else { Some(staged_id(&request.id)?) };
            let client = home.pool.get().await.map_err(away)?;
            let mut dropped = 0;
            for stage in stages(&home, &request.stage)? {
                dropped += stage::drop_refused(&client, stage, id).await.map_err(away)?;
            }
            Ok(v1::DropStagedResponse { dropped, ..v1::DropStagedResponse::default() })
        };
        drop.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn list_peer_journal_heads(
        &self,
        _: Request<v1::ListJournalHeadsRequest>,
    ) -> Result<Response<v1::ListPeerJournalHeadsResponse>, Status> {
        let list = async {
            let client = self.home()?.pool.get().await.map_err(away)?;
            let heads = journal::heads(&client).await.map_err(away)?;
            let witnessed = journal::witnessed(&client).await.map_err(away)?;
            Ok(v1::ListPeerJournalHeadsResponse { heads, witnessed })
        };
        list.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn verify_peer_journal(&self, request: Request<v1::VerifyJournalRequest>) -> Result<Response<v1::VerifyJournalResponse>, Status> {
        let verify = async { journal::verify(&self.home()?.pool, &self.peer, request.into_inner().heads).await.map_err(away) };
        verify.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn witness_journal(&self, request: Request<v1::WitnessJournalRequest>) -> Result<Response<v1::WitnessJournalResponse>, Status> {
        let request = request.into_inner();
        let keep = async {
            let client = self.home()?.pool.get().await.map_err(away)?;
            journal::keep_witnessed(&client, &request.peer, &request.heads).await.map_err(away)
        };
        keep.await.map_err(Fault::into_status)?;
        Ok(Response::new(v1::WitnessJournalResponse {}))
    }

    async fn release_peer_snapshot(
        &self,
        request: Request<v1::ReleaseSnapshotRequest>,
    ) -> Result<Response<v1::ReleaseSnapshotResponse>, Status> {
        self.snapshots.release(snapshot_id(&request.get_ref().snapshot_id).map_err(Fault::into_status)?);
        Ok(Response::new(v1::ReleaseSnapshotResponse {}))
    }

    async fn move_partitions(&self, request: Request<v1::MovePartitionsRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        let begin = async { self.mover()?.begin(request.into_inner()).await };
        begin.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn rebalance(&self, request: Request<v1::RebalanceRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        let rebalance = async { self.mover()?.rebalance(request.into_inner()).await };
        rebalance.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn change_peer(&self, request: Request<v1::ChangePeerRequest>) -> Result<Response<v1::ChangePeerResponse>, Status> {
        let change = async { self.mover()?.change_peer(request.get_ref()).await };
        change.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn list_moves(&self, request: Request<v1::ListMovesRequest>) -> Result<Response<v1::ListMovesResponse>, Status> {
        let list = async { self.mover()?.list(request.into_inner()).await };
        list.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn cancel_move(&self, request: Request<v1::CancelMoveRequest>) -> Result<Response<v1::CancelMoveResponse>, Status> {
        let cancel = async { self.mover()?.cancel(&request.get_ref().id).await };
        cancel.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn accept_move(&self, request: Request<v1::AcceptMoveRequest>) -> Result<Response<v1::AcceptMoveResponse>, Status> {
        let accept = async { self.mover()?.accept(&request.get_ref().id).await };
        accept.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn move_step(&self, request: Request<v1::MoveStepRequest>) -> Result<Response<v1::MoveStepResponse>, Status> {
        let step = async { self.parts.step(self.home()?, request.into_inner()).await };
        step.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn size_peer_partitions(
        &self,
        request: Request<v1::SizePartitionsRequest>,
    ) -> Result<Response<v1::SizePartitionsResponse>, Status> {
        let sizes = async { moves::sizes(&*self.home()?, request.get_ref().only_committed).await };
        sizes.await.map(Response::new).map_err(Fault::into_status)
    }
}

/// The stage of this name, or all of them.
fn stages<'h>(home: &'h ChainHome, name: &str) -> FaultResult<Vec<&'h rootward_schema::Stage>> {
    let all = &home.serving.schema.stages;
    let found: Vec<_> = all.iter().filter(|stage| name.is_empty() || stage.name == name).collect();
    if found.is_empty() && !name.is_empty() {
        let near = rootward_schema::nearest(name, all.iter().map(|stage| stage.name.as_str()));
        let help = near
            .map_or_else(|| "stages are declared in rootward.toml: `[stage.NAME]`".to_owned(), |near| format!("did you mean `{near}`?"));
        return Err(Fault::refused("RW2010", format!("there is no stage `{name}`"), help));
    }
    Ok(found)
}

fn staged_id(text: &str) -> FaultResult<Uuid> {
    Uuid::parse_str(text)
        .map_err(|_| Fault::refused("RW2002", format!("`{text}` is no id of a staged row"), "ids are UUIDs; see `rootward stage list`"))
}

/// The peer's database can't be asked.
fn away(error: impl std::fmt::Display) -> Fault {
    Fault::retry("RW5002", format!("the peer's database can't be asked: {error}"), "nothing was changed; try again")
}

/// A message of what is answered, as much of it as fits.
fn message(replies: &mut Vec<v1::Reply>) -> v1::ExchangeResponse {
    let mut bytes = 0;
    let fitting = replies.iter().take_while(|reply| {
        bytes += reply.encoded_len();
        bytes <= MAX_COALESCED_BYTES
    });
    let count = fitting.count().max(1);
    v1::ExchangeResponse { replies: replies.drain(..count).collect() }
}

fn chain_id(text: &str) -> FaultResult<Uuid> {
    Uuid::parse_str(text)
        .map_err(|_| Fault::refused("RW4004", format!("`{text}` is no chain's id"), "a chain's id is a UUID; see `rootward chain list`"))
}

fn snapshot_id(text: &str) -> FaultResult<Uuid> {
    Uuid::parse_str(text)
        .map_err(|_| Fault::refused("RW5026", format!("`{text}` is no snapshot's id"), "it is what `rootward snapshot take` prints"))
}

fn filter_of(filter: Option<v1::ChainFilter>) -> FaultResult<ChainFilter> {
    let filter = filter.unwrap_or_default();
    let text = |text: String| if text.is_empty() { None } else { Some(text) };
    let unknown = filter.statuses.iter().find(|name| chain::Status::from_name(name).is_none());
    if let Some(name) = unknown {
        return Err(Fault::refused("RW4004", format!("`{name}` is no status of a chain"), "see docs/chains.md for the statuses"));
    }
    Ok(ChainFilter {
        statuses: filter.statuses,
        definition: text(filter.definition),
        error: text(filter.error),
        id: text(filter.id).map(|id| chain_id(&id)).transpose()?,
        labels: filter.labels.into_iter().collect(),
        entity: text(filter.entity),
        root_key: text(filter.root_key),
        since_ms: Some(filter.since_ms).filter(|ms| *ms != 0),
        until_ms: Some(filter.until_ms).filter(|ms| *ms != 0),
    })
}

fn bulk_of(request: v1::ChangeChainsRequest) -> FaultResult<Bulk> {
    let Some(verb) = chain::verb_of(request.verb())? else { return Ok(Bulk::Purge) };
    let names_one = request.filter.as_ref().is_some_and(|filter| !filter.id.is_empty());
    let skip = if verb == chain::Event::Skip {
        if !names_one {
            return Err(Fault::refused("RW4004", "`skip` is for one chain", "name it by its id"));
        }
        Some(Skip { step: request.step, element: request.element, result: texts(request.result)? })
    } else {
        None
    };
    Ok(Bulk::Change(Change { verb, reason: request.reason, by: request.by, skip }))
}

/// Values as texts; what type they are to have nobody says.
fn texts(values: HashMap<String, v1::Value>) -> FaultResult<BTreeMap<String, Text>> {
    let text = |(name, value): (String, v1::Value)| {
        let text = rootward_proto::from_wire(&value, &Type::Text)
            .map_err(|error| Fault::refused("RW4004", format!("`{name}`: {error}"), "give it as text"))?;
        Ok((name, text))
    };
    values.into_iter().map(text).collect()
}
