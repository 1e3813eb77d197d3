//! Keys that live on peers of one region.
//!
//! A root entity that is placed by region says the region in its keys: what stands before the first colon. Each region of `regions` has partitions of
//! its own, behind those that all others share, and they never leave the peers of the region. So where a key lies follows from the key alone, for
//! routers, workers and in SQL, and neither entities that are not placed by region nor clusters without regions notice.

use std::ops::Range;

use crate::definition::{RootEntity, Schema};
use crate::placement::{BadKey, partition_of, sql_partition_expression};
use crate::ring::{Capacity, NoCapacity, assign, reassign};

/// What stands between the region and the rest of a key.
const SEPARATOR: char = ':';

/// A region's partitions have nobody who could own them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPeer {
    /// In the whole cluster.
    #[error(transparent)]
    Anywhere(#[from] NoCapacity),
    /// In the region.
    #[error("region `{0}` has no active peer with a capacity above 0")]
    InRegion(String),
}

/// A peer and how much it can carry, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionalPeer {
    /// The peer's name.
    pub peer: String,
    /// Its weight relative to the others; 0 if it is to have no partition.
    pub capacity: u32,
    /// Its region; empty if it has none.
    pub region: String,
}

impl Schema {
    /// How many partitions there are: those that all entities share, and as many for each region.
    pub fn all_partitions(&self) -> u32 {
        let regions = u32::try_from(self.regions.len()).unwrap_or(u32::MAX);
        self.partitions.saturating_mul(regions.saturating_add(1))
    }

    /// The region that a partition never leaves; empty if it may be anywhere.
    pub fn region_of(&self, partition: u32) -> &str {
        let at = usize::try_from(partition / self.partitions.max(1)).unwrap_or(usize::MAX);
        at.checked_sub(1).and_then(|at| self.regions.get(at)).map_or("", String::as_str)
    }

    /// The partitions in which an entity's roots lie.
    pub fn partitions_of(&self, root: &RootEntity) -> Range<u32> {
        if root.is_placed_by_region { self.partitions..self.all_partitions() } else { 0..self.partitions }
    }

    /// The partition of a root; `canonical_key` is the key in canonical text.
    ///
    /// # Errors
    /// [`BadKey`] if the text is no value of the key's type, or names no region where it has to.
    pub fn partition_of(&self, root: &RootEntity, canonical_key: &str) -> Result<u32, BadKey> {
        let within = partition_of(&root.key_type, canonical_key, self.partitions)?;
        if !root.is_placed_by_region {
            return Ok(within);
        }
        let region = canonical_key.split(SEPARATOR).next().unwrap_or_default();
        let at = self.regions.iter().position(|known| known == region);
        let at = at.ok_or_else(|| BadKey::Region(region.to_owned(), self.regions.join(", ")))?;
        Ok((u32::try_from(at).unwrap_or(u32::MAX) + 1) * self.partitions + within)
    }

    /// A SQL expression that PostgreSQL evaluates to [`Schema::partition_of`] of `column_sql`, NULL for a key of no region. It uses nothing that row filters of
    /// publications don't allow.
    pub fn partition_expression(&self, root: &RootEntity, column_sql: &str) -> String {
        let within = sql_partition_expression(&root.key_type, column_sql, self.partitions);
        if !root.is_placed_by_region {
            return within;
        }
        let first = |at: usize| u64::from(self.partitions) * (at as u64 + 1);
        let cases: String = self.regions.iter().enumerate().map(|(at, region)| format!(" when '{region}' then {}", first(at))).collect();
        format!(
            "((case pg_catalog.split_part(({column_sql})::text collate pg_catalog.\"C\", '{SEPARATOR}', 1){cases} end) + {within})::integer"
        )
    }
}

/// The owner of every partition, as an index into `peers`: each region's partitions are shared among its own peers, the others among all.
///
/// # Errors
/// [`NoPeer`] with the region that has none.
pub fn assign_by_region(schema: &Schema, peers: &[RegionalPeer]) -> Result<Vec<usize>, NoPeer> {
    let mut owners = Vec::new();
    for region in std::iter::once("").chain(schema.regions.iter().map(String::as_str)) {
        owners.extend(assign(schema.partitions, &capacities(peers, region)).map_err(|none| no_peer(none, region))?);
    }
    Ok(owners)
}

/// Like [`assign_by_region`], from a map in use: each partition with its region and its owner, `None` if that is gone.
///
/// # Errors
/// [`NoPeer`] with the region that has none.
pub fn reassign_by_region(current: &[(&str, Option<usize>)], peers: &[RegionalPeer]) -> Result<Vec<usize>, NoPeer> {
    let mut owners = vec![0; current.len()];
    let mut regions: Vec<&str> = current.iter().map(|(region, _)| *region).collect();
    regions.sort_unstable();
    regions.dedup();
    for region in regions {
        let places: Vec<usize> = (0..current.len()).filter(|at| current[*at].0 == region).collect();
        let of_region: Vec<Option<usize>> = places.iter().map(|at| current[*at].1).collect();
        let new = reassign(&of_region, &capacities(peers, region)).map_err(|none| no_peer(none, region))?;
        places.into_iter().zip(new).for_each(|(at, owner)| owners[at] = owner);
    }
    Ok(owners)
}

