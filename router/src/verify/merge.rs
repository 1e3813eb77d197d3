//! What all peers know of chains, merged: each tells in the order of the chains' ids, so that only the page at hand of each is held.

use std::collections::VecDeque;

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, worker_client::WorkerClient},
};
use tonic::{Status, Streaming, transport::Channel};

use super::ChainJudge;
use crate::CatalogPeer;

/// What a peer has counted, and what it goes on to tell of chains.
pub(crate) struct Feed {
    pub counted: v1::VerifyPeerResponse,
    pages: Streaming<v1::VerifyPeerResponse>,
    page: VecDeque<v1::ChainEvidence>,
}

impl Feed {
    pub(crate) async fn open(mut client: WorkerClient<Channel>, request: v1::VerifyPeerRequest) -> Result<Feed, Status> {
        let mut pages = client.verify_peer(request).await?.into_inner();
        let counted = pages.message().await?.ok_or_else(|| Status::internal("a peer counted nothing"))?;
        Ok(Feed { counted, pages, page: VecDeque::new() })
    }

    /// The next chain's id; none at the end.
    async fn next_id(&mut self) -> Result<Option<&[u8]>, Status> {
        while self.page.is_empty() {
            match self.pages.message().await? {
                Some(page) => self.page = page.evidence.into(),
                None => return Ok(None),
            }
        }
        Ok(self.page.front().map(|evidence| evidence.id.as_slice()))
    }
}

/// Judges the chains of all peers, one after the other.
///
/// # Errors
/// RW5002 with the peer that stopped telling.
pub(crate) async fn judge_feeds(feeds: &mut [(CatalogPeer, Feed)]) -> FaultResult<ChainJudge> {
    let mut judge = ChainJudge::default();
    loop {
        let mut least: Option<Vec<u8>> = None;
        for (peer, feed) in feeds.iter_mut() {
            let next = feed.next_id().await.map_err(|status| {
                let fault = Fault::from_status(&status);
                Fault::retry("RW5002", format!("peer {} stopped counting: {}", peer.id, fault.message()), "nothing was changed; try again")
            })?;
            if let Some(id) = next
                && least.as_deref().is_none_or(|least| id < least)
            {
                least = Some(id.to_vec());
            }
        }
        let Some(id) = least else { return Ok(judge) };
        let of_this = feeds.iter_mut().filter_map(|(_, feed)| match feed.page.front() {
            Some(evidence) if evidence.id == id => feed.page.pop_front(),
            _ => None,
        });
        judge.judge(&of_this.collect::<Vec<_>>());
    }
}
