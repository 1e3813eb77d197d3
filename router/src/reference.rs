//! Reference data over all peers: whether each shows a write.

use std::time::Duration;

use futures_util::future::join_all;
use rootward_proto::{FaultResult, v1, v1::worker_client::WorkerClient};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{CatalogPeer, link, service::RouterService};

/// How long `verify` waits for copies of the reference data that are behind.
const ALIGN_LIMIT: Duration = Duration::from_secs(5);
/// What is left of the deadline for the answer's own way back.
const SLACK: Duration = Duration::from_millis(50);

impl RouterService {
    /// Runs a write of reference data, and waits until every peer shows it or the deadline is near. What doesn't show it by then, or
    /// can't be asked, is named; the write stays.
    ///
    /// Cancel safety: dropping the future gives up the answer, not the write.
    ///
    /// # Errors
    /// As of any call; once the write is committed there are none.
    pub(crate) async fn run_and_show(&self, execute: FaultResult<Box<v1::Execute>>, deadline: Instant) -> FaultResult<v1::CallResponse> {
        let mut response = self.run(execute, deadline).await?;
        response.lagging_peers = self.lagging(response.reference_version, deadline).await;
        Ok(response)
    }

    /// Counts the reference data again, of the hub and of peers whose snapshot had another version of them, until each peer was
    /// counted at the hub's. A peer that is still behind when the time is over keeps its count, whose version tells.
    pub(crate) async fn align_reference(&self, counted: &mut [(CatalogPeer, v1::VerifyPeerResponse)]) {
        let until = Instant::now() + ALIGN_LIMIT;
        while let Some(hub) = counted.iter().position(|(peer, _)| peer.is_hub) {
            let newest = counted.iter().map(|(_, part)| part.reference_version).max().unwrap_or_default();
            let behind: Vec<usize> = (0..counted.len()).filter(|at| counted[*at].1.reference_version != newest).collect();
            let left = until.saturating_duration_since(Instant::now());
            if behind.is_empty() || left.is_zero() {
                return;
            }
            let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let asks = behind.into_iter().map(|at| {
                let address = counted[at].0.worker_address.clone();
                let request = v1::GetReferenceDataRequest { at_least: newest, wait_ms, with_digests: true };
                async move {
                    let asked = async { link::connect(&address).await.ok()?.get_reference_data(request).await.ok() };
                    (at, tokio::time::timeout(left + SLACK, asked).await.ok().flatten())
                }
            });
            let mut is_any_newer = false;
            for (at, answer) in join_all(asks).await {
                let Some(answer) = answer.map(tonic::Response::into_inner) else { continue };
                is_any_newer |= answer.version > counted[at].1.reference_version;
                counted[at].1.reference_version = answer.version;
                counted[at].1.reference_digests = answer.digests;
            }
            if !is_any_newer && counted[hub].1.reference_version == newest {
                return;
            }
        }
    }

    /// The peers that don't show a version before the deadline.
    async fn lagging(&self, version: i64, deadline: Instant) -> Vec<v1::LaggingPeer> {
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(SLACK);
        let wait_ms = u64::try_from(left.mul_f64(0.9).as_millis()).unwrap_or(u64::MAX);
        let ask = |mut client: WorkerClient<Channel>| async move {
            let request = v1::GetReferenceDataRequest { at_least: version, wait_ms, with_digests: false };
            Ok(client.get_reference_data(request).await?.into_inner().version)
        };
        let Ok((answered, missing)) = self.ask_all(left, ask).await else { return Vec::new() };
        let behind = answered.into_iter().filter(|(_, shown)| *shown < version).map(|(peer, shown)| v1::LaggingPeer {
            peer: peer.id,
            reference_version: shown,
            reason: "it was behind when the time was over".to_owned(),
        });
        let silent = missing.into_iter().map(|(peer, fault)| v1::LaggingPeer {
            peer: peer.id,
            reference_version: -1,
            reason: fault.message().to_owned(),
        });
        behind.chain(silent).collect()
    }
}
