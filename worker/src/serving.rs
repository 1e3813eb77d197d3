//! One term of serving a peer: its lanes, the partitions that it owns, the schema that it knows.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use rootward_proto::FaultResult;
use rootward_schema::{Schema, Text};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    journal::Progress,
    lane::{Claim, Declared, Floors, LaneHandle, LaneHold, PartitionHold, wrong_owner},
    primary::Primary,
};

/// Everything that lives as long as this worker's term; it is dropped as a whole when the term ends.
pub(crate) struct Serving {
    pub term: i64,
    /// The PostgreSQL that serves it.
    pub primary: Primary,
    /// What the hub knew of it before this term; none if that was nothing, or nobody could say.
    pub before: Option<Primary>,
    /// PostgreSQL's version, for `peer list`.
    pub postgres_version: String,
    pub lanes: Vec<LaneHandle>,
    /// Stops all of them between two batches.
    pub hold: Arc<LaneHold>,
    /// Sets the work of partitions aside that change their owner.
    pub parted: Arc<PartitionHold>,
    /// What this peer owns.
    pub owned: RwLock<Owned>,
    pub secret: Text,
    pub schema: Arc<Schema>,
    /// The schema's transactions as lanes run them.
    pub declared: HashMap<String, Arc<Declared>>,
    /// What is too old to run here.
    pub floors: Arc<Floors>,
    /// How far the journals of its partitions are.
    pub journal: Arc<Progress>,
    /// Cancelled when a lane's connection is lost or another worker takes over.
    pub stop: CancellationToken,
    /// Tasks of this term; they end with `stop`.
    pub tasks: TaskTracker,
}

/// The partitions that a peer owns, as one reading of its table has them.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// The table's version.
    pub version: i64,
    /// The epoch of each partition.
    pub epochs: HashMap<i32, i64>,
}

impl Serving {
    /// Takes the partitions that the peer owns now. What a lane runs is checked by the database all the same.
    pub(crate) fn set_owned(&self, owned: Owned) {
        let mut known = self.owned.write().unwrap_or_else(PoisonError::into_inner);
        // Two readings may overtake each other.
        if owned.version >= known.version {
            *known = owned;
        }
    }

    /// The claim to a partition, if this peer owns it.
    pub(crate) fn claim_of(&self, partition: i32) -> Option<Claim> {
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner);
        owned.epochs.get(&partition).map(|epoch| Claim { partition, epoch: *epoch, version: owned.version })
    }

    /// Whether a partition has just gone to another peer, or is about to.
    pub(crate) fn is_leaving(&self, partition: i32) -> bool {
        self.parted.claim(partition).is_some() || self.claim_of(partition).is_none()
    }

    /// The lane of a partition, and the claim to it.
    ///
    /// # Errors
    /// RW2005 if this peer doesn't own it; nothing was executed.
    pub(crate) fn lane_of(&self, partition: i32) -> FaultResult<(&LaneHandle, Claim)> {
        let lane = usize::try_from(partition).unwrap_or(0) % self.lanes.len().max(1);
        let claim = self.claim_of(partition).or_else(|| self.parted.claim(partition));
        match (claim, self.lanes.get(lane)) {
            (Some(claim), Some(lane)) => Ok((lane, claim)),
            _ => Err(wrong_owner(partition)),
        }
    }
}
