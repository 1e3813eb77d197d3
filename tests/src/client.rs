//! A client of the router as an application would write one, and a way around the router to one worker.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rootward_proto::{
    Fault,
    v1::{self, RetryClass, reply, rootward_client::RootwardClient, value::Kind, worker_client::WorkerClient},
};
use tokio::time::Instant;
use tonic::{Request, transport::Channel};
use uuid::Uuid;

use crate::wait::LIMIT;

/// How long one request may take before the client asks again with the same id.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);

/// A connection to the router; cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: RootwardClient<Channel>,
}

/// How a request ended.
pub type Ended<T> = Result<T, Fault>;

/// Arguments by name; every type is given as text, which the router takes for each declared type.
pub fn arguments(given: &[(&str, &str)]) -> HashMap<String, v1::Value> {
    given.iter().map(|(name, text)| ((*name).to_owned(), v1::Value { kind: Some(Kind::Text((*text).to_owned())) })).collect()
}

pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_LIMIT);
    request
}

impl Client {
    /// Connects lazily: a router that is away for a moment is no error of this client.
    ///
    /// # Errors
    /// If the address is no address.
    pub fn new(address: &str) -> Result<Client> {
        let channel = Channel::from_shared(address.to_owned())?.connect_timeout(Duration::from_secs(1)).connect_lazy();
        Ok(Client { inner: RootwardClient::new(channel).max_decoding_message_size(64 << 20) })
    }

    /// The generated client, for everything that has no short form here.
    pub fn raw(&self) -> RootwardClient<Channel> {
        self.inner.clone()
    }

    /// Calls a declared transaction once.
    ///
    /// # Errors
    /// The fault.
    pub async fn call(&self, transaction: &str, given: &[(&str, &str)], id: Uuid) -> Ended<v1::CallResponse> {
        let message = v1::CallRequest {
            transaction: transaction.to_owned(),
            arguments: arguments(given),
            request_id: id.to_string(),
            issued_at_ms: 0,
            ..v1::CallRequest::default()
        };
        self.send(message).await
    }

    /// Calls a declared transaction once and gives up after `limit`.
    ///
    /// # Errors
    /// The fault.
    pub async fn call_within(&self, limit: Duration, transaction: &str, given: &[(&str, &str)], id: Uuid) -> Ended<v1::CallResponse> {
        let message = v1::CallRequest {
            transaction: transaction.to_owned(),
            arguments: arguments(given),
            request_id: id.to_string(),
            issued_at_ms: 0,
            ..v1::CallRequest::default()
        };
        let mut request = Request::new(message);
        request.set_timeout(limit);
        self.raw().call(request).await.map(tonic::Response::into_inner).map_err(|status| Fault::from_status(&status))
    }

    /// Sends a request that was built by hand, once.
    ///
    /// # Errors
    /// The fault.
    pub async fn send(&self, message: v1::CallRequest) -> Ended<v1::CallResponse> {
        self.raw().call(request(message)).await.map(tonic::Response::into_inner).map_err(|status| Fault::from_status(&status))
    }

    /// Calls again with the same id until there is an answer that stays.
    ///
    /// # Errors
    /// The refusal, or the last fault when the limit is over.
    pub async fn settle(&self, transaction: &str, given: &[(&str, &str)], id: Uuid) -> Ended<v1::CallResponse> {
        again(async || self.call(transaction, given, id).await).await
    }

    /// Runs one SQL statement inside a root.
    ///
    /// # Errors
    /// The fault.
    pub async fn query(&self, entity: &str, root_key: &str, sql: &str, id: Uuid) -> Ended<v1::CallResponse> {
        let message = v1::QueryRequest {
            entity: entity.to_owned(),
            root_key: root_key.to_owned(),
            sql: sql.to_owned(),
            request_id: id.to_string(),
            issued_at_ms: 0,
            staleness: None,
        };
        self.raw().query(request(message)).await.map(tonic::Response::into_inner).map_err(|status| Fault::from_status(&status))
    }

    /// Starts a chain and waits for its end, once.
    ///
    /// # Errors
    /// The fault.
    pub async fn start_chain(&self, chain: &str, given: &[(&str, &str)], id: Uuid) -> Ended<v1::StartChainResponse> {
        let message = v1::StartChainRequest {
            chain: chain.to_owned(),
            input: arguments(given),
            chain_id: id.to_string(),
            wait: v1::ChainWait::Done.into(),
            issued_at_ms: 0,
            ..v1::StartChainRequest::default()
        };
        self.raw().start_chain(request(message)).await.map(tonic::Response::into_inner).map_err(|status| Fault::from_status(&status))
    }

    /// Starts a chain, again and again with the same id, until it runs no more.
    ///
    /// # Errors
    /// The refusal of its first step, or the last fault when the limit is over.
    pub async fn run_chain(&self, chain: &str, given: &[(&str, &str)], id: Uuid) -> Ended<v1::Chain> {
        again(async || {
            let started = self.start_chain(chain, given, id).await?;
            let chain = started.chain.ok_or_else(|| Fault::internal("a started chain came without the chain"))?;
            match chain.status.as_str() {
                "running" | "compensating" => Err(Fault::retry("RW3102", format!("chain {id} is {}", chain.status), "")),
                _ => Ok(chain),
            }
        })
        .await
    }

