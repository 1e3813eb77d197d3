//! Where a peer's copy of the reference data comes from: the hub, or the relay of its region, and another way when that one is dead.
//!
//! `state` judges and knows neither SQL nor a clock; `copy` makes a copy anew, for workers and for whoever repairs by hand; `store` is the
//! rest of the SQL; `keeper` is the loop.

mod copy;
mod keeper;
mod state;
mod store;

pub use copy::{ROUTE_LOCK, RenewError, Renewed, Side, SourceSessions, Way, renew, slot_name};
pub(crate) use keeper::keep;
pub use state::{Position, Source, declared_source};
pub(crate) use store::current as current_route;
