//! The handle that an application keeps.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, rootward_client::RootwardClient},
};
use tonic::{Request, Response, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    Arguments, Call, StartChain,
    request::Query,
    retry::{Budget, Policy},
    router::Routers,
    send::Sender,
};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Counting takes as long as the data are large.
const VERIFY_LIMIT: Duration = Duration::from_secs(600);
/// So does reading all journals.
const JOURNAL_LIMIT: Duration = Duration::from_secs(3_600);

/// A handle to the routers; cheap to clone, all clones share connections. It connects when it is first used, and again when
/// a connection broke. Must be made inside a tokio runtime.
///
/// Methods that only read, or whose request has an id, are repeated inside the deadline until they are answered for good;
/// dropping their futures is harmless.
#[derive(Debug, Clone)]
pub struct Client {
    sender: Sender,
    deadline: Duration,
    /// The newest version of the reference data that a call of it has seen, if calls are to see nothing older.
    seen_reference: Option<Arc<AtomicI64>>,
}

impl Client {
    /// A client of these routers: the next one is asked when one doesn't answer. Nothing is connected yet.
    ///
    /// An address is `http://HOST:PORT`; scheme and port may be left out.
    ///
    /// # Errors
    /// RW1106 if an address is no address, or there is none.
    pub fn new<A: Into<String>>(routers: impl IntoIterator<Item = A>) -> FaultResult<Client> {
        let routers = Routers::new(routers.into_iter().map(Into::into))?;
        let sender = Sender { routers, budget: Arc::<Budget>::default(), patience: None };
        Ok(Client { sender, deadline: DEFAULT_DEADLINE, seen_reference: None })
    }

    /// The same, but a router has been reached and knows the cluster. Routers that can't be reached are given two seconds.
    ///
    /// # Errors
    /// As [`Client::new`]; RW5009 if no router can be reached, RW5004 if none knows the cluster in time.
    pub async fn connect<A: Into<String>>(routers: impl IntoIterator<Item = A>) -> FaultResult<Client> {
        let client = Client::new(routers)?;
        client.clone().with_patience(CONNECT_PATIENCE).partitions().await?;
        Ok(client)
    }

