//! Waiting for what must come, with a deadline; never for time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long anything may take that must happen; far more than it does, so that a slow machine fails no test.
pub const LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(15);

/// Asks until there is a value.
///
/// # Errors
/// If the limit is over before; `what` is named.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ask().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {LIMIT:?}: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks until the check passes; at the end the last failure is the answer.
///
/// # Errors
/// The failure of the last try.
pub async fn eventually<E>(mut check: impl AsyncFnMut() -> Result<(), E>) -> Result<(), E> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match check().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
