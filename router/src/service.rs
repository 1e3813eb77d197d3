//! The gRPC service that applications call.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, reply, rootward_server, worker_client::WorkerClient},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::{
    Catalog, CatalogPeer, Routing,
    chains::BoxStream,
    exchange, explain, link,
    message::{call_message, chain_message, query_message},
    metrics::Counters,
    nearness::Nearness,
    snapshot::Snapshots,
    verify::{self, Feed, judge_feeds},
};

/// The longest that a peer may take to answer a question that all peers are asked.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The longest that anybody may wait, whatever the message says; beyond it the clock could overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);
/// How long a peer may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// How long `verify` may count on one peer.
const VERIFY_LIMIT: Duration = Duration::from_secs(300);
/// How long it waits for chains that are under way, at most.
const VERIFY_WAIT: Duration = Duration::from_secs(10);

/// The answers of the peers, and the peers that gave none.
pub(crate) type Asked<T> = (Vec<(CatalogPeer, T)>, Vec<(CatalogPeer, Fault)>);

/// The router's service; cheap to clone.
#[derive(Clone)]
pub(crate) struct RouterService {
    pub routing: Routing,
    pub counters: Arc<Counters>,
    pub snapshots: Arc<Snapshots>,
    pub nearness: Arc<Nearness>,
    pub default_deadline: Duration,
    /// Room for requests of all clients.
    pub in_flight: Arc<Semaphore>,
    /// How many of them one client's stream may have.
    pub max_in_flight_per_stream: usize,
    /// Cancelled when streams of clients are to end: after what is under way is answered.
    pub drain: CancellationToken,
}

