//! The stream to one router, which carries calls and starts of chains.

use std::time::Duration;

use rootward_link::{Exchange, Link, Outgoing, Unopened};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, call_envelope, call_reply, rootward_client::RootwardClient},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Streaming, transport::Channel};

use crate::router::{Router, cause, silent, unreachable};

/// What a router takes in one message; a larger request would break the stream for all.
const MAX_REQUEST_BYTES: usize = 8 << 20;
/// What numbers and lengths may add to a request.
const ENVELOPE_BYTES: usize = 64;

/// The stream to the router at this address.
pub(crate) struct ToRouter {
    pub address: String,
    pub service: RootwardClient<Channel>,
}

/// What can be sent over the stream, and what its answer is.
pub(crate) trait Streamed: prost::Message + Clone {
    type Answer;
    fn into_request(self) -> call_envelope::Request;
    fn answer(reply: call_reply::Result) -> Option<Self::Answer>;
}

impl Streamed for v1::CallRequest {
    type Answer = v1::CallResponse;

    fn into_request(self) -> call_envelope::Request {
        call_envelope::Request::Call(self)
    }

    fn answer(reply: call_reply::Result) -> Option<v1::CallResponse> {
        if let call_reply::Result::Called(response) = reply { Some(response) } else { None }
    }
}

impl Streamed for v1::StartChainRequest {
    type Answer = v1::StartChainResponse;

    fn into_request(self) -> call_envelope::Request {
        call_envelope::Request::StartChain(Box::new(self))
    }

    fn answer(reply: call_reply::Result) -> Option<v1::StartChainResponse> {
        if let call_reply::Result::Started(response) = reply { Some(*response) } else { None }
    }
}

impl ToRouter {
    /// The stream ends with the last handle to it.
    pub(crate) fn start(self) -> Link<ToRouter> {
        Link::start(self, &TaskTracker::new(), CancellationToken::new())
    }
}

impl Router {
    /// Sends one request over the stream and waits for its answer, this long at most and a `slack` more than the router.
    ///
    /// Cancel safety: dropping the future gives up the answer, not the request.
    pub(crate) async fn ask<M: Streamed>(&self, message: M, limit: Duration, slack: Duration) -> FaultResult<M::Answer> {
        let bytes = message.encoded_len();
        if bytes + ENVELOPE_BYTES > MAX_REQUEST_BYTES {
            let help = "a request has 8 MiB at most: send several smaller ones";
            return Err(Fault::refused("RW2002", format!("the request has {bytes} bytes"), help));
        }
        let time_left_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        let envelope = v1::CallEnvelope { correlation: 0, time_left_ms, request: Some(message.into_request()) };
        let answered = tokio::time::timeout(limit + slack, self.stream.ask(envelope)).await;
        let reply = answered.unwrap_or_else(|_| Err(silent(&self.address)))?;
        M::answer(reply).ok_or_else(|| Fault::internal("a router answered something else than was asked"))
    }
}

impl Exchange for ToRouter {
    type Envelope = v1::CallEnvelope;
    type Request = v1::ExchangeCallsRequest;
    type Response = v1::ExchangeCallsResponse;
    type Answer = call_reply::Result;
    const MAX_BYTES: usize = MAX_REQUEST_BYTES / 2;

    fn set_number(envelope: &mut v1::CallEnvelope, number: u64) {
        envelope.correlation = number;
    }

    fn message(envelopes: Vec<v1::CallEnvelope>) -> v1::ExchangeCallsRequest {
        v1::ExchangeCallsRequest { envelopes }
    }

    fn answers(response: v1::ExchangeCallsResponse) -> impl Iterator<Item = (u64, FaultResult<call_reply::Result>)> {
        response.replies.into_iter().map(|reply| {
            let answer = match reply.result {
                Some(call_reply::Result::Failure(failure)) => Err(Fault::from(failure)),
                Some(result) => Ok(result),
                None => Err(Fault::internal("a router sent an empty reply")),
            };
            (reply.correlation, answer)
        })
    }

    async fn open(&self, outgoing: Outgoing<ToRouter>) -> Result<Streaming<v1::ExchangeCallsResponse>, Unopened> {
        let mut service = self.service.clone();
        service.exchange(outgoing).await.map(Response::into_inner).map_err(|status| cause(&status).into())
    }

    fn full(&self, limit: usize) -> Fault {
        Fault::overloaded(
            "RW3001",
            format!("the queue to router {} is full ({limit} requests)", self.address),
            "nothing was executed; send it again a little later",
        )
    }

    fn unreachable(&self, why: &str) -> Fault {
        unreachable(&self.address, why)
    }

    fn broken(&self, why: &str) -> Fault {
        Fault::new(
            "RW5003",
            RetryClass::OutcomeUnknown,
            format!("the stream to router {} broke before the answer came: {why}", self.address),
            "send it again with the same request id: it takes effect once",
        )
    }
}
