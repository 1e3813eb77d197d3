//! Children that can't outlive us.
//!
//! Three nets, because no single one holds in every case: a child gets a signal from the kernel when we die
//! (`exec`), a reaper in a session of its own ends what is left and removes the folder (`reaper`), and dropping a
//! [`Child`] ends it. All of them end only processes that were started here.

mod child;
mod exec;
mod folder;
mod identity;
mod launcher;
mod reaper;

pub use child::Child;
pub use exec::{DeathSignal, exec_child};
pub use folder::Folder;
pub(crate) use identity::works_in;
pub use launcher::{Launcher, Spawn};
pub use reaper::reap;

use std::path::PathBuf;

/// Why a process or its folder couldn't be handled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program didn't start.
    #[error("`{program}` could not be started")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A signal couldn't be sent.
    #[error("process {pid} could not be signalled")]
    Signal {
        /// The process.
        pid: u32,
        /// The system's reason.
        source: nix::Error,
    },
    /// A file or folder couldn't be made or changed.
    #[error("`{path}` could not be prepared")]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another Rootward works in the folder.
    #[error("`{path}` is in use by another rootward process")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}