impl RouterService {
    /// When the caller stops waiting: gRPC's own deadline, or the default of the settings.
    fn deadline<T>(&self, request: &Request<T>) -> Instant {
        self.deadline_in(request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout))
    }

    /// When a caller stops waiting that gave itself this long.
    pub(crate) fn deadline_in(&self, given: Option<Duration>) -> Instant {
        // A little before the caller gives up, so that it hears the honest answer rather than its own timeout.
        Instant::now() + given.map_or(self.default_deadline, |given| given.min(LONGEST_WAIT).mul_f64(0.97))
    }

    /// How long peers may take to answer a question that all are asked: the caller must still hear of the silent ones.
    fn ask_limit<T>(&self, request: &Request<T>) -> Duration {
        self.deadline(request).saturating_duration_since(Instant::now()).mul_f64(0.8).min(ASK_LIMIT)
    }

    /// A place among the requests under way.
    pub(crate) fn admit(&self) -> FaultResult<tokio::sync::OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().map_err(|_| {
            Fault::overloaded("RW3001", "the router is full (`max_in_flight`)", "nothing was executed; send it again a little later")
        })
    }

    /// Counts a request and its answer.
    async fn counted<T>(&self, work: impl Future<Output = FaultResult<T>>) -> Result<Response<T>, Status> {
        self.counters.came();
        let result = work.await;
        self.counters.answered(&result);
        result.map(Response::new).map_err(Fault::into_status)
    }

    /// A call as what its owner's worker takes.
    pub(crate) fn checked(&self, request: v1::CallRequest) -> FaultResult<Box<v1::Execute>> {
        self.routing.catalog().and_then(|catalog| call_message(&catalog, request)).map(Box::new)
    }

    pub(crate) async fn run(&self, execute: FaultResult<Box<v1::Execute>>, deadline: Instant) -> FaultResult<v1::CallResponse> {
        match self.routing.execute(execute?, deadline).await?.result {
            reply::Result::Executed(response) => Ok(response),
            _ => Err(Fault::internal("a transaction was answered with something that is no transaction's answer")),
        }
    }

    pub(crate) async fn start(&self, request: v1::StartChainRequest, deadline: Instant) -> FaultResult<v1::StartChainResponse> {
        let catalog = self.routing.catalog()?;
        let execute = chain_message(&catalog, request)?;
        match self.routing.execute(Box::new(execute), deadline).await?.result {
            reply::Result::Chain(response) => Ok(*response),
            _ => Err(Fault::internal("a chain's start was answered with something else")),
        }
    }

    /// Asks every peer that can be asked; a peer that doesn't answer is named.
    pub(crate) async fn ask_all<T, F>(&self, limit: Duration, ask: impl Fn(WorkerClient<Channel>) -> F) -> FaultResult<Asked<T>>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let catalog = self.routing.catalog()?;
        let asks = catalog.live_peers().cloned().map(|peer| {
            let ask = &ask;
            async move {
                let answer = async {
                    let client = link::connect(&peer.worker_address).await.map_err(|why| link::unreachable(&peer.worker_address, &why))?;
                    ask(client).await.map_err(|status| Fault::from_status(&status))
                };
                let answer = tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
                    Err(Fault::retry("RW5002", format!("peer {} did not answer within {limit:?}", peer.id), "see `rootward peer list`"))
                });
                (peer, answer)
            }
        });
        let (mut answered, mut missing) = (Vec::new(), Vec::new());
        for (peer, answer) in join_all(asks).await {
            match answer {
                Ok(answer) => answered.push((peer, answer)),
                Err(fault) => missing.push((peer, fault)),
            }
        }
        Ok((answered, missing))
    }

    /// The worker that holds the hub, which drives moves of partitions; a router only passes on what is asked of it.
    async fn hub(&self) -> FaultResult<WorkerClient<Channel>> {
        let catalog = self.routing.catalog()?;
        let hub = catalog.peers.iter().find(|peer| peer.is_hub);
        let hub = hub.ok_or_else(|| Fault::internal("the catalog names no hub"))?;
        link::connect(&hub.worker_address).await.map_err(|why| link::unreachable(&hub.worker_address, &why))
    }

    async fn peers(&self) -> FaultResult<v1::ListPeersResponse> {
        let catalog = self.routing.catalog()?;
        let ask = |mut client: WorkerClient<Channel>| async move {
            let status = client.get_peer_status(v1::GetPeerStatusRequest {}).await?.into_inner().status;
            // A question that the worker answers from memory: what is measured is the way.
            let began = Instant::now();
            let asked = client.get_reference_data(v1::GetReferenceDataRequest::default()).await;
            let round_trip_us = asked.map_or(0, |_| u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            Ok((status, round_trip_us))
        };
        let (mut answered, _) = self.ask_all(STATUS_LIMIT, ask).await?;
        let counts = catalog.partition_counts();
        let peers = catalog.peers.iter().map(|peer| {
            let at = answered.iter().position(|(other, _)| other.id == peer.id);
            let (status, round_trip_us) = at.map_or((None, 0), |at| answered.swap_remove(at).1);
            v1::Peer {
                id: peer.id.clone(),
                worker_address: peer.worker_address.clone(),
                capacity: peer.capacity,
                region: peer.region.clone(),
                state: peer.state.clone(),
                is_hub: peer.is_hub,
                partitions: counts.get(peer.id.as_str()).copied().unwrap_or(0),
                status,
                latitude: peer.latitude,
                longitude: peer.longitude,
                round_trip_us,
                is_relay: peer.is_relay,
            }
        });
        Ok(v1::ListPeersResponse { peers: peers.collect(), map_version: catalog.version })
    }

    /// What every peer counts at one snapshot, judged.
    async fn count_all(&self, only_chains: bool, deadline: Instant) -> FaultResult<v1::VerifyResponse> {
        let wait = deadline.saturating_duration_since(Instant::now()).mul_f64(0.5).min(VERIFY_WAIT);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let lifetime_ms = u64::try_from(VERIFY_LIMIT.as_millis()).unwrap_or(u64::MAX);
        // Peers that are missing are told like those that can't be counted.
        let taken = v1::TakeSnapshotRequest { partial: true, wait_ms, lifetime_ms };
        let snapshot_id = self.snapshots.take(&self.routing, &taken, deadline).await?.snapshot_id;
        let ask =
            |client: WorkerClient<Channel>| Feed::open(client, v1::VerifyPeerRequest { only_chains, snapshot_id: snapshot_id.clone() });
        let judged = async {
            let (mut feeds, missing) = self.ask_all(VERIFY_LIMIT, ask).await?;
            let mut counted = feeds.iter_mut().map(|(peer, feed)| (peer.clone(), std::mem::take(&mut feed.counted))).collect::<Vec<_>>();
            let chains = tokio::time::timeout(VERIFY_LIMIT, judge_feeds(&mut feeds)).await.unwrap_or_else(|_| {
                Err(Fault::retry("RW5002", format!("chains were not compared within {VERIFY_LIMIT:?}"), "see `rootward peer list`"))
            })?;
            if !only_chains {
                self.align_reference(&mut counted).await;
            }
            Ok(if only_chains {
                verify::judge_chains(&counted, &missing, chains)
            } else {
                verify::judge(&*self.routing.catalog()?, &counted, &missing, chains)
            })
        };
        let judged = judged.await;
        self.release(&v1::ReleaseSnapshotRequest { snapshot_id: snapshot_id.clone() }).await?;
        judged
    }

    async fn explain(&self, request: &v1::ExplainRequest) -> FaultResult<v1::ExplainResponse> {
        let catalog = self.routing.catalog()?;
        let found = if !request.sql.is_empty() {
            explain::of_sql(&catalog.schema, request, &self.describe(&catalog, &request.sql).await?)?
        } else if request.transaction.is_empty() {
            explain::Found { entity: request.entity.clone(), root_key: request.root_key.clone(), reasons: Vec::new() }
        } else {
            explain::of_transaction(&catalog, request)?
        };
        explain::answer(&catalog, found)
    }

    /// Asks the nearest peer that answers: every peer has the same tables.
    async fn describe(&self, catalog: &Catalog, sql: &str) -> FaultResult<v1::DescribeSqlResponse> {
        let mut last = Fault::retry("RW5002", "no peer can be asked", "see `rootward peer list`");
        let mut peers: Vec<&CatalogPeer> = catalog.live_peers().filter(|peer| !peer.is_hub).collect();
        self.nearness.sort(&mut peers);
        for peer in peers {
            let ask = async {
                let mut client = link::connect(&peer.worker_address).await.map_err(|why| link::unreachable(&peer.worker_address, &why))?;
                let answer = client.describe_sql(v1::DescribeSqlRequest { sql: sql.to_owned() }).await;
                answer.map(Response::into_inner).map_err(|status| Fault::from_status(&status))
            };
            match tokio::time::timeout(STATUS_LIMIT, ask).await {
                Ok(Err(fault)) if fault.retry_class() == v1::RetryClass::Retry => last = fault,
                Ok(answer) => return answer,
                Err(_) => {}
            }
        }
        Err(last)
    }
}

