//! Sends one transaction to the owner of its root, until it is answered or the deadline is over.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::RngExt as _;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, reply},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Catalog,
    link::{Link, ToWorker},
    metrics::LinkCounters,
};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// By the worker's address.
type Links = HashMap<String, (Link, Arc<LinkCounters>)>;

/// Knows the owners and holds a link to each worker. Cheap to clone.
#[derive(Clone)]
pub struct Routing {
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    /// Asks whoever follows the catalog to look again now.
    refresh: Arc<Notify>,
    links: Arc<Mutex<Links>>,
    /// Requests that were sent once more.
    retries: Arc<AtomicU64>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// An answer, and how it came.
#[derive(Debug)]
pub struct Sent {
    /// What the worker answered.
    pub result: reply::Result,
    /// How often it was sent.
    pub attempts: u32,
}

impl Routing {
    /// Routes by the newest catalog that `catalog` shows; `refresh` is notified when that turned out to be old.
    pub fn new(
        catalog: watch::Receiver<Option<Arc<Catalog>>>,
        refresh: Arc<Notify>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Routing {
        Routing { catalog, refresh, links: Arc::default(), retries: Arc::default(), tasks, shutdown }
    }

    /// The newest copy of the catalog.
    ///
    /// # Errors
    /// RW5004 if there is none yet.
    pub fn catalog(&self) -> FaultResult<Arc<Catalog>> {
        self.catalog.borrow().clone().ok_or_else(|| {
            Fault::retry("RW5004", "the catalog is not known yet", "nothing was executed; is any worker up? see `rootward status`")
        })
    }

    /// Sends `execute` to the owner of its root until an answer comes that stays, or `deadline` is over.
    ///
    /// Every try carries the same request id, so that the transaction takes effect once however often it arrives.
    ///
    /// # Errors
    /// The worker's refusal. When the time is over: RW3102 (unknown) if any try may have been executed, else the last
    /// reason why it was not.
    pub async fn execute(&self, execute: Box<v1::Execute>, deadline: Instant) -> FaultResult<Sent> {
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        let mut unknown: Option<Fault> = None;
        loop {
            attempts += 1;
            let version = self.version();
            let fault = match self.try_once(&execute, deadline).await {
                Ok(result) => return Ok(Sent { result, attempts }),
                Err(fault) => fault,
            };
            match fault.retry_class() {
                RetryClass::OutcomeUnknown => unknown = Some(fault.clone()),
                // If a newer catalog came meanwhile, that is the news.
                RetryClass::Reroute if self.version() == version => self.refresh.notify_one(),
                RetryClass::Reroute => {}
                // Under overload the honest refusal goes out at once; more tries would only add to the load. So would those
                // of a statement that used up its time.
                // The same goes for one that has waited for reference data as long as it could.
                RetryClass::Retry if !(fault.is_overload() || matches!(fault.code(), "RW3104" | "RW3109")) || unknown.is_some() => {}
                _ => return Err(fault),
            }
            let pause_now = pause.max(fault.retry_after().unwrap_or_default());
            let wake = Instant::now() + pause_now.mul_f64(rand::rng().random_range(0.8..1.2));
            if wake >= deadline || self.shutdown.is_cancelled() {
                return Err(unknown.map_or(fault, |cause| still_unknown(&execute, &cause)));
            }
            match fault.retry_class() {
                RetryClass::Reroute => self.until_newer(version, wake).await,
                _ => tokio::time::sleep_until(wake).await,
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The version of the catalog that is known; 0 if none is.
    pub fn version(&self) -> i64 {
        self.catalog.borrow().as_ref().map_or(0, |catalog| catalog.version)
    }

    /// Waits until a newer catalog than this version is known, or until `wake`.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn until_newer(&self, version: i64, wake: Instant) {
        let mut catalog = self.catalog.clone();
        let is_newer = |catalog: &Option<Arc<Catalog>>| catalog.as_ref().is_some_and(|catalog| catalog.version > version);
        tokio::select! {
            // When the last sender is gone nothing newer comes.
            Ok(_) = catalog.wait_for(is_newer) => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }

    /// Asks whoever follows the catalog to look again now.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Sends `execute` to the owner of its root once. A chain's driver counts its own attempts.
    ///
    /// # Errors
    /// The worker's refusal, or why it was not reached, or RW5003 if it may have been executed.
    pub async fn try_once(&self, execute: &v1::Execute, deadline: Instant) -> FaultResult<reply::Result> {
        let catalog = self.catalog()?;
        let owner = catalog.owner_of(&execute.entity, &execute.root_key).ok_or_else(|| {
            let placed = catalog.schema.roots.get(&execute.entity).map(|root| catalog.schema.partition_of(root, &execute.root_key));
            let why = placed.and_then(Result::err).map(|error| format!(": {error}")).unwrap_or_default();
            Fault::refused(
                "RW2003",
                format!("`{}` is no root key of entity `{}`{why}", execute.root_key, execute.entity),
                "see `rootward schema show DIR` for the entities and their keys",
            )
        })?;
        let link = self.link(&owner.peer.worker_address);
        let mut message = execute.clone();
        message.time_left_ms = u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
        message.schema_version = catalog.schema.version;
        match tokio::time::timeout_at(deadline, link.ask(v1::Envelope { correlation: 0, execute: Some(message) })).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::new(
                "RW5003",
                RetryClass::OutcomeUnknown,
                format!("peer {} did not answer before the deadline", owner.peer.id),
                "send it again with the same request id: it takes effect once",
            )),
        }
    }

    fn link(&self, address: &str) -> Link {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((link, counters)) = links.get(address) {
            counters.sent.fetch_add(1, Ordering::Relaxed);
            return link.clone();
        }
        let counters = Arc::new(LinkCounters { sent: AtomicU64::new(1), ..LinkCounters::default() });
        let link = Link::start(ToWorker { address: address.into(), counters: counters.clone() }, &self.tasks, self.shutdown.child_token());
        links.insert(address.to_owned(), (link.clone(), counters));
        link
    }

    /// Where tasks run that outlive the request that began them.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The workers' addresses, and how the streams to them are used.
    pub(crate) fn links(&self) -> Vec<(String, Arc<LinkCounters>)> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|(address, (_, counters))| (address.clone(), counters.clone())).collect()
    }

    /// How many requests were sent once more.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

fn still_unknown(execute: &v1::Execute, cause: &Fault) -> Fault {
    let id = uuid::Uuid::from_slice(&execute.request_id).unwrap_or_default();
    Fault::new(
        "RW3102",
        RetryClass::OutcomeUnknown,
        format!(
            "whether `{}` on {} {} was executed is unknown: {}",
            execute.transaction,
            execute.entity,
            execute.root_key,
            cause.message()
        ),
        format!("send it again with --request-id {id}: it takes effect once, and you get its answer"),
    )
}
