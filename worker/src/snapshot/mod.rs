//! This peer's part in consistent cuts over all peers.
//!
//! `part` goes through the steps that a coordinator asks for and lets go of everything when it stops asking; `cut` is the session
//! that keeps a snapshot open, and its SQL; `kept` are the snapshots that may be read, until they expire; `read` runs people's
//! queries on them.

mod cut;
mod kept;
mod part;
mod read;

pub(crate) use kept::Snapshots;
pub(crate) use part::{Coordinator, take_part};
pub(crate) use read::read;
