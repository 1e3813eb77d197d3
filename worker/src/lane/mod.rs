//! Lanes: each runs the transactions of its partitions one after another on one connection, in batches of whatever waits.
//!
//! `unit` is what a batch is made of, `outcome` what is stored for it, `refusal` the judgement of PostgreSQL's errors,
//! `freshness` what is too old to run, `context` what is sent for a unit and what its results mean, `batch` the one PostgreSQL transaction, `run` the loop,
//! `queue` the way in.

mod batch;
mod context;
mod freshness;
mod outcome;
mod positions;
mod queue;
mod refusal;
mod run;
mod unit;

pub(crate) use context::LaneContext;
pub(crate) use freshness::{Floors, Freshness, expired_request, expired_step};
pub(crate) use outcome::{Fingerprint, OutcomeKey};
pub(crate) use queue::{Counters, LaneHandle, Share};
pub(crate) use run::start_lane;
pub(crate) use unit::{Done, Planned, Unit, UnitOutcome};
