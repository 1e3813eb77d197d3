//! `--kill`: a part of a peer dies by kill -9 in the middle of the load and is started again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rootward_client::v1::RetryClass;
use rootward_cluster::EmbeddedCluster;

use super::{
    callers::Calls,
    closed_loop::{Caller, End},
};

/// How long a request is sent again before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// What dies, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub peer: String,
    pub part: Part,
    /// After the measured time has begun.
    pub after: Duration,
}

/// A part of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Postgres,
    Worker,
}

impl Kill {
    /// `PEER@TIME` for its PostgreSQL, `PEER/worker@TIME` for its worker.
    ///
    /// # Errors
    /// For people.
    pub(crate) fn parse(text: &str) -> Result<Kill, String> {
        let wrong = || "write PEER@TIME, such as p1@2s, for its PostgreSQL, or p1/worker@2s for its worker".to_owned();
        let (victim, after) = text.split_once('@').ok_or_else(wrong)?;
        let after = humantime::parse_duration(after).map_err(|error| error.to_string())?;
        let (peer, part) = match victim.split_once('/') {
            None | Some((_, "postgres")) => (victim.trim_end_matches("/postgres"), Part::Postgres),
            Some((peer, "worker")) => (peer, Part::Worker),
            Some(_) => return Err(wrong()),
        };
        if peer.is_empty() {
            return Err(wrong());
        }
        Ok(Kill { peer: peer.to_owned(), part, after })
    }

    /// Waits, kills, starts again.
    pub(super) async fn run(&self, cluster: &mut EmbeddedCluster, warm: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(warm + self.after).await;
        match self.part {
            Part::Postgres => {
                cluster.kill_postgres(&self.peer).await?;
                cluster.start_postgres(&self.peer).await?;
            }
            Part::Worker => {
                cluster.kill_worker(&self.peer).await?;
                cluster.start_worker(&self.peer, &[]).await?;
            }
        }
        Ok(())
    }

    /// In words.
    pub(super) fn what(&self) -> String {
        let part = match self.part {
            Part::Postgres => "PostgreSQL",
            Part::Worker => "worker",
        };
        format!("the {part} of {} killed after {}", self.peer, humantime::format_duration(self.after))
    }
}

/// A client that sends a request again, with its own id, until it knows what became of it.
pub(super) struct Patient {
    pub calls: Calls,
    pub pauses: Arc<Mutex<Pauses>>,
}

/// How long nobody was answered.
#[derive(Debug)]
pub(super) struct Pauses {
    last: Instant,
    longest: Duration,
    /// Requests that were given up.
    pub lost: u64,
}

impl Pauses {
    pub(super) fn new() -> Pauses {
        Pauses { last: Instant::now(), longest: Duration::ZERO, lost: 0 }
    }

    fn answered(&mut self, now: Instant) {
        self.longest = self.longest.max(now.saturating_duration_since(self.last));
        self.last = now;
    }

    pub(super) fn longest(&self) -> Duration {
        self.longest
    }
}

impl Caller for Patient {
    async fn once(&mut self) -> anyhow::Result<End> {
        let call = self.calls.call()?;
        let began = Instant::now();
        loop {
            match call.clone().send().await {
                Ok(_) => {
                    self.pauses.lock().unwrap_or_else(PoisonError::into_inner).answered(Instant::now());
                    return Ok(End::Done);
                }
                Err(fault) if fault.retry_class() == RetryClass::Refused => return Ok(End::Refused),
                Err(_) if began.elapsed() >= PATIENCE => {
                    self.pauses.lock().unwrap_or_else(PoisonError::into_inner).lost += 1;
                    return Ok(End::Aborted);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_and_a_moment_are_read() {
        let kill = |peer: &str, part, seconds| Ok(Kill { peer: peer.to_owned(), part, after: Duration::from_secs(seconds) });
        assert_eq!(Kill::parse("p1@2s"), kill("p1", Part::Postgres, 2));
        assert_eq!(Kill::parse("p1/postgres@2s"), kill("p1", Part::Postgres, 2));
        assert_eq!(Kill::parse("p2/worker@1m"), kill("p2", Part::Worker, 60));
        for wrong in ["p1", "@2s", "p1@", "p1@soon", "p1/router@2s", "/worker@2s"] {
            Kill::parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn the_longest_pause_counts() {
        let start = Instant::now();
        let mut pauses = Pauses { last: start, longest: Duration::ZERO, lost: 0 };
        for millis in [5, 900, 905, 1_000] {
            pauses.answered(start + Duration::from_millis(millis));
        }
        assert_eq!(pauses.longest(), Duration::from_millis(895));
    }
}
