//! The moments around a commit at which tests kill a worker or its PostgreSQL.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::timeout;

use crate::{
    cluster::Cluster,
    wait::{LIMIT, until},
};

/// Longer than a lane lets notes wait for company.
const NOTED: Duration = Duration::from_secs(1);

/// The points that a worker can be armed with; see its `fail_point`.
pub const KILL_POINTS: [&str; 5] = ["before_begin", "after_effect", "after_outcome", "commit_sent", "after_commit"];

/// Who is killed at the point, with SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The worker kills itself.
    Worker,
    /// The worker pauses, and the backend of each of its lanes is killed; the server restarts all others by itself.
    Backend,
    /// The worker pauses, and its whole PostgreSQL is killed and started again.
    Postgres,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 3] = [Victim::Worker, Victim::Backend, Victim::Postgres];
}

/// Runs `work` on a cluster where `victim` of `peer` is killed once, when `transaction` comes to `point` there.
///
/// # Errors
/// If the point is not reached, or what was killed doesn't come back.
pub async fn while_killing<T>(
    cluster: &mut Cluster,
    (peer, victim): (&str, Victim),
    (point, transaction): (&str, &str),
    work: impl Future<Output = T>,
) -> Result<T> {
    let pause = Pause::new()?;
    let armed = match victim {
        Victim::Worker => format!("{point}/{transaction}=kill"),
        Victim::Backend | Victim::Postgres => pause.at(point, transaction),
    };
    // The end of a chain is noted lazily: a worker that starts before that runs its steps again, and would come to the point by itself.
    let reader = cluster.reader();
    let open = "select count(*) from rootward.chain where status in ('running', 'compensating')";
    let noted = until("no chain runs", async || reader.sum(open).await.is_ok_and(|open| open == 0).then_some(()));
    let _ = timeout(NOTED, noted).await; // where one goes on running, that is what is tried
    let term = cluster.restart_worker(peer, &[("ROOTWARD_FAIL_POINT", &armed)]).await?;
    let kill = async {
        match victim {
            Victim::Worker => {
                timeout(LIMIT, cluster.embedded.wait_for_worker_end(peer)).await.context("the worker did not come to the point")?;
                cluster.embedded.start_worker(peer, &[]).await?;
            }
            Victim::Backend => {
                pause.reached().await?;
                cluster.kill_lane_backends(peer).await?;
                pause.release()?;
            }
            Victim::Postgres => {
                pause.reached().await?;
                cluster.embedded.kill_postgres(peer).await?;
                cluster.embedded.start_postgres(peer).await?;
                pause.release()?;
            }
        }
        anyhow::Ok(())
    };
    let (done, killed) = tokio::join!(work, kill);
    killed?;
    cluster.wait_until_serving(peer, term).await?;
    Ok(done)
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
