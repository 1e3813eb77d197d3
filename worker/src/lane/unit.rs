//! A unit: the work of one transaction on its way through a lane.

use std::sync::Arc;

use rootward_proto::{FaultResult, v1};
use rootward_schema::Text;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    declared::Effect,
    freshness::Freshness,
    outcome::{Fingerprint, OutcomeKey},
};
use crate::pg::Call;

/// What the lane runs for one request; all of it takes effect in one commit or none.
pub(crate) struct Unit {
    /// The transaction's name, for messages.
    pub label: Arc<str>,
    pub partition: i32,
    /// The epoch in which this worker took the partition to be its own.
    pub epoch: i64,
    /// What row security compares with; none for work that touches no tree.
    pub context: Option<String>,
    /// The users' statements.
    pub effect: Option<Effect>,
    /// Our own work in the same commit.
    pub after: Option<After>,
    /// The outcome to store; none for our own bookkeeping.
    pub outcome: Option<UnitOutcome>,
    /// Ad-hoc SQL shares a batch with nobody: it could change settings of the session.
    pub is_alone: bool,
    /// How old it may be.
    pub freshness: Freshness,
    /// After this moment it is not begun any more.
    pub deadline: Instant,
    pub answer: oneshot::Sender<Answer>,
}

/// What is stored with the effect.
#[derive(Debug, Clone)]
pub(crate) struct UnitOutcome {
    pub key: OutcomeKey,
    pub fingerprint: Fingerprint,
    /// Stores a tombstone instead of running anything.
    pub is_tombstone: bool,
    /// Asks for the stored outcome and writes nothing.
    pub is_look_up: bool,
    /// A refusal is the sender's to note, and leaves no row.
    pub refusal_is_no_outcome: bool,
    /// Is stored as the answer; nothing runs.
    pub mark: Option<Box<v1::CallResponse>>,
    /// It is collected when its chain's home says so, not by its age.
    pub in_chain: bool,
    /// A refusal of it makes no chain, so nobody's home collects that one.
    pub opens_chain: bool,
    /// When the request was first issued, in milliseconds since 1970.
    pub issued_at_ms: i64,
}

/// Our own work for a unit. It is done if the unit is not refused.
#[derive(Debug, Clone)]
pub(crate) enum After {
    Call(Call),
    /// One row of a call that may serve many units.
    Row(OwnRow),
}

/// One row for a function of ours that takes many: the function is given the secret and an array for each value, and returns
/// for each row its place (from 0) and a value.
#[derive(Debug, Clone)]
pub(crate) struct OwnRow {
    pub sql: &'static str,
    /// Two rows with the same key don't go into one call.
    pub key: Uuid,
    pub values: Vec<Text>,
}

/// The durable answer of a unit.
pub(crate) type Answer = FaultResult<Done>;

/// What a unit that took effect gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Done {
    pub response: v1::CallResponse,
    /// What our own work gave.
    pub after: Text,
}
