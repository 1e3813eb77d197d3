//! Tells another peer how far this one's journals go, so that a tail can't be cut unnoticed by whoever can write to one database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rootward_proto::v1;

use super::store;
use crate::chain::ChainHome;

/// A pause between two tellings.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the other peer may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Tells until the term ends; only what has changed since it was told last.
pub(crate) async fn tell_heads(home: Arc<ChainHome>) {
    if !home.serving.schema.roots.values().any(|root| root.has_journal) {
        return;
    }
    let mut told: (String, HashMap<i32, i64>) = Default::default();
    loop {
        tokio::select! {
            () = home.serving.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Some((peer, address)) = next_peer(&home) else { continue };
        if told.0 != peer {
            told = (peer, HashMap::new());
        }
        if let Err(why) = tell(&home, &address, &mut told.1).await {
            tracing::debug!(why, peer = told.0, "the heads of the journals were not told");
        }
    }
}

/// The peer behind this one in the order of ids, so that each has another's heads; none if there is no other.
fn next_peer(home: &ChainHome) -> Option<(String, String)> {
    let catalog = home.routing.catalog().ok()?;
    let mut others: Vec<_> = catalog.live_peers().filter(|peer| !peer.is_hub && peer.id != home.peer).collect();
    others.sort_by(|one, other| (one.id <= home.peer, &one.id).cmp(&(other.id <= home.peer, &other.id)));
    others.first().map(|peer| (peer.id.clone(), peer.worker_address.clone()))
}

async fn tell(home: &ChainHome, address: &str, told: &mut HashMap<i32, i64>) -> Result<(), String> {
    let client = home.pool.get().await.map_err(|error| error.to_string())?;
    let mut heads = store::heads(&client).await.map_err(|error| error.to_string())?;
    drop(client);
    heads.retain(|head| told.get(&head.partition) != Some(&head.sequence));
    if heads.is_empty() {
        return Ok(());
    }
    let sequences: Vec<(i32, i64)> = heads.iter().map(|head| (head.partition, head.sequence)).collect();
    let request = v1::WitnessJournalRequest { peer: home.peer.clone(), heads };
    let telling = async {
        let mut worker = rootward_router::connect_worker(address).await?;
        worker.witness_journal(request).await.map_err(|status| status.message().to_owned())
    };
    tokio::time::timeout(LIMIT, telling).await.map_err(|_| format!("no answer within {LIMIT:?}"))??;
    told.extend(sequences);
    Ok(())
}
