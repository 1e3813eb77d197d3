//! Follows the catalog on the hub: LISTEN wakes, a slow poll makes sure, and a copy in the peer's own database carries the
//! worker over a restart while the hub is down.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rootward_router::{Catalog, CatalogPeer};
use rootward_schema::Schema;
use tokio::sync::{Notify, watch};
use tokio_postgres::{AsyncMessage, Client, Statement};
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
    let statement = client.prepare(READ).await?;
    loop {
        let known = catalog.borrow().clone();
        publish(catalog, read(&client, &statement, known.as_deref()).await?);
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
        tracing::debug!(version = new.version, is_newer, "a catalog");
        if is_newer {
            *known = Some(Arc::new(new));
        }
        is_newer
    });
}

/// The catalog if it is newer than a version, else no row. One statement, so that peers, map and schema are of one moment. A schema that is known
/// is not sent again: a version that is in force never changes.
const READ: &str = "/* read_catalog */ select c.version, (select jsonb_agg(to_jsonb(p) order by id) from rootward_catalog.peer p), m.owners, m.epochs, \
                    case when s.version is distinct from $2 then s.definition end \
                    from rootward_catalog.cluster c \
                    cross join (select array_agg(peer) as owners, array_agg(epoch) as epochs \
                      from (select peer, epoch from rootward_catalog.partition order by partition) p) m \
                    left join (select version, definition from rootward_catalog.schema_version where state = 'active' \
                      order by version desc limit 1) s on true \
                    where c.version > $1";

/// The catalog, or none if `known` is as new. Every worker reads it when partitions change their owner, and requests wait for that.
async fn read(client: &Client, statement: &Statement, known: Option<&Catalog>) -> Result<Option<Catalog>, CatalogError> {
    let known_version = known.map_or(-1, |known| known.version);
    let known_schema = known.map(|known| i32::try_from(known.schema.version).unwrap_or_default());
    let Some(row) = client.query_opt(statement, &[&known_version, &known_schema]).await? else { return Ok(None) };
    let peers: Vec<PeerRow> = serde_json::from_value(row.try_get::<_, Option<serde_json::Value>>(1)?.unwrap_or_default())?;
    let owners: Vec<String> = row.try_get::<_, Option<_>>(2)?.unwrap_or_default();
    let definition: Option<serde_json::Value> = row.try_get(4)?;
    let schema = match (definition, known) {
        (Some(definition), _) => Arc::new(serde_json::from_value::<Schema>(definition)?),
        (None, Some(known)) => known.schema.clone(),
        (None, None) => return Err(CatalogError::NoSchema),
    };
    let places: HashMap<&str, u32> = (0..).zip(&peers).map(|(place, peer)| (&*peer.id, place)).collect();
    Ok(Some(Catalog {
        version: row.try_get(0)?,
        owners: owners.iter().map(|peer| places.get(&**peer).copied().unwrap_or(u32::MAX)).collect(),
        epochs: row.try_get::<_, Option<_>>(3)?.unwrap_or_default(),
        peers: peers.into_iter().map(PeerRow::into_peer).collect(),
        schema,
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
