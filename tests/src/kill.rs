//! The moments around a commit at which tests kill a worker or its PostgreSQL.

use std::path::PathBuf;

use anyhow::Result;

use crate::wait::until;

/// The points that a worker can be armed with; see its `fail_point`.
pub const KILL_POINTS: [&str; 5] = ["before_begin", "after_effect", "after_outcome", "commit_sent", "after_commit"];

/// Who is killed at the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The worker kills itself.
    Worker,
    /// The worker pauses, and its PostgreSQL is killed.
    Postgres,
}

/// A pause of a worker at a fail point, until it is released for good.
pub struct Pause {
    folder: tempfile::TempDir,
}

impl Pause {
    /// A pause that nobody has reached yet.
    ///
    /// # Errors
    /// If there can be no temporary folder.
    pub fn new() -> Result<Pause> {
        Ok(Pause { folder: tempfile::Builder::new().prefix("rw-pause-").tempdir()? })
    }

    /// The value of `ROOTWARD_FAIL_POINT` that arms it.
    pub fn at(&self, point: &str, transaction: &str) -> String {
        format!("{point}/{transaction}=pause:{}", self.file().display())
    }

    /// Waits until a worker has come to the point.
    ///
    /// # Errors
    /// If none comes.
    pub async fn reached(&self) -> Result<()> {
        until("a worker reaches the fail point", async || self.file().exists().then_some(())).await
    }

    /// Lets the worker go on. With its folder gone, it never pauses there again.
    ///
    /// # Errors
    /// If the folder can't be removed.
    pub fn release(self) -> Result<()> {
        Ok(self.folder.close()?)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("paused")
    }
}
