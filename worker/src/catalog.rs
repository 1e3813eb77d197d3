//! Follows the catalog on the hub: LISTEN wakes, a slow poll makes sure, and a copy in the peer's own database carries the
//! worker over a restart while the hub is down.

use std::{sync::Arc, time::Duration};

use rootward_router::{Catalog, CatalogPeer};
use rootward_schema::Schema;
use tokio::sync::{Notify, watch};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, term};

const POLL_INTERVAL: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// Why the catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error("the catalog's database refused a query")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the hub can't be reached")]
    Connect(#[from] term::TermError),
    #[error("the catalog holds no active schema")]
    NoSchema,
    #[error("the schema in the catalog can't be read; this worker may be too old")]
    Schema(#[from] serde_json::Error),
}

/// Keeps `catalog` as new as the hub has it, until `shutdown`.
pub(crate) async fn follow(
    config: Arc<Config>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    refresh: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let mut has_warned = false;
    while !shutdown.is_cancelled() {
        tokio::select! {
            result = follow_once(&config, &catalog, &refresh) => {
                if let Err(error) = result {
                    if !has_warned {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the hub is away; this worker goes on with its copy of the catalog");
                    }
                    has_warned = true;
                }
            }
            () = shutdown.cancelled() => return,
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn follow_once(config: &Config, catalog: &watch::Sender<Option<Arc<Catalog>>>, refresh: &Notify) -> Result<(), CatalogError> {
    let wake = Arc::new(Notify::new());
    let heard = wake.clone();
    let on_message = move |message: AsyncMessage| {
        if matches!(message, AsyncMessage::Notification(_)) {
            heard.notify_one();
        }
    };
    let (client, connection) = term::connect(&config.hub_database, config, "rootward catalog", on_message).await?;
    client.batch_execute("listen rootward_catalog").await?;
    loop {
        let known = catalog.borrow().clone();
        publish(catalog, read(&client, known.as_deref()).await?);
        tokio::select! {
            () = wake.notified() => {}
            () = refresh.notified() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = connection.cancelled() => return Ok(()),
        }
    }
}

/// Publishes a copy unless a newer one is known.
pub(crate) fn publish(catalog: &watch::Sender<Option<Arc<Catalog>>>, new: Option<Catalog>) {
    let Some(new) = new else { return };
    catalog.send_if_modified(|known| {
        let is_newer = known.as_ref().is_none_or(|known| known.version < new.version);
        if is_newer {
            *known = Some(Arc::new(new));
        }
        is_newer
    });
}

/// The catalog, or none if `known` is as new.
async fn read(client: &Client, known: Option<&Catalog>) -> Result<Option<Catalog>, CatalogError> {
    let sql = "/* read_catalog_version */ select version from rootward_catalog.cluster";
    let version: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
    if known.is_some_and(|known| known.version >= version) {
        return Ok(None);
    }
    // One statement, so that peers, map and schema are of one moment.
    let row = client
        .query_one(
            "/* read_catalog */ select (select version from rootward_catalog.cluster), \
             (select jsonb_agg(to_jsonb(p) order by id) from rootward_catalog.peer p), \
             (select jsonb_agg(jsonb_build_array(peer, epoch) order by partition) from rootward_catalog.partition), \
             (select definition from rootward_catalog.schema_version where state = 'active' order by version desc limit 1)",
            &[],
        )
        .await?;
    let version = row.try_get(0)?;
    let peers: Vec<PeerRow> = serde_json::from_value(row.try_get::<_, Option<serde_json::Value>>(1)?.unwrap_or_default())?;
    let map: Vec<(String, i64)> = serde_json::from_value(row.try_get::<_, Option<serde_json::Value>>(2)?.unwrap_or_default())?;
    let schema: Schema = serde_json::from_value(row.try_get::<_, Option<serde_json::Value>>(3)?.ok_or(CatalogError::NoSchema)?)?;
    let place = |id: &str| peers.iter().position(|peer| peer.id == id).and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
    Ok(Some(Catalog {
        version,
        owners: map.iter().map(|(peer, _)| place(peer)).collect(),
        epochs: map.iter().map(|(_, epoch)| *epoch).collect(),
        peers: peers.into_iter().map(PeerRow::into_peer).collect(),
        schema: Arc::new(schema),
    }))
}

#[derive(serde::Deserialize)]
struct PeerRow {
    id: String,
    worker_address: String,
    capacity: u32,
    region: String,
    state: String,
    is_hub: bool,
    #[serde(default)]
    timeline: Option<i32>,
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
    #[serde(default)]
    is_relay: bool,
}

impl PeerRow {
    fn into_peer(self) -> CatalogPeer {
        CatalogPeer {
            id: self.id,
            worker_address: self.worker_address,
            capacity: self.capacity,
            region: self.region,
            state: self.state,
            is_hub: self.is_hub,
            timeline: self.timeline.unwrap_or_default(),
            latitude: self.latitude,
            longitude: self.longitude,
            is_relay: self.is_relay,
        }
    }
}
