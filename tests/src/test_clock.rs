//! A wall clock for workers that a test moves.

use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::Cluster;

/// A file that says by how many seconds the clocks of some workers are wrong.
pub struct TestClock {
    folder: tempfile::TempDir,
}

impl TestClock {
    /// A clock that is right.
    ///
    /// # Errors
    /// If there can be no temporary file.
    pub fn new() -> Result<TestClock> {
        let clock = TestClock { folder: tempfile::Builder::new().prefix("rw-clock-").tempdir()? };
        // Workers run as another user than a test that runs as root.
        std::fs::set_permissions(clock.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of the true time.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Written beside and moved: a worker never reads half a number.
        let half = self.folder.path().join("half");
        std::fs::write(&half, seconds.to_string())?;
        Ok(std::fs::rename(half, self.file())?)
    }

    /// The value of `ROOTWARD_CLOCK_FILE` that makes a worker go by it.
    pub fn path(&self) -> String {
        self.file().display().to_string()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("seconds")
    }
}

impl Cluster {
    /// Kills every worker and starts it anew by this clock, set so many seconds ahead.
    ///
    /// # Errors
    /// If one doesn't serve in time.
    pub async fn restart_all_at(&mut self, clock: &TestClock, seconds: i64) -> Result<()> {
        clock.set(seconds)?;
        let file = clock.path();
        let ids: Vec<String> = self.embedded.topology().nodes().map(|(id, _)| id.to_owned()).collect();
        let mut terms = Vec::new();
        for id in &ids {
            terms.push(self.wait_until_serving(id, 0).await?.term);
            self.embedded.kill_worker(id).await?;
        }
        for id in &ids {
            self.embedded.start_worker(id, &[("ROOTWARD_CLOCK_FILE", &file)]).await?;
        }
        for (id, term) in ids.iter().zip(terms) {
            self.wait_until_serving(id, term).await?;
        }
        Ok(())
    }
}
