//! How many chains are open, by status, for those who watch the worker.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{drivers::ChainHome, state::Status, store};

/// How often they are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Counting takes one part in so many of the time: a million open chains are counted less often.
const DUTY: u32 = 100;

/// The last count; nothing before the first one.
#[derive(Default)]
pub(crate) struct OpenChains(Mutex<BTreeMap<Status, i64>>);

impl OpenChains {
    /// By the name of each open status, those of which there is none too.
    pub(crate) fn by_status(&self) -> BTreeMap<&'static str, i64> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(status, count)| (status.name(), *count)).collect()
    }

    fn set(&self, counts: &BTreeMap<String, i64>) {
        let open = Status::ALL.into_iter().filter(|status| !status.is_ended());
        let all = open.map(|status| (status, counts.get(status.name()).copied().unwrap_or_default()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }
}

impl ChainHome {
    /// Counts the open chains again and again, until the term ends.
    pub(crate) async fn count_open(self: Arc<Self>) {
        let stop = self.serving.stop.clone();
        let counting = async {
            loop {
                let began = Instant::now();
                match store::count_open(&self.pool).await {
                    Ok(counts) => self.open.set(&counts),
                    Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the open chains can't be counted now"),
                }
                tokio::time::sleep(COUNT_INTERVAL.max(began.elapsed() * DUTY)).await;
            }
        };
        tokio::select! {
            () = counting => {}
            () = stop.cancelled() => {}
        }
    }
}
