//! Partition -> peer: a consistent-hash ring that fills every peer up to its share.
//!
//! Virtual nodes are weighted by capacity. A partition walks its candidates to the first peer that still has room,
//! and a peer's room is its share of the partitions; so balance is exact, and adding or removing a peer moves little
//! more than what the new balance demands. The crate's `take` gives balance too, but moves up to four times as
//! much.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};

use crate::pg_hash::{hash_bytes_extended, hash_uint32_extended};

/// Virtual nodes per unit of capacity. More spread the load more evenly before the bound bites, so that fewer
/// partitions overflow to their second choice; measured, four times as many save one move in twenty.
const VIRTUAL_NODES: usize = 256;

/// A peer and how much it can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// The peer's name; it alone decides where the peer stands on the ring.
    pub peer: String,
    /// Its weight relative to the other peers, a small whole number; a peer of 0 gets no partition.
    pub capacity: u32,
}

/// No peer can take a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no peer has a capacity above 0")]
pub struct NoCapacity;

/// The peer of every partition, as an index into `peers`; the partition is the position in the answer.
///
/// The answer depends on names and capacities only, not on the order of `peers`; of peers with one name the first
/// counts. Every peer gets its share of the partitions, rounded down or up.
///
/// # Errors
/// [`NoCapacity`] if there is no peer with a capacity above 0.
pub fn assign(partitions: u32, peers: &[Capacity]) -> Result<Vec<usize>, NoCapacity> {
    let mut rooms = Rooms::new(partitions, peers);
    let ring = ring(peers);
    (0..partitions).map(|partition| first_with_room(&ring, partition, &mut rooms)).collect()
}

/// Like [`assign`], but from a map in use: moves as few partitions as the new balance allows.
///
/// `current` has the owner of each partition as an index into `peers`, `None` if the owner is gone or was never set.
/// A map made anew by [`assign`] is a little further away, the more so the more peers there are: about 1.1 times the
/// least movement with 5 of them, 1.4 times with 16.
///
/// # Errors
/// [`NoCapacity`] if there is no peer with a capacity above 0.
pub fn reassign(current: &[Option<usize>], peers: &[Capacity]) -> Result<Vec<usize>, NoCapacity> {
    let partitions = u32::try_from(current.len()).unwrap_or(u32::MAX);
    let ideal = assign(partitions, peers)?;
    let mut rooms = Rooms::new(partitions, peers);
    let mut new: Vec<Option<usize>> = vec![None; current.len()];
    // Where owner and ring agree comes first, so that what has to leave a full peer is what the ring wants elsewhere.
    for agrees in [true, false] {
        for (partition, owner) in current.iter().enumerate() {
            if (*owner == Some(ideal[partition])) == agrees {
                new[partition] = owner.filter(|owner| rooms.take(*owner));
            }
        }
    }
    let ring = ring(peers);
    (0..partitions).zip(new).map(|(partition, kept)| kept.map_or_else(|| first_with_room(&ring, partition, &mut rooms), Ok)).collect()
}

type Ring = StaticHashRing<'static, Placed, usize, FixedHash>;

fn ring(peers: &[Capacity]) -> Ring {
    let nodes = peers.iter().enumerate().filter(|(index, peer)| peer.capacity > 0 && is_first_of_its_name(peers, *index));
    StaticHashRing::new(
        FixedHash,
        nodes.map(|(index, peer)| {
            let quantity = VIRTUAL_NODES * usize::try_from(peer.capacity).unwrap_or(usize::MAX / VIRTUAL_NODES);
            Node::new(Placed::peer(&peer.peer)).value(index).quantity(quantity)
        }),
    )
}

fn first_with_room(ring: &Ring, partition: u32, rooms: &mut Rooms) -> Result<usize, NoCapacity> {
    let place = Placed::partition(partition);
    ring.calc_candidates(&place).map(|node| node.value).find(|peer| rooms.take(*peer)).ok_or(NoCapacity)
}

