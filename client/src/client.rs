//! The client and its requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, rootward_client::RootwardClient},
};
use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::{
    Arguments,
    retry::{Budget, pause},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// One try of a request waits this long at most, so that a router that hangs costs a part of the deadline only.
const TRY_LIMIT: Duration = Duration::from_secs(5);
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A handle to the routers; cheap to clone, all clones share connections. It connects when it is first used.
#[derive(Debug, Clone)]
pub struct Client {
    routers: Arc<[RootwardClient<Channel>]>,
    /// The router that answered last; the next one's turn comes when it doesn't.
    turn: Arc<AtomicUsize>,
    budget: Arc<Budget>,
    deadline: Duration,
}

impl Client {
    /// A client of these routers. Nothing is connected yet.
    ///
    /// # Errors
    /// RW1106 if an address is no address, or there is none.
    pub fn new<A: Into<String>>(routers: impl IntoIterator<Item = A>) -> FaultResult<Client> {
        let routers: Vec<_> = routers.into_iter().map(|address| connect(address.into())).collect::<FaultResult<_>>()?;
        if routers.is_empty() {
            return Err(Fault::refused("RW1106", "no router is named", "give an address such as http://127.0.0.1:7400"));
        }
        Ok(Client { routers: routers.into(), turn: Arc::default(), budget: Arc::default(), deadline: DEFAULT_DEADLINE })
    }

    /// The same client with another time limit for each request, retries included; 10 s by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// A call of a declared transaction.
    pub fn call(&self, transaction: &str, arguments: Arguments) -> Call {
        let message = v1::CallRequest {
            transaction: transaction.to_owned(),
            arguments: arguments.0,
            request_id: Uuid::now_v7().to_string(),
            issued_at_ms: now_ms(),
        };
        Call { client: self.clone(), message }
    }

    /// The start of a chain.
    pub fn start_chain(&self, chain: &str, input: Arguments) -> StartChain {
        let message = v1::StartChainRequest {
            chain: chain.to_owned(),
            input: input.0,
            chain_id: Uuid::now_v7().to_string(),
            wait: v1::ChainWait::Done.into(),
            issued_at_ms: now_ms(),
        };
        StartChain { client: self.clone(), message }
    }

    /// Runs one SQL statement inside a root, where the workers allow it.
    ///
    /// # Errors
    /// As [`Call::send`]; RW2007 where ad-hoc SQL is off.
    pub async fn query(&self, entity: &str, root_key: &str, sql: &str, request_id: Option<Uuid>) -> FaultResult<v1::CallResponse> {
        let message = v1::QueryRequest {
            entity: entity.to_owned(),
            root_key: root_key.to_owned(),
            sql: sql.to_owned(),
            request_id: request_id.unwrap_or_else(Uuid::now_v7).to_string(),
            issued_at_ms: now_ms(),
        };
        self.send(message, |mut router, request| async move { router.query(request).await }).await
    }

    /// Where a root lies and why.
    ///
    /// # Errors
    /// RW2001 to RW2003 for what doesn't exist.
    pub async fn explain(&self, request: v1::ExplainRequest) -> FaultResult<v1::ExplainResponse> {
        self.send(request, |mut router, request| async move { router.explain(request).await }).await
    }

    /// Chains of all peers, newest first.
    ///
    /// # Errors
    /// If no router answers. Peers that don't answer are named in the response.
    pub async fn list_chains(&self, filter: v1::ChainFilter, limit: u32) -> FaultResult<v1::ListChainsResponse> {
        let message = v1::ListChainsRequest { filter: Some(filter), limit };
        self.send(message, |mut router, request| async move { router.list_chains(request).await }).await
    }

    /// One chain with its steps.
    ///
    /// # Errors
    /// RW4001 if there is no such chain.
    pub async fn chain(&self, id: &str) -> FaultResult<v1::Chain> {
        let message = v1::GetChainRequest { id: id.to_owned() };
        let response = self.send(message, |mut router, request| async move { router.get_chain(request).await }).await?;
        response.chain.ok_or_else(|| Fault::internal("the router sent an empty chain"))
    }

    /// Runs parked and stuck chains on from their state.
    ///
    /// # Errors
    /// RW4003 if the one chain that is named is neither.
    pub async fn replay_chains(&self, filter: v1::ChainFilter, reason: &str, dry_run: bool) -> FaultResult<v1::ReplayChainsResponse> {
        let message = v1::ReplayChainsRequest { filter: Some(filter), reason: reason.to_owned(), dry_run };
        self.send(message, |mut router, request| async move { router.replay_chains(request).await }).await
    }

    /// Undoes a parked chain.
    ///
    /// # Errors
    /// RW4003 if it is not parked or has passed its pivot.
    pub async fn compensate_chain(&self, id: &str, reason: &str) -> FaultResult<v1::Chain> {
        let message = v1::CompensateChainRequest { id: id.to_owned(), reason: reason.to_owned() };
        let response = self.send(message, |mut router, request| async move { router.compensate_chain(request).await }).await?;
        response.chain.ok_or_else(|| Fault::internal("the router sent an empty chain"))
    }

    /// The peers and how they are.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn peers(&self) -> FaultResult<v1::ListPeersResponse> {
        self.send(v1::ListPeersRequest {}, |mut router, request| async move { router.list_peers(request).await }).await
    }

    /// The owners of the partitions.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn partitions(&self) -> FaultResult<v1::ListPartitionsResponse> {
        self.send(v1::ListPartitionsRequest {}, |mut router, request| async move { router.list_partitions(request).await }).await
    }

    /// The schema in force.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn schema(&self) -> FaultResult<v1::GetSchemaResponse> {
        self.send(v1::GetSchemaRequest {}, |mut router, request| async move { router.get_schema(request).await }).await
    }

    /// Counts on every peer what must hold over all of them. Takes as long as the data are large.
    ///
    /// # Errors
    /// If no router answers; a check that fails is no error.
    pub async fn verify(&self) -> FaultResult<v1::VerifyResponse> {
        let limit = Duration::from_secs(600);
        let client = self.clone().with_deadline(self.deadline.max(limit));
        client.send_within(v1::VerifyRequest {}, limit, |mut router, request| async move { router.verify(request).await }).await
    }

    async fn send<M: Clone, T, F>(&self, message: M, try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F) -> FaultResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.send_within(message, TRY_LIMIT, try_once).await
    }

    /// Sends the message until an answer comes that stays or the deadline is over.
    async fn send_within<M: Clone, T, F>(
        &self,
        message: M,
        try_limit: Duration,
        try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F,
    ) -> FaultResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut tries = 0;
        let mut unknown: Option<Fault> = None;
        loop {
            let turn = self.turn.load(Ordering::Relaxed) % self.routers.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let mut request = Request::new(message.clone());
            request.set_timeout(left.min(try_limit).max(Duration::from_millis(1)));
            let fault = match try_once(self.routers[turn].clone(), request).await {
                Ok(response) => {
                    self.budget.earn();
                    return Ok(response.into_inner());
                }
                Err(status) => Fault::from_status(&status),
            };
            tries += 1;
            if fault.retry_class() == v1::RetryClass::OutcomeUnknown {
                unknown = Some(fault.clone());
                self.turn.store(turn + 1, Ordering::Relaxed);
            }
            let wake = Instant::now() + pause(tries);
            if !self.budget.allows(&fault) || wake >= deadline {
                // A later "not executed" says nothing about an earlier try whose answer was lost.
                let is_settled = fault.retry_class() == v1::RetryClass::Refused;
                return Err(unknown.filter(|_| !is_settled).unwrap_or(fault));
            }
            tokio::time::sleep_until(wake).await;
        }
    }
}

