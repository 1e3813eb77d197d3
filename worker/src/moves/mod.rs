//! Moving partitions from one peer to another while they are in use.
//!
//! `state` says what stages there are and which follows which; `store` keeps moves in the catalog on the hub; `mover` drives them, in the
//! worker that holds the hub, by steps that it asks the source's and the target's workers for (`ask`); `requests` answers those who want
//! moves. `part` takes such steps at either end, `digest` counts there what is compared, and `part_store` is their SQL.

mod ask;
mod digest;
mod mover;
mod part;
mod part_store;
mod plan;
mod requests;
mod state;
mod store;

pub(crate) use mover::Mover;
pub(crate) use part::{Parts, sizes};
