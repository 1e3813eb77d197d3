//! What people do to many chains at once. The work goes on when nobody listens any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rootward_proto::{Fault, FaultResult, v1};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::{
    commands::{Change, unread},
    drivers::ChainHome,
    show,
    state::{Event, Standing, Status, transition},
    store::{self, ChainFilter, ChainRow},
};

/// Chains that are changed at once.
const AT_ONCE: usize = 64;
const PAGE: i64 = 500;
/// Chains that a dry run lists.
const LISTED: i64 = 100;
/// How often progress is told.
const TELL_INTERVAL: Duration = Duration::from_millis(300);
/// How long the changed chains may take to come to an end while somebody listens.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long the answer to a command on one chain waits for the chain to go through.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Of so many chains it is told where they stand in the end.
const FOLLOWED: usize = 100_000;

/// What is to be done with all that match.
#[derive(Debug, Clone)]
pub(crate) enum Bulk {
    Change(Change),
    /// Ended chains are forgotten.
    Purge,
}

impl Bulk {
    /// Whether a chain in this status can be meant.
    fn fits(&self, status: Status) -> bool {
        match self {
            Bulk::Change(change) => transition(status, change.verb, &Standing::default()).is_ok(),
            Bulk::Purge => status.is_ended(),
        }
    }
}

/// Answers of a bulk command; nobody has to read them.
pub(crate) type Told = mpsc::Receiver<FaultResult<v1::ChangeChainsResponse>>;

