//! Moving partitions from one peer to another while they are in use.
//!
//! `state` says what stages there are and which follows which; `store` keeps moves in the catalog on the hub; `mover` drives them, in the
//! worker that holds the hub, by steps that it asks the source's and the target's workers for (`ask`). `part` takes such
//! steps at either end, and `part_store` is their SQL.

mod ask;
mod mover;
mod part;
mod part_store;
mod plan;
mod state;
mod store;

pub(crate) use mover::Mover;
pub(crate) use part::{Parts, sizes};
