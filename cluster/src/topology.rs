//! Which databases a cluster is made of: one TOML file that set-up commands read.

use std::collections::BTreeMap;

use rootward_worker::{Source, declared_source};
use serde::{Deserialize, Serialize};

/// The databases of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The cluster's name.
    pub name: String,
    /// The peer that holds the catalog and the source of the reference data.
    pub hub: Node,
    /// The peers that hold partitions, by id.
    pub peer: BTreeMap<String, Node>,
}

/// One PostgreSQL database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// A superuser's connection string; set-up needs it, workers don't.
    pub database: String,
    /// Where its worker listens; a worker corrects it when it starts.
    #[serde(default)]
    pub worker: String,
    /// Its share of the partitions relative to the others'.
    #[serde(default = "default_capacity")]
    pub capacity: u32,
    /// Where it stands.
    #[serde(default)]
    pub region: String,
    /// Its latitude in degrees, for distances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    /// Its longitude in degrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// Whether it passes reference data on to the other peers of its region.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
    /// On the hub and on relays: the connection string by which peers copy reference data, for role `rootward_system`.
    #[serde(default)]
    pub replication: String,
}

impl Node {
    /// Both degrees or neither, and on the globe.
    fn has_sound_place(&self) -> bool {
        match (self.latitude, self.longitude) {
            (Some(latitude), Some(longitude)) => latitude.abs() <= 90.0 && longitude.abs() <= 180.0,
            (None, None) => true,
            _ => false,
        }
    }
}

/// Where a node stands, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// North of the equator.
    pub latitude: f64,
    /// East of Greenwich.
    pub longitude: f64,
}

fn default_capacity() -> u32 {
    1
}

/// The hub's id in the catalog.
pub const HUB: &str = "hub";

/// Why a file of databases is refused.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// TOML says what and where.
    #[error("{}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// No database to put partitions on.
    #[error("no peer is named: add a [peer.p1] with its `database`")]
    NoPeer,
    /// The hub's own id is taken.
    #[error("a peer can't be called `hub`")]
    PeerCalledHub,
    /// A place that is none.
    #[error("{0} has no place on the globe: it needs both `latitude`, -90 to 90, and `longitude`, -180 to 180")]
    NoPlace(String),
    /// Peers could not copy reference data.
    #[error("[hub] has no `replication`: the connection string by which peers copy reference data")]
    NoReplication,
    /// Nobody would copy from it.
    #[error("the relay `{0}` has no `region`: it passes reference data on to the other peers of its region")]
    NoRegion(String),
    /// Nobody could copy from it.
    #[error("the relay `{0}` has no `replication`: the connection string by which the peers of its region copy reference data")]
    RelayWithoutReplication(String),
    /// The hub is where they come from.
    #[error("`relay` is set for the hub: reference data are written there, and relays copy from it")]
    HubAsRelay,
}

impl TopologyError {
    /// What to do next.
    pub fn help(&self) -> String {
        let near = match self {
            TopologyError::Toml(error) => rootward_schema::nearest_setting(error.message()),
            _ => None,
        };
        near.map_or_else(|| "docs/samples/cluster.toml is a complete example".to_owned(), |near| format!("did you mean `{near}`?"))
    }
}

/// Reads the text of a file.
///
/// # Errors
/// [`TopologyError`] with the first thing that is wrong.
pub fn parse_topology(text: &str) -> Result<Topology, TopologyError> {
    let topology: Topology = toml::from_str(text)?;
    if topology.peer.is_empty() {
        return Err(TopologyError::NoPeer);
    }
    if topology.peer.contains_key(HUB) {
        return Err(TopologyError::PeerCalledHub);
    }
    if topology.hub.replication.is_empty() {
        return Err(TopologyError::NoReplication);
    }
    if let Some((id, _)) = topology.nodes().find(|(_, node)| !node.has_sound_place()) {
        return Err(TopologyError::NoPlace(id.to_owned()));
    }
    if topology.hub.relay {
        return Err(TopologyError::HubAsRelay);
    }
    for (id, relay) in topology.peer.iter().filter(|(_, node)| node.relay) {
        if relay.region.is_empty() {
            return Err(TopologyError::NoRegion(id.clone()));
        }
        if relay.replication.is_empty() {
            return Err(TopologyError::RelayWithoutReplication(id.clone()));
        }
    }
    Ok(topology)
}

