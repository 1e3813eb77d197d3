//! A move's steps at its source and at its target. Each can be asked for again; those of one move run one after the other, in the order in
//! which the mover numbered them, and to their end even if nobody waits for them any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::Object;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, MoveStepKind},
};
use tokio::time::{Instant, timeout};
use tokio_postgres::types::PgLsn;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    digest::{Count, FixedSides},
    part_store::{self as store, PartError, Terms},
};
use crate::{chain::ChainHome, config::Config, fail_point, lane::Claim, term};

/// The label of all fail points here.
const LABEL: &str = "move";
/// A target that is this near, in bytes of the log, is near enough for the switch.
const NEAR: i64 = 256 << 10;
/// Pages that are cleaned in one transaction.
const PAGES: i64 = 64;
/// For how long one step cleans.
const CLEANING: Duration = Duration::from_millis(50);
/// Moves that are remembered, to tell steps that come late; more than ever run at once.
const MOST_REMEMBERED: usize = 1024;

/// Held while a step of one move runs; the mover's term and the number of the last step.
type Turn = Arc<tokio::sync::Mutex<(i64, u64)>>;

/// This process's part in moves.
pub(crate) struct Parts {
    config: Arc<Config>,
    tasks: TaskTracker,
    /// By move.
    turns: Mutex<HashMap<Uuid, Turn>>,
    sides: FixedSides,
}

fn failed(kind: MoveStepKind, peer: &str, error: &PartError) -> Fault {
    let name = kind.as_str_name().trim_start_matches("MOVE_STEP_KIND_").to_lowercase();
    Fault::retry(
        "RW5042",
        format!("peer {peer}: {name}: {error}"),
        "it is tried again; `rootward partition moves` shows how the move goes on",
    )
}

impl Parts {
    pub(crate) fn new(config: Arc<Config>, tasks: TaskTracker) -> Parts {
        Parts { sides: FixedSides::new(config.clone()), config, tasks, turns: Mutex::default() }
    }

    fn turn(&self, id: Uuid) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MOST_REMEMBERED {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(id).or_default().clone()
    }

    /// Takes one step.
    ///
    /// Cancel safety: it goes on when nobody waits, so that a later step never overtakes it.
    ///
    /// # Errors
    /// RW5042 if it failed; it may have been done.
    pub(crate) async fn step(self: &Arc<Self>, home: Arc<ChainHome>, request: v1::MoveStepRequest) -> FaultResult<v1::MoveStepResponse> {
        let id = Uuid::from_slice(&request.move_id).map_err(|_| Fault::internal("a move's id is no UUID"))?;
        let parts = self.clone();
        let step = self.tasks.spawn(async move {
            let turn = parts.turn(id);
            let mut last = turn.lock().await;
            let this = (request.mover_term, request.number);
            if this <= *last {
                return Err(Fault::retry("RW5042", "a later step of this move was here before", "it is tried again"));
            }
            *last = this;
            let kind = request.kind();
            let step = Step { parts: &parts, home: &home, id, terms: Terms { own: home.serving.term, mover: request.mover_term }, request };
            fail_point::hit(step.point(kind, "before"), LABEL).await;
            let result = step.run(kind).await.map_err(|error| failed(kind, &step.home.peer, &error));
            fail_point::hit(step.point(kind, "after"), LABEL).await;
            result
        });
        step.await.map_err(|_| Fault::internal("a step of a move panicked"))?
    }
}

struct Step<'p> {
    parts: &'p Parts,
    home: &'p Arc<ChainHome>,
    id: Uuid,
    terms: Terms,
    request: v1::MoveStepRequest,
}

type StepResult = Result<v1::MoveStepResponse, PartError>;

