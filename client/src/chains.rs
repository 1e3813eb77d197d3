//! What people ask of chains: counts, live views, changes of one or of many, signals.

use rootward_proto::{Fault, FaultResult, v1};
use tonic::Streaming;

use crate::{client::Client, retry::Policy};

/// Answers that come one after the other.
#[derive(Debug)]
pub struct Answers<T>(pub(crate) Streaming<T>);

impl<T> Answers<T> {
    /// The next answer; none at the end.
    ///
    /// Cancel safety: dropping the future loses no answer.
    ///
    /// # Errors
    /// What the router or a peer says, or that the connection broke. What was asked for goes on all the same.
    pub async fn next(&mut self) -> FaultResult<Option<T>> {
        self.0.message().await.map_err(|status| Fault::from_status(&status))
    }
}

impl Client {
    /// How many chains of all peers match, by status.
    ///
    /// # Errors
    /// If no router answers. Peers that don't answer are named in the response.
    pub async fn count_chains(&self, filter: v1::ChainFilter) -> FaultResult<v1::CountChainsResponse> {
        let message = v1::CountChainsRequest { filter: Some(filter) };
        self.read(message, |mut router, request| async move { router.count_chains(request).await }).await
    }

    /// One chain now and after every change, until it has ended.
    ///
    /// # Errors
    /// RW4001 if there is no such chain.
    pub async fn watch_chain(&self, id: &str) -> FaultResult<Answers<v1::WatchChainResponse>> {
        let message = v1::WatchChainRequest { id: id.to_owned() };
        self.read(message, |mut router, request| async move { router.watch_chain(request).await }).await.map(Answers)
    }

    /// Does what a person decided to all chains that match, or says with `dry_run` what it would do. The answers tell how far
    /// it is; the last one says so. It goes on when they are dropped.
    ///
    /// It is not repeated when its first answer is lost, for the second time there would be less to do; repeating it is harmless.
    ///
    /// # Errors
    /// RW4003 if the one chain that the filter names can't be changed so, RW4004 if the request makes no sense.
    pub async fn change_chains(&self, request: v1::ChangeChainsRequest) -> FaultResult<Answers<v1::ChangeChainsResponse>> {
        let policy = if request.dry_run { Policy::REPEATABLE } else { Policy::ONCE };
        self.send(request, policy, |mut router, request| async move { router.change_chains(request).await }).await.map(Answers)
    }

    /// [`Client::change_chains`] to its end; returns the last answer.
    ///
    /// # Errors
    /// As [`Client::change_chains`] and [`Answers::next`].
    pub async fn change_chains_to_end(&self, request: v1::ChangeChainsRequest) -> FaultResult<v1::ChangeChainsResponse> {
        let mut answers = self.change_chains(request).await?;
        let mut last = v1::ChangeChainsResponse::default();
        while let Some(answer) = answers.next().await? {
            last = answer;
        }
        Ok(last)
    }

    /// Delivers what a step of a chain waits for. The first signal counts, so it can be sent again.
    ///
    /// # Errors
    /// RW4003 if the chain has ended, RW4004 if it waits for no such signal or the payload doesn't fit.
    pub async fn signal_chain(&self, request: v1::SignalChainRequest) -> FaultResult<v1::SignalChainResponse> {
        self.read(request, |mut router, request| async move { router.signal_chain(request).await }).await
    }

    /// Starts a chain that has ended anew, under another id. With a `new_id` it can be sent again.
    ///
    /// # Errors
    /// RW4003 if it has not ended.
    pub async fn fork_chain(&self, request: v1::ForkChainRequest) -> FaultResult<v1::ForkChainResponse> {
        let policy = if request.new_id.is_empty() && !request.dry_run { Policy::ONCE } else { Policy::REPEATABLE };
        self.send(request, policy, |mut router, request| async move { router.fork_chain(request).await }).await
    }
}
