//! What the integration tests and the battery share: clusters of real processes, a client, a reader that trusts nobody,
//! and the invariants that hold after everything.

#![allow(clippy::disallowed_methods)] // connections of tests end with the test

mod client;
mod cluster;
mod commands;
pub mod cuts;
mod detour;
pub mod faults;
mod goods;
pub mod history;
mod invariants;
mod kill;
mod logs;
mod moved;
pub mod network;
pub mod patroni;
pub mod play;
mod reader;
mod scenario;
mod schemas;
mod test_clock;
mod wait;
mod workflow;

pub use rootward_worker::PEER_SQL;

pub use client::{Client, Ended, arguments, cents_of, number_of, send_to_worker, text_of};
pub use cluster::{Cluster, Shape};
pub use commands::{command, labelled, start};
pub use detour::{Cut, Detour};
pub use goods::order_lines;
pub use invariants::{Violation, check_bank, check_effects, check_everything, check_money};
pub use kill::{KILL_POINTS, Pause, Victim, while_killing};
pub use logs::check_logs;
pub use moved::nothing_is_left;
pub use reader::{Outcome, Reader};
pub use scenario::{
    a_late_duplicate_has_no_effect, a_root_is_not_seen_from_another, a_step_sent_twice_has_one_effect,
    a_step_that_was_called_off_has_no_effect, a_worker_of_an_older_term_writes_nothing, a_worker_without_the_partition_writes_nothing,
    deposit, one_id_has_one_effect,
};
pub use schemas::{compile, compile_changed, compile_example, compile_workflow};
pub use test_clock::TestClock;
pub use wait::{LIMIT, eventually, until};
pub use workflow::{check_marks, check_workflow};