impl ChainHome {
    /// Does it to every chain that matches, at most so many a second.
    ///
    /// # Errors
    /// RW4001 and RW4003 if the filter names one chain and that isn't there or can't be changed.
    pub(crate) async fn change_all(
        self: &Arc<Self>,
        bulk: Bulk,
        filter: ChainFilter,
        is_dry_run: bool,
        per_second: Option<f64>,
    ) -> FaultResult<Told> {
        self.settle().await;
        let (told, answers) = mpsc::channel(4);
        if let Some(id) = filter.id
            && !is_dry_run
        {
            // One chain is answered at once, with its own reasons.
            // It goes on to its end even if the asker goes away.
            let changed = self.serving.tasks.spawn(self.clone().change_this(id, bulk)).await;
            let goes_on = changed.map_err(|error| Fault::internal(error.to_string()))?.1?;
            let shown = if goes_on { self.show_settled(id).await } else { self.show(id).await };
            let chains = match shown {
                Ok(chain) => vec![chain],
                Err(fault) if fault.code() == "RW4001" => Vec::new(), // purged
                Err(fault) => return Err(fault),
            };
            let statuses = chains.iter().map(|chain| (chain.status.clone(), 1)).collect();
            let done = v1::ChangeChainsResponse { matched: 1, changed: 1, statuses, chains, is_final: true, ..Default::default() };
            let _ = told.send(Ok(done)).await;
            return Ok(answers);
        }
        let mut filter = filter;
        let meant = |name: &String| Status::from_name(name).is_some_and(|status| bulk.fits(status));
        if filter.statuses.is_empty() {
            filter.statuses = Status::ALL.into_iter().filter(|status| bulk.fits(*status)).map(|status| status.name().to_owned()).collect();
        } else {
            filter.statuses.retain(meant);
        }
        if filter.statuses.is_empty() {
            let _ = told.send(Ok(v1::ChangeChainsResponse { is_final: true, ..Default::default() })).await;
            return Ok(answers);
        }
        let read = |error| unread(&error);
        let matched = store::count_by(&self.pool, &filter, "status").await.map_err(read)?.values().sum();
        let steps = store::count_by(&self.pool, &filter, "step").await.map_err(read)?.into_iter().collect();
        let mut progress = v1::ChangeChainsResponse { matched, steps, ..Default::default() };
        if is_dry_run {
            let rows = store::list(&self.pool, &filter, LISTED).await.map_err(read)?;
            progress.chains = rows.iter().map(|row| show::chain(&self.peer, row)).collect();
            progress.is_final = true;
            let _ = told.send(Ok(progress)).await;
            return Ok(answers);
        }
        let home = self.clone();
        let stop = self.serving.stop.clone();
        self.serving.tasks.spawn(async move {
            tokio::select! {
                () = home.run_bulk(bulk, filter, per_second, progress, told) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(answers)
    }

    /// One chain that was told to go on: most are through in a moment, and then the answer is the end.
    pub(crate) async fn show_settled(self: &Arc<Self>, id: Uuid) -> FaultResult<v1::Chain> {
        if let Some(mut view) = self.drivers.view(id) {
            let is_over = |chain: &v1::Chain| !Status::from_name(&chain.status).is_some_and(Status::is_driven);
            let _ = tokio::time::timeout(SETTLE_LIMIT, view.wait_for(is_over)).await;
        }
        self.show(id).await
    }

    async fn change_one(self: &Arc<Self>, id: Uuid, bulk: &Bulk) -> FaultResult<bool> {
        match bulk {
            Bulk::Change(change) => self.change(id, change).await,
            Bulk::Purge => self.purge(id).await.map(|()| false),
        }
    }

    async fn change_this(self: Arc<Self>, id: Uuid, bulk: Bulk) -> (Uuid, FaultResult<bool>) {
        (id, self.change_one(id, &bulk).await)
    }

    async fn run_bulk(
        self: &Arc<Self>,
        bulk: Bulk,
        filter: ChainFilter,
        per_second: Option<f64>,
        mut progress: v1::ChangeChainsResponse,
        told: mpsc::Sender<FaultResult<v1::ChangeChainsResponse>>,
    ) {
        let mut after = Uuid::nil();
        let mut changed: Vec<Uuid> = Vec::new();
        let mut last_told = Instant::now();
        let mut pace = per_second.filter(|rate| *rate > 0.0).map(|rate| {
            let mut pace = tokio::time::interval(Duration::try_from_secs_f64(1.0 / rate).unwrap_or(TELL_INTERVAL));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            pace
        });
        loop {
            let page: Vec<ChainRow> = match store::page(&self.pool, &filter, after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    let _ = told.send(Err(unread(&error))).await;
                    return;
                }
            };
            let Some(last) = page.last() else { break };
            after = last.id;
            let at_once = if pace.is_some() { 1 } else { AT_ONCE };
            for ids in page.chunks(at_once) {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                let work: Vec<_> = ids.iter().map(|row| self.clone().change_this(row.id, bulk.clone())).collect();
                for (id, done) in join_all(work).await {
                    match done {
                        Ok(_) => {
                            progress.changed += 1;
                            if changed.len() < FOLLOWED {
                                changed.push(id);
                            }
                        }
                        Err(fault) => {
                            progress.refused += 1;
                            progress.failure.get_or_insert_with(|| fault.into_wire());
                        }
                    }
                }
                if last_told.elapsed() >= TELL_INTERVAL {
                    last_told = Instant::now();
                    // Nobody has to listen: a full channel or none at all keeps nothing from going on.
                    let _ = told.try_send(Ok(progress.clone()));
                }
            }
        }
        tracing::info!(
            matched = progress.matched,
            changed = progress.changed,
            refused = progress.refused,
            "a bulk command on chains is through"
        );
        if !matches!(bulk, Bulk::Purge) {
            self.follow(&changed, &mut progress, &told).await;
        }
        progress.is_final = true;
        let _ = told.send(Ok(progress)).await;
    }

    /// Tells where the changed chains stand, until none moves any more or nobody listens.
    async fn follow(
        &self,
        changed: &[Uuid],
        progress: &mut v1::ChangeChainsResponse,
        told: &mpsc::Sender<FaultResult<v1::ChangeChainsResponse>>,
    ) {
        let mut deadline = Instant::now() + END_LIMIT;
        let mut last = BTreeMap::new();
        while !told.is_closed() && Instant::now() < deadline {
            self.settle().await;
            let Ok(statuses) = store::statuses_of(&self.pool, changed).await else { return };
            progress.statuses = statuses.clone().into_iter().collect();
            if !statuses.keys().any(|name| Status::from_name(name).is_some_and(Status::is_driven)) {
                return;
            }
            if statuses != last {
                deadline = Instant::now() + END_LIMIT;
                last = statuses;
            }
            let _ = told.try_send(Ok(progress.clone()));
            tokio::time::sleep(TELL_INTERVAL).await;
        }
    }
}

/// The verb of a message.
///
/// # Errors
/// RW4004 if the message names none.
pub(crate) fn verb_of(verb: v1::ChainVerb) -> FaultResult<Option<Event>> {
    match verb {
        v1::ChainVerb::Replay => Ok(Some(Event::Replay)),
        v1::ChainVerb::Compensate => Ok(Some(Event::Compensate)),
        v1::ChainVerb::Skip => Ok(Some(Event::Skip)),
        v1::ChainVerb::Pause => Ok(Some(Event::Pause)),
        v1::ChainVerb::Resume => Ok(Some(Event::Resume)),
        v1::ChainVerb::Cancel => Ok(Some(Event::Cancel)),
        v1::ChainVerb::Abandon => Ok(Some(Event::Abandon)),
        v1::ChainVerb::Purge => Ok(None),
        v1::ChainVerb::Unspecified => Err(Fault::refused("RW4004", "the message names no verb", "see ChainVerb in rootward.proto")),
    }
}
