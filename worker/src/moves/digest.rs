//! What one side of a move shows at one moment, fixed while its partitions are held, and counted when they are not any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rootward_proto::v1;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::part_store::{self as store, PartError};
use crate::{config::Config, serving::Serving, term};

/// A result that nobody takes is let go of.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// For how long one step waits for the result.
const WAIT: Duration = Duration::from_millis(500);
/// How long counting may take. It reads each of the peer's tables once.
const COUNT_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// This process's fixed sides, by move.
pub(super) struct FixedSides {
    config: Arc<Config>,
    sides: Mutex<HashMap<Uuid, Side>>,
    /// A session that was opened ahead, with the term that it belongs to: opening one takes longer than all else that is done while
    /// partitions are held.
    spare: tokio::sync::Mutex<Option<(i64, Client)>>,
}

struct Side {
    since: Instant,
    state: State,
}

enum State {
    Fixed(Client),
    Counting(AbortOnDropHandle<Result<Vec<v1::TableDigest>, PartError>>),
    Counted(Vec<v1::TableDigest>),
}

/// How far counting is.
pub(super) enum Count {
    /// Nothing is fixed here.
    Lost,
    Running,
    Done(Vec<v1::TableDigest>),
}

impl FixedSides {
    pub(super) fn new(config: Arc<Config>) -> FixedSides {
        FixedSides { config, sides: Mutex::default(), spare: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Side>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the session ahead in which a side will be fixed, if there is none.
    ///
    /// # Errors
    /// If the database can't be reached.
    pub(super) async fn prepare(&self, term: i64) -> Result<(), PartError> {
        let mut spare = self.spare.lock().await;
        if !spare.as_ref().is_some_and(|(of, client)| *of == term && !client.is_closed()) {
            *spare = Some((term, self.open().await?));
        }
        Ok(())
    }

    async fn open(&self) -> Result<Client, PartError> {
        Ok(term::connect(&self.config.database, &self.config, "rootward move", |_| {}).await?.0)
    }

    /// Fixes what is committed here now. What was fixed for this move before is gone.
    ///
    /// Cancel safety: nothing is fixed then.
    pub(super) async fn fix(&self, term: i64, id: Uuid) -> Result<(), PartError> {
        let spare = self.spare.lock().await.take().filter(|(of, client)| *of == term && !client.is_closed());
        let client = match spare {
            Some((_, client)) => client,
            None => self.open().await?,
        };
        store::fix(&client).await?;
        let mut sides = self.lock();
        sides.retain(|_, side| matches!(side.state, State::Counting(_)) || side.since.elapsed() < KEPT_FOR);
        sides.insert(id, Side { since: Instant::now(), state: State::Fixed(client) });
        Ok(())
    }

    /// Nothing of this move is kept, and the spare session isn't either.
    pub(super) async fn forget(&self, id: Uuid) {
        self.lock().remove(&id);
        self.spare.lock().await.take();
    }

    pub(super) fn has(&self, id: Uuid) -> bool {
        self.lock().contains_key(&id)
    }

    /// Begins to count what was fixed, or waits a moment for the result, which can be asked for more than once.
    ///
    /// Cancel safety: what was fixed is lost then.
    ///
    /// # Errors
    /// What PostgreSQL said; nothing is fixed any more.
    pub(super) async fn count(&self, serving: &Serving, id: Uuid, partitions: &[i32]) -> Result<Count, PartError> {
        let Some(side) = self.lock().remove(&id) else { return Ok(Count::Lost) };
        let mut counting = match side.state {
            State::Fixed(client) => {
                let (partitions, stop) = (partitions.to_vec(), serving.stop.clone());
                AbortOnDropHandle::new(serving.tasks.spawn(async move {
                    tokio::select! {
                        counted = store::digest(&client, &partitions, COUNT_LIMIT) => counted,
                        () = stop.cancelled() => Err(PartError::Ended),
                    }
                }))
            }
            State::Counting(counting) => counting,
            State::Counted(digests) => {
                self.keep(id, State::Counted(digests.clone()));
                return Ok(Count::Done(digests));
            }
        };
        match timeout(WAIT, &mut counting).await {
            Ok(ended) => {
                let digests = ended.map_err(|_| PartError::Ended)??;
                self.keep(id, State::Counted(digests.clone()));
                Ok(Count::Done(digests))
            }
            Err(_) => {
                self.keep(id, State::Counting(counting));
                Ok(Count::Running)
            }
        }
    }

    fn keep(&self, id: Uuid, state: State) {
        self.lock().insert(id, Side { since: Instant::now(), state });
    }
}
