//! Workers that are none: they answer every transaction at once with the same answer, so that a router can be measured in front of more
//! peers than the machine has room for.

use std::{net::SocketAddr, pin::Pin};

use rootward_proto::v1::{
    self,
    worker_client::WorkerClient,
    worker_server::{Worker, WorkerServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Newer than any catalog that a cluster of minutes has.
const VERSION: i64 = 1 << 40;
/// Messages that wait in a stream.
const WAITING: usize = 16;

/// What a stand-in answers.
#[derive(Clone)]
struct StandIn {
    catalog: v1::WatchCatalogResponse,
    answer: v1::CallResponse,
}

/// Running stand-ins. Dropping them ends them.
pub(super) struct StandIns {
    /// One of them: it knows the catalog with all of them in it.
    pub address: String,
    _servers: JoinSet<Result<(), tonic::transport::Error>>,
}

impl StandIns {
    /// So many that a cluster has `peers` peers with them. They own what is above their real ones' share of the partitions; `answer` is a
    /// real worker's.
    ///
    /// # Errors
    /// If the worker at `real` does not tell the catalog, or there are no ports left.
    pub(super) async fn start(real: &str, peers: u32, answer: v1::CallResponse) -> anyhow::Result<StandIns> {
        let mut worker = WorkerClient::connect(real.to_owned()).await?;
        let known = worker.watch_catalog(v1::WatchCatalogRequest {}).await?.into_inner().next().await;
        let mut catalog = known.ok_or_else(|| anyhow::anyhow!("the worker at {real} tells no catalog"))??;
        let real_peers = u32::try_from(catalog.peers.iter().filter(|peer| !peer.is_hub).count())?;
        let mut listeners = Vec::new();
        for number in real_peers..peers {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            catalog.peers.push(v1::CatalogPeer {
                id: format!("stand-in-{number}"),
                worker_address: format!("http://{}", listener.local_addr()?),
                capacity: 1,
                state: "active".to_owned(),
                ..v1::CatalogPeer::default()
            });
            listeners.push(listener);
        }
        let first = u32::try_from(catalog.peers.len() - listeners.len())?;
        for (partition, owner) in (0..).zip(&mut catalog.owners) {
            // Every peer has as many as before, had there been so many.
            let place = partition % peers;
            if place >= real_peers {
                *owner = first + place - real_peers;
            }
        }
        catalog.version += VERSION;
        let address = catalog.peers.last().map(|peer| peer.worker_address.clone()).unwrap_or_default();
        let mut servers = JoinSet::new();
        for listener in listeners {
            let service = WorkerServer::new(StandIn { catalog: catalog.clone(), answer: answer.clone() });
            servers.spawn(Server::builder().tcp_nodelay(true).add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        }
        Ok(StandIns { address, _servers: servers })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this is a stand-in for a worker: it answers transactions and nothing else"))
}

#[tonic::async_trait]
impl Worker for StandIn {
    type ExchangeStream = Answers<v1::ExchangeResponse>;
    type WatchCatalogStream = Answers<v1::WatchCatalogResponse>;
    type WatchPeerChainStream = Answers<v1::WatchChainResponse>;
    type ChangePeerChainsStream = Answers<v1::ChangeChainsResponse>;
    type VerifyPeerStream = Answers<v1::VerifyPeerResponse>;
    type SnapshotStream = Answers<v1::SnapshotState>;
    type QueryPeerSnapshotStream = Answers<v1::QueryPeerSnapshotResponse>;
    type SubscribePeerStream = Answers<v1::SubscribeResponse>;

    async fn exchange(&self, request: Request<Streaming<v1::ExchangeRequest>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let answer = self.answer.clone();
        let replied = request.into_inner().map(move |message| {
            let reply = |envelope: v1::Envelope| v1::Reply {
                correlation: envelope.correlation,
                result: Some(v1::reply::Result::Executed(answer.clone())),
            };
            message.map(|message| v1::ExchangeResponse { replies: message.envelopes.into_iter().map(reply).collect() })
        });
        Ok(Response::new(Box::pin(replied)))
    }

    async fn watch_catalog(&self, _: Request<v1::WatchCatalogRequest>) -> Result<Response<Self::WatchCatalogStream>, Status> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let catalog = self.catalog.clone();
        // It stays open and says nothing more.
        #[allow(clippy::disallowed_methods)] // it ends when the router goes
        tokio::spawn(async move {
            if sender.send(Ok(catalog)).await.is_ok() {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_peer_status(&self, _: Request<v1::GetPeerStatusRequest>) -> Result<Response<v1::GetPeerStatusResponse>, Status> {
        none()
    }
    async fn list_peer_chains(&self, _: Request<v1::ListChainsRequest>) -> Result<Response<v1::ListChainsResponse>, Status> {
        none()
    }
    async fn get_peer_chain(&self, _: Request<v1::GetChainRequest>) -> Result<Response<v1::GetChainResponse>, Status> {
        none()
    }
    async fn count_peer_chains(&self, _: Request<v1::CountChainsRequest>) -> Result<Response<v1::CountChainsResponse>, Status> {
        none()
    }
    async fn watch_peer_chain(&self, _: Request<v1::WatchChainRequest>) -> Result<Response<Self::WatchPeerChainStream>, Status> {
        none()
    }
    async fn change_peer_chains(&self, _: Request<v1::ChangeChainsRequest>) -> Result<Response<Self::ChangePeerChainsStream>, Status> {
        none()
    }
    async fn signal_peer_chain(&self, _: Request<v1::SignalChainRequest>) -> Result<Response<v1::SignalChainResponse>, Status> {
        none()
    }
    async fn describe_sql(&self, _: Request<v1::DescribeSqlRequest>) -> Result<Response<v1::DescribeSqlResponse>, Status> {
        none()
    }
    async fn verify_peer(&self, _: Request<v1::VerifyPeerRequest>) -> Result<Response<Self::VerifyPeerStream>, Status> {
        none()
    }
    async fn snapshot(&self, _: Request<Streaming<v1::SnapshotStep>>) -> Result<Response<Self::SnapshotStream>, Status> {
        none()
    }
    async fn query_peer_snapshot(
        &self,
        _: Request<v1::QueryPeerSnapshotRequest>,
    ) -> Result<Response<Self::QueryPeerSnapshotStream>, Status> {
        none()
    }
    async fn release_peer_snapshot(&self, _: Request<v1::ReleaseSnapshotRequest>) -> Result<Response<v1::ReleaseSnapshotResponse>, Status> {
        none()
    }
    async fn get_reference_data(&self, _: Request<v1::GetReferenceDataRequest>) -> Result<Response<v1::GetReferenceDataResponse>, Status> {
        none()
    }
    async fn list_peer_staged(&self, _: Request<v1::ListStagedRequest>) -> Result<Response<v1::ListStagedResponse>, Status> {
        none()
    }
    async fn replay_peer_staged(&self, _: Request<v1::ReplayStagedRequest>) -> Result<Response<v1::ReplayStagedResponse>, Status> {
        none()
    }
    async fn drop_peer_staged(&self, _: Request<v1::DropStagedRequest>) -> Result<Response<v1::DropStagedResponse>, Status> {
        none()
    }
    async fn list_peer_journal_heads(
        &self,
        _: Request<v1::ListJournalHeadsRequest>,
    ) -> Result<Response<v1::ListPeerJournalHeadsResponse>, Status> {
        none()
    }
    async fn verify_peer_journal(&self, _: Request<v1::VerifyJournalRequest>) -> Result<Response<v1::VerifyJournalResponse>, Status> {
        none()
    }
    async fn witness_journal(&self, _: Request<v1::WitnessJournalRequest>) -> Result<Response<v1::WitnessJournalResponse>, Status> {
        none()
    }
    async fn move_partitions(&self, _: Request<v1::MovePartitionsRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        none()
    }
    async fn rebalance(&self, _: Request<v1::RebalanceRequest>) -> Result<Response<v1::MovePartitionsResponse>, Status> {
        none()
    }
    async fn change_peer(&self, _: Request<v1::ChangePeerRequest>) -> Result<Response<v1::ChangePeerResponse>, Status> {
        none()
    }
    async fn list_moves(&self, _: Request<v1::ListMovesRequest>) -> Result<Response<v1::ListMovesResponse>, Status> {
        none()
    }
    async fn cancel_move(&self, _: Request<v1::CancelMoveRequest>) -> Result<Response<v1::CancelMoveResponse>, Status> {
        none()
    }
    async fn accept_move(&self, _: Request<v1::AcceptMoveRequest>) -> Result<Response<v1::AcceptMoveResponse>, Status> {
        none()
    }
    async fn move_step(&self, _: Request<v1::MoveStepRequest>) -> Result<Response<v1::MoveStepResponse>, Status> {
        none()
    }
    async fn size_peer_partitions(&self, _: Request<v1::SizePartitionsRequest>) -> Result<Response<v1::SizePartitionsResponse>, Status> {
        none()
    }
    async fn subscribe_peer(&self, _: Request<v1::SubscribePeerRequest>) -> Result<Response<Self::SubscribePeerStream>, Status> {
        none()
    }
}
