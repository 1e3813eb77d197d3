//! Subscriptions: one stream to a client, made of one to each peer that owns a wanted partition. When a peer's stream ends, because it is
//! away or a partition is another's now, its partitions are asked for again where they are, behind what was passed on. Each partition comes
//! from one stream at a time, so its order stays.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{chains::BoxStream, link, request::canonical_root, service::RouterService};

/// Messages that wait for a client; each peer holds one more. A client that doesn't read stops the peers' reading.
const WAITING: usize = 4;
/// A pause before partitions are asked for again.
const PAUSE: Duration = Duration::from_millis(100);

type Events = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// How the stream of one peer ended.
struct Ended {
    partitions: Vec<i32>,
    positions: HashMap<i32, i64>,
    fault: Option<Fault>,
}

impl RouterService {
    /// What takes effect at the roots of an entity, as it takes effect.
    ///
    /// # Errors
    /// RW2003 if there is no such entity, or the key is none of it; RW2011 if it has no journal.
    pub(crate) fn subscription(&self, mut request: v1::SubscribeRequest) -> FaultResult<BoxStream<v1::SubscribeResponse>> {
        let catalog = self.routing.catalog()?;
        let has_key = !request.root_key.is_empty();
        request.root_key = if has_key { canonical_root(&catalog, &request.entity, &request.root_key)? } else { String::new() };
        let root = catalog.schema.roots.get(&request.entity).ok_or_else(|| {
            let known = catalog.schema.roots.keys().cloned().collect::<Vec<_>>().join(", ");
            let message = format!("there is no root entity `{}`", request.entity);
            Fault::refused("RW2003", message, format!("schema `{}` has: {known}", catalog.schema.name))
        })?;
        if !root.has_journal {
            let message = format!("`{}` has no journal, which a subscription reads", request.entity);
            let help = format!("write `journal = true` below `[root.{}]` in rootward.toml, and apply a new version", request.entity);
            return Err(Fault::refused("RW2011", message, help));
        }
        let partitions = if has_key {
            let partition = catalog.schema.partition_of(root, &request.root_key);
            vec![partition.map_err(|error| Fault::internal(error.to_string()))?]
        } else {
            catalog.schema.partitions_of(root).collect()
        };
        let partitions = partitions.into_iter().filter_map(|partition| i32::try_from(partition).ok()).collect();
        let (events, told) = mpsc::channel(WAITING);
        self.routing.tasks().spawn(follow(self.clone(), request, partitions, events));
        Ok(Box::pin(ReceiverStream::new(told)))
    }
}

async fn follow(service: RouterService, request: v1::SubscribeRequest, partitions: Vec<i32>, events: Events) {
    let mut positions: HashMap<i32, i64> = request.after.iter().map(|after| (after.partition, after.sequence)).collect();
    let mut waiting = partitions;
    let mut running = JoinSet::new();
    loop {
        for (address, partitions) in by_owner(&service, &mut waiting) {
            let after = partitions
                .iter()
                .filter_map(|partition| Some(v1::JournalPosition { partition: *partition, sequence: *positions.get(partition)? }));
            let request = v1::SubscribeRequest { after: after.collect(), ..request.clone() };
            running.spawn(one_peer(address, request, partitions, events.clone()));
        }
        let ended = tokio::select! {
            () = events.closed() => return,
            () = service.drain.cancelled() => return,
            Some(ended) = running.join_next() => ended,
            // Nobody owns what is wanted at the moment.
            () = tokio::time::sleep(PAUSE), if running.is_empty() => continue,
        };
        let Ok(Ended { partitions, positions: read, fault }) = ended else { return };
        if let Some(fault) = fault {
            if fault.retry_class() == RetryClass::Refused {
                let _ = events.send(Err(fault.into_status())).await;
                return;
            }
            tracing::debug!(%fault, "a peer's events stopped; its partitions are asked for again");
        }
        positions.extend(read);
        waiting.extend(partitions);
        service.routing.refresh();
        tokio::time::sleep(PAUSE).await;
    }
}

/// The waiting partitions by their owners' addresses; those without an owner go on waiting.
fn by_owner(service: &RouterService, waiting: &mut Vec<i32>) -> BTreeMap<String, Vec<i32>> {
    let mut owners: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    let Ok(catalog) = service.routing.catalog() else { return owners };
    waiting.retain(|partition| {
        let owner = u32::try_from(*partition).ok().and_then(|partition| catalog.owner_of_partition(partition));
        let Some(owner) = owner else { return true };
        owners.entry(owner.peer.worker_address.clone()).or_default().push(*partition);
        false
    });
    owners
}

/// Passes on what one peer sends, until it ends.
async fn one_peer(address: String, request: v1::SubscribeRequest, partitions: Vec<i32>, events: Events) -> Ended {
    let mut positions = HashMap::new();
    let asked = v1::SubscribePeerRequest { subscription: Some(request), partitions: partitions.clone() };
    let passing = async {
        let mut worker = link::connect(&address).await.map_err(|why| link::unreachable(&address, &why))?;
        let from = |status: Status| Fault::from_status(&status);
        let mut stream = worker.subscribe_peer(asked).await.map_err(from)?.into_inner();
        while let Some(message) = stream.message().await.map_err(from)? {
            let read: Vec<(i32, i64)> = message.positions.iter().map(|read| (read.partition, read.sequence)).collect();
            if events.send(Ok(message)).await.is_err() {
                break;
            }
            positions.extend(read);
        }
        Ok::<(), Fault>(())
    };
    let fault = passing.await.err();
    Ended { partitions, positions, fault }
}
