//! `rootward bench`: Rootward beside its alternatives, on the same PostgreSQL servers, in one run. Each benchmark is a file;
//! what they share is the ground that they run on, the closed loop, the figures and the words about the machine.

mod baseline;
mod callers;
mod chains;
mod closed_loop;
mod figures;
mod file_script;
mod flood;
mod ground;
mod kill;
mod live;
mod machine;
mod memory;
mod meter;
mod open_loop;
mod overload;
mod page;
mod recovery;
mod report;
mod rounds;
mod script;
mod single;
mod snapshots;
mod workload;
mod xtm;

pub(crate) use baseline::Baseline;
pub(crate) use chains::{ChainsOptions, run as run_chains};
pub(crate) use figures::percentile;
pub(crate) use file_script::FileScript;
pub(crate) use kill::Kill;
pub(crate) use overload::{OverloadOptions, run as run_overload};
pub(crate) use report::Report;
pub(crate) use single::{SingleOptions, run as run_single};
pub(crate) use snapshots::{SnapshotsOptions, run as run_snapshots};
pub(crate) use workload::{Given, Workload};
pub(crate) use xtm::{NO_RIVAL, Rival, XtmOptions, run as run_xtm};
