//! A unit: the work of one transaction on its way through a lane.

use std::sync::Arc;

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass},
};
use rootward_schema::Text;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};
use tokio_postgres::types::Type as PgType;
use uuid::Uuid;

use super::{
    declared::Effect,
    freshness::Freshness,
    outcome::{Fingerprint, OutcomeKey},
};
use crate::pg::{Call, RowType};

/// What this worker takes to be its own, as it has read it: the database checks it in every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub partition: i32,
    pub epoch: i64,
    /// The version of the table of owners that says so.
    pub version: i64,
}

/// What the lane runs for one request; all of it takes effect in one commit or none.
pub(crate) struct Unit {
    /// The transaction's name, for messages.
    pub label: Arc<str>,
    pub claim: Claim,
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
    pub answer: Answerer,
    /// All other steps of the chain that this one starts, if they may share its commit; see [`super::companions`].
    pub companions: Vec<Unit>,
    /// It is one of those: it takes effect in one commit with the start of its chain, or not at all.
    pub is_companion: bool,
}

impl Unit {
    /// Work at a partition of which nothing else is said yet, and for whose answer nobody waits.
    #[cfg(test)]
    pub(super) fn of_test(label: &str, partition: i32) -> Unit {
        Unit {
            label: label.into(),
            claim: Claim { partition, epoch: 1, version: 1 },
            context: None,
            effect: None,
            after: None,
            outcome: None,
            is_alone: false,
            freshness: Freshness::Own,
            deadline: Instant::now(),
            answer: Answerer::One(oneshot::channel().0),
            companions: Vec::new(),
            is_companion: false,
        }
    }

    /// Whether it has a row in the journal if it takes effect.
    pub(super) fn is_journaled(&self) -> bool {
        self.effect.is_some() && self.outcome.as_ref().is_some_and(|outcome| outcome.is_journaled)
    }
}

/// Where a unit's answer goes.
pub(crate) enum Answerer {
    /// To somebody who waits for this one.
    One(oneshot::Sender<Answer>),
    /// Into a stream of many, without a task that waits.
    Stream(Asked),
}

impl Answerer {
    /// Whoever asked may have gone away; the work is done all the same.
    pub(crate) fn send(self, answer: Answer) {
        match self {
            Answerer::One(sender) => drop(sender.send(answer)),
            Answerer::Stream(mut asked) => asked.give(answer),
        }
    }
}

/// A request of a stream that waits for its answer.
pub(crate) struct Asked {
    sender: Option<mpsc::Sender<Outgoing>>,
    ticket: Option<Box<Ticket>>,
}

/// What a stream needs to know of a request to answer it.
pub(crate) struct Ticket {
    pub correlation: u64,
    pub request_id: Uuid,
    pub entity: String,
    pub root_key: String,
    pub partition: i32,
    pub lane: u32,
    pub received: Instant,
    /// The request's room in this process.
    pub permit: OwnedSemaphorePermit,
}

/// What goes back into a stream.
pub(crate) enum Outgoing {
    Finished(Finished),
    Reply(v1::Reply),
}

/// A request of a stream with its answer.
pub(crate) struct Finished {
    pub ticket: Box<Ticket>,
    pub answer: Answer,
}

impl Asked {
    /// The channel has room for every request that has a permit.
    pub(crate) fn new(sender: mpsc::Sender<Outgoing>, ticket: Ticket) -> Asked {
        Asked { sender: Some(sender), ticket: Some(Box::new(ticket)) }
    }

    fn give(&mut self, answer: Answer) {
        if let (Some(sender), Some(ticket)) = (self.sender.take(), self.ticket.take()) {
            // A sender that is gone learns the answer when it asks again with the same id.
            let _ = sender.try_send(Outgoing::Finished(Finished { ticket, answer }));
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // A lane always answers; one that died took its answers with it, and only the outcome can tell.
        self.give(Err(lane_died()));
    }
}

/// What is said of work for a partition that another peer owns.
pub(crate) fn wrong_owner(partition: i32) -> Fault {
    Fault::new(
        "RW2005",
        RetryClass::Reroute,
        format!("this peer does not own partition {partition}"),
        "nothing was executed; the router finds the owner by itself",
    )
}

/// What is said of a unit whose lane is gone.
pub(crate) fn lane_died() -> Fault {
    Fault::new("RW3102", RetryClass::OutcomeUnknown, "the lane ended before it answered", "send it again with the same request id")
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
    /// Its effect has a row in its partition's journal.
    pub is_journaled: bool,
}

/// Our own work for a unit. It is done if the unit is not refused.
#[derive(Debug, Clone)]
pub(crate) enum After {
    Call(Call),
    /// One row of a call that may serve many units.
    Row(OwnRow),
}

/// One row for a function of ours that takes many: the function is given the secret and an array of rows, and returns a value for a row
/// with its place (from 0).
#[derive(Debug, Clone)]
pub(crate) struct OwnRow {
    pub sql: &'static str,
    /// The same where outcomes were stored before it, in the same commit: it is given in addition how many of each row's chain that must be,
    /// does nothing for a row without one, and fails if one of several is not there.
    pub sql_if_recorded: Option<&'static str>,
    /// Two rows with the same key don't go into one call.
    pub key: Uuid,
    pub r#type: RowType,
    /// The values with their types, in the order of the row's type.
    pub values: Vec<(PgType, OwnValue)>,
    /// What stands in the places of some of them if the unit's companions take effect in the same commit.
    pub values_with_companions: Vec<(usize, OwnValue)>,
}

/// A value of such a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OwnValue {
    Null,
    Integer(i32),
    Boolean(bool),
    /// Text, or JSON as text.
    Text(String),
    Bytes(Vec<u8>),
    Uuid(Uuid),
    /// Milliseconds since 1970.
    Moment(i64),
    /// The moment after all others.
    Never,
}

impl OwnValue {
    pub(crate) fn number(number: u32) -> OwnValue {
        OwnValue::Integer(i32::try_from(number).unwrap_or(i32::MAX))
    }

    pub(crate) fn text(text: &str) -> OwnValue {
        OwnValue::Text(text.to_owned())
    }
}

impl From<Text> for OwnValue {
    fn from(text: Text) -> OwnValue {
        text.map_or(OwnValue::Null, OwnValue::Text)
    }
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