    /// A chain with its steps, as its home shows it.
    ///
    /// # Errors
    /// The fault.
    pub async fn chain(&self, id: Uuid) -> Ended<v1::Chain> {
        let shown = again(async || {
            let message = v1::GetChainRequest { id: id.to_string() };
            self.raw().get_chain(request(message)).await.map_err(|status| Fault::from_status(&status))
        });
        shown.await?.into_inner().chain.ok_or_else(|| Fault::internal("a shown chain came without the chain"))
    }

    /// Does what a person decided to all chains that match, and waits for the last answer.
    ///
    /// # Errors
    /// The fault.
    pub async fn change(&self, message: v1::ChangeChainsRequest) -> Ended<v1::ChangeChainsResponse> {
        let from = |status: tonic::Status| Fault::from_status(&status);
        let mut answers = self.raw().change_chains(request(message)).await.map_err(from)?.into_inner();
        let mut last = v1::ChangeChainsResponse::default();
        while let Some(answer) = answers.message().await.map_err(from)? {
            last = answer;
        }
        Ok(last)
    }

    /// Does what a person decided to one chain; returns the chain afterwards.
    ///
    /// # Errors
    /// The fault.
    pub async fn change_one(&self, verb: v1::ChainVerb, id: Uuid) -> Ended<v1::Chain> {
        let message = v1::ChangeChainsRequest {
            verb: verb.into(),
            filter: Some(v1::ChainFilter { id: id.to_string(), ..v1::ChainFilter::default() }),
            reason: "the test decided so".to_owned(),
            by: "the test".to_owned(),
            ..v1::ChangeChainsRequest::default()
        };
        self.change(message).await?.chains.pop().ok_or_else(|| Fault::internal("a changed chain came without the chain"))
    }

    /// Replays one chain.
    ///
    /// # Errors
    /// The fault.
    pub async fn replay(&self, id: Uuid) -> Ended<v1::Chain> {
        self.change_one(v1::ChainVerb::Replay, id).await
    }

    /// Compensates one chain.
    ///
    /// # Errors
    /// The fault.
    pub async fn compensate(&self, id: Uuid) -> Ended<v1::Chain> {
        self.change_one(v1::ChainVerb::Compensate, id).await
    }

    /// What `verify` counts.
    ///
    /// # Errors
    /// The fault.
    pub async fn verify(&self) -> Ended<v1::VerifyResponse> {
        self.raw()
            .verify(request(v1::VerifyRequest::default()))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| Fault::from_status(&status))
    }

    /// The peers with the status that their workers give.
    ///
    /// # Errors
    /// The fault.
    pub async fn peers(&self) -> Ended<Vec<v1::Peer>> {
        let answer = self.raw().list_peers(request(v1::ListPeersRequest {})).await.map_err(|status| Fault::from_status(&status))?;
        Ok(answer.into_inner().peers)
    }
}

async fn again<T>(mut attempt: impl AsyncFnMut() -> Ended<T>) -> Ended<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let fault = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        let may_pass = matches!(fault.retry_class(), RetryClass::Retry | RetryClass::Reroute | RetryClass::OutcomeUnknown);
        if !may_pass || Instant::now() >= deadline {
            return Err(fault);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Sends one transaction straight to a worker, as a router with another map would.
///
/// # Errors
/// The outer error if the worker can't be asked; the inner one is its refusal.
pub async fn send_to_worker(address: &str, execute: v1::Execute) -> Result<Ended<reply::Result>> {
    let mut worker = WorkerClient::connect(address.to_owned()).await?;
    let envelope = v1::Envelope { correlation: 1, execute: Some(execute) };
    let message = v1::ExchangeRequest { envelopes: vec![envelope] };
    let outgoing = futures_util::stream::iter([message]).chain(futures_util::stream::pending());
    let mut answers = worker.exchange(outgoing).await?.into_inner();
    let answer = tokio::time::timeout(REQUEST_LIMIT, answers.message()).await.context("the worker gave no answer")??;
    let reply = answer.and_then(|message| message.replies.into_iter().next()).context("the worker ended the stream")?;
    Ok(match reply.result.context("a reply without content")? {
        reply::Result::Failure(failure) => Err(Fault::from(failure)),
        done => Ok(done),
    })
}

/// The text of a value, whatever kind it is of.
pub fn text_of(value: &v1::Value) -> String {
    rootward_proto::from_wire(value, &rootward_schema::Type::Text).ok().flatten().unwrap_or_else(|| "NULL".to_owned())
}

/// A column of the first row as a number.
pub fn number_of(response: &v1::CallResponse, column: &str) -> Option<f64> {
    let at = response.columns.iter().position(|other| other.name == column)?;
    text_of(response.rows.first()?.values.get(at)?).parse().ok()
}

/// A column of the first row as cents.
pub fn cents_of(response: &v1::CallResponse, column: &str) -> Option<i64> {
    number_of(response, column).map(|amount| (amount * 100.0).round() as i64)
}