fn is_first_of_its_name(peers: &[Capacity], index: usize) -> bool {
    peers[..index].iter().all(|earlier| earlier.peer != peers[index].peer)
}

/// What every peer may still take: its share rounded down, and one more while some of the remainder is left.
struct Rooms {
    whole: Vec<u64>,
    may_round_up: Vec<bool>,
    remainder: u64,
}

impl Rooms {
    fn new(partitions: u32, peers: &[Capacity]) -> Rooms {
        let partitions = u64::from(partitions);
        let weight = |index: usize| if is_first_of_its_name(peers, index) { u64::from(peers[index].capacity) } else { 0 };
        let weights: Vec<u64> = (0..peers.len()).map(weight).collect();
        let total = weights.iter().sum::<u64>().max(1);
        let whole: Vec<u64> = weights.iter().map(|weight| partitions * weight / total).collect();
        let may_round_up = weights.iter().map(|weight| partitions * weight % total > 0).collect();
        let remainder = partitions - whole.iter().sum::<u64>();
        Rooms { whole, may_round_up, remainder }
    }

    /// Takes one partition's room at `peer`; false if it has none left.
    fn take(&mut self, peer: usize) -> bool {
        match self.whole.get_mut(peer) {
            Some(left) if *left > 0 => *left -= 1,
            Some(_) if self.remainder > 0 && self.may_round_up[peer] => {
                self.may_round_up[peer] = false;
                self.remainder -= 1;
            }
            _ => return false,
        }
        true
    }
}

/// Something that stands on the ring, with its own fixed hash; the name settles the order where hashes are equal.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    hash: u64,
    name: String,
}

impl Placed {
    fn peer(name: &str) -> Placed {
        Placed { hash: hash_bytes_extended(name.as_bytes(), 0), name: name.to_owned() }
    }

    fn partition(number: u32) -> Placed {
        Placed { hash: hash_uint32_extended(number, 0), name: String::new() }
    }
}

impl Hash for Placed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The ring's hash. Neither the crate's default nor what the standard library feeds a hasher is promised to stay the
/// same over versions and machines, and a map that two programs compute must be one map; so things bring their own
/// hash along and this hands it on.
struct FixedHash;

impl RingHash for FixedHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut given = Given(0);
        item.hash(&mut given);
        given.0
    }

    fn hash_vnode<K: Hash>(&self, node_key: &K, vnode_seq: usize) -> u64 {
        hash_bytes_extended(&(vnode_seq as u64).to_le_bytes(), self.hash_item(node_key))
    }
}

/// A hasher that answers with the last word that it was given.
struct Given(u64);

impl Hasher for Given {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("`Placed` writes one word and nothing else");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peers(capacities: &[u32]) -> Vec<Capacity> {
        capacities.iter().enumerate().map(|(index, capacity)| Capacity { peer: format!("p{}", index + 1), capacity: *capacity }).collect()
    }

    fn counts(map: &[usize], peers: usize) -> Vec<u64> {
        (0..peers).map(|peer| map.iter().filter(|owner| **owner == peer).count() as u64).collect()
    }

    /// How many partitions move from `old` to `new`, and how many have to because somebody's count grows.
    fn moved(old: &[usize], new: &[usize], peers: usize) -> (u64, u64) {
        let moved = old.iter().zip(new).filter(|(old, new)| old != new).count() as u64;
        let least = counts(old, peers).iter().zip(counts(new, peers)).map(|(old, new)| new.saturating_sub(*old)).sum();
        (moved, least)
    }

    fn is_balanced(map: &[usize], peers: &[Capacity]) -> bool {
        let total: u64 = peers.iter().map(|peer| u64::from(peer.capacity)).sum();
        counts(map, peers.len()).iter().zip(peers).all(|(count, peer)| {
            let share = map.len() as u64 * u64::from(peer.capacity);
            (share / total..=share.div_ceil(total)).contains(count)
        })
    }

