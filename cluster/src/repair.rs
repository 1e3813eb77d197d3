//! Makes a peer's copy of the reference data anew, by hand: after its slot is gone, its subscription is broken, or somebody changed it; and
//! leads it back to the relay of its region. How that is done is the worker's, which does the same when a relay dies.

use rootward_worker::{RenewError, Side, SourceSessions, Way, renew, slot_name};

use crate::{
    deploy::{DeployError, at, connect},
    topology::{HUB, Topology},
};

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The peer.
    pub peer: String,
    /// The node that it copies from now.
    pub source: String,
    /// The version that its copy said it had; none if it had none.
    pub from_version: Option<i64>,
    /// The version of the copy that was made; what was written since follows by the subscription.
    pub version: i64,
    /// Tables of the schema in which rows were missing, wrong or too many, and how many of them.
    pub repaired_rows: Vec<(String, u64)>,
}

/// Makes the copy of one peer anew, from the relay of its region or the hub; from another node if one is named. Can be run again at any
/// time, also after it failed half way.
///
/// # Errors
/// [`DeployError::NoNode`] if there is no such peer, [`DeployError::NoSource`] if it can't copy from that node; else what a database
/// refused. Until the last step has succeeded the peer shows what it showed before, without anything new coming to it.
pub async fn repair_reference(topology: &Topology, peer: &str, from: Option<&str>) -> Result<Repaired, DeployError> {
    let no_node = || DeployError::NoNode(peer.to_owned(), topology.peer.keys().cloned().collect::<Vec<_>>().join(", "));
    let node = topology.peer.get(peer).ok_or_else(no_node)?;
    let source = from.unwrap_or_else(|| topology.source_of(peer));
    let from = topology.node(source).filter(|_| topology.may_copy_from(peer, source));
    let from = from.ok_or_else(|| DeployError::NoSource(peer.to_owned(), source.to_owned()))?;
    let mut sessions =
        SourceSessions { plain: connect(source, from).await?, snapshot: connect(source, from).await?, lock: connect(source, from).await? };
    let mut copy = connect(peer, node).await?;
    let slot = slot_name(&copy, peer, source, source == HUB).await.map_err(at(peer))?;
    let way = Way { source, connection: &from.replication, term: None, may_be_older: true };
    let refused = |error: RenewError| match error.side {
        Side::Source => at(source)(error.source),
        Side::Copy => at(peer)(error.source),
    };
    let renewed = renew(&mut copy, &mut sessions, &slot, way).await.map_err(refused)?;
    Ok(Repaired {
        peer: peer.to_owned(),
        source: source.to_owned(),
        from_version: renewed.from_version,
        version: renewed.version,
        repaired_rows: renewed.repaired_rows,
    })
}
