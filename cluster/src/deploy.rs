//! Brings a schema to the hub and every peer. Every step can be run again, so an apply that failed half way is resumed by
//! the same command.

use std::collections::BTreeMap;

use rootward_schema::{NoCapacity, NoPeer, Node as NodeKind, RegionalPeer, Schema, Source, assign_by_region};
use rootward_worker::{HUB_SQL, PEER_SQL};
use tokio_postgres::Client;

use crate::{
    apply::{ApplyError, apply_to_node},
    reference, session,
    topology::{HUB, Node, Topology},
};

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The version that was in force before, if any.
    pub from_version: Option<u32>,
    /// The version that is in force now.
    pub version: u32,
    /// The nodes that were brought up to date, the hub first.
    pub nodes: Vec<String>,
    /// Peers whose first copy of the reference data is still going on.
    pub copying: Vec<String>,
}

/// Why an apply stopped. What it had done stays; the same command goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A database can't be reached or refused a statement of ours.
    #[error("{node}: {}", source.as_db_error().map_or_else(|| source.to_string(), ToString::to_string))]
    Postgres {
        /// The node's id.
        node: String,
        /// What PostgreSQL said.
        source: tokio_postgres::Error,
    },
    /// A database could not be brought up to date.
    #[error("{node}: {source}")]
    Apply {
        /// The node's id.
        node: String,
        /// Why.
        source: ApplyError,
    },
    /// The version is in force already, with other content.
    #[error("version {0} is in force already, with other content")]
    SameVersion(u32),
    /// A newer version is in force.
    #[error("version {0} is in force, and {1} is older")]
    OlderVersion(u32, u32),
    /// The number of partitions is for life.
    #[error("the cluster has {0} partitions, and the schema says {1}: the number is fixed for the life of the cluster")]
    Partitions(u32, u32),
    /// Rows that are there would not be found.
    #[error("{0}")]
    Placement(String),
    /// A region without peers.
    #[error(transparent)]
    NoPeer(#[from] NoPeer),
    /// Partitions are being moved: both ends of a move need the same tables until its end.
    #[error("partitions are being moved, by move {0}")]
    Moving(String),
    /// No peer can take partitions.
    #[error(transparent)]
    NoCapacity(#[from] NoCapacity),
    /// There is no such peer.
    #[error("there is no peer `{0}`; there are {1}")]
    NoNode(String, String),
    /// A way that reference data don't take.
    #[error("peer `{0}` can't copy reference data from `{1}`: peers copy from the hub or from a relay, and relays from the hub")]
    NoSource(String, String),
    /// The definition in the catalog is not readable.
    #[error("the definition in the catalog can't be read: {0}")]
    Definition(#[from] serde_json::Error),
}

pub(crate) fn at(node: &str) -> impl Fn(tokio_postgres::Error) -> DeployError + '_ {
    move |source| DeployError::Postgres { node: node.to_owned(), source }
}

/// Sets up what is missing on every node, brings its tables to `schema`, and then puts the version in force.
///
/// # Errors
/// [`DeployError`]; nothing is in force that is not on every node.
pub async fn deploy(topology: &Topology, source: &Source, schema: &Schema) -> Result<Deployed, DeployError> {
    let mut clients = BTreeMap::new();
    for (id, node) in topology.nodes() {
        clients.insert(id.to_owned(), connect(id, node).await?);
    }
    install(topology, &clients).await?;
    let hub = clients.get(HUB).ok_or(DeployError::NoCapacity(NoCapacity))?;
    let from_version = begin(hub, topology, schema).await?;
    let work = clients.iter_mut().map(|(id, client)| async move {
        let kind = if id == HUB { NodeKind::Hub } else { NodeKind::Peer };
        apply_to_node(client, kind, source, schema).await.map_err(|source| DeployError::Apply { node: id.clone(), source })
    });
    futures_util::future::try_join_all(work).await?;
    let hub = clients.get(HUB).ok_or(DeployError::NoCapacity(NoCapacity))?;
    place_partitions(topology, &clients, schema).await?;
    reference::publish(hub, schema).await.map_err(at(HUB))?;
    let copying = copy_reference(topology, &clients).await?;
    let version = i32::try_from(schema.version).unwrap_or(i32::MAX);
    let sql = "update rootward_catalog.schema_version set state = 'active' where version = $1 and state <> 'active'";
    hub.execute(sql, &[&version]).await.map_err(at(HUB))?;
    let nodes = topology.nodes().map(|(id, _)| id.to_owned()).collect();
    Ok(Deployed { from_version, version: schema.version, nodes, copying })
}

/// Relays first: what their members copy is there by then. Returns the peers whose first copy goes on.
async fn copy_reference(topology: &Topology, clients: &BTreeMap<String, Client>) -> Result<Vec<String>, DeployError> {
    let mut copying = Vec::new();
    let (relays, members): (Vec<_>, Vec<_>) = topology.peer.iter().partition(|(_, node)| node.relay);
    for (id, node) in relays.into_iter().chain(members) {
        let Some(peer) = clients.get(id) else { continue };
        if node.relay {
            let Some(hub) = clients.get(HUB) else { continue };
            reference::publish_as(hub, peer).await.map_err(at(id))?;
        }
        reference::subscribe(topology, clients, id).await?;
        if !reference::wait_for_copy(peer).await.map_err(at(id))? {
            copying.push(id.clone());
        }
    }
    Ok(copying)
}

pub(crate) async fn connect(id: &str, node: &Node) -> Result<Client, DeployError> {
    let (client, connection) = session::connect(&node.database).await.map_err(at(id))?;
    // The connection's own task; it ends when the client is dropped.
    #[allow(clippy::disallowed_methods)] // it ends when the client is dropped
    tokio::spawn(connection);
    Ok(client)
}

/// Roles, namespaces, tables and functions of ours, and the catalog's rows for nodes that it doesn't know.
async fn install(topology: &Topology, clients: &BTreeMap<String, Client>) -> Result<(), DeployError> {
    for (id, _) in topology.nodes() {
        let Some(client) = clients.get(id) else { continue };
        // Roles belong to the PostgreSQL cluster; two databases of one cluster must not make them at the same moment.
        let sql = format!("select pg_advisory_lock(20827); {PEER_SQL}\nselect pg_advisory_unlock(20827);");
        client.batch_execute(&sql).await.map_err(at(id))?;
        client.execute("insert into rootward.peer_state (peer) values ($1) on conflict do nothing", &[&id]).await.map_err(at(id))?;
    }
    let Some(hub) = clients.get(HUB) else { return Ok(()) };
    hub.batch_execute(HUB_SQL).await.map_err(at(HUB))?;
    let sql = "insert into rootward_catalog.peer as p (id, worker_address, capacity, region, state, is_hub, latitude, longitude, is_relay, reference_source) \
               values ($1, $2, $3, $4, 'active', $5, $6, $7, $8, $9) on conflict (id) do update set latitude = excluded.latitude, \
               longitude = excluded.longitude, region = excluded.region, is_relay = excluded.is_relay, reference_source = excluded.reference_source \
               where (p.latitude, p.longitude, p.region, p.is_relay, p.reference_source) is distinct from \
               (excluded.latitude, excluded.longitude, excluded.region, excluded.is_relay, excluded.reference_source)";
    for (id, node) in topology.nodes() {
        let capacity = if id == HUB { 0 } else { i32::try_from(node.capacity).unwrap_or(i32::MAX) };
        let is_hub = id == HUB;
        let source = if is_hub || node.relay { node.replication.as_str() } else { "" };
        let place = (&node.latitude, &node.longitude);
        hub.execute(sql, &[&id, &node.worker, &capacity, &node.region, &is_hub, place.0, place.1, &node.relay, &source])
            .await
            .map_err(at(HUB))?;
    }
    Ok(())
}

/// Compares with what is in force, and writes down the intent. Returns the version in force.
async fn begin(hub: &Client, topology: &Topology, schema: &Schema) -> Result<Option<u32>, DeployError> {
    let sql = "select version, definition from rootward_catalog.schema_version where state = 'active' order by version desc limit 1";
    let active = hub.query_opt(sql, &[]).await.map_err(at(HUB))?;
    let definition = serde_json::to_value(schema)?;
    let mut from_version = None;
    if let Some(row) = active {
        let version = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
        let known: Schema = serde_json::from_value(row.get(1))?;
        if known.partitions != schema.partitions {
            return Err(DeployError::Partitions(known.partitions, schema.partitions));
        }
        if let Some(other) = other_placement(&known, schema) {
            return Err(DeployError::Placement(other));
        }
        match schema.version.cmp(&version) {
            std::cmp::Ordering::Less => return Err(DeployError::OlderVersion(version, schema.version)),
            std::cmp::Ordering::Equal if known != *schema => return Err(DeployError::SameVersion(version)),
            _ => from_version = Some(version),
        }
    }
    // A new peer may come during moves; a new version may not. No move begins from here until the intent is written down, and none
    // while it is being carried out.
    hub.batch_execute("begin; lock table rootward_catalog.move in share row exclusive mode").await.map_err(at(HUB))?;
    if from_version.is_some_and(|version| version < schema.version) {
        let sql = "select id::text from rootward_catalog.move where ended_at is null limit 1";
        if let Some(row) = hub.query_opt(sql, &[]).await.map_err(at(HUB))? {
            return Err(DeployError::Moving(row.get(0)));
        }
    }
    let partitions = i32::try_from(schema.partitions).unwrap_or(i32::MAX);
    let sql = "insert into rootward_catalog.cluster (name, partitions) values ($1, $2) on conflict do nothing";
    hub.execute(sql, &[&topology.name, &partitions]).await.map_err(at(HUB))?;
    let version = i32::try_from(schema.version).unwrap_or(i32::MAX);
    let sql = "insert into rootward_catalog.schema_version (version, definition, state) values ($1, $2, 'applying') \
               on conflict (version) do update set definition = excluded.definition where schema_version.state = 'applying'";
    hub.execute(sql, &[&version, &definition]).await.map_err(at(HUB))?;
    hub.batch_execute("commit").await.map_err(at(HUB))?;
    Ok(from_version)
}

/// What keys that are there would be looked for elsewhere.
fn other_placement(known: &Schema, new: &Schema) -> Option<String> {
    if !new.regions.starts_with(&known.regions) {
        return Some(format!("the cluster's regions are `{}`, and the schema says `{}`", known.regions.join(", "), new.regions.join(", ")));
    }
    let is_other =
        |name: &String| new.roots.get(name).is_some_and(|root| root.is_placed_by_region != known.roots[name].is_placed_by_region);
    known.roots.keys().find(|name| is_other(name)).map(|name| {
        let how = if known.roots[name].is_placed_by_region { "by region" } else { "by the hash of its key alone" };
        format!("`{name}` is placed {how} in the cluster, and in another way by the schema")
    })
}

/// The first map, and partitions of regions that came later. The catalog's rows come last: a failure before them leaves owners that the next run
/// finds again.
async fn place_partitions(topology: &Topology, clients: &BTreeMap<String, Client>, schema: &Schema) -> Result<(), DeployError> {
    let Some(hub) = clients.get(HUB) else { return Ok(()) };
    let own = "insert into rootward.ownership select p, 1, 'owned' from unnest($1::integer[]) p on conflict do nothing";
    hub.execute(own, &[&vec![-1_i32]]).await.map_err(at(HUB))?;
    let mapped: i64 = hub.query_one("select count(*) from rootward_catalog.partition", &[]).await.map_err(at(HUB))?.get(0);
    if mapped >= i64::from(schema.all_partitions()) {
        return Ok(());
    }
    let sql = "select id from rootward_catalog.peer where state = 'active'";
    let active: Vec<String> = hub.query(sql, &[]).await.map_err(at(HUB))?.iter().map(|row| row.get(0)).collect();
    let peer = |(id, node): (&String, &Node)| RegionalPeer {
        peer: id.clone(),
        capacity: if active.contains(id) { node.capacity } else { 0 },
        region: node.region.clone(),
    };
    let peers: Vec<RegionalPeer> = topology.peer.iter().map(peer).collect();
    let owners = assign_by_region(schema, &peers)?;
    let new: Vec<(i32, usize)> = (0..).zip(owners).filter(|(partition, _)| i64::from(*partition) >= mapped).collect();
    for (place, peer) in peers.iter().enumerate() {
        let owned: Vec<i32> = new.iter().filter(|(_, owner)| *owner == place).map(|(partition, _)| *partition).collect();
        let Some(client) = clients.get(&peer.peer) else { continue };
        client.execute(own, &[&owned]).await.map_err(at(&peer.peer))?;
    }
    let numbers: Vec<i32> = new.iter().map(|(partition, _)| *partition).collect();
    let ids: Vec<&str> = new.iter().map(|(_, owner)| peers[*owner].peer.as_str()).collect();
    let regions: Vec<&str> = numbers.iter().map(|partition| schema.region_of(u32::try_from(*partition).unwrap_or_default())).collect();
    let sql = "insert into rootward_catalog.partition (partition, peer, epoch, region) \
               select p, id, 1, region from unnest($1::integer[], $2::text[], $3::text[]) as u(p, id, region)";
    hub.execute(sql, &[&numbers, &ids, &regions]).await.map_err(at(HUB))?;
    Ok(())
}