impl Step<'_> {
    fn point(&self, kind: MoveStepKind, when: &'static str) -> &'static str {
        match (kind, when) {
            (MoveStepKind::Arrive, "after") => "move_arrived",
            (MoveStepKind::Publish, "after") => "move_published",
            (MoveStepKind::Subscribe, "after") => "move_subscribed",
            (MoveStepKind::Copied, "after") => "move_copied",
            (MoveStepKind::Release, "before") => "move_release",
            (MoveStepKind::Release, "after") => "move_released",
            (MoveStepKind::Fix, "after") => "move_fixed",
            (MoveStepKind::Digest, "after") => "move_digested",
            (MoveStepKind::Own, "before") => "move_own",
            (MoveStepKind::Own, "after") => "move_owned",
            (MoveStepKind::Settle, "before") => "move_settle",
            (MoveStepKind::Settle, "after") => "move_settled",
            (MoveStepKind::Unsubscribe, "after") => "move_unsubscribed",
            (MoveStepKind::Unpublish, "after") => "move_unpublished",
            (MoveStepKind::Clean, "after") => "move_cleaned",
            (MoveStepKind::TakeBack, "before") => "move_take_back",
            _ => "move_step",
        }
    }

    async fn run(&self, kind: MoveStepKind) -> StepResult {
        let (pool, partitions) = (&self.home.pool, self.request.partitions.as_slice());
        let done = v1::MoveStepResponse { is_done: true, ..v1::MoveStepResponse::default() };
        match kind {
            MoveStepKind::Arrive => {
                store::call(&pool.get().await?, self.terms, self.id, "arrive", Some(partitions)).await?;
            }
            MoveStepKind::Publish => {
                store::call(&pool.get().await?, self.terms, self.id, "publish", Some(partitions)).await?;
                store::make_slot(pool, self.id).await?;
                let rows = store::sizes(pool).await?.iter().filter(|size| partitions.contains(&size.partition)).map(|size| size.rows).sum();
                return Ok(v1::MoveStepResponse { rows, ..done });
            }
            MoveStepKind::Subscribe => self.subscribe().await?,
            MoveStepKind::Copied => {
                self.parts.sides.prepare(self.terms.own).await?;
                let (tables, tables_ready, rows) = store::copied(pool, self.id).await?;
                let (is_done, failures) = (tables > 0 && tables == tables_ready, store::failures(pool, self.id).await?);
                return Ok(v1::MoveStepResponse { is_done, tables, tables_ready, rows, failures, ..done });
            }
            MoveStepKind::Lag => {
                self.parts.sides.prepare(self.terms.own).await?;
                let is_near = store::lag(pool, self.id).await?.is_some_and(|bytes| bytes <= NEAR);
                return Ok(v1::MoveStepResponse { is_done: is_near, ..done });
            }
            MoveStepKind::Release => return self.release().await,
            MoveStepKind::Fix => {
                self.parts.sides.fix(self.terms.own, self.id).await?;
                self.expect();
            }
            MoveStepKind::Digest => return self.digest().await,
            MoveStepKind::TakeBack => {
                let client = pool.get().await?;
                self.alone_for(store::call(&client, self.terms, self.id, "take_back", None)).await?;
                self.read_ownership(&client).await?;
                self.home.serving.parted.let_go(partitions);
                self.home.look_again();
            }
            MoveStepKind::Own => self.own().await?,
            MoveStepKind::Settle => {
                // The target serves: what waits for the partitions needn't wait for this peer's own books too.
                self.home.serving.parted.send_on(partitions);
                let client = pool.get().await?;
                self.alone_for(store::call(&client, self.terms, self.id, "settle", None)).await?;
                self.read_ownership(&client).await?;
            }
            MoveStepKind::Unsubscribe => {
                let subscription = store::unsubscribe(pool, self.id).await?;
                return Ok(v1::MoveStepResponse { subscription, ..done });
            }
            MoveStepKind::Unpublish => {
                let is_done = store::drop_slots(pool, self.id, self.request.subscription).await?;
                store::unpublish(pool, self.id).await?;
                return Ok(v1::MoveStepResponse { is_done, ..done });
            }
            MoveStepKind::Clean => return self.clean().await,
            MoveStepKind::Forget => {
                store::call(&pool.get().await?, self.terms, self.id, "forget", None).await?;
                self.parts.sides.forget(self.id).await;
            }
            MoveStepKind::Unspecified => {}
        }
        Ok(done)
    }

    fn hold_limit(&self) -> Duration {
        Duration::from_millis(self.parts.config.move_hold_ms)
    }

    /// Runs a change of owners when no batch is under way and no snapshot is being fixed. Lanes that are free wait meanwhile for one with
    /// a long transaction, so that has a bound.
    async fn alone_for<T>(&self, change: impl Future<Output = Result<T, PartError>>) -> Result<T, PartError> {
        let _alone = timeout(self.hold_limit(), self.home.serving.hold.alone()).await.map_err(|_| PartError::Busy)?;
        change.await
    }

    async fn read_ownership(&self, client: &Object) -> Result<(), PartError> {
        let statement = client.prepare_cached(term::READ_OWNERSHIP).await?;
        self.home.serving.set_owned(term::owned(&client.query(&statement, &[]).await?)?);
        Ok(())
    }

    async fn subscribe(&self) -> Result<(), PartError> {
        let config = &self.parts.config;
        let (hub, _) = term::connect(&config.hub_database, config, "rootward move", |_| {}).await?;
        let connection = store::connection_of(&hub, &self.request.source).await?;
        store::subscribe(&self.home.pool, self.terms, self.id, &connection).await
    }

    /// Holds the partitions' queues, ends their chains' drivers, gives the partitions up, waits until the target has applied all that was
    /// committed here before, and fixes what that is. If it takes too long, the mover takes them back; if the mover is gone, the hold lapses.
    async fn release(&self) -> StepResult {
        let (home, partitions, limit) = (self.home, self.request.partitions.as_slice(), self.hold_limit());
        // Before the hold: nobody waits for connections in it.
        let client = home.pool.get().await?;
        self.parts.sides.prepare(self.terms.own).await?;
        let until = Instant::now() + limit;
        let claims: Vec<Claim> = partitions.iter().filter_map(|partition| home.serving.claim_of(*partition)).collect();
        // A negative control of the tests: without the hold, work for them is refused by the database and comes again later.
        if !fail_point::is_armed("without_hold", LABEL) {
            home.serving.parted.hold(&claims, until);
        }
        self.end_hold_at(until);
        home.drivers.stop_those_of(partitions);
        self.alone_for(store::call(&client, self.terms, self.id, "release", Some(partitions))).await?;
        fail_point::hit("move_given_up", LABEL).await;
        let up_to = store::flushed_to(&client).await?;
        let fixed = self.parts.sides.fix(self.terms.own, self.id);
        let (is_done, ()) = tokio::try_join!(self.wait_until_applied(&client, up_to, until), fixed)?;
        Ok(v1::MoveStepResponse { is_done, ..v1::MoveStepResponse::default() })
    }

    /// Counts what was fixed. What a source has given away for good stays as it is, so that can be fixed at any time.
    async fn digest(&self) -> StepResult {
        let (sides, pool) = (&self.parts.sides, &self.home.pool);
        if !sides.has(self.id) && store::has_given_away(pool, self.id).await? {
            sides.fix(self.terms.own, self.id).await?;
        }
        // What is fixed next is fixed in a hold.
        sides.prepare(self.terms.own).await?;
        Ok(match sides.count(&self.home.serving, self.id, &self.request.partitions).await? {
            Count::Lost => v1::MoveStepResponse { is_lost: true, ..v1::MoveStepResponse::default() },
            Count::Running => v1::MoveStepResponse::default(),
            Count::Done(digests) => v1::MoveStepResponse { is_done: true, digests, ..v1::MoveStepResponse::default() },
        })
    }

    async fn wait_until_applied(&self, client: &Object, up_to: PgLsn, until: Instant) -> Result<bool, PartError> {
        // A negative control of the tests: what the target has not applied yet is lost.
        if fail_point::is_armed("without_flush", LABEL) {
            return Ok(true);
        }
        while !store::has_applied(client, self.id, up_to).await? {
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(true)
    }

    /// When the hold lapses and the partitions are given up all the same, what waits is told that somebody else will have them: the
    /// database would refuse it, and its neighbours in the batch with it.
    fn end_hold_at(&self, until: Instant) {
        let (home, partitions) = (self.home.clone(), self.request.partitions.clone());
        self.home.serving.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = home.serving.stop.cancelled() => return,
            }
            let Ok(Ok(client)) = timeout(Duration::from_secs(3), home.pool.get()).await else { return };
            if let Ok(owned) = term::read_ownership(&client).await {
                let gone: Vec<i32> = partitions.into_iter().filter(|partition| !owned.epochs.contains_key(partition)).collect();
                home.serving.set_owned(owned);
                home.serving.parted.send_on(&gone);
            }
        });
    }

    /// The hub is about to decide: work for the partitions that is here before they are owned waits for that. Before a comparison there are no
    /// epochs, and nothing is expected.
    fn expect(&self) {
        let until = Instant::now() + self.hold_limit();
        // No version of the table of owners says so yet: each claim is looked up when it runs.
        let claim = |(partition, epoch): (&i32, &i64)| Claim { partition: *partition, epoch: *epoch, version: -1 };
        let claims: Vec<Claim> = self.request.partitions.iter().zip(&self.request.epochs).map(claim).collect();
        if !claims.is_empty() {
            self.home.serving.parted.hold(&claims, until);
            self.end_hold_at(until);
        }
    }

    /// From here on this peer serves the partitions: what was collected at the source stays refused, and their chains go on.
    async fn own(&self) -> Result<(), PartError> {
        let (home, request) = (self.home, &self.request);
        let client = home.pool.get().await?;
        let own = self.alone_for(store::own(&client, self.terms, self.id, &request.partitions, &request.epochs));
        let floors = async { Ok(term::read_floors(&client).await?) };
        let ((issued_before, expired_before), ()) = tokio::try_join!(floors, own)?;
        home.serving.floors.raise_issued(issued_before);
        home.serving.floors.raise_expired(expired_before);
        self.read_ownership(&client).await?;
        home.serving.parted.let_go(&request.partitions);
        home.look_again();
        Ok(())
    }

    /// Goes on through the pages of all tables for a moment.
    async fn clean(&self) -> StepResult {
        let began = Instant::now();
        let tables = store::tables(&self.home.pool).await?;
        let mut cursor = self.request.cursor.unwrap_or_default();
        let mut rows = 0;
        while let Some((namespace, name, pages)) = usize::try_from(cursor.table).ok().and_then(|at| tables.get(at)) {
            if cursor.page >= *pages {
                cursor = v1::MoveCursor { table: cursor.table + 1, page: 0 };
                continue;
            }
            if began.elapsed() >= CLEANING {
                break;
            }
            let range = (cursor.page, cursor.page + PAGES);
            rows += store::clean(&self.home.pool, self.terms, self.id, (namespace, name), range).await?;
            cursor.page += PAGES;
        }
        let is_done = usize::try_from(cursor.table).is_ok_and(|at| at >= tables.len());
        Ok(v1::MoveStepResponse { is_done, rows, cursor: Some(cursor), ..v1::MoveStepResponse::default() })
    }
}

/// What the partitions of this peer hold.
///
/// # Errors
/// RW5002 if the database doesn't tell.
pub(crate) async fn sizes(home: &ChainHome, only_committed: bool) -> FaultResult<v1::SizePartitionsResponse> {
    let mut committed: HashMap<i32, u64> = HashMap::new();
    for lane in &home.serving.lanes {
        for (partition, count) in lane.counters().by_partition.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *committed.entry(*partition).or_default() += count;
        }
    }
    if only_committed {
        committed.retain(|partition, _| home.serving.claim_of(*partition).is_some());
        let size = |(partition, committed)| v1::PartitionSize { partition, committed, ..v1::PartitionSize::default() };
        return Ok(v1::SizePartitionsResponse { sizes: committed.into_iter().map(size).collect(), missing_peers: Vec::new() });
    }
    let sizes = store::sizes(&home.pool).await;
    let mut sizes = sizes.map_err(|error| Fault::retry("RW5002", format!("peer {}: {error}", home.peer), "see `rootward peer list`"))?;
    sizes.iter_mut().for_each(|size| size.committed = committed.get(&size.partition).copied().unwrap_or_default());
    Ok(v1::SizePartitionsResponse { sizes, missing_peers: Vec::new() })
}
