//! What people do to chains, as a client sends it.

use std::collections::HashMap;

use rootward_proto::{
    Fault,
    v1::{self, ChainVerb},
};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::{
    client::{Client, Ended, arguments, request},
    wait::until,
};

/// A command for one chain, with a reason.
pub fn command(verb: ChainVerb, id: Uuid) -> v1::ChangeChainsRequest {
    v1::ChangeChainsRequest {
        verb: verb.into(),
        filter: Some(v1::ChainFilter { id: id.to_string(), ..v1::ChainFilter::default() }),
        reason: "the test decided so".to_owned(),
        by: "the test".to_owned(),
        ..v1::ChangeChainsRequest::default()
    }
}

/// A start that does not wait for the chain's end.
pub fn start(chain: &str, input: &[(&str, &str)], id: Uuid) -> v1::StartChainRequest {
    v1::StartChainRequest {
        chain: chain.to_owned(),
        input: arguments(input),
        chain_id: id.to_string(),
        wait: v1::ChainWait::Accepted.into(),
        ..v1::StartChainRequest::default()
    }
}

/// A filter by one label.
pub fn labelled(name: &str, value: &str) -> v1::ChainFilter {
    v1::ChainFilter { labels: HashMap::from([(name.to_owned(), value.to_owned())]), ..v1::ChainFilter::default() }
}

fn fault(status: Status) -> Fault {
    Fault::from_status(&status)
}

fn whole(chain: Option<v1::Chain>) -> Ended<v1::Chain> {
    chain.ok_or_else(|| Fault::internal("an answer came without its chain"))
}

impl Client {
    /// Starts a chain as the message says, once.
    ///
    /// # Errors
    /// The fault.
    pub async fn start(&self, message: v1::StartChainRequest) -> Ended<v1::StartChainResponse> {
        self.raw().start_chain(request(message)).await.map(tonic::Response::into_inner).map_err(fault)
    }

    /// Starts a chain and doesn't wait for its end.
    ///
    /// # Errors
    /// The fault.
    pub async fn begin(&self, chain: &str, input: &[(&str, &str)], id: Uuid) -> Ended<v1::Chain> {
        whole(self.start(start(chain, input, id)).await?.chain)
    }

    /// Gives a command to one chain; returns the chain afterwards.
    ///
    /// # Errors
    /// The fault.
    pub async fn command(&self, message: v1::ChangeChainsRequest) -> Ended<v1::Chain> {
        whole(self.change(message).await?.chains.pop())
    }

    /// Delivers a signal; returns the answer.
    ///
    /// # Errors
    /// The fault.
    pub async fn signal(&self, id: Uuid, step: &str, payload: &[(&str, &str)]) -> Ended<v1::SignalChainResponse> {
        let message = v1::SignalChainRequest { id: id.to_string(), step: step.to_owned(), payload: arguments(payload) };
        self.raw().signal_chain(request(message)).await.map(tonic::Response::into_inner).map_err(fault)
    }

    /// Lists chains.
    ///
    /// # Errors
    /// The fault.
    pub async fn list(&self, filter: v1::ChainFilter, limit: u32) -> Ended<v1::ListChainsResponse> {
        let message = v1::ListChainsRequest { filter: Some(filter), limit };
        let mut asked = Request::new(message);
        asked.set_timeout(crate::wait::LIMIT);
        self.raw().list_chains(asked).await.map(tonic::Response::into_inner).map_err(fault)
    }

    /// The ids of the chains that match.
    ///
    /// # Errors
    /// The fault.
    pub async fn ids(&self, filter: v1::ChainFilter) -> Ended<Vec<Uuid>> {
        let mut ids: Vec<Uuid> = self.list(filter, 1000).await?.chains.iter().filter_map(|chain| Uuid::parse_str(&chain.id).ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Counts chains by status.
    ///
    /// # Errors
    /// The fault.
    pub async fn count(&self, filter: v1::ChainFilter) -> Ended<HashMap<String, u64>> {
        let mut asked = Request::new(v1::CountChainsRequest { filter: Some(filter) });
        asked.set_timeout(crate::wait::LIMIT);
        self.raw().count_chains(asked).await.map(|answer| answer.into_inner().counts).map_err(fault)
    }

    /// Starts an ended chain anew.
    ///
    /// # Errors
    /// The fault.
    pub async fn fork(&self, message: v1::ForkChainRequest) -> Ended<v1::ForkChainResponse> {
        self.raw().fork_chain(request(message)).await.map(tonic::Response::into_inner).map_err(fault)
    }

    /// Waits until a chain is in one of these statuses.
    ///
    /// # Errors
    /// If it isn't in time; it says where it is instead.
    pub async fn wait_for(&self, id: Uuid, statuses: &[&str]) -> anyhow::Result<v1::Chain> {
        let mut last = String::new();
        let what = format!("chain {id} is {}", statuses.join(" or "));
        let found = until(&what, async || {
            let chain = self.raw().get_chain(request(v1::GetChainRequest { id: id.to_string() })).await.ok()?.into_inner().chain?;
            last = format!("{} at {}: {:?}", chain.status, chain.step, chain.failure.as_ref().map(|failure| &failure.message));
            statuses.contains(&chain.status.as_str()).then_some(chain)
        });
        let found = found.await;
        found.map_err(|error| error.context(format!("it is {last}")))
    }
}
