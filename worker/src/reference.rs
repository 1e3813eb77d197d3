//! Which version of the reference data this peer shows, and waiting for a newer one.
//!
//! The version is a row that is replicated with the tables, in the same commits, so a peer that shows it shows all that was
//! written up to it. Whoever changes the row notifies; a slow poll makes sure.
//!
//! What is known belongs to a term. PostgreSQL may lose what a subscription has applied lately when it crashes (the hub sends it
//! again), but then every lane's connection is lost, and the next term reads anew.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use rootward_proto::{Fault, FaultResult};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Config, term, term::TermError, verify};

/// A pause between two looks if nothing notifies.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// What is known before the row has been read.
const UNKNOWN: i64 = -1;

/// The version that this peer shows, as it was read last. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReferenceVersion {
    shown: watch::Receiver<i64>,
}

impl ReferenceVersion {
    /// Follows the version until the term ends.
    pub(crate) fn follow(config: Arc<Config>, tasks: &TaskTracker, stop: CancellationToken) -> ReferenceVersion {
        let (sender, shown) = watch::channel(UNKNOWN);
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                tokio::select! {
                    result = follow_once(&config, &sender) => {
                        if let Err(error) = result {
                            tracing::debug!(error = &error as &dyn std::error::Error, "the version of the reference data is not followed");
                        }
                    }
                    () = stop.cancelled() => return,
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        });
        ReferenceVersion { shown }
    }

    /// Whether this version is shown already.
    pub(crate) fn is_reached(&self, version: i64) -> bool {
        version <= 0 || *self.shown.borrow() >= version
    }

    /// Waits until this version is shown, or the time is over. Returns the version that is shown then, -1 if it is not known.
    ///
    /// Cancel safety: dropping the future gives up the wait.
    pub(crate) async fn wait(&self, version: i64, until: Instant) -> i64 {
        let mut shown = self.shown.clone();
        // An error is the end of the term: what was known last is the answer.
        let _ = tokio::time::timeout_at(until, shown.wait_for(|shown| *shown >= version)).await;
        *self.shown.borrow()
    }

    /// A version that no transaction has seen beyond which has ended by now: read behind it, since a batch sees what is committed while
    /// it runs. If the row can't be read, what was known last.
    pub(crate) async fn seen(&self, pool: &Pool) -> i64 {
        let read = async {
            let client = pool.get().await.ok()?;
            verify::reference_version(&client).await.ok()
        };
        read.await.unwrap_or_else(|| (*self.shown.borrow()).max(0))
    }

    /// Waits for a transaction that must not see less than this version.
    ///
    /// # Errors
    /// RW3109 if the time is over before; nothing was executed.
    pub(crate) async fn require(&self, peer: &str, version: i64, deadline: Instant) -> FaultResult<()> {
        if self.is_reached(version) {
            return Ok(());
        }
        // A little before the sender gives up, so that it hears what was waited for.
        let patience = deadline.saturating_duration_since(Instant::now()).mul_f64(0.9);
        let shown = self.wait(version, Instant::now() + patience).await;
        if shown >= version {
            return Ok(());
        }
        let shows = if shown < 0 { "an unknown version".to_owned() } else { format!("version {shown}") };
        Err(Fault::retry(
            "RW3109",
            format!("peer {peer} shows {shows} of the reference data, and the transaction waits for version {version}"),
            "nothing was executed; see how far each peer is with `rootward peer list`, and allow more time with --timeout",
        ))
    }
}

async fn follow_once(config: &Config, shown: &watch::Sender<i64>) -> Result<(), TermError> {
    let wake = Arc::new(Notify::new());
    let heard = wake.clone();
    let on_message = move |message: AsyncMessage| {
        if matches!(message, AsyncMessage::Notification(_)) {
            heard.notify_one();
        }
    };
    let (client, connection) = term::connect(&config.database, config, "rootward reference", on_message).await?;
    client.batch_execute("listen rootward_reference").await?;
    loop {
        let version = read(&client).await?;
        shown.send_if_modified(|known| std::mem::replace(known, version) != version);
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = connection.cancelled() => return Ok(()),
        }
    }
}

async fn read(client: &Client) -> Result<i64, tokio_postgres::Error> {
    let row = client.query_opt("/* follow_reference_version */ select version from rootward.reference_version", &[]).await?;
    row.map_or(Ok(0), |row| row.try_get(0))
}
