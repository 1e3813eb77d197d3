//! Chains of all peers as one: what people ask is asked of every peer, and the answers are put together.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, worker_client::WorkerClient},
};
use tokio::time::Instant;
use tonic::{Status, Streaming, transport::Channel};

use crate::service::{RouterService, names};

/// The label of a fork: the id of the chain that it repeats.
const FORKED_FROM: &str = "forked_from";

pub(crate) type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RouterService {
    pub(crate) async fn list(&self, request: v1::ListChainsRequest, ask_limit: Duration) -> FaultResult<v1::ListChainsResponse> {
        let limit = if request.limit == 0 { 100 } else { request.limit };
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.list_peer_chains(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(ask_limit, ask).await?;
        let mut all = v1::ListChainsResponse { missing_peers: names(&missing), ..v1::ListChainsResponse::default() };
        refused_by_all(answered.is_empty(), &missing)?;
        for (_, part) in answered {
            all.matched += part.matched;
            all.running += part.running;
            all.chains.extend(part.chains);
        }
        all.chains.sort_by(|left, right| right.created_at.cmp(&left.created_at));
        all.chains.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(all)
    }

    pub(crate) async fn count(&self, request: v1::CountChainsRequest, ask_limit: Duration) -> FaultResult<v1::CountChainsResponse> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.count_peer_chains(request).await?.into_inner()) }
        };
        let (answered, missing) = self.ask_all(ask_limit, ask).await?;
        refused_by_all(answered.is_empty(), &missing)?;
        let mut all = v1::CountChainsResponse { missing_peers: names(&missing), ..v1::CountChainsResponse::default() };
        for (_, part) in answered {
            add_counts(&mut all.counts, part.counts);
        }
        Ok(all)
    }

    /// A chain's home is known to nobody by its id alone: all peers are asked, and the one that has it answers.
    pub(crate) async fn at_home<T, F>(&self, id: &str, ask_limit: Duration, ask: impl Fn(WorkerClient<Channel>) -> F) -> FaultResult<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (mut answered, missing) = self.ask_all(ask_limit, ask).await?;
        if let Some((_, chain)) = answered.pop() {
            return Ok(chain);
        }
        let is_not_found = |fault: &Fault| fault.retry_class() == v1::RetryClass::NotFound;
        // The peer that has the chain may refuse what is asked: that is the answer.
        let others = || missing.iter().filter(|(_, fault)| !is_not_found(fault));
        let speaks_of_chain = |fault: &Fault| fault.retry_class() == v1::RetryClass::Refused || fault.message().contains(id);
        if let Some((_, fault)) = others().find(|(_, fault)| speaks_of_chain(fault)) {
            return Err(fault.clone());
        }
        if let Some((peer, fault)) = others().next() {
            return Err(Fault::retry(
                "RW5002",
                format!("chain {id} is on none of the peers that answer, and peer {} does not: {}", peer.id, fault.message()),
                "see `rootward peer list`",
            ));
        }
        Err(Fault::new("RW4001", v1::RetryClass::NotFound, format!("there is no chain {id}"), "see `rootward chain list`"))
    }

    pub(crate) async fn get(&self, id: &str, ask_limit: Duration) -> FaultResult<v1::Chain> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = v1::GetChainRequest { id: id.to_owned() };
            async move { Ok(client.get_peer_chain(request).await?.into_inner()) }
        };
        self.at_home(id, ask_limit, ask).await?.chain.ok_or_else(|| Fault::internal("a peer answered with no chain"))
    }

    pub(crate) async fn watch(
        &self,
        request: v1::WatchChainRequest,
        ask_limit: Duration,
    ) -> FaultResult<BoxStream<v1::WatchChainResponse>> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.watch_peer_chain(request).await?.into_inner()) }
        };
        Ok(Box::pin(self.at_home(&request.id, ask_limit, ask).await?))
    }

    pub(crate) async fn signal(&self, request: v1::SignalChainRequest, ask_limit: Duration) -> FaultResult<v1::SignalChainResponse> {
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.signal_peer_chain(request).await?.into_inner()) }
        };
        self.at_home(&request.id, ask_limit, ask).await
    }

    pub(crate) async fn change(
        &self,
        mut request: v1::ChangeChainsRequest,
        ask_limit: Duration,
    ) -> FaultResult<BoxStream<v1::ChangeChainsResponse>> {
        let id = request.filter.as_ref().map(|filter| filter.id.clone()).unwrap_or_default();
        let peers = self.routing.catalog()?.live_peers().count();
        #[allow(clippy::cast_precision_loss)] // a few peers
        let share = request.per_second / peers.max(1) as f64;
        request.per_second = share;
        let ask = |mut client: WorkerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.change_peer_chains(request).await?.into_inner()) }
        };
        if !id.is_empty() && !request.dry_run {
            return Ok(Box::pin(self.at_home(&id, ask_limit, ask).await?));
        }
        let (answered, missing) = self.ask_all(ask_limit, ask).await?;
        refused_by_all(answered.is_empty(), &missing)?;
        let streams = answered.into_iter().map(|(peer, stream)| (peer.id, stream)).collect();
        Ok(merge(streams, names(&missing)))
    }

    pub(crate) async fn fork(
        &self,
        request: v1::ForkChainRequest,
        ask_limit: Duration,
        deadline: Instant,
    ) -> FaultResult<v1::ForkChainResponse> {
        let old = self.get(&request.id, ask_limit).await?;
        if old.ended_at.is_empty() {
            return Err(Fault::refused(
                "RW4003",
                format!("chain {} is {}: only one that has ended is forked", old.id, old.status),
                format!("let it end, or give it up first with `rootward chain abandon {}`", old.id),
            ));
        }
        // Whoever decides has to know all that is repeated.
        if let Some(step) = old.steps.iter().find(|step| step.direction == "do" && step.outcome == "unknown") {
            return Err(Fault::retry(
                "RW5002",
                format!("chain {}: the root of step `{}` does not answer, so nobody knows what a fork would repeat", old.id, step.name),
                "nothing was started; `rootward peer list` shows which peer is away",
            ));
        }
        // What a person counted as done was done by hand, if at all: the fork does it itself.
        let took_effect = |step: &&v1::ChainStep| {
            step.direction == "do" && matches!(step.outcome.as_str(), "done" | "skipped") && !step.transaction.is_empty()
        };
        let repeated_effects: Vec<v1::ChainStep> = old.steps.iter().filter(took_effect).cloned().collect();
        if request.dry_run {
            return Ok(v1::ForkChainResponse { chain: None, repeated_effects });
        }
        if request.reason.trim().is_empty() {
            return Err(Fault::refused("RW4004", "`fork` wants a reason", "say why with --reason; it is kept as a label of the new chain"));
        }
        let input: HashMap<String, Option<String>> =
            serde_json::from_str(&old.input).map_err(|error| Fault::internal(error.to_string()))?;
        let value = |text: Option<String>| v1::Value { kind: Some(text.map_or(v1::value::Kind::Null(true), v1::value::Kind::Text)) };
        let mut labels = old.labels;
        labels.insert(FORKED_FROM.to_owned(), old.id);
        labels.insert("fork_reason".to_owned(), request.reason);
        let start = v1::StartChainRequest {
            chain: old.definition,
            input: input.into_iter().map(|(name, text)| (name, value(text))).collect(),
            chain_id: request.new_id,
            wait: request.wait,
            labels,
            ..v1::StartChainRequest::default()
        };
        let _permit = self.admit()?;
        Ok(v1::ForkChainResponse { chain: self.start(start, deadline).await?.chain, repeated_effects })
    }
}

