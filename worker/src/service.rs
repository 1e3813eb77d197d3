//! The gRPC service of a worker.

use std::{pin::Pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, reply, worker_server},
};
use rootward_router::Catalog;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::{
    chain::{ChainFilter, ChainHome},
    describe,
    execute::{self, Limits},
    verify,
};

/// How many answers go out in one message.
const MAX_COALESCED: usize = 512;
/// How many bytes go out in one message, unless one answer alone is larger.
const MAX_COALESCED_BYTES: usize = 16 << 20;
/// How many requests may be under way in this process; more are refused at once.
const MAX_IN_FLIGHT: usize = 16_384;
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
    pub tasks: TaskTracker,
    pub in_flight: Arc<Semaphore>,
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

    async fn execute(&self, message: Option<v1::Execute>) -> FaultResult<reply::Result> {
        let message = message.ok_or_else(|| Fault::internal("an envelope came without content"))?;
        execute::execute(&self.home()?, &self.limits, message).await
    }

    /// Takes the envelopes of one message; each is answered in its own time. Never waits: what finds no room is refused.
    fn take(&self, request: v1::ExchangeRequest, answers: &mpsc::Sender<v1::Reply>) {
        for envelope in request.envelopes {
            let correlation = envelope.correlation;
            let service = self.clone();
            let answers = answers.clone();
            let permit = self.in_flight.clone().try_acquire_owned();
            self.tasks.spawn(async move {
                let result = match permit {
                    Ok(_permit) => service.execute(envelope.execute).await,
                    Err(_) => Err(Fault::retry(
                        "RW3001",
                        format!("the worker is full ({MAX_IN_FLIGHT} requests are under way)"),
                        "nothing was executed; send it again a little later",
                    )),
                };
                let result = result.unwrap_or_else(|fault| reply::Result::Failure(fault.into_wire()));
                // A sender that is gone learns the answer when it asks again with the same id.
                let _ = answers.send(v1::Reply { correlation, result: Some(result) }).await;
            });
        }
    }
}

#[tonic::async_trait]
impl worker_server::Worker for WorkerService {
    type ExchangeStream = BoxStream<v1::ExchangeResponse>;
    type WatchCatalogStream = BoxStream<v1::WatchCatalogResponse>;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeRequest>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, mut answered) = mpsc::channel::<v1::Reply>(MAX_IN_FLIGHT);
        let (outbox, outgoing) = mpsc::channel(16);
        let service = self.clone();
        self.tasks.spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                service.take(message, &answers);
            }
        });
        self.tasks.spawn(async move {
            let mut replies = Vec::new();
            while answered.recv_many(&mut replies, MAX_COALESCED).await > 0 {
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
        let mut status =
            v1::PeerStatus { state: (*self.state.borrow()).to_owned(), resident_bytes: resident_bytes(), ..v1::PeerStatus::default() };
        status.map_version = self.catalog.borrow().as_ref().map_or(0, |catalog| catalog.version);
        let home = self.home.borrow().clone();
        if let Some(home) = home {
            let lanes = &home.serving.lanes;
            status.term = home.serving.term;
            status.lanes = u32::try_from(lanes.len()).unwrap_or_default();
            status.committed = lanes.iter().map(|lane| lane.counters().committed.load(Ordering::Relaxed)).sum();
            status.refused = lanes.iter().map(|lane| lane.counters().refused.load(Ordering::Relaxed)).sum();
            status.batches = lanes.iter().map(|lane| lane.counters().batches.load(Ordering::Relaxed)).sum();
            status.queued = lanes.iter().map(crate::lane::LaneHandle::queued).sum();
            status.open_chains = home.drivers.count() as u64;
            status.schema_version = home.serving.schema.version;
            status.postgres_version.clone_from(&home.serving.postgres_version);
            if let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(1), home.pool.get()).await {
                status.reference_version = verify::reference_version(&client).await.unwrap_or_default();
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

    async fn replay_peer_chains(&self, request: Request<v1::ReplayChainsRequest>) -> Result<Response<v1::ReplayChainsResponse>, Status> {
        let request = request.into_inner();
        let replay = async { self.home()?.replay(filter_of(request.filter)?, &request.reason, request.dry_run).await };
        replay.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn compensate_peer_chain(
        &self,
        request: Request<v1::CompensateChainRequest>,
    ) -> Result<Response<v1::CompensateChainResponse>, Status> {
        let request = request.into_inner();
        let compensate = async { self.home()?.compensate(chain_id(&request.id)?, &request.reason).await };
        let chain = compensate.await.map_err(Fault::into_status)?;
        Ok(Response::new(v1::CompensateChainResponse { chain: Some(chain) }))
    }

    async fn describe_sql(&self, request: Request<v1::DescribeSqlRequest>) -> Result<Response<v1::DescribeSqlResponse>, Status> {
        let describe = async { describe::describe(&self.home()?.pool, &request.get_ref().sql).await };
        describe.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn verify_peer(&self, _: Request<v1::VerifyPeerRequest>) -> Result<Response<v1::VerifyPeerResponse>, Status> {
        let home = self.home().map_err(Fault::into_status)?;
        let counted = verify::count(&home.pool, &home.serving.schema).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Fault::retry("RW5002", format!("{error}: {cause}"), "nothing was changed; try again").into_status()
        })?;
        Ok(Response::new(counted))
    }
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

fn filter_of(filter: Option<v1::ChainFilter>) -> FaultResult<ChainFilter> {
    let filter = filter.unwrap_or_default();
    let text = |text: String| if text.is_empty() { None } else { Some(text) };
    Ok(ChainFilter {
        statuses: filter.statuses,
        definition: text(filter.definition),
        error: text(filter.error),
        id: text(filter.id).map(|id| chain_id(&id)).transpose()?,
    })
}

/// The memory that this process holds, from the kernel; 0 where there is no /proc.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
