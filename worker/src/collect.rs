//! Takes away what nobody can ask for any more: outcomes of old requests, and chains that ended long ago with the outcomes
//! that their steps left at their roots. Everything passes the partitions' lanes, behind everything else that waits there.
//!
//! A duplicate that comes later is refused as expired: what was collected is remembered by its age, in memory before and in
//! the database with the collection (`rootward.collected`), and never comes down again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rootward_proto::{Fault, FaultResult};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    chain::{ChainHome, StoreError, old},
    clock,
    lane::{After, Share},
    pg::Call,
};

/// Pages of a table that are read at once.
const PAGES: i64 = 128;
/// Of the time, the collection takes one part in so many.
const DUTY: u32 = 5;
/// Chains that are collected at once.
const AT_ONCE: usize = 64;
/// What clocks may differ by, and a request may wait, on top of the retention.
const SLACK_MS: i64 = 3_600_000;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Outcomes of requests, and the least for everything else.
    pub requests: Duration,
    /// Ended chains.
    pub chains: Duration,
    /// The pause when a whole round found nothing.
    pub idle: Duration,
}

impl Retention {
    fn issued_before(&self) -> i64 {
        clock::now_ms() - millis(self.requests) - SLACK_MS
    }

    fn ended_before(&self) -> i64 {
        clock::now_ms() - millis(self.chains.max(self.requests)) - SLACK_MS
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Collects until the term ends.
pub(crate) async fn collect(home: Arc<ChainHome>, retention: Retention) {
    let stop = home.serving.stop.clone();
    let rounds = async {
        loop {
            let found = match round(&home, &retention).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "a collection stopped; it begins again later");
                    0
                }
            };
            if found == 0 {
                tokio::time::sleep(retention.idle).await;
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stop.cancelled() => {}
    }
}

/// Why a round stopped.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Fault(#[from] Fault),
}

/// Walks through both tables once; returns how many chains and requests it collected.
async fn round(home: &Arc<ChainHome>, retention: &Retention) -> Result<u64, CollectError> {
    let mut collected = 0;
    let pages = old::pages(&home.pool, "chain").await?;
    for first in (0..pages).step_by(usize::try_from(PAGES).unwrap_or(1)) {
        let began = Instant::now();
        wait_for_clock(retention).await;
        let ended_before = retention.ended_before();
        let expired_before = clock::now_ms() - SLACK_MS;
        let ids = old::chains(&home.pool, first, first + PAGES, ended_before, expired_before).await?;
        for ids in ids.chunks(AT_ONCE) {
            for done in join_all(ids.iter().map(|id| home.collect_chain(*id, ended_before))).await {
                // One that can't be told now is told in a later round.
                collected += u64::from(done.unwrap_or(false));
            }
        }
        tokio::time::sleep(began.elapsed() * (DUTY - 1)).await;
    }
    let pages = old::pages(&home.pool, "outcome").await?;
    for first in (0..pages).step_by(usize::try_from(PAGES).unwrap_or(1)) {
        let began = Instant::now();
        wait_for_clock(retention).await;
        collected += collect_outcomes(home, first, retention.issued_before()).await?;
        tokio::time::sleep(began.elapsed() * (DUTY - 1)).await;
    }
    Ok(collected)
}

/// After the clock was set forward nothing is as old as it seems.
async fn wait_for_clock(retention: &Retention) {
    while clock::has_jumped() {
        tokio::time::sleep(retention.idle).await;
    }
}

async fn collect_outcomes(home: &ChainHome, first: i64, issued_before: i64) -> Result<u64, CollectError> {
    let mut by_partition: BTreeMap<i32, Vec<(String, String, Uuid)>> = BTreeMap::new();
    for (partition, entity, root_key, id) in old::outcomes(&home.pool, first, first + PAGES, issued_before).await? {
        by_partition.entry(partition).or_default().push((entity, root_key, id));
    }
    if by_partition.is_empty() {
        return Ok(0);
    }
    // From here on no lane runs a request that old, whatever waits there already.
    home.serving.floors.raise_issued(issued_before);
    let mut collected = 0;
    for (partition, rows) in by_partition {
        let column = |of: &dyn Fn(&(String, String, Uuid)) -> String| Some(crate::pg::array(rows.iter().map(|row| Some(of(row)))));
        let call = Call::prepared(
            "select rootward.collect_outcomes($1, $2, $3, $4, $5, $6)",
            vec![
                home.serving.secret.clone(),
                Some(partition.to_string()),
                Some(clock::timestamp(issued_before)),
                column(&|row| row.0.clone()),
                column(&|row| row.1.clone()),
                column(&|row| row.2.to_string()),
            ],
        );
        let removed = home.own_work(partition, "collection", After::Call(call), Share::Lazy).await?;
        collected += removed.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(collected)
}

/// Takes away a chain's outcomes at one root of this peer, which its home asks for.
///
/// # Errors
/// RW4011 if by this peer's clock steps of the chain could still come.
pub(crate) async fn forget(home: &ChainHome, partition: i32, root: (&str, &str), id: Uuid, expires_at_ms: i64) -> FaultResult<()> {
    if expires_at_ms >= clock::now_ms() {
        return Err(Fault::retry("RW4011", "by this peer's clock it is too early to forget the chain", "it is tried again later"));
    }
    // From here on no lane runs a step that expires as early, whatever waits there already.
    home.serving.floors.raise_expired(expires_at_ms);
    let call = Call::prepared(
        "select rootward.forget_chain($1, $2, $3, $4, $5, $6)",
        vec![
            home.serving.secret.clone(),
            Some(partition.to_string()),
            Some(root.0.to_owned()),
            Some(root.1.to_owned()),
            Some(id.to_string()),
            Some(clock::timestamp(expires_at_ms)),
        ],
    );
    home.own_work(partition, "collection", After::Call(call), Share::Lazy).await.map(|_| ())
}

/// Before this moment the chain must have ended for a person to purge it.
pub(crate) fn purgeable_before(id: Uuid, retention: Duration) -> FaultResult<i64> {
    if clock::has_jumped() {
        return Err(Fault::retry(
            "RW4011",
            format!("chain {id} can't be purged now: the clock of its peer was set while the worker ran"),
            "restart the worker if the time is right now",
        ));
    }
    Ok(clock::now_ms() - millis(retention) - SLACK_MS)
}
