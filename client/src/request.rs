//! Requests with an id: calls and chains. The id and the time of issue are fixed when the request is made.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Arguments, Client, retry::Policy, send::Sender};

/// A pause before a chain that is still under way is asked for again.
const CHAIN_PAUSE: Duration = Duration::from_millis(100);

/// A call of a declared transaction that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    client: Client,
    message: v1::CallRequest,
    deadline: Duration,
}

impl Call {
    pub(crate) fn new(client: &Client, transaction: &str, arguments: Arguments) -> Call {
        let message = v1::CallRequest {
            transaction: transaction.to_owned(),
            arguments: arguments.into(),
            request_id: Uuid::now_v7().to_string(),
            issued_at_ms: now_ms(),
            ..v1::CallRequest::default()
        };
        Call { client: client.clone(), message, deadline: client.deadline() }
    }

    /// With an id of the caller's, so that it can be sent again by another process.
    #[must_use]
    pub fn with_request_id(mut self, id: Uuid) -> Call {
        self.message.request_id = id.to_string();
        self
    }

    /// With a time limit of its own, retries included; the client's by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Call {
        self.deadline = deadline;
        self
    }

    /// Waits until its peer shows this version of the reference data, which a write's answer has as `reference_version`, and tells in the
    /// same field of its own answer which version the peer showed behind it.
    #[must_use]
    pub fn with_min_reference_version(mut self, version: i64) -> Call {
        self.message.min_reference_version = Some(version);
        self
    }

    /// For a write of reference data: answers when every peer shows it, or when the deadline is near. Peers that don't show it by then,
    /// or are away, are named in `lagging_peers`; the write stays.
    #[must_use]
    pub fn wait_for_all_peers(mut self) -> Call {
        self.message.reference_wait = v1::ReferenceWait::All.into();
        self
    }

    /// For a transaction that only reads: an answer that shows everything acknowledged this long before it is asked for will do. It may come
    /// from a standby, passes no lane and has no outcome; the answer's `freshness` says how old it is.
    #[must_use]
    pub fn with_staleness(mut self, most: Duration) -> Call {
        self.message.staleness.get_or_insert_default().most_ms = whole_ms(most);
        self
    }

    /// Shows nothing older than an earlier answer about the same root did, whose `freshness` has this position. For reads with a staleness.
    #[must_use]
    pub fn not_before(mut self, position: v1::ReadPosition) -> Call {
        self.message.staleness.get_or_insert_default().not_before = Some(position);
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
    /// The refusal (class `Refused`); or why it was not executed (`Retry`, `Reroute`); or RW3102 (`OutcomeUnknown`), which
    /// names the id to send it again with; or RW3109 (`Retry`) if reference data that it waits for did not come.
    pub async fn send(mut self) -> FaultResult<v1::CallResponse> {
        let deadline = Sender::deadline(self.deadline);
        if let Some(seen) = self.client.seen_reference().filter(|_| self.message.staleness.is_none()) {
            let wanted = self.message.min_reference_version.unwrap_or(0).max(seen.load(Ordering::Acquire));
            self.message.min_reference_version = Some(wanted);
        }
        let sent = self.client.sender().send_by_stream(&self.message, deadline).await;
        if let (Ok(response), Some(seen)) = (&sent, self.client.seen_reference()) {
            seen.fetch_max(response.reference_version, Ordering::AcqRel);
        }
        sent.map_err(|fault| name_id(fault, &self.message.transaction, "--request-id", &self.message.request_id))
    }
}

/// One SQL statement inside a root that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Query {
    client: Client,
    message: v1::QueryRequest,
}

impl Query {
    pub(crate) fn new(client: &Client, entity: &str, root_key: &str, sql: &str, request_id: Option<Uuid>) -> Query {
        let message = v1::QueryRequest {
            entity: entity.to_owned(),
            root_key: root_key.to_owned(),
            sql: sql.to_owned(),
            request_id: request_id.unwrap_or_else(Uuid::now_v7).to_string(),
            issued_at_ms: now_ms(),
            staleness: None,
        };
        Query { client: client.clone(), message }
    }

    pub(crate) fn with_staleness(mut self, most: Duration, not_before: Option<v1::ReadPosition>) -> Query {
        self.message.staleness = Some(v1::Staleness { most_ms: whole_ms(most), not_before });
        self
    }

