//! Asks the workers of other peers for steps of a move.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, MoveStepKind, worker_client::WorkerClient},
};
use rootward_router::{Catalog, connect_worker};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::transport::Channel;

use super::store::Move;

/// How long a step may take; the copy of a slot waits for transactions that are writing.
const STEP_LIMIT: Duration = Duration::from_secs(90);

/// Numbers the steps of one term of the hub.
pub(super) struct Asker {
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    pub term: i64,
    number: AtomicU64,
    /// By address: while partitions are held nobody waits for connections.
    workers: Mutex<HashMap<String, WorkerClient<Channel>>>,
}

impl Asker {
    pub(super) fn new(catalog: watch::Receiver<Option<Arc<Catalog>>>, term: i64) -> Asker {
        Asker { catalog, term, number: AtomicU64::new(1), workers: Mutex::default() }
    }

    /// Asks a peer's worker, and waits for the answer.
    ///
    /// # Errors
    /// Why there is none, or that the step failed; it may have been done.
    pub(super) async fn ask(&self, peer: &str, one: &Move, kind: MoveStepKind) -> FaultResult<v1::MoveStepResponse> {
        self.ask_with(peer, one, kind, v1::MoveStepRequest::default()).await
    }

    /// The same, with what else the step needs.
    pub(super) async fn ask_with(
        &self,
        peer: &str,
        one: &Move,
        kind: MoveStepKind,
        more: v1::MoveStepRequest,
    ) -> FaultResult<v1::MoveStepResponse> {
        let request = v1::MoveStepRequest {
            move_id: one.id.as_bytes().to_vec(),
            kind: kind.into(),
            mover_term: self.term,
            number: self.number.fetch_add(1, Ordering::Relaxed),
            partitions: one.partitions.clone(),
            source: one.source.clone(),
            ..more
        };
        let (address, mut worker) = self.worker(peer).await?;
        let began = Instant::now();
        let answer = timeout(STEP_LIMIT, worker.move_step(request)).await;
        tracing::debug!(r#move = %one.id, peer, step = kind.as_str_name(), us = began.elapsed().as_micros(), "a step");
        let answer = answer.map_err(|_| away(peer, "no answer"));
        let answer = answer.and_then(|answer| {
            answer.map(tonic::Response::into_inner).map_err(|status| {
                let fault = Fault::from_status(&status);
                if fault.code() == "RW5042" { fault } else { away(peer, fault.message()) }
            })
        });
        if answer.is_err() {
            self.lock().remove(&address);
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, WorkerClient<Channel>>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a peer's partitions hold.
    pub(super) async fn sizes(&self, peer: &str) -> FaultResult<Vec<v1::PartitionSize>> {
        let (_, mut worker) = self.worker(peer).await?;
        let sizes = worker.size_peer_partitions(v1::SizePartitionsRequest::default()).await;
        sizes.map(|answer| answer.into_inner().sizes).map_err(|status| Fault::from_status(&status))
    }

    /// A peer's worker, and its address.
    async fn worker(&self, peer: &str) -> FaultResult<(String, WorkerClient<Channel>)> {
        let catalog = self.catalog.borrow().clone();
        let known = catalog.as_ref().and_then(|catalog| catalog.peers.iter().find(|known| known.id == peer));
        let address = known.map(|known| known.worker_address.clone()).ok_or_else(|| away(peer, "the catalog doesn't name it"))?;
        if let Some(worker) = self.lock().get(&address).cloned() {
            return Ok((address, worker));
        }
        let worker = connect_worker(&address).await.map_err(|why| away(peer, &why))?;
        self.lock().insert(address.clone(), worker.clone());
        Ok((address, worker))
    }
}

fn away(peer: &str, why: &str) -> Fault {
    Fault::retry("RW5042", format!("peer {peer}: {why}"), "it is tried again; see `rootward peer list`")
}
