//! Reads that may be a little old: on standbys of the peer's PostgreSQL, and at the primary when none is fresh enough.
//!
//! `samples` is how old a place in the log is, and pure; `sampler` asks the primary; `position` what an answer showed, and pure; `servers` keeps sessions and knows
//! which server is near and idle; `read` joins them. The statements run as in a lane (`lane/read.rs`), but pass none.
//!
//! No age rests on a clock of PostgreSQL's: the worker notes by its own when it asked the primary how far its log is flushed. Everything
//! that was acknowledged before that moment lies before that place, so a standby that has replayed the place shows all of it.

mod position;
mod read;
mod sampler;
mod samples;
mod servers;

pub(crate) use read::{Counters as ReadCounters, Reads, Wanted};
