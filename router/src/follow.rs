//! Follows the catalog from any worker that answers.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use rootward_proto::{Fault, v1};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{Catalog, link};

const PAUSE: Duration = Duration::from_millis(200);
/// How long a newer catalog is waited for from the worker that is followed, when this one turned out to be old. A move's decision reaches each
/// worker within some milliseconds.
const NEWS_PATIENCE: Duration = Duration::from_millis(100);

/// Keeps `catalog` as new as the workers know it, until `shutdown`. The last copy stays when no worker answers.
pub(crate) async fn follow(
    seeds: Vec<String>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    refresh: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let mut turn = 0;
    while !shutdown.is_cancelled() {
        let addresses = addresses(&seeds, &catalog);
        let address = &addresses[turn % addresses.len()];
        turn += 1;
        tokio::select! {
            result = follow_one(address, &catalog, &refresh) => {
                match result {
                    Err(status) if Fault::from_status(&status).code() == link::OTHER_VERSION => {
                        tracing::warn!(%address, message = status.message(), "the catalog is not followed from this worker");
                    }
                    Err(status) => tracing::debug!(%address, message = status.message(), "the catalog's stream ended"),
                    Ok(()) => {}
                }
            }
            () = shutdown.cancelled() => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The seeds, and the workers that the catalog names, so that a router outlives its seeds.
fn addresses(seeds: &[String], catalog: &watch::Sender<Option<Arc<Catalog>>>) -> Vec<String> {
    let mut all = seeds.to_vec();
    if let Some(known) = &*catalog.borrow() {
        all.extend(known.live_peers().map(|peer| peer.worker_address.clone()).filter(|address| !seeds.contains(address)));
    }
    all
}

async fn follow_one(address: &str, catalog: &watch::Sender<Option<Arc<Catalog>>>, refresh: &Notify) -> Result<(), tonic::Status> {
    let mut client = link::connect(address).await.map_err(tonic::Status::unavailable)?;
    let mut stream = client.watch_catalog(v1::WatchCatalogRequest {}).await?.into_inner();
    loop {
        tokio::select! {
            message = stream.message() => match message? {
                Some(message) => take(message, catalog),
                None => return Ok(()),
            },
            // Somebody met a wrong owner. What says so is on its way, or another worker knows more than this one.
            () = refresh.notified() => match tokio::time::timeout(NEWS_PATIENCE, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    take(message, catalog);
                    // Others met the same owner.
                    let _ = refresh.notified().now_or_never();
                }
                _ => return Ok(()),
            },
        }
    }
}

fn take(message: v1::WatchCatalogResponse, catalog: &watch::Sender<Option<Arc<Catalog>>>) {
    let known = catalog.borrow().clone();
    match Catalog::from_wire(message, known.as_deref()) {
        Ok(new) => {
            catalog.send_if_modified(|known| {
                let is_newer = known.as_ref().is_none_or(|known| known.version < new.version);
                tracing::debug!(version = new.version, is_newer, "a catalog");
                if is_newer {
                    *known = Some(Arc::new(new));
                }
                is_newer
            });
        }
        Err(error) => tracing::warn!(%error, "a worker sent a schema that this router can't read; it may be newer"),
    }
}