    pub(crate) async fn send(self) -> FaultResult<v1::CallResponse> {
        let deadline = Sender::deadline(self.client.deadline());
        let sender = self.client.sender();
        let sent = sender
            .send(&self.message, deadline, Policy::REPEATABLE, |mut router, request| async move { router.query(request).await })
            .await;
        sent.map_err(|fault| name_id(fault, "the statement", "--request-id", &self.message.request_id))
    }
}

/// A chain that is ready to be started.
#[derive(Debug, Clone)]
pub struct StartChain {
    client: Client,
    message: v1::StartChainRequest,
    deadline: Duration,
}

impl StartChain {
    pub(crate) fn new(client: &Client, chain: &str, input: Arguments) -> StartChain {
        let message = v1::StartChainRequest {
            chain: chain.to_owned(),
            input: input.into(),
            chain_id: Uuid::now_v7().to_string(),
            wait: v1::ChainWait::Done.into(),
            issued_at_ms: now_ms(),
            ..v1::StartChainRequest::default()
        };
        StartChain { client: client.clone(), message, deadline: client.deadline() }
    }

    /// With an id of the caller's, so that it can be sent again by another process.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> StartChain {
        self.message.chain_id = id.to_string();
        self
    }

    /// With a time limit of its own, retries included; the client's by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> StartChain {
        self.deadline = deadline;
        self
    }

    /// With a label that lists can be filtered by.
    #[must_use]
    pub fn with_label(mut self, name: &str, text: &str) -> StartChain {
        self.message.labels.insert(name.to_owned(), text.to_owned());
        self
    }

    /// Runs its first step at this moment, in milliseconds since 1970; the answer is the scheduled chain.
    #[must_use]
    pub fn start_at_ms(mut self, moment: i64) -> StartChain {
        self.message.start_at_ms = moment;
        self
    }

    /// Is called back at this moment, in milliseconds since 1970, if it has not passed its pivot by then.
    #[must_use]
    pub fn called_back_at_ms(mut self, moment: i64) -> StartChain {
        self.message.deadline_ms = moment;
        self
    }

    /// Waits until the first step's peer shows this version of the reference data, and has each later step wait for it at its peer.
    #[must_use]
    pub fn with_min_reference_version(mut self, version: i64) -> StartChain {
        self.message.min_reference_version = Some(version);
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

    /// Sends it until it is answered for good, always with the same id, and waits until the chain ends or needs a person,
    /// or only for its acceptance.
    ///
    /// If the deadline is over before that, the answer is the chain as it was last seen, under way: it goes on by itself.
    ///
    /// Cancel safety: dropping the future gives up the answer, not the chain.
    ///
    /// # Errors
    /// The refusal of the first step, in which case there is no chain; else as [`Call::send`].
    pub async fn send(mut self) -> FaultResult<v1::StartChainResponse> {
        let deadline = Sender::deadline(self.deadline);
        if let Some(seen) = self.client.seen_reference() {
            let wanted = self.message.min_reference_version.unwrap_or(0).max(seen.load(Ordering::Acquire));
            self.message.min_reference_version = Some(wanted);
        }
        let mut first = self.try_once(deadline).await?;
        let waits_for_end = self.message.wait == i32::from(v1::ChainWait::Done);
        while waits_for_end && is_under_way(&first) && Instant::now() + CHAIN_PAUSE < deadline {
            tokio::time::sleep(CHAIN_PAUSE).await;
            match self.try_once(deadline).await {
                // Whether it was started before is the first answer's to say; the later ones find our own start.
                Ok(later) => first.chain = later.chain,
                // It was accepted, so it goes on whatever becomes of our question.
                Err(_) => break,
            }
        }
        Ok(first)
    }

    async fn try_once(&self, deadline: Instant) -> FaultResult<v1::StartChainResponse> {
        let sent = self.client.sender().send_by_stream(&self.message, deadline).await;
        sent.map_err(|fault| name_id(fault, &self.message.chain, "--id", &self.message.chain_id))
    }
}

fn is_under_way(response: &v1::StartChainResponse) -> bool {
    response.chain.as_ref().is_some_and(|chain| matches!(chain.status.as_str(), "running" | "compensating"))
}

/// An unknown outcome is worth nothing without the id that settles it.
fn name_id(fault: Fault, what: &str, flag: &str, id: &str) -> Fault {
    if fault.retry_class() != RetryClass::OutcomeUnknown || fault.help().contains(id) {
        return fault;
    }
    Fault::new(
        "RW3102",
        RetryClass::OutcomeUnknown,
        format!("whether `{what}` was executed is unknown: {}", fault.message()),
        format!("send it again with {flag} {id}: it takes effect once, and you get its answer"),
    )
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
