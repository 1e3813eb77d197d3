//! The journals of all peers: their heads, and whether they are sound.

use std::time::Duration;

use rootward_proto::{FaultResult, v1, v1::worker_client::WorkerClient};
use tonic::transport::Channel;

use crate::service::RouterService;

/// How long one peer may take to read its journals.
const VERIFY_LIMIT: Duration = Duration::from_secs(3_600);

/// The heads of all peers, those that they told each other, and the peers that gave none.
type Heads = (Vec<v1::JournalHead>, Vec<v1::JournalHead>, Vec<String>);

impl RouterService {
    async fn heads(&self, limit: Duration) -> FaultResult<Heads> {
        let ask = |mut client: WorkerClient<Channel>| async move {
            Ok(client.list_peer_journal_heads(v1::ListJournalHeadsRequest {}).await?.into_inner())
        };
        let (answered, missing) = self.ask_all(limit, ask).await?;
        let (mut own, mut witnessed) = (Vec::new(), Vec::new());
        for (_, answer) in answered {
            own.extend(answer.heads);
            witnessed.extend(answer.witnessed);
        }
        own.sort_by_key(|head| head.partition);
        Ok((own, witnessed, missing.into_iter().map(|(peer, _)| peer.id).collect()))
    }

    /// The last row of each partition's journal.
    pub(crate) async fn journal_heads(&self, limit: Duration) -> FaultResult<v1::ListJournalHeadsResponse> {
        let (heads, _, missing_peers) = self.heads(limit).await?;
        Ok(v1::ListJournalHeadsResponse { heads, missing_peers })
    }

    /// Every peer verifies its own journals; what others were told of them, and what was kept elsewhere, is given along.
    pub(crate) async fn verify_journal(
        &self,
        request: v1::VerifyJournalRequest,
        limit: Duration,
    ) -> FaultResult<v1::VerifyJournalResponse> {
        let (_, witnessed, _) = self.heads(limit).await?;
        let heads: Vec<v1::JournalHead> = request.heads.into_iter().chain(witnessed).collect();
        let ask = |mut client: WorkerClient<Channel>| {
            let request = v1::VerifyJournalRequest { heads: heads.clone() };
            async move { Ok(client.verify_peer_journal(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(VERIFY_LIMIT, ask).await?;
        let mut all = v1::VerifyJournalResponse::default();
        for (_, answer) in answered {
            all.rows += answer.rows;
            all.partitions += answer.partitions;
            all.compared_heads += answer.compared_heads;
            all.fault_count += answer.fault_count;
            all.faults.extend(answer.faults);
        }
        all.missing_peers = missing.into_iter().map(|(peer, _)| peer.id).collect();
        Ok(all)
    }
}
