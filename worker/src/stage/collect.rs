//! Deletes rows that were done long ago, in small ranges of each table's pages; no index is kept for it. Refused ones stay until a person
//! replays or drops them.
//!
//! What is done is never sent again, so nothing rests on how long its row is kept; the moments are those of the database alone.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::store;
use crate::chain::{ChainHome, StoreError};

/// Pages of a table that are looked at, and cleared, by one statement.
const PAGES: i64 = 128;
/// Of the time, the collection takes one part in so many.
const DUTY: u32 = 5;

/// Collects until the term ends, and rests for `idle` when a whole round found nothing.
pub(crate) async fn collect(home: Arc<ChainHome>, retention: Duration, idle: Duration) {
    if home.serving.schema.stages.is_empty() {
        return;
    }
    let stop = home.serving.stop.clone();
    let rounds = async {
        loop {
            let found = round(&home, retention).await.unwrap_or_else(|error| {
                tracing::debug!(error = &error as &dyn std::error::Error, "a collection of staged rows stopped; it begins again later");
                0
            });
            if found == 0 {
                tokio::time::sleep(idle).await;
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}

/// Walks through all stages once; returns how many rows it deleted.
async fn round(home: &ChainHome, retention: Duration) -> Result<u64, StoreError> {
    let mut deleted = 0;
    for stage in &home.serving.schema.stages {
        let pages = store::pages(&home.pool.get().await?, stage).await?;
        for first in (0..pages).step_by(usize::try_from(PAGES).unwrap_or(1)) {
            let began = Instant::now();
            deleted += store::delete_done(&home.pool.get().await?, stage, (first, first + PAGES), retention).await?;
            tokio::time::sleep(began.elapsed() * (DUTY - 1)).await;
        }
    }
    Ok(deleted)
}
