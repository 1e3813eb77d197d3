//! Sends one request until an answer comes that stays, or its deadline is over.

use std::{sync::Arc, time::Duration};

use rootward_proto::{
    Fault, FaultResult,
    v1::{RetryClass, rootward_client::RootwardClient},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    retry::{Budget, Policy, pause},
    router::{Router, Routers, silent},
    stream::Streamed,
};

/// How much longer than the router a try waits, so that the router's own word about the deadline arrives.
const SLACK: Duration = Duration::from_millis(100);
/// The longest deadline; beyond it the clock could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What all requests of a client share; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub routers: Routers,
    pub budget: Arc<Budget>,
    /// How long routers that can't be reached are tried again; the whole deadline if none.
    pub patience: Option<Duration>,
}

impl Sender {
    /// When a request that begins now and may take this long is given up.
    pub(crate) fn deadline(limit: Duration) -> Instant {
        Instant::now() + limit.min(LONGEST)
    }

    /// Sends a message in a request of its own.
    pub(crate) async fn send<M: Clone, T, F>(
        &self,
        message: &M,
        deadline: Instant,
        policy: Policy,
        try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F,
    ) -> FaultResult<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.until_settled(deadline, policy, |router, limit| try_for(limit, router, message, &try_once)).await
    }

    /// Sends a message over the stream that it shares with others.
    pub(crate) async fn send_by_stream<M: Streamed>(&self, message: &M, deadline: Instant) -> FaultResult<M::Answer> {
        let try_once = |router: Arc<Router>, limit| async move { router.ask(message.clone(), limit, SLACK).await };
        self.until_settled(deadline, Policy::REPEATABLE, try_once).await
    }

    /// Every try carries the same message, and with it the same request id.
    async fn until_settled<T, F>(&self, deadline: Instant, policy: Policy, try_once: impl Fn(Arc<Router>, Duration) -> F) -> FaultResult<T>
    where
        F: Future<Output = FaultResult<T>>,
    {
        let begun = Instant::now();
        let mut unknown: Option<Fault> = None;
        self.budget.earn();
        for tries in 1_u32.. {
            let (turn, router) = self.routers.current();
            let left = deadline.saturating_duration_since(Instant::now()).min(policy.try_limit).max(Duration::from_millis(1));
            let fault = match try_once(router, left).await {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            if !policy.allows(&fault, unknown.is_some(), &self.budget) || self.is_out_of_patience(&fault, tries, begun) {
                return Err(settled(unknown, fault));
            }
            self.routers.pass_on(turn);
            if fault.retry_class() == RetryClass::OutcomeUnknown {
                unknown = Some(fault.clone());
            }
            let wake = Instant::now() + pause(tries, fault.retry_after());
            if wake >= deadline {
                return Err(settled(unknown, fault));
            }
            tokio::time::sleep_until(wake).await;
        }
        Err(Fault::internal("more tries than can be counted"))
    }

    fn is_out_of_patience(&self, fault: &Fault, tries: u32, begun: Instant) -> bool {
        let were_all_tried = usize::try_from(tries).is_ok_and(|tries| tries >= self.routers.count());
        fault.code() == "RW5009" && were_all_tried && self.patience.is_some_and(|patience| begun.elapsed() >= patience)
    }
}

async fn try_for<M: Clone, T, F>(
    limit: Duration,
    router: Arc<Router>,
    message: &M,
    try_once: impl Fn(RootwardClient<Channel>, Request<M>) -> F,
) -> FaultResult<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut request = Request::new(message.clone());
    request.set_timeout(limit);
    match tokio::time::timeout(limit + SLACK, try_once(router.service.clone(), request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(router.fault(&status)),
        Err(_) => Err(silent(&router.address)),
    }
}

/// What is known in the end: that a later try was not executed says nothing about an earlier one whose answer was lost.
/// A refusal does, for it comes from the stored outcome if there is one.
fn settled(unknown: Option<Fault>, last: Fault) -> Fault {
    unknown.filter(|_| last.retry_class() != RetryClass::Refused).unwrap_or(last)
}
