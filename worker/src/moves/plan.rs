//! What a rebalance moves, by the ring, and changes of peers.

use std::{collections::BTreeMap, time::Duration};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, PeerChange, RetryClass},
};
use rootward_schema::{NoPeer, RegionalPeer, reassign_by_region};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    mover::{Mover, hub},
    requests::refused,
    store::{self, NewMove},
};

/// Partitions that one move of a rebalance carries at most: what has moved serves at its new owner while the rest is copied, and a move that is
/// cancelled undoes little.
const MOST_IN_ONE: usize = 32;

/// How long a removed peer's copy of the reference data may resist.
const FORGET_LIMIT: Duration = Duration::from_secs(5);
const FORGET_PAUSE: Duration = Duration::from_millis(10);

/// Who gives which partitions to whom: (source, target) with partitions and epochs, in pieces.
type Pieces = Vec<((String, String), Vec<(i32, i64)>)>;

/// A partition: its number, owner, epoch, and the region that it never leaves, empty if it may be anywhere.
pub(super) type Mapped = (i32, String, i64, String);

/// The moves after which every peer has its share. A region's partitions are shared among its own peers; one that is elsewhere, since its owner has
/// another region by now, goes home. One move has at most so many partitions. The map has all partitions, in order.
pub(super) fn plan(map: &[Mapped], peers: &[RegionalPeer], most_in_one: usize) -> Result<Pieces, NoPeer> {
    let place = |id: &str| peers.iter().position(|peer| peer.peer == id);
    let current: Vec<(&str, Option<usize>)> = map.iter().map(|(_, owner, _, region)| (region.as_str(), place(owner))).collect();
    let wanted = reassign_by_region(&current, peers)?;
    let mut ways: BTreeMap<(String, String), Vec<(i32, i64)>> = BTreeMap::new();
    for ((partition, owner, epoch, _), target) in map.iter().zip(wanted) {
        let Some(target) = peers.get(target).map(|peer| &peer.peer) else { continue };
        if target != owner {
            ways.entry((owner.clone(), target.clone())).or_default().push((*partition, *epoch));
        }
    }
    let pieces = |(way, moved): ((String, String), Vec<(i32, i64)>)| {
        moved.chunks(most_in_one).map(|piece| (way.clone(), piece.to_vec())).collect::<Vec<_>>()
    };
    Ok(ways.into_iter().flat_map(pieces).collect())
}

impl Mover {
    /// Begins the moves that give every peer its share.
    ///
    /// # Errors
    /// RW5041 while some partitions are moved already: what they will leave is not known yet.
    pub(crate) async fn rebalance(&self, request: v1::RebalanceRequest) -> FaultResult<v1::MovePartitionsResponse> {
        let id = match request.request_id.as_str() {
            "" => Uuid::now_v7(),
            id => Uuid::parse_str(id).map_err(|_| refused(format!("`{id}` is no UUID"), "leave it out, and one is made"))?,
        };
        if !request.dry_run {
            // The answer to the same request was lost: some of its moves may have ended by now.
            let begun = store::begun(&self.pool, &[], Some(&mark(&request.reason, id))).await.map_err(|error| hub(&error))?;
            if !begun.is_empty() {
                return Ok(v1::MovePartitionsResponse {
                    moves: begun.into_iter().map(|one| one.view).collect(),
                    already_there: Vec::new(),
                });
            }
        }
        let open = store::open(&self.pool).await.map_err(|error| hub(&error))?;
        if let Some(one) = open.first() {
            let message = format!("partitions are being moved already, by move {}", one.id);
            return Err(refused(message, "wait for its end, or cancel it: `rootward partition moves`"));
        }
        let peers = store::peers(&self.pool).await.map_err(|error| hub(&error))?;
        let map = store::map(&self.pool).await.map_err(|error| hub(&error))?;
        // What PostgreSQL copies at once it copies as fast as it can.
        let most_in_one = if self.is_paced() { 1 } else { MOST_IN_ONE };
        let pieces = plan(&map, &peers, most_in_one).map_err(|none| match none {
            NoPeer::Anywhere(_) => refused("no active peer has a capacity above 0".to_owned(), "see `rootward peer list`"),
            NoPeer::InRegion(_) => {
                let help = "add a peer of that region, or put one that is drained back to work: `rootward peer drain ID --undo`";
                Fault::refused("RW1112", format!("nothing is moved: {none}"), help)
            }
        })?;
        let moves: Vec<NewMove> = pieces
            .into_iter()
            .enumerate()
            .map(|(number, ((source, target), moved))| {
                let (partitions, epochs) = moved.into_iter().unzip();
                let number = number.to_string();
                NewMove { id: Uuid::new_v5(&id, number.as_bytes()), partitions, epochs, source, target, reason: mark(&request.reason, id) }
            })
            .collect();
        self.begin_all(moves, request.dry_run, Vec::new()).await
    }