    #[test]
    fn the_map_never_changes() {
        // A change here would move the data of everyone who runs a cluster.
        let map = assign(16, &peers(&[1, 1, 2])).expect("there is room");
        assert_eq!(map, [0, 2, 2, 0, 1, 2, 1, 2, 2, 0, 1, 2, 2, 0, 1, 2]);
    }

    #[test]
    fn without_capacity_there_is_no_map() {
        assert_eq!(assign(16, &[]), Err(NoCapacity));
        assert_eq!(assign(16, &peers(&[0, 0])), Err(NoCapacity));
        assert_eq!(reassign(&[None; 16], &peers(&[0])), Err(NoCapacity));
    }

    #[test]
    fn a_repeated_name_counts_once() {
        let mut twice = peers(&[1, 1]);
        twice.push(twice[0].clone());
        assert_eq!(assign(64, &twice), assign(64, &twice[..2]));
    }

    #[test]
    fn a_peer_added_or_removed_moves_little_more_than_it_must() {
        for (site, before) in (0..8).flat_map(|site| (1..7).map(move |before| (site, before))) {
            let all: Vec<Capacity> = (0..=before).map(|peer| Capacity { peer: format!("site{site}-{peer}"), capacity: 1 }).collect();
            let few = assign(1024, &all[..before]).expect("there is room");
            let many = assign(1024, &all).expect("there is room");
            for (old, new) in [(&few, &many), (&many, &few)] {
                let (moved, least) = moved(old, new, all.len());
                assert!(moved * 100 <= least * 135, "site {site}, {before} peers and one: {moved} moved where {least} had to");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_peer_gets_its_share(capacities in prop::collection::vec(0_u32..5, 1..12), power in 4_u32..11) {
            let peers = peers(&capacities);
            prop_assume!(capacities.iter().any(|capacity| *capacity > 0));
            let map = assign(1 << power, &peers).expect("there is room");
            prop_assert_eq!(map.len(), 1 << power);
            prop_assert!(is_balanced(&map, &peers), "{:?}", counts(&map, peers.len()));
        }

        #[test]
        fn the_order_of_the_peers_does_not_count(capacities in prop::collection::vec(1_u32..5, 1..8)) {
            let forward = peers(&capacities);
            let backward: Vec<Capacity> = forward.iter().rev().cloned().collect();
            let names = |map: Vec<usize>, peers: &[Capacity]| map.iter().map(|peer| peers[*peer].peer.clone()).collect::<Vec<_>>();
            let forward_map = assign(256, &forward).expect("there is room");
            prop_assert_eq!(names(forward_map, &forward), names(assign(256, &backward).expect("there is room"), &backward));
        }

        #[test]
        fn a_map_in_use_moves_only_what_it_must(
            capacities in prop::collection::vec(0_u32..5, 1..20),
            owners in prop::collection::vec(prop::option::of(0_usize..20), 256),
        ) {
            prop_assume!(capacities.iter().any(|capacity| *capacity > 0));
            let peers = peers(&capacities);
            let current: Vec<Option<usize>> = owners.iter().map(|owner| owner.filter(|owner| *owner < peers.len())).collect();
            let new = reassign(&current, &peers).expect("there is room");
            prop_assert!(is_balanced(&new, &peers), "{:?}", counts(&new, peers.len()));
            // Nobody gives one away and takes another.
            for peer in 0..peers.len() {
                let gave = current.iter().zip(&new).any(|(old, new)| *old == Some(peer) && *new != peer);
                let took = current.iter().zip(&new).any(|(old, new)| *old != Some(peer) && *new == peer);
                prop_assert!(!(gave && took), "peer {} gave and took", peer);
            }
            let settled: Vec<Option<usize>> = new.iter().copied().map(Some).collect();
            prop_assert_eq!(reassign(&settled, &peers).expect("there is room"), new);
        }
    }
}