impl Topology {
    /// All nodes with their ids, the hub first.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        std::iter::once((HUB, &self.hub)).chain(self.peer.iter().map(|(id, node)| (id.as_str(), node)))
    }

    /// A node by its id.
    pub fn node(&self, id: &str) -> Option<&Node> {
        if id == HUB { Some(&self.hub) } else { self.peer.get(id) }
    }

    /// The node that a peer copies reference data from, unless it had to take another way: the relay of its region, or the hub.
    pub fn source_of(&self, id: &str) -> &str {
        let source = |(id, node): (&str, &Node)| Source {
            id: id.to_owned(),
            region: node.region.clone(),
            is_hub: id == HUB,
            is_relay: node.relay,
            position: node.latitude.zip(node.longitude),
        };
        let all: Vec<Source> = self.nodes().map(source).collect();
        let me = all.iter().find(|node| node.id == id);
        let declared = me.and_then(|me| declared_source(me, &all)).map_or(HUB, |source| source.id.as_str());
        self.nodes().map(|(id, _)| id).find(|id| *id == declared).unwrap_or(HUB)
    }

    /// Whether a peer may copy from a node: from the hub always, from a relay if it is none itself.
    pub fn may_copy_from(&self, id: &str, source: &str) -> bool {
        source == HUB
            || source != id && self.peer.get(source).is_some_and(|node| node.relay) && self.peer.get(id).is_some_and(|node| !node.relay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../docs/samples/cluster.toml");

    #[test]
    fn the_sample_is_right() {
        let sample = parse_topology(SAMPLE).expect("the sample is right");
        assert_eq!(sample.nodes().map(|(id, _)| id).collect::<Vec<_>>(), ["hub", "p1", "p2"]);
    }

    #[test]
    fn half_a_place_is_none() {
        for wrong in ["latitude = 42.0", "latitude = 42.0\nlongitude = 181.0", "latitude = -91.0\nlongitude = 0.0"] {
            let text = SAMPLE.replacen("latitude = 53.35\nlongitude = -6.26", wrong, 1);
            assert!(matches!(parse_topology(&text), Err(TopologyError::NoPlace(id)) if id == "p1"), "{wrong}");
        }
    }

    #[test]
    fn a_relay_has_members_and_is_reached_by_them() {
        let relay = |more: &str| SAMPLE.replacen("[peer.p2]", &format!("[peer.p2]\nrelay = true\n{more}"), 1);
        let sample = parse_topology(&relay("replication = \"host=p2\"")).expect("it is whole");
        assert_eq!((sample.source_of("p1"), sample.source_of("p2")), ("p2", HUB));
        assert!(sample.may_copy_from("p1", "p2") && sample.may_copy_from("p1", HUB) && !sample.may_copy_from("p2", "p1"));
        assert!(matches!(parse_topology(&relay("")), Err(TopologyError::RelayWithoutReplication(id)) if id == "p2"));
        let nowhere = relay("replication = \"host=p2\"").replace("region = \"eu-west\"", "");
        assert!(matches!(parse_topology(&nowhere), Err(TopologyError::NoRegion(id)) if id == "p2"));
        let hub = SAMPLE.replacen("[hub]", "[hub]\nrelay = true", 1);
        assert!(matches!(parse_topology(&hub), Err(TopologyError::HubAsRelay)));
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_right_name() {
        let error = parse_topology(&SAMPLE.replace("capacity", "capacty")).expect_err("misspelt");
        assert_eq!(error.help(), "did you mean `capacity`?");
        assert!(parse_topology("name = \"bank\"").expect_err("no hub").help().contains("docs/samples/cluster.toml"));
    }
}