pub(crate) fn names(missing: &[(CatalogPeer, Fault)]) -> Vec<String> {
    missing.iter().map(|(peer, _)| peer.id.clone()).collect()
}

/// The value of a `grpc-timeout` header: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[tonic::async_trait]
impl rootward_server::Rootward for RouterService {
    type ExchangeStream = BoxStream<v1::ExchangeCallsResponse>;
    type WatchChainStream = BoxStream<v1::WatchChainResponse>;
    type ChangeChainsStream = BoxStream<v1::ChangeChainsResponse>;
    type QuerySnapshotStream = BoxStream<v1::QuerySnapshotResponse>;
    type SubscribeStream = BoxStream<v1::SubscribeResponse>;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeCallsRequest>>) -> Result<Response<Self::ExchangeStream>, Status> {
        self.counters.streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answers = exchange::answers(self.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn call(&self, request: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        let deadline = self.deadline(&request);
        let call = async {
            let _permit = self.admit()?;
            let request = request.into_inner();
            if request.reference_wait == i32::from(v1::ReferenceWait::All) {
                return self.run_and_show(self.checked(request), deadline).await;
            }
            self.run(self.checked(request), deadline).await
        };
        self.counted(call).await
    }

    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::CallResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let query = async {
            let _permit = self.admit()?;
            self.run(self.routing.catalog().and_then(|catalog| query_message(&catalog, request)).map(Box::new), deadline).await
        };
        self.counted(query).await
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        RouterService::explain(self, request.get_ref()).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn start_chain(&self, request: Request<v1::StartChainRequest>) -> Result<Response<v1::StartChainResponse>, Status> {
        let deadline = self.deadline(&request);
        let start = async {
            let _permit = self.admit()?;
            self.start(request.into_inner(), deadline).await
        };
        self.counted(start).await
    }

    async fn list_chains(&self, request: Request<v1::ListChainsRequest>) -> Result<Response<v1::ListChainsResponse>, Status> {
        let ask_limit = self.ask_limit(&request);
        self.list(request.into_inner(), ask_limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn count_chains(&self, request: Request<v1::CountChainsRequest>) -> Result<Response<v1::CountChainsResponse>, Status> {
        let ask_limit = self.ask_limit(&request);
        self.count(request.into_inner(), ask_limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn get_chain(&self, request: Request<v1::GetChainRequest>) -> Result<Response<v1::GetChainResponse>, Status> {
        let ask_limit = self.ask_limit(&request);
        let chain = self.get(&request.get_ref().id, ask_limit).await.map_err(Fault::into_status)?;
        Ok(Response::new(v1::GetChainResponse { chain: Some(chain) }))
    }

    async fn watch_chain(&self, request: Request<v1::WatchChainRequest>) -> Result<Response<Self::WatchChainStream>, Status> {
        let ask_limit = self.ask_limit(&request);
        self.watch(request.into_inner(), ask_limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn change_chains(&self, request: Request<v1::ChangeChainsRequest>) -> Result<Response<Self::ChangeChainsStream>, Status> {
        let ask_limit = self.ask_limit(&request);
        self.change(request.into_inner(), ask_limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn signal_chain(&self, request: Request<v1::SignalChainRequest>) -> Result<Response<v1::SignalChainResponse>, Status> {
        let ask_limit = self.ask_limit(&request);
        self.signal(request.into_inner(), ask_limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn fork_chain(&self, request: Request<v1::ForkChainRequest>) -> Result<Response<v1::ForkChainResponse>, Status> {
        let (ask_limit, deadline) = (self.ask_limit(&request), self.deadline(&request));
        self.fork(request.into_inner(), ask_limit, deadline).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn list_peers(&self, _: Request<v1::ListPeersRequest>) -> Result<Response<v1::ListPeersResponse>, Status> {
        self.peers().await.map(Response::new).map_err(Fault::into_status)
    }

    async fn list_partitions(&self, _: Request<v1::ListPartitionsRequest>) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        let catalog = self.routing.catalog().map_err(Fault::into_status)?;
        let all = if catalog.schema.regions.is_empty() { 0 } else { catalog.schema.all_partitions() };
        Ok(Response::new(v1::ListPartitionsResponse {
            regions: (0..all).map(|partition| catalog.schema.region_of(partition).to_owned()).collect(),
            owners: catalog.owners.clone(),
            epochs: catalog.epochs.clone(),
            peers: catalog.peers.iter().map(|peer| peer.id.clone()).collect(),
            map_version: catalog.version,
        }))
    }

    async fn move_partitions(&self, request: Request<v1::MovePartitionsRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.move_partitions(request.into_inner()).await
    }

    async fn rebalance(&self, request: Request<v1::RebalanceRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.rebalance(request.into_inner()).await
    }

    async fn change_peer(&self, request: Request<v1::ChangePeerRequest>) -> Result<Response<v1::ChangePeerResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.change_peer(request.into_inner()).await
    }

    async fn list_moves(&self, request: Request<v1::ListMovesRequest>) -> Result<Response<v1::ListMovesResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.list_moves(request.into_inner()).await
    }

    async fn size_partitions(&self, request: Request<v1::SizePartitionsRequest>) -> Result<Response<v1::SizePartitionsResponse>, Status> {
        let limit = self.deadline(&request).saturating_duration_since(Instant::now()).mul_f64(0.8);
        let request = request.into_inner();
        let ask = |mut client: WorkerClient<Channel>| async move { Ok(client.size_peer_partitions(request).await?.into_inner().sizes) };
        let (answered, missing) = self.ask_all(limit, ask).await.map_err(Fault::into_status)?;
        let sizes = answered.into_iter().flat_map(|(_, sizes)| sizes).collect();
        Ok(Response::new(v1::SizePartitionsResponse { sizes, missing_peers: names(&missing) }))
    }

    async fn cancel_move(&self, request: Request<v1::CancelMoveRequest>) -> Result<Response<v1::CancelMoveResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.cancel_move(request.into_inner()).await
    }

    async fn accept_move(&self, request: Request<v1::AcceptMoveRequest>) -> Result<Response<v1::AcceptMoveResponse>, Status> {
        let mut hub = self.hub().await.map_err(Fault::into_status)?;
        hub.accept_move(request.into_inner()).await
    }

    async fn get_schema(&self, _: Request<v1::GetSchemaRequest>) -> Result<Response<v1::GetSchemaResponse>, Status> {
        let schema = self.routing.catalog().map_err(Fault::into_status)?.schema.clone();
        Ok(Response::new(v1::GetSchemaResponse {
            name: schema.name.clone(),
            version: schema.version,
            definition_json: serde_json::to_string(&*schema).unwrap_or_default(),
        }))
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyResponse>, Status> {
        let deadline = self.deadline(&request);
        self.count_all(request.get_ref().only_chains, deadline).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn take_snapshot(&self, request: Request<v1::TakeSnapshotRequest>) -> Result<Response<v1::TakeSnapshotResponse>, Status> {
        let deadline = self.deadline(&request);
        let take = async {
            let _permit = self.admit()?;
            self.snapshots.take(&self.routing, request.get_ref(), deadline).await
        };
        take.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn query_snapshot(&self, request: Request<v1::QuerySnapshotRequest>) -> Result<Response<Self::QuerySnapshotStream>, Status> {
        let deadline = self.deadline(&request);
        let query = async {
            let _permit = self.admit()?;
            self.query_rows(request.into_inner(), deadline).await
        };
        query.await.map(Response::new).map_err(Fault::into_status)
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        self.subscription(request.into_inner()).map(Response::new).map_err(Fault::into_status)
    }

    async fn list_staged(&self, request: Request<v1::ListStagedRequest>) -> Result<Response<v1::ListStagedResponse>, Status> {
        let limit = self.ask_limit(&request);
        RouterService::list_staged(self, request.into_inner(), limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn replay_staged(&self, request: Request<v1::ReplayStagedRequest>) -> Result<Response<v1::ReplayStagedResponse>, Status> {
        let limit = self.ask_limit(&request);
        RouterService::replay_staged(self, request.into_inner(), limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn drop_staged(&self, request: Request<v1::DropStagedRequest>) -> Result<Response<v1::DropStagedResponse>, Status> {
        let limit = self.ask_limit(&request);
        RouterService::drop_staged(self, request.into_inner(), limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn list_journal_heads(
        &self,
        request: Request<v1::ListJournalHeadsRequest>,
    ) -> Result<Response<v1::ListJournalHeadsResponse>, Status> {
        self.journal_heads(self.ask_limit(&request)).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn verify_journal(&self, request: Request<v1::VerifyJournalRequest>) -> Result<Response<v1::VerifyJournalResponse>, Status> {
        let limit = self.ask_limit(&request);
        RouterService::verify_journal(self, request.into_inner(), limit).await.map(Response::new).map_err(Fault::into_status)
    }

    async fn release_snapshot(
        &self,
        request: Request<v1::ReleaseSnapshotRequest>,
    ) -> Result<Response<v1::ReleaseSnapshotResponse>, Status> {
        self.release(request.get_ref()).await.map_err(Fault::into_status)?;
        Ok(Response::new(v1::ReleaseSnapshotResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_has_units() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("x"), None);
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "ö", "999999999H", "18446744073709551615H"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }
}
