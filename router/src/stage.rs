//! Staged rows of all peers: which there are, and sending refused ones anew or dropping them.

use std::time::Duration;

use rootward_proto::{Fault, FaultResult, v1, v1::RetryClass, v1::worker_client::WorkerClient};
use tonic::transport::Channel;

use crate::{CatalogPeer, service::RouterService};

/// How many rows a list has if nobody says.
const LISTED: u32 = 100;

impl RouterService {
    /// Staged rows of all peers, oldest first.
    pub(crate) async fn list_staged(&self, mut request: v1::ListStagedRequest, limit: Duration) -> FaultResult<v1::ListStagedResponse> {
        request.limit = if request.limit == 0 { LISTED } else { request.limit };
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.list_peer_staged(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(limit, ask).await?;
        refusal_of_all(answered.is_empty(), &missing)?;
        let mut all = v1::ListStagedResponse::default();
        for (peer, answer) in answered {
            all.matched += answer.matched;
            all.rows.extend(answer.rows.into_iter().map(|row| v1::StagedRow { peer: peer.id.clone(), ..row }));
        }
        all.rows.sort_by(|one, other| (&one.staged_at, &one.id).cmp(&(&other.staged_at, &other.id)));
        all.rows.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
        all.missing_peers = missing.into_iter().map(|(peer, _)| peer.id).collect();
        Ok(all)
    }

    /// Has refused rows of all peers sent anew.
    pub(crate) async fn replay_staged(&self, request: v1::ReplayStagedRequest, limit: Duration) -> FaultResult<v1::ReplayStagedResponse> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.replay_peer_staged(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(limit, ask).await?;
        refusal_of_all(answered.is_empty(), &missing)?;
        Ok(v1::ReplayStagedResponse {
            replayed: answered.iter().map(|(_, answer)| answer.replayed).sum(),
            missing_peers: missing.into_iter().map(|(peer, _)| peer.id).collect(),
        })
    }

    /// Has refused rows of all peers deleted.
    pub(crate) async fn drop_staged(&self, request: v1::DropStagedRequest, limit: Duration) -> FaultResult<v1::DropStagedResponse> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.drop_peer_staged(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(limit, ask).await?;
        refusal_of_all(answered.is_empty(), &missing)?;
        Ok(v1::DropStagedResponse {
            dropped: answered.iter().map(|(_, answer)| answer.dropped).sum(),
            missing_peers: missing.into_iter().map(|(peer, _)| peer.id).collect(),
        })
    }
}

/// A question that no peer takes is refused; peers that are away are named in the answer.
fn refusal_of_all(is_unanswered: bool, missing: &[(CatalogPeer, Fault)]) -> FaultResult<()> {
    let refusal = missing.iter().map(|(_, fault)| fault).find(|fault| fault.retry_class() == RetryClass::Refused);
    refusal.filter(|_| is_unanswered).map_or(Ok(()), |fault| Err(fault.clone()))
}
