//! Finds staged rows, sends each to its owner, and marks it. A notification only wakes; what there is to do, a scan decides, so that rows
//! which were staged while nobody listened are found like any others.
//!
//! A row's request id follows from the row and its round, so that it takes effect once, however often it is sent: by this worker, or
//! by the next one after this one has died between the answer and the mark.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use rootward_proto::{
    FaultResult,
    v1::{self, RetryClass},
};
use rootward_router::{call_message, chain_message};
use rootward_schema::Stage;
use tokio::{sync::Notify, time::Instant};
use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::store::{self, Mark, Staged};
use crate::{chain::ChainHome, config::Config, fail_point, term};

/// A pause between two scans if nothing notifies.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
/// A pause after a connection broke.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Rows that are taken up at once.
const PAGE: i64 = 256;
/// Rows that are under way at once, of all stages in turn.
const UNDER_WAY: usize = 32;
/// How long one attempt may take; then the row waits for its next one, with the same request id.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Picks up staged rows until the term ends.
pub(crate) async fn pick_up(home: Arc<ChainHome>, config: Arc<Config>) {
    if home.serving.schema.stages.is_empty() {
        return;
    }
    let stop = home.serving.stop.clone();
    while !stop.is_cancelled() {
        tokio::select! {
            result = listen(&home, &config) => {
                if let Err(why) = result {
                    tracing::debug!(why, "staged rows can't be read now");
                }
            }
            () = stop.cancelled() => return,
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Scans, and waits for a notification, again and again until the connection breaks.
async fn listen(home: &ChainHome, config: &Config) -> Result<(), String> {
    let wake = Arc::new(Notify::new());
    let heard = wake.clone();
    let on_message = move |message: AsyncMessage| {
        if matches!(message, AsyncMessage::Notification(_)) {
            heard.notify_one();
        }
    };
    let connected = term::connect(&config.database, config, "rootward stage", on_message).await;
    let (client, ended) = connected.map_err(|error| error.to_string())?;
    client.batch_execute("listen rootward_stage").await.map_err(|error| error.to_string())?;
    loop {
        let mut is_more = false;
        for stage in &home.serving.schema.stages {
            is_more |= scan(home, stage).await?;
        }
        if is_more {
            continue;
        }
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(SCAN_INTERVAL) => {}
            () = ended.cancelled() => return Ok(()),
        }
    }
}

/// Sends a page of rows; whether there may be more.
async fn scan(home: &ChainHome, stage: &Stage) -> Result<bool, String> {
    let client = home.pool.get().await.map_err(|error| error.to_string())?;
    let rows = store::take_up(&client, stage, PAGE).await.map_err(|error| error.to_string())?;
    drop(client);
    let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= PAGE);
    let sent = rows.into_iter().map(|row| settle(home, stage, row));
    let results: Vec<Result<(), String>> = stream::iter(sent).buffer_unordered(UNDER_WAY).collect().await;
    results.into_iter().collect::<Result<Vec<()>, String>>()?;
    Ok(is_full)
}

async fn settle(home: &ChainHome, stage: &Stage, row: Staged) -> Result<(), String> {
    let sent = send(home, stage, &row).await;
    fail_point::hit("stage_answered", &stage.call).await;
    let mark = match sent {
        Ok(()) => Mark::Done,
        Err(fault) => {
            let (code, message) = (fault.code().to_owned(), fault.message().to_owned());
            match fault.retry_class() {
                RetryClass::Refused | RetryClass::NotFound => Mark::Refused { code, message },
                _ => Mark::Later { code, message },
            }
        }
    };
    let client = home.pool.get().await.map_err(|error| error.to_string())?;
    store::mark(&client, stage, &row, &mark).await.map_err(|error| error.to_string())
}

/// Sends a row to its owner. A chain is settled when it is accepted: it ends by itself.
async fn send(home: &ChainHome, stage: &Stage, row: &Staged) -> FaultResult<()> {
    let catalog = home.routing.catalog()?;
    let id = request_id(stage, row).to_string();
    let arguments = store::arguments(stage, row);
    let execute = if stage.is_chain {
        let request = v1::StartChainRequest {
            chain: stage.call.clone(),
            input: arguments,
            chain_id: id,
            wait: v1::ChainWait::Accepted.into(),
            issued_at_ms: row.issued_at_ms,
            ..v1::StartChainRequest::default()
        };
        chain_message(&catalog, request)?
    } else {
        let request = v1::CallRequest {
            transaction: stage.call.clone(),
            arguments,
            request_id: id,
            issued_at_ms: row.issued_at_ms,
            ..v1::CallRequest::default()
        };
        call_message(&catalog, request)?
    };
    home.routing.execute(Box::new(execute), Instant::now() + ATTEMPT).await.map(drop)
}

/// Follows from the row and its round alone.
fn request_id(stage: &Stage, row: &Staged) -> Uuid {
    // A negative control of the tests.
    if fail_point::is_armed("fresh_stage_id", &stage.call) {
        return Uuid::now_v7();
    }
    Uuid::new_v5(&row.id, format!("stage {} {}", stage.name, row.round).as_bytes())
}