    /// The same client with another time limit for each request, retries included; 10 s by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// The same client, but when no router can be reached, requests give up after this time instead of their deadline.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Client {
        self.sender.patience = Some(patience);
        self
    }

    /// The same client, but its calls see the reference data never older than its writes and earlier calls did, whichever peers they
    /// run on: what was seen is carried along, and a peer that is behind is waited for. Clones made of it share what was seen.
    #[must_use]
    pub fn with_monotonic_reference(mut self) -> Client {
        self.seen_reference = Some(Arc::default());
        self
    }

    /// A call of a declared transaction.
    pub fn call(&self, transaction: &str, arguments: Arguments) -> Call {
        Call::new(self, transaction, arguments)
    }

    /// The start of a chain.
    pub fn start_chain(&self, chain: &str, input: Arguments) -> StartChain {
        StartChain::new(self, chain, input)
    }

    /// Runs one SQL statement inside a root, where the workers allow it. A request id is made if none is given.
    ///
    /// # Errors
    /// As [`Call::send`]; RW2007 where ad-hoc SQL is off.
    pub async fn query(&self, entity: &str, root_key: &str, sql: &str, request_id: Option<Uuid>) -> FaultResult<v1::CallResponse> {
        Query::new(self, entity, root_key, sql, request_id).send().await
    }

    /// Runs one SQL statement that only reads inside a root, where the workers allow it, at a standby if one shows everything that was
    /// acknowledged `most` before, and nothing older than `not_before`; else at the primary. The answer's `freshness` says how old it is and has
    /// the position for the next read of this root. Passes no lane and has no outcome.
    ///
    /// # Errors
    /// As [`Call::send`]; RW2007 where ad-hoc SQL is off; RW2040 if the statement changes rows.
    pub async fn read_at(
        &self,
        (entity, root_key): (&str, &str),
        sql: &str,
        most: Duration,
        not_before: Option<v1::ReadPosition>,
    ) -> FaultResult<v1::CallResponse> {
        Query::new(self, entity, root_key, sql, None).with_staleness(most, not_before).send().await
    }

    /// Where a root lies and why.
    ///
    /// # Errors
    /// RW2001 to RW2003 for what doesn't exist.
    pub async fn explain(&self, request: v1::ExplainRequest) -> FaultResult<v1::ExplainResponse> {
        self.read(request, |mut router, request| async move { router.explain(request).await }).await
    }

    /// Chains of all peers, newest first; at most `limit`, 100 if 0.
    ///
    /// # Errors
    /// If no router answers. Peers that don't answer are named in the response.
    pub async fn list_chains(&self, filter: v1::ChainFilter, limit: u32) -> FaultResult<v1::ListChainsResponse> {
        let message = v1::ListChainsRequest { filter: Some(filter), limit };
        self.read(message, |mut router, request| async move { router.list_chains(request).await }).await
    }

    /// One chain with its steps.
    ///
    /// # Errors
    /// RW4001 if there is no such chain.
    pub async fn chain(&self, id: &str) -> FaultResult<v1::Chain> {
        let message = v1::GetChainRequest { id: id.to_owned() };
        let response = self.read(message, |mut router, request| async move { router.get_chain(request).await }).await?;
        response.chain.ok_or_else(|| Fault::internal("the router sent an empty chain"))
    }

    /// The peers and how they are.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn peers(&self) -> FaultResult<v1::ListPeersResponse> {
        self.read(v1::ListPeersRequest {}, |mut router, request| async move { router.list_peers(request).await }).await
    }

    /// The owners of the partitions.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn partitions(&self) -> FaultResult<v1::ListPartitionsResponse> {
        self.read(v1::ListPartitionsRequest {}, |mut router, request| async move { router.list_partitions(request).await }).await
    }

    /// The schema in force.
    ///
    /// # Errors
    /// If no router answers.
    pub async fn schema(&self) -> FaultResult<v1::GetSchemaResponse> {
        self.read(v1::GetSchemaRequest {}, |mut router, request| async move { router.get_schema(request).await }).await
    }

    /// Counts on every peer what must hold over all of them, for up to ten minutes whatever the deadline.
    ///
    /// # Errors
    /// If no router answers; a check that fails is no error.
    pub async fn verify(&self) -> FaultResult<v1::VerifyResponse> {
        self.verify_some(v1::VerifyRequest::default()).await
    }

    /// [`Client::verify`], but only the comparison of chains with the outcomes at their roots.
    ///
    /// # Errors
    /// As [`Client::verify`].
    pub async fn verify_chains(&self) -> FaultResult<v1::VerifyResponse> {
        self.verify_some(v1::VerifyRequest { only_chains: true }).await
    }

    /// Rows that were staged by plain SQL, oldest first, of all peers; those that don't answer are named in the response.
    ///
    /// # Errors
    /// RW2010 if there is no such stage; or if no router answers.
    pub async fn list_staged(&self, request: v1::ListStagedRequest) -> FaultResult<v1::ListStagedResponse> {
        self.read(request, |mut router, request| async move { router.list_staged(request).await }).await
    }

    /// Has refused rows sent anew, each as another request. Repeating it finds none that is refused any more.
    ///
    /// # Errors
    /// As [`Client::list_staged`].
    pub async fn replay_staged(&self, request: v1::ReplayStagedRequest) -> FaultResult<v1::ReplayStagedResponse> {
        self.read(request, |mut router, request| async move { router.replay_staged(request).await }).await
    }

    /// Has refused rows deleted: nobody wants them any more. Repeating it finds none that is left.
    ///
    /// # Errors
    /// As [`Client::list_staged`].
    pub async fn drop_staged(&self, request: v1::DropStagedRequest) -> FaultResult<v1::DropStagedResponse> {
        self.read(request, |mut router, request| async move { router.drop_staged(request).await }).await
    }

    /// The last row of each partition's journal: keep them elsewhere, and give them to [`Client::verify_journal`] later.
    ///
    /// # Errors
    /// If no router answers. Peers that don't answer are named in the response.
    pub async fn journal_heads(&self) -> FaultResult<v1::ListJournalHeadsResponse> {
        self.read(v1::ListJournalHeadsRequest {}, |mut router, request| async move { router.list_journal_heads(request).await }).await
    }

    /// Reads all journals and compares them with their hashes and with these heads, for up to an hour whatever the deadline.
    ///
    /// # Errors
    /// If no router answers; a journal that is not sound is no error.
    pub async fn verify_journal(&self, heads: Vec<v1::JournalHead>) -> FaultResult<v1::VerifyJournalResponse> {
        let client = self.clone().with_deadline(self.deadline.max(JOURNAL_LIMIT));
        let policy = Policy { try_limit: client.deadline, ..Policy::REPEATABLE };
        let request = v1::VerifyJournalRequest { heads };
        client.send(request, policy, |mut router, request| async move { router.verify_journal(request).await }).await
    }

    async fn verify_some(&self, request: v1::VerifyRequest) -> FaultResult<v1::VerifyResponse> {
        let client = self.clone().with_deadline(self.deadline.max(VERIFY_LIMIT));
        let policy = Policy { try_limit: client.deadline, ..Policy::REPEATABLE };
        client.send(request, policy, |mut router, request| async move { router.verify(request).await }).await
    }

    pub(crate) fn seen_reference(&self) -> Option<&AtomicI64> {
        self.seen_reference.as_deref()
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) async fn read<M: Clone, T, F>(
        &self,
        message: M,
        try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F,
    ) -> FaultResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.send(message, Policy::REPEATABLE, try_once).await
    }

    pub(crate) async fn send<M: Clone, T, F>(
        &self,
        message: M,
        policy: Policy,
        try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F,
    ) -> FaultResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let sent = self.sender.send(&message, Sender::deadline(self.deadline), policy, try_once).await;
        sent.map_err(|fault| if policy.repeats_unknown { fault } else { look_first(fault) })
    }
}

/// These requests have no id, so only a look tells whether they were done.
fn look_first(fault: Fault) -> Fault {
    if fault.retry_class() != RetryClass::OutcomeUnknown {
        return fault;
    }
    Fault::new(
        "RW5003",
        RetryClass::OutcomeUnknown,
        fault.message(),
        "it may have been done: look with `rootward chain list`, then repeat it",
    )
}