/// A question that every peer refuses, such as a filter that makes no sense, is refused.
fn refused_by_all(is_unanswered: bool, missing: &[(crate::CatalogPeer, Fault)]) -> FaultResult<()> {
    match missing.iter().find(|(_, fault)| fault.retry_class() == v1::RetryClass::Refused) {
        Some((_, fault)) if is_unanswered => Err(fault.clone()),
        _ => Ok(()),
    }
}

fn add_counts(total: &mut HashMap<String, u64>, part: HashMap<String, u64>) {
    for (name, count) in part {
        *total.entry(name).or_default() += count;
    }
}

/// The progress of several peers as one: after each answer of one of them, the sum of the last ones.
fn merge(streams: Vec<(String, Streaming<v1::ChangeChainsResponse>)>, missing_peers: Vec<String>) -> BoxStream<v1::ChangeChainsResponse> {
    let count = streams.len();
    let tagged = streams.into_iter().enumerate().map(|(at, (peer, stream))| {
        // A stream that breaks off leaves its peer among the missing ones.
        let stream = stream.map(move |answer| (at, answer.map_err(|_| peer.clone())));
        Box::pin(stream) as Pin<Box<dyn Stream<Item = (usize, Result<v1::ChangeChainsResponse, String>)> + Send>>
    });
    let last: Vec<v1::ChangeChainsResponse> = vec![v1::ChangeChainsResponse::default(); count];
    let sums = stream::select_all(tagged).scan((last, missing_peers), |(last, missing), (at, answer)| {
        match answer {
            Ok(answer) => last[at] = answer,
            Err(peer) => {
                last[at].is_final = true;
                missing.push(peer);
            }
        }
        std::future::ready(Some(Ok(sum(last, missing))))
    });
    if count == 0 {
        let nobody = v1::ChangeChainsResponse { is_final: true, ..v1::ChangeChainsResponse::default() };
        return Box::pin(stream::iter([Ok(nobody)]));
    }
    Box::pin(sums)
}

fn sum(parts: &[v1::ChangeChainsResponse], missing_peers: &[String]) -> v1::ChangeChainsResponse {
    let mut all = v1::ChangeChainsResponse { is_final: true, missing_peers: missing_peers.to_vec(), ..v1::ChangeChainsResponse::default() };
    for part in parts {
        all.matched += part.matched;
        all.changed += part.changed;
        all.refused += part.refused;
        add_counts(&mut all.statuses, part.statuses.clone());
        add_counts(&mut all.steps, part.steps.clone());
        all.chains.extend(part.chains.iter().cloned());
        all.failure = all.failure.or_else(|| part.failure.clone());
        all.is_final &= part.is_final;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_two_peers_is_their_sum_and_final_when_both_are() {
        let part = |changed, is_final| v1::ChangeChainsResponse {
            matched: 10,
            changed,
            is_final,
            statuses: HashMap::from([("completed".to_owned(), changed)]),
            ..v1::ChangeChainsResponse::default()
        };
        let all = sum(&[part(3, true), part(4, false)], &["p3".to_owned()]);
        assert_eq!((all.matched, all.changed, all.is_final), (20, 7, false));
        assert_eq!(all.statuses["completed"], 7);
        assert_eq!(all.missing_peers, ["p3"]);
        assert!(sum(&[part(3, true), part(4, true)], &[]).is_final);
    }
}
