//! Staged rows: each becomes a transaction or a chain at its owner, once, and is marked with what became of it. `store` is SQL, `pick_up`
//! the loop; `collect` deletes what has been done for long.

mod collect;
mod pick_up;
mod store;

pub(crate) use collect::collect;
pub(crate) use pick_up::pick_up;
pub(crate) use store::{drop_refused, list, replay};
