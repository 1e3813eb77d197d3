//! Lanes: each runs the transactions of its partitions one after another on one connection, in batches of whatever waits.
//!
//! `unit` is what a batch is made of, `outcome` what is stored for it, `refusal` the judgement of PostgreSQL's errors,
//! `freshness` what is too old to run, `declared` the transactions as a term compiled them, `context` what is sent for a unit and
//! what its results mean; `batch` is the one PostgreSQL transaction, run `together` (`set_wise` where it may be, `own` for our own
//! rows; `companions` are the other steps of a chain, in the commit of its start) or `separately`; `run` is the loop, which runs the `parts` of a batch at the same time where that helps, `queue` the way in, which
//! `admission` guards; `hold` stops all lanes between two batches, `partition_hold` sets the work of single
//! partitions aside; `journal` numbers and hashes what took effect; `pace` limits a whole worker, `counters` is what a lane counts, `acknowledged` what it promised last; `read` is
//! the same statements on a session beside the lanes, for reads that may be a little old.

mod acknowledged;
mod admission;
mod batch;
mod companions;
mod context;
mod counters;
mod declared;
mod folded;
mod freshness;
mod hold;
mod journal;
mod outcome;
mod own;
mod pace;
mod partition_hold;
mod parts;
mod positions;
mod queue;
mod read;
mod refusal;
mod run;
mod separately;
mod set_wise;
mod together;
mod unit;

pub(crate) use acknowledged::Promise;
pub(crate) use context::{How, LaneContext};
pub(crate) use counters::Counters;
pub(crate) use declared::{Declared, Effect};
pub(crate) use freshness::{Floors, Freshness, expired_request, expired_step};
pub(crate) use hold::{Held, LaneHold};
pub(crate) use outcome::{Fingerprint, OutcomeKey};
pub(crate) use pace::Pace;
pub(crate) use partition_hold::PartitionHold;
pub(crate) use queue::{Bounds, LaneHandle, Share};
pub(crate) use read::{ReadContext, ReadEnd, Root, writes};
pub(crate) use run::{Session, start_lane};
pub(crate) use unit::{
    After, Answer, Answerer, Asked, Claim, Done, Finished, Outgoing, OwnRow, OwnValue, Ticket, Unit, UnitOutcome, lane_died, wrong_owner,
};