    /// Drains a peer, takes it back into service, or removes it.
    ///
    /// # Errors
    /// RW5045 if it can't be changed so.
    pub(crate) async fn change_peer(&self, request: &v1::ChangePeerRequest) -> FaultResult<v1::ChangePeerResponse> {
        let wrong = |message: String, help: &str| Fault::refused("RW5045", message, help);
        let id = request.id.as_str();
        let known = store::peer_state(&self.pool, id).await.map_err(|error| hub(&error))?;
        let Some((state, is_hub)) = known else {
            return Err(Fault::new("RW5007", RetryClass::NotFound, format!("there is no peer `{id}`"), "see `rootward peer list`"));
        };
        if is_hub {
            return Err(wrong(format!("peer `{id}` is the hub"), "it holds the catalog, and owns no partitions"));
        }
        let new = match request.change() {
            PeerChange::Drain => "draining",
            PeerChange::Activate => "active",
            PeerChange::Remove => "removed",
            PeerChange::Unspecified => return Err(Fault::internal("a change of a peer came without saying which")),
        };
        if state == new {
            self.forget_copy(id, new).await?;
            return Ok(v1::ChangePeerResponse { state });
        }
        if state == "removed" {
            return Err(wrong(format!("peer `{id}` was removed"), "add it under another id"));
        }
        match store::change_peer(&self.pool, id, new).await.map_err(|error| hub(&error))? {
            None => {
                self.forget_copy(id, new).await?;
                Ok(v1::ChangePeerResponse { state: new.to_owned() })
            }
            Some(why) => {
                Err(wrong(format!("peer `{id}` can't be {new}: {why}"), "see `rootward partition list` and `rootward partition moves`"))
            }
        }
    }
}

impl Mover {
    /// A removed peer's slot on the hub goes.
    async fn forget_copy(&self, id: &str, state: &str) -> FaultResult<()> {
        if state != "removed" {
            return Ok(());
        }
        let until = Instant::now() + FORGET_LIMIT;
        loop {
            match store::forget_copy(&self.pool, id).await {
                Ok(true) => return Ok(()),
                _ if Instant::now() < until => tokio::time::sleep(FORGET_PAUSE).await,
                Ok(false) => {
                    let message = format!("peer `{id}` is removed, but still copies reference data from the hub");
                    return Err(Fault::retry(
                        "RW5042",
                        message,
                        "shut it down, and remove it once more: its replication slot keeps the hub's log",
                    ));
                }
                Err(error) => return Err(hub(&error)),
            }
        }
    }
}

/// The reason of a rebalance's moves, by which its request is known again.
fn mark(reason: &str, id: Uuid) -> String {
    let rest = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("rebalance {id}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(capacities: &[u32]) -> Vec<RegionalPeer> {
        let peer =
            |(at, capacity): (usize, &u32)| RegionalPeer { peer: format!("p{}", at + 1), capacity: *capacity, region: String::new() };
        capacities.iter().enumerate().map(peer).collect()
    }

    fn map(partitions: i32, owners: i32) -> Vec<Mapped> {
        (0..partitions).map(|partition| (partition, format!("p{}", partition % owners + 1), 1, String::new())).collect()
    }

    fn moved(pieces: &Pieces) -> usize {
        pieces.iter().map(|(_, moved)| moved.len()).sum()
    }

    #[test]
    fn a_fourth_peer_gets_a_quarter_and_nothing_else_moves() {
        let pieces = plan(&map(1024, 3), &peers(&[1, 1, 1, 1]), MOST_IN_ONE).expect("there is room");
        assert!((256..=317).contains(&moved(&pieces)), "{}", moved(&pieces));
        assert!(pieces.iter().all(|((_, target), moved)| target == "p4" && moved.len() <= MOST_IN_ONE));
        let alone = plan(&map(1024, 3), &peers(&[1, 1, 1, 1]), 1).expect("there is room");
        assert_eq!((moved(&alone), alone.len()), (moved(&pieces), moved(&pieces)), "the same partitions, each by itself");
    }

    #[test]
    fn a_drained_peer_keeps_nothing_and_nobody_else_gives_anything() {
        let pieces = plan(&map(1024, 4), &peers(&[1, 1, 1, 0]), MOST_IN_ONE).expect("there is room");
        assert_eq!(moved(&pieces), 256);
        assert!(pieces.iter().all(|((source, _), _)| source == "p4"));
        assert!(plan(&map(16, 2), &peers(&[0, 0]), MOST_IN_ONE).is_err(), "nobody can take them");
    }

    #[test]
    fn capacities_are_weights() {
        let pieces = plan(&map(1024, 2), &peers(&[1, 3]), MOST_IN_ONE).expect("there is room");
        assert_eq!(moved(&pieces), 256);
        assert!(plan(&map(1024, 2), &peers(&[1, 1]), MOST_IN_ONE).expect("room").is_empty(), "what is balanced stays");
    }
}
