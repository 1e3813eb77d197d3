//! Load by raw requests: many clients at once, each request repeated with its own id until its answer is known.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rootward_proto::{
    Fault,
    v1::{self, RetryClass, rootward_client::RootwardClient, value::Kind},
};
use tokio::task::JoinSet;
use tonic::{Request, transport::Channel};
use uuid::Uuid;

/// How long one try waits for its answer.
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// How long a request is repeated before the load gives up on it.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What a load did; shared by its clients.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Chains that ended as completed, or calls that took effect.
    pub done: AtomicU64,
    /// Refused by the business logic.
    pub refused: AtomicU64,
    /// Tries beyond the first, all with the same id.
    pub repeated: AtomicU64,
    /// Requests whose answer never came.
    pub lost: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A connection that all clients of a load share.
pub(crate) async fn connect(router: &str) -> anyhow::Result<RootwardClient<Channel>> {
    Ok(RootwardClient::connect(router.to_owned()).await?)
}

/// Arguments as the wire has them.
pub(crate) fn values(pairs: &[(&str, String)]) -> HashMap<String, v1::Value> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), v1::Value { kind: Some(Kind::Text(text.clone())) })).collect()
}

/// Sends one request again and again with the same id, until it is answered for good.
pub(crate) async fn until_answered<T, F>(tally: &Tally, mut send: impl FnMut() -> F) -> Option<Result<T, Fault>>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let deadline = tokio::time::Instant::now() + GIVE_UP;
    loop {
        let fault = match send().await {
            Ok(answer) => return Some(Ok(answer)),
            Err(status) => Fault::from_status(&status),
        };
        match fault.retry_class() {
            RetryClass::Retry | RetryClass::Reroute | RetryClass::OutcomeUnknown if tokio::time::Instant::now() < deadline => {
                tally.repeated.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            RetryClass::Refused | RetryClass::NotFound => return Some(Err(fault)),
            _ => return None,
        }
    }
}

/// Starts a chain and waits for its end; true if it completed.
pub(crate) async fn run_chain(client: &RootwardClient<Channel>, tally: &Tally, name: &str, input: HashMap<String, v1::Value>) -> bool {
    let message = v1::StartChainRequest {
        chain: name.to_owned(),
        input,
        chain_id: Uuid::now_v7().to_string(),
        wait: v1::ChainWait::Done.into(),
        issued_at_ms: 0,
        ..v1::StartChainRequest::default()
    };
    let answer = until_answered(tally, || {
        let mut client = client.clone();
        let mut request = Request::new(message.clone());
        request.set_timeout(TRY_LIMIT);
        async move {
            let response = client.start_chain(request).await?.into_inner();
            let status = response.chain.map(|chain| chain.status).unwrap_or_default();
            // Accepted and durable, but not at its end in time: ask again for the same chain.
            if status == "running" { Err(tonic::Status::unavailable("the chain is still running")) } else { Ok(status) }
        }
    })
    .await;
    let counter = match &answer {
        Some(Ok(status)) if status == "completed" => &tally.done,
        Some(_) => &tally.refused,
        None => &tally.lost,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    matches!(answer, Some(Ok(status)) if status == "completed")
}

/// Calls a transaction; true if it took effect.
pub(crate) async fn run_call(client: &RootwardClient<Channel>, tally: &Tally, name: &str, arguments: HashMap<String, v1::Value>) -> bool {
    let message =
        v1::CallRequest { transaction: name.to_owned(), arguments, request_id: Uuid::now_v7().to_string(), ..v1::CallRequest::default() };
    let answer = until_answered(tally, || {
        let mut client = client.clone();
        let mut request = Request::new(message.clone());
        request.set_timeout(TRY_LIMIT);
        async move { client.call(request).await }
    })
    .await;
    let counter = match &answer {
        Some(Ok(_)) => &tally.done,
        Some(Err(_)) => &tally.refused,
        None => &tally.lost,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    matches!(answer, Some(Ok(_)))
}

/// Runs `work` for each number below `count`, by this many clients at once.
pub(crate) async fn for_each<F>(count: u64, clients: u64, work: impl Fn(u64) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let work = Arc::new(work);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (next, work) = (next.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                work(number).await;
            }
        });
    }
    tasks.join_all().await;
}
