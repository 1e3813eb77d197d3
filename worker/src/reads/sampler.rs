//! Asks the primary how far its log is flushed, so that it is known how old what a standby shows is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    position::{LogPosition, parse},
    samples::{Sample, Samples},
};

/// How often the primary is asked while there are reads, and for how long after the last one.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const DEMAND: Duration = Duration::from_secs(60);

/// Why the primary did not say how far it is.
pub(super) enum NoSample {
    TermOver,
    Away(String),
}

/// What is known of the primary's log in one term.
pub(super) struct Sampler {
    pool: Pool,
    term: i64,
    samples: Mutex<Samples>,
    /// One asks the primary at a time.
    asking: tokio::sync::Mutex<()>,
    /// When there was a read last.
    wanted_at: Mutex<Option<Instant>>,
    wanted: Notify,
}

impl Sampler {
    pub(super) fn new(pool: Pool, term: i64) -> Sampler {
        Sampler {
            pool,
            term,
            samples: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            wanted_at: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// There is a read: keep asking for a while.
    pub(super) fn want(&self) {
        *self.wanted_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.wanted.notify_one();
    }

    /// Asks again and again while there are reads, until the term ends.
    pub(super) async fn run(self: Arc<Sampler>, stop: CancellationToken) {
        let sampling = async {
            loop {
                self.wanted.notified().await;
                while self.is_wanted() {
                    if let Err(NoSample::Away(why)) = self.recent(SAMPLE_INTERVAL).await {
                        tracing::debug!(why, "the primary did not say how far it is");
                    }
                    tokio::time::sleep(SAMPLE_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            () = sampling => {}
            () = stop.cancelled() => {}
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < DEMAND)
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        // Nothing panics while it is held; what is in it would still be whole.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Samples::shown_by`].
    pub(super) fn shown_by(&self, replayed: LogPosition) -> Option<Sample> {
        self.lock().shown_by(replayed)
    }

    /// How far the primary was not longer ago than this.
    pub(super) async fn recent(&self, age: Duration) -> Result<Sample, NoSample> {
        let is_recent = |sample: &Sample| sample.at.elapsed() <= age;
        if let Some(sample) = self.lock().newest().filter(is_recent) {
            return Ok(sample);
        }
        let _turn = self.asking.lock().await;
        // Somebody else may have asked meanwhile.
        if let Some(sample) = self.lock().newest().filter(is_recent) {
            return Ok(sample);
        }
        self.sample().await
    }

    /// How far it is now.
    pub(super) async fn sample(&self) -> Result<Sample, NoSample> {
        let away = |error: &dyn std::fmt::Display| NoSample::Away(error.to_string());
        let client = self.pool.get().await.map_err(|error| away(&error))?;
        let at = Instant::now();
        let sql = "/* sample_position */ select pg_current_wal_flush_lsn()::text, \
                   (select min(flush_lsn)::text from pg_stat_replication where sync_state in ('sync', 'quorum')), ownership_version \
                   from rootward.peer_state where term = $1";
        let row = client.query_opt(sql, &[&self.term]).await.map_err(|error| away(&error))?.ok_or(NoSample::TermOver)?;
        let (flushed, confirmed): (String, Option<String>) =
            (row.try_get(0).map_err(|error| away(&error))?, row.try_get(1).map_err(|error| away(&error))?);
        let ownership_version = row.try_get(2).map_err(|error| away(&error))?;
        let flushed = parse(&flushed).ok_or_else(|| away(&"it told no place in its log"))?;
        let sample = Sample { at, flushed, confirmed: confirmed.as_deref().and_then(parse), ownership_version };
        self.lock().push(sample);
        Ok(sample)
    }
}
