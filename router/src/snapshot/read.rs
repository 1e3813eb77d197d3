//! Queries on a snapshot: the same statement at every peer that is in it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::{Gather, gather};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, Streaming};

use super::{
    combine::combine,
    progress::{Progress, with_progress},
};
use crate::{Catalog, CatalogPeer, chains::BoxStream, link, service::RouterService};

/// How long a peer may take to let go of a snapshot.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// One peer's rows, in their order. Pages that nobody takes wait at the peer.
pub(crate) struct PeerRows {
    /// Whose they are.
    pub peer: String,
    /// The columns, the first rows, and which peers are in the snapshot.
    pub first: v1::QueryPeerSnapshotResponse,
    /// The pages behind it.
    rest: Streaming<v1::QueryPeerSnapshotResponse>,
    progress: Arc<Progress>,
}

impl PeerRows {
    /// The next page; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<v1::QueryPeerSnapshotResponse>, Status> {
        let page = self.rest.message().await?;
        match &page {
            Some(page) => self.progress.read(page.rows.len()),
            None => self.progress.done(),
        }
        Ok(page)
    }
}

/// A query that runs on all peers of a snapshot.
pub(crate) struct OpenedRows {
    pub peers: Vec<PeerRows>,
    /// Peers that are not in the snapshot.
    pub missing_peers: Vec<String>,
}

