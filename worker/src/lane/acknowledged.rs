//! The transactions that a lane acknowledged last, for the case that another PostgreSQL takes its place: what was promised can then be
//! looked for there, one by one.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::unit::Unit;

/// How many each lane remembers.
const MOST: usize = 8_192;
/// How long. What is older may have been forgotten in the database too.
const KEPT: Duration = Duration::from_secs(600);

/// One of them, by what its outcome's row is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    pub at: Instant,
    pub partition: i32,
    pub request_id: Uuid,
    pub step: i32,
    pub element: i32,
    pub direction: &'static str,
}

/// The last of them, oldest first. Written by the lane, read when a term begins.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<VecDeque<Promise>>);

impl Acknowledged {
    /// Remembers units that took effect.
    pub(super) fn note<'u>(&self, units: impl Iterator<Item = &'u Unit>) {
        let at = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for unit in units {
            let Some(outcome) = unit.outcome.as_ref().filter(|outcome| !outcome.is_look_up) else { continue };
            if last.len() == MOST {
                last.pop_front();
            }
            last.push_back(Promise {
                at,
                partition: unit.claim.partition,
                request_id: outcome.key.request_id,
                step: super::context::number(outcome.key.step),
                element: super::context::number(outcome.key.element),
                direction: outcome.key.direction(),
            });
        }
    }

    /// All that are not too old.
    pub(crate) fn last(&self) -> Vec<Promise> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().filter(|promise| promise.at.elapsed() < KEPT).cloned().collect()
    }
}
