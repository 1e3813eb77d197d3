//! The scan that finds chains that should be driven: what a crash left behind, what is due, what had to make room.

use std::{sync::Arc, time::Duration};

use rootward_proto::Fault;
use uuid::Uuid;

use super::{
    drivers::{ChainHome, identity_of},
    show,
    state::{Event, Standing, Status, transition},
    store::{self, ChainRow, Due, Note, StoreError},
};
use crate::clock::{self, LAST_MS};

const SCAN_INTERVAL: Duration = Duration::from_secs(1);
const SCAN_PAGE: i64 = 500;
/// Drivers that were lost one after the other without coming on, after which a chain is parked: its step may be what kills
/// the worker.
const MAX_RECOVERIES: u32 = 20;
/// A chain younger than this belongs to a start that is being answered, in milliseconds.
const START_AGE_MS: i64 = 1000;

/// The statuses that the scan looks at, each page by page in turn, so that none waits for the others.
const SCANNED: [Status; 4] = [Status::Compensating, Status::Running, Status::Waiting, Status::Scheduled];

impl ChainHome {
    /// Finds chains that are due and have no driver, now, every second, and when there is room again, until the term ends.
    pub(crate) async fn recover(self: Arc<Self>) {
        let stop = self.serving.stop.clone();
        // What ran when the term before ended may have been noted by a clock that was ahead of today's: at first all of it is
        // looked at, whenever it says that it is due, but for what rests between two attempts.
        let mut is_first = true;
        loop {
            is_first |= self.takes_new_ground();
            let scan = async {
                match self.scan(is_first).await {
                    Ok(is_through) => is_first &= !is_through,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the scan for open chains failed; it is tried again");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(SCAN_INTERVAL) => {}
                    () = self.drivers.freed() => {}
                }
            };
            tokio::select! {
                () = scan => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at all that is due; false if there was no room for some of it.
    async fn scan(self: &Arc<Self>, is_first: bool) -> Result<bool, StoreError> {
        let mut cursors: Vec<(Status, Due)> = SCANNED.map(|status| (status, (0.0, Uuid::nil()))).to_vec();
        while !cursors.is_empty() {
            let mut next = Vec::new();
            for (status, after) in cursors {
                let _pass = self.gate.pass().await;
                let due_by = match status {
                    Status::Running | Status::Compensating if is_first => LAST_MS,
                    Status::Running => clock::now_ms() - START_AGE_MS,
                    _ => clock::now_ms(),
                };
                let page = store::scan_due(&self.pool, status, due_by, after, SCAN_PAGE).await?;
                let found: Vec<Uuid> = page.iter().map(|due| due.1).filter(|id| self.drivers.view(*id).is_none()).collect();
                if !found.is_empty() {
                    let rests = |row: &ChainRow| row.attempts > 0 && row.next_attempt_at_ms.is_some_and(|at| at > clock::now_ms());
                    for row in store::get_many(&self.pool, &found).await?.into_iter().filter(|row| !rests(row)) {
                        if !self.drivers.has_room() {
                            self.drivers.set_backlog(true);
                            return Ok(false);
                        }
                        self.recover_row(&row);
                    }
                }
                if let Some(last) = page.last() {
                    next.push((status, *last));
                }
            }
            cursors = next;
        }
        Ok(true)
    }

    pub(super) fn recover_row(self: &Arc<Self>, row: &ChainRow) {
        let event = match row.status {
            Status::Waiting => Some(Event::Wake),
            Status::Scheduled => Some(Event::Begin),
            _ => None,
        };
        let standing = Standing::default();
        let Ok(status) = event.map_or(Ok(row.status), |event| transition(row.status, event, &standing)) else { return };
        if !status.is_driven() {
            return; // changed since the page was read
        }
        let mut note = note_from(row, status, self.new_expiry_ms());
        if row.recoveries < MAX_RECOVERIES {
            note.recoveries = row.recoveries + 1;
            if let Err(fault) = self.drive_row(row, note, false) {
                tracing::error!(chain = %row.id, %fault, "an open chain can't be recovered");
            }
            return;
        }
        let Ok(status) = transition(status, Event::Exhaust, &standing) else { return };
        let fault = Fault::refused(
            "RW4002",
            format!("the chain was recovered {MAX_RECOVERIES} times without coming any further"),
            "find what ends its worker, then replay it",
        );
        note = Note { status, error: Some(show::error_json(&fault)), recoveries: 0, next_attempt_at_ms: None, ..note };
        let (home, identity, pass) = (self.clone(), identity_of(row), self.gate.enter());
        self.serving.tasks.spawn(async move {
            let noted = home.note(&identity, note).await;
            drop((noted, pass));
        });
    }
}

/// The row as it is, with another status, to be looked at at once.
pub(super) fn note_from(row: &ChainRow, status: Status, expires_at_ms: i64) -> Note {
    Note {
        revision: row.revision,
        status,
        called_back: None,
        step: row.step.clone(),
        error: row.error.as_ref().map(serde_json::Value::to_string),
        result: None,
        waits: None,
        attempts: row.attempts,
        recoveries: row.recoveries,
        next_attempt_at_ms: Some(clock::now_ms()),
        expires_at_ms,
        ended_at_ms: None,
        deed: None,
    }
}
