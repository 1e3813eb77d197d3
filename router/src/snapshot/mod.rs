//! Consistent cuts over all peers. The router keeps nothing of them: every peer keeps its part under the snapshot's id, and knows
//! which peers are in it, so that any router can read it.
//!
//! `coordinate` takes one snapshot, step by step with all peers; `share` lets requests that come together share it; `read` runs
//! queries on one, `combine` makes one answer of those of the peers, and `progress` says how far it is.

mod combine;
mod coordinate;
mod progress;
mod read;
mod share;

pub(crate) use share::Snapshots;