/// A call that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    client: Client,
    message: v1::CallRequest,
}

impl Call {
    /// With an id of the caller's, so that it can be sent again by another process.
    #[must_use]
    pub fn with_request_id(mut self, id: Uuid) -> Call {
        self.message.request_id = id.to_string();
        self
    }

    /// The id under which its outcome is stored.
    pub fn request_id(&self) -> &str {
        &self.message.request_id
    }

    /// Sends it until it is answered for good, always with the same id.
    ///
    /// Cancel safety: dropping the future gives up the answer, not the transaction; send it again with the same id.
    ///
    /// # Errors
    /// The refusal; or that it was not executed; or, with the class `OUTCOME_UNKNOWN`, that nobody knows.
    pub async fn send(self) -> FaultResult<v1::CallResponse> {
        self.client.send(self.message, |mut router, request| async move { router.call(request).await }).await
    }
}

/// A chain that is ready to be started.
#[derive(Debug, Clone)]
pub struct StartChain {
    client: Client,
    message: v1::StartChainRequest,
}

impl StartChain {
    /// With an id of the caller's, so that it can be sent again by another process.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> StartChain {
        self.message.chain_id = id.to_string();
        self
    }

    /// Answers when the first step is durable, not when the chain has ended.
    #[must_use]
    pub fn accepted(mut self) -> StartChain {
        self.message.wait = v1::ChainWait::Accepted.into();
        self
    }

    /// The chain's id.
    pub fn id(&self) -> &str {
        &self.message.chain_id
    }

    /// Sends it until it is answered for good, always with the same id.
    ///
    /// Cancel safety: dropping the future gives up the answer, not the chain.
    ///
    /// # Errors
    /// The refusal of the first step, in which case there is no chain; else as [`Call::send`].
    pub async fn send(self) -> FaultResult<v1::StartChainResponse> {
        self.client.send(self.message, |mut router, request| async move { router.start_chain(request).await }).await
    }
}

fn connect(address: String) -> FaultResult<RootwardClient<Channel>> {
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| {
        Fault::refused("RW1106", format!("`{address}` is no router's address: {error}"), "give an address such as http://127.0.0.1:7400")
    })?;
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(RootwardClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
