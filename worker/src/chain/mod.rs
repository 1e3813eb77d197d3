//! Chains: steps over several roots, driven from the home of the first one.
//!
//! `state` says what comes next and is pure; `plan` resolves roots and arguments and is pure; `store` is the SQL; `attempt`
//! brings one task to its decision, `driver` joins them for one chain, `drivers` keeps them apart, `recover` finds those that
//! should be driven; `commands` is what people do to one chain, `bulk` to many, `watch` follows one; `forget` is the end; `open`
//! counts what has not ended; at the `gate` new work waits while a snapshot is formed.

mod attempt;
mod bulk;
mod commands;
mod driver;
mod drivers;
mod forget;
mod gate;
mod open;
mod plan;
mod recover;
mod show;
mod state;
mod store;
mod watch;

pub(crate) use attempt::effect_message;
pub(crate) use bulk::{Bulk, verb_of};
pub(crate) use commands::{Change, MOVING, Skip};
pub(crate) use drivers::{ChainHome, Drivers, Identity, Started, plan_of};
pub(crate) use gate::Closed;
pub(crate) use open::OpenChains;
pub(crate) use plan::{Pinned, Plan, Resolved, built_in, step_request_id};
pub(crate) use show::chain as shown;
pub(crate) use state::{Event, Status, Task};
pub(crate) use store::{ChainFilter, ChainRow, NewChain, StoreError, cut, old, open_row};
