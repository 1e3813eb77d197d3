//! A copy of the catalog: peers, partition map and the schema in force.

use std::{collections::BTreeMap, sync::Arc};

use rootward_proto::v1;
use rootward_schema::{Schema, Type};
use serde::{Deserialize, Serialize};

/// What a router or worker knows of the cluster; immutable, replaced as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Grows with every change of peers, map or schema.
    pub version: i64,
    /// All peers, the hub among them.
    pub peers: Vec<CatalogPeer>,
    /// By partition: the owner's place in `peers`.
    pub owners: Vec<u32>,
    /// By partition: how often its owner changed.
    pub epochs: Vec<i64>,
    /// The schema in force.
    pub schema: Arc<Schema>,
}

/// One peer as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogPeer {
    /// The peer's id, such as `p1`.
    pub id: String,
    /// Where its worker listens, such as `http://10.0.0.5:7411`.
    pub worker_address: String,
    /// Its share of the partitions relative to the others'.
    pub capacity: u32,
    /// Where it stands.
    pub region: String,
    /// `active`, `draining` or `removed`.
    pub state: String,
    /// Whether the catalog and the source of the reference data lie on it.
    pub is_hub: bool,
    /// The timeline of the PostgreSQL that served it last; 0 if nobody did.
    #[serde(default)]
    pub timeline: i32,
    /// Where it stands, in degrees, if that is known.
    #[serde(default)]
    pub latitude: Option<f64>,
    /// The same to the east.
    #[serde(default)]
    pub longitude: Option<f64>,
    /// Whether it passes reference data on to the other peers of its region.
    #[serde(default)]
    pub is_relay: bool,
}

/// The owner of a partition.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The partition; -1 for reference data.
    pub partition: i32,
    /// The peer that owns it.
    pub peer: &'a CatalogPeer,
    /// The epoch of the ownership.
    pub epoch: i64,
}

/// The partition of reference data, which only the hub owns.
pub const REFERENCE_PARTITION: i32 = -1;

impl Catalog {
    /// The owner of a root; with an empty entity that of the reference data.
    pub fn owner_of(&self, entity: &str, root_key: &str) -> Option<Owner<'_>> {
        if entity.is_empty() {
            let peer = self.peers.iter().find(|peer| peer.is_hub)?;
            return Some(Owner { partition: REFERENCE_PARTITION, peer, epoch: 1 });
        }
        let partition = self.schema.partition_of(self.schema.roots.get(entity)?, root_key).ok()?;
        self.owner_of_partition(partition)
    }

    /// The owner of a partition.
    pub fn owner_of_partition(&self, partition: u32) -> Option<Owner<'_>> {
        let at = usize::try_from(partition).ok()?;
        let peer = self.peers.get(usize::try_from(*self.owners.get(at)?).ok()?)?;
        Some(Owner { partition: i32::try_from(partition).ok()?, peer, epoch: *self.epochs.get(at)? })
    }

    /// The type of an entity's root key.
    pub fn key_type(&self, entity: &str) -> Option<&Type> {
        self.schema.roots.get(entity).map(|root| &root.key_type)
    }

    /// The peers that can be asked: all but the removed ones.
    pub fn live_peers(&self) -> impl Iterator<Item = &CatalogPeer> {
        self.peers.iter().filter(|peer| peer.state != "removed")
    }

    /// How many partitions each peer owns, by id.
    pub fn partition_counts(&self) -> BTreeMap<&str, u32> {
        let mut counts: BTreeMap<&str, u32> = self.peers.iter().map(|peer| (peer.id.as_str(), 0)).collect();
        for owner in &self.owners {
            if let Some(peer) = usize::try_from(*owner).ok().and_then(|at| self.peers.get(at)) {
                *counts.entry(&peer.id).or_default() += 1;
            }
        }
        counts
    }

    /// As a message.
    pub fn to_wire(&self) -> v1::WatchCatalogResponse {
        v1::WatchCatalogResponse {
            version: self.version,
            peers: self
                .peers
                .iter()
                .map(|peer| v1::CatalogPeer {
                    id: peer.id.clone(),
                    worker_address: peer.worker_address.clone(),
                    capacity: peer.capacity,
                    region: peer.region.clone(),
                    state: peer.state.clone(),
                    is_hub: peer.is_hub,
                    timeline: peer.timeline,
                    latitude: peer.latitude,
                    longitude: peer.longitude,
                    is_relay: peer.is_relay,
                })
                .collect(),
            owners: self.owners.clone(),
            epochs: self.epochs.clone(),
            schema_version: self.schema.version,
            definition_json: serde_json::to_string(&*self.schema).unwrap_or_default(),
        }
    }

    /// From a message. A schema that is known already is not read again: a version that is in force never changes.
    ///
    /// # Errors
    /// If the definition in it can't be read: the sender is newer than we are.
    pub fn from_wire(message: v1::WatchCatalogResponse, known: Option<&Catalog>) -> Result<Catalog, serde_json::Error> {
        let schema = match known.filter(|known| known.schema.version == message.schema_version) {
            Some(known) => known.schema.clone(),
            None => Arc::new(serde_json::from_str(&message.definition_json)?),
        };
        Ok(Catalog {
            version: message.version,
            peers: message
                .peers
                .into_iter()
                .map(|peer| CatalogPeer {
                    id: peer.id,
                    worker_address: peer.worker_address,
                    capacity: peer.capacity,
                    region: peer.region,
                    state: peer.state,
                    is_hub: peer.is_hub,
                    timeline: peer.timeline,
                    latitude: peer.latitude,
                    longitude: peer.longitude,
                    is_relay: peer.is_relay,
                })
                .collect(),
            owners: message.owners,
            epochs: message.epochs,
            schema,
        })
    }
}
