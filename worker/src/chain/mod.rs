//! Chains: steps over several roots, driven from the home of the first one.
//!
//! `state` says what comes next and is pure; `plan` resolves roots and arguments and is pure; `store` is the SQL; `driver`
//! joins them for one chain; `drivers` keeps them apart and recovers what a crash left behind.

mod commands;
mod driver;
mod drivers;
mod plan;
mod state;
mod store;

pub(crate) use drivers::{ChainHome, Drivers, Started};
pub(crate) use plan::{Plan, built_in, step_request_id};
pub(crate) use state::Task;
pub(crate) use store::{ChainFilter, open_call};