fn capacities(peers: &[RegionalPeer], region: &str) -> Vec<Capacity> {
    let weight = |peer: &RegionalPeer| if region.is_empty() || peer.region == region { peer.capacity } else { 0 };
    peers.iter().map(|peer| Capacity { peer: peer.peer.clone(), capacity: weight(peer) }).collect()
}

fn no_peer(none: NoCapacity, region: &str) -> NoPeer {
    if region.is_empty() { none.into() } else { NoPeer::InRegion(region.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Type;

    fn schema(regions: &[&str]) -> Schema {
        let empty = r#"{"name":"t","version":1,"partitions":16,"roots":{},"reference":[],"transactions":{},"chains":{},"invariants":[],"deferrable":[],"table_files":[]}"#;
        let schema: Schema = serde_json::from_str(empty).expect("a schema");
        Schema { regions: regions.iter().map(|region| (*region).to_owned()).collect(), ..schema }
    }

    fn root(is_placed_by_region: bool) -> RootEntity {
        RootEntity {
            name: "c".into(),
            table: "c".into(),
            key_column: "id".into(),
            key_type: Type::Text,
            tables: Vec::new(),
            has_journal: false,
            is_placed_by_region,
        }
    }

    fn peers(all: &[(&str, u32, &str)]) -> Vec<RegionalPeer> {
        all.iter()
            .map(|(peer, capacity, region)| RegionalPeer { peer: (*peer).into(), capacity: *capacity, region: (*region).into() })
            .collect()
    }

    #[test]
    fn a_regions_keys_have_partitions_of_their_own() {
        let schema = schema(&["eu", "us-east"]);
        let (placed, free) = (root(true), root(false));
        assert_eq!((schema.all_partitions(), schema.partitions_of(&placed), schema.partitions_of(&free)), (48, 16..48, 0..16));
        for (key, region, range) in [("eu:7", "eu", 16..32), ("us-east:7:x", "us-east", 32..48), ("eu", "eu", 16..32)] {
            let partition = schema.partition_of(&placed, key).expect("a region's");
            assert!(range.contains(&partition) && schema.region_of(partition) == region, "{key}: {partition}");
            assert!(schema.partition_of(&free, key).is_ok_and(|partition| partition < 16 && schema.region_of(partition).is_empty()));
        }
        for key in ["7", "asia:7", "", ":eu", "EU:7"] {
            assert!(matches!(schema.partition_of(&placed, key), Err(BadKey::Region(..))), "{key}");
        }
    }

    #[test]
    fn partitions_stay_in_their_region_and_those_of_none_go_anywhere() {
        let schema = schema(&["eu", "us"]);
        let three = peers(&[("p1", 1, "eu"), ("p2", 1, "us"), ("p3", 1, "us")]);
        let owners = assign_by_region(&schema, &three).expect("each region has one");
        assert!(owners[16..32].iter().all(|owner| *owner == 0) && owners[32..].iter().all(|owner| *owner != 0));
        assert!((0..3).all(|peer| owners[..16].contains(&peer)), "{owners:?}");
        let current = |owners: &[usize]| -> Vec<(String, Option<usize>)> {
            (0..48).zip(owners).map(|(partition, owner)| (schema.region_of(partition).to_owned(), Some(*owner))).collect()
        };
        let current = current(&owners);
        let current: Vec<(&str, Option<usize>)> = current.iter().map(|(region, owner)| (region.as_str(), *owner)).collect();
        assert_eq!(reassign_by_region(&current, &three).expect("room"), owners, "what is balanced stays");
        let drained = peers(&[("p1", 1, "eu"), ("p2", 0, "us"), ("p3", 1, "us")]);
        let owners = reassign_by_region(&current, &drained).expect("room");
        assert!(owners[16..32].iter().all(|owner| *owner == 0) && owners[32..].iter().all(|owner| *owner == 2));
        let without = peers(&[("p1", 0, "eu"), ("p2", 1, "us"), ("p3", 1, "us")]);
        assert_eq!(reassign_by_region(&current, &without), Err(NoPeer::InRegion("eu".into())));
        assert_eq!(assign_by_region(&schema, &without), Err(NoPeer::InRegion("eu".into())));
        assert_eq!(assign_by_region(&schema, &[]), Err(NoPeer::Anywhere(NoCapacity)));
    }
}