impl RouterService {
    /// Runs a statement at every peer of a snapshot, or at one. Each has answered with its columns when this returns, so that
    /// what is wrong with the statement is known.
    ///
    /// # Errors
    /// RW5024 if a peer has lost its part, RW5025 if the statement is refused, RW5007 if the peer that is named is none.
    async fn open_rows(&self, request: &v1::QuerySnapshotRequest, deadline: Instant, progress: &Arc<Progress>) -> FaultResult<OpenedRows> {
        let catalog = self.routing.catalog()?;
        let wanted = |peer: &&CatalogPeer| request.peer.is_empty() || peer.id == request.peer;
        let asked: Vec<CatalogPeer> = catalog.live_peers().filter(wanted).cloned().collect();
        if asked.is_empty() {
            return Err(Fault::new(
                "RW5007",
                v1::RetryClass::NotFound,
                format!("there is no peer `{}`", request.peer),
                "see `rootward peer list`",
            ));
        }
        progress.asked(asked.len());
        let answers = join_all(asked.iter().map(|peer| open(peer, request, deadline, progress))).await;
        let (mut peers, mut failed) = (Vec::new(), Vec::new());
        for (peer, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(rows) => peers.push(rows),
                Err(fault) => failed.push((peer, fault)),
            }
        }
        let members = peers.first().map(|rows| rows.first.peers.clone()).unwrap_or_default();
        // Who was missing when it was taken has nothing to say; who was there and fails makes the whole fail.
        let is_member = |peer: &CatalogPeer| members.is_empty() || members.contains(&peer.id);
        if let Some((_, fault)) = failed.iter().find(|(peer, _)| is_member(peer)) {
            return Err(fault.clone());
        }
        let is_there = |id: &String| peers.iter().any(|rows| rows.peer == *id);
        if let Some(lost) = members.iter().find(|id| request.peer.is_empty() && !is_there(id)) {
            let message = format!("peer {lost} is in snapshot {} and not in the catalog any more", request.snapshot_id);
            return Err(Fault::new("RW5024", v1::RetryClass::NotFound, message, "take another one with `rootward snapshot take`"));
        }
        Ok(OpenedRows { missing_peers: failed.into_iter().map(|(peer, _)| peer.id.clone()).collect(), peers })
    }

    /// The answer to a query: the one result over all peers, or each peer's by itself if that is asked for. If it shall say how
    /// far it is, it begins before anything is known of the statement.
    ///
    /// # Errors
    /// RW2020 to RW2025 if the results can't be put together, else as [`RouterService::open_rows`].
    pub(crate) async fn query_rows(
        &self,
        request: v1::QuerySnapshotRequest,
        deadline: Instant,
    ) -> FaultResult<BoxStream<v1::QuerySnapshotResponse>> {
        let progress = Arc::new(Progress::default());
        if request.progress_ms == 0 {
            return self.result_of(&request, deadline, &progress).await;
        }
        let every = Duration::from_millis(request.progress_ms.into());
        let (service, counted) = (self.clone(), progress.clone());
        let result = async move { service.result_of(&request, deadline, &counted).await };
        Ok(with_progress(Box::pin(result), progress, every))
    }

    async fn result_of(
        &self,
        request: &v1::QuerySnapshotRequest,
        deadline: Instant,
        progress: &Arc<Progress>,
    ) -> FaultResult<BoxStream<v1::QuerySnapshotResponse>> {
        if request.per_peer || !request.peer.is_empty() {
            return Ok(one_after_the_other(self.open_rows(request, deadline, progress).await?));
        }
        let catalog = self.routing.catalog()?;
        let judged = gather(&catalog.schema, &request.sql).map_err(|why| Fault::refused(why.code, why.message, why.help))?;
        let opened = match judged {
            Gather::OnePeer => self.open_one(&catalog, request, deadline, progress).await?,
            Gather::Rows { .. } | Gather::Totals(_) => self.open_rows(request, deadline, progress).await?,
        };
        combine(judged, opened).await
    }

    /// At one peer of the snapshot, whichever it is: the hub, if it is there, where reference data are newest; or the nearest, if that is wanted.
    async fn open_one(
        &self,
        catalog: &Catalog,
        request: &v1::QuerySnapshotRequest,
        deadline: Instant,
        progress: &Arc<Progress>,
    ) -> FaultResult<OpenedRows> {
        progress.asked(1);
        let mut peers: Vec<&CatalogPeer> = catalog.live_peers().collect();
        if request.nearest {
            self.nearness.sort(&mut peers);
        } else {
            peers.sort_by_key(|peer| !peer.is_hub);
        }
        let mut last = Fault::retry("RW5002", "no peer is known", "see `rootward peer list`");
        for peer in peers {
            match open(peer, request, deadline, progress).await {
                Ok(rows) => return Ok(OpenedRows { peers: vec![rows], missing_peers: Vec::new() }),
                Err(fault) if fault.retry_class() == v1::RetryClass::Refused => return Err(fault),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// Has every peer let go of a snapshot. Who doesn't answer lets go when its part expires.
    pub(crate) async fn release(&self, request: &v1::ReleaseSnapshotRequest) -> FaultResult<()> {
        uuid::Uuid::parse_str(&request.snapshot_id).map_err(|_| {
            let message = format!("`{}` is no snapshot's id", request.snapshot_id);
            Fault::refused("RW5026", message, "it is what `rootward snapshot take` prints")
        })?;
        let ask = |mut client: v1::worker_client::WorkerClient<tonic::transport::Channel>| {
            let request = request.clone();
            async move { client.release_peer_snapshot(request).await.map(|_| ()) }
        };
        self.ask_all(RELEASE_LIMIT, ask).await.map(|_| ())
    }
}

async fn open(
    peer: &CatalogPeer,
    request: &v1::QuerySnapshotRequest,
    deadline: Instant,
    progress: &Arc<Progress>,
) -> FaultResult<PeerRows> {
    let from = |status: tonic::Status| Fault::from_status(&status);
    let opened = async {
        let connected = timeout(RELEASE_LIMIT, link::connect(&peer.worker_address)).await;
        let mut client = connected
            .unwrap_or_else(|_| Err("no connection in time".to_owned()))
            .map_err(|why| link::unreachable(&peer.worker_address, &why))?;
        let asked = v1::QueryPeerSnapshotRequest { snapshot_id: request.snapshot_id.clone(), sql: request.sql.clone() };
        let mut rest = client.query_peer_snapshot(asked).await.map_err(from)?.into_inner();
        let first = rest.message().await.map_err(from)?.ok_or_else(|| Fault::internal("a query was answered with nothing"))?;
        progress.begun(first.rows.len());
        Ok(PeerRows { peer: peer.id.clone(), first, rest, progress: progress.clone() })
    };
    timeout_at(deadline, opened).await.unwrap_or_else(|_| {
        let message = format!("peer {} did not answer before the deadline", peer.id);
        Err(Fault::retry("RW5002", message, "allow more time with --timeout, or see `rootward peer list`"))
    })
}

fn one_after_the_other(opened: OpenedRows) -> BoxStream<v1::QuerySnapshotResponse> {
    let OpenedRows { peers, missing_peers } = opened;
    let mut missing = Some(missing_peers);
    let pages = peers.into_iter().map(move |rows| {
        let mut rows = rows;
        let first = std::mem::take(&mut rows.first);
        let head = v1::QuerySnapshotResponse {
            columns: first.columns,
            rows: first.rows,
            peer: rows.peer.clone(),
            missing_peers: missing.take().unwrap_or_default(),
            progress: None,
        };
        let tail = stream::try_unfold(rows, |mut rows| async move {
            let answer = |page: v1::QueryPeerSnapshotResponse, peer: &str| v1::QuerySnapshotResponse {
                rows: page.rows,
                peer: peer.to_owned(),
                ..v1::QuerySnapshotResponse::default()
            };
            Ok(rows.next().await?.map(|page| (answer(page, &rows.peer), rows)))
        });
        stream::once(async { Ok(head) }).chain(tail)
    });
    Box::pin(stream::iter(pages.collect::<Vec<_>>()).flatten())
}
