//! The answering side of a client's stream: every request is under way at once, and whatever is answered when the stream is
//! free goes out as one message.
//!
//! A stream is one task, the connection's own: it reads, drives what is under way, and writes. There is no task, queue or wake-up for a
//! single request. A client that leaves drops what is under way here; a worker finishes what it got, and the client learns it
//! by the same request id.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, Fuse, FusedFuture as _},
    stream::FuturesUnordered,
};
use rootward_link::{MAX_COALESCED, Turn, fitting};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, call_envelope, call_reply},
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};

use crate::service::RouterService;

/// How many bytes go out in one message, unless one answer alone is larger.
const MAX_BYTES: usize = 16 << 20;

/// A client's stream of answers, which reads the requests as it goes.
pub(crate) struct Answers<F> {
    service: Arc<RouterService>,
    incoming: Streaming<v1::ExchangeCallsRequest>,
    under_way: FuturesUnordered<F>,
    answered: Vec<v1::CallReply>,
    turn: Turn,
    /// Ends when the router is to drain: what is under way is answered, what comes then is refused.
    drain: Fuse<BoxFuture<'static, ()>>,
    /// Whether more requests can come.
    is_open: bool,
    handle: fn(Arc<RouterService>, OwnedSemaphorePermit, v1::CallEnvelope) -> F,
}

/// Answers the requests of one client.
pub(crate) fn answers(
    service: RouterService,
    incoming: Streaming<v1::ExchangeCallsRequest>,
) -> impl Stream<Item = Result<v1::ExchangeCallsResponse, Status>> + Send + 'static {
    let drain = service.drain.clone();
    Answers {
        service: Arc::new(service),
        incoming,
        under_way: FuturesUnordered::new(),
        answered: Vec::new(),
        turn: Turn::default(),
        drain: drain.cancelled_owned().boxed().fuse(),
        is_open: true,
        handle,
    }
}

/// Checks a request at once; the future is small, since many are under way.
fn handle(
    service: Arc<RouterService>,
    permit: OwnedSemaphorePermit,
    envelope: v1::CallEnvelope,
) -> impl Future<Output = v1::CallReply> + Send {
    let time_left = (envelope.time_left_ms > 0).then(|| Duration::from_millis(envelope.time_left_ms));
    let deadline = service.deadline_in(time_left);
    let work = match envelope.request {
        Some(call_envelope::Request::Call(request)) if request.reference_wait == i32::from(v1::ReferenceWait::All) => {
            Work::Shown(Box::new(service.checked(request)))
        }
        Some(call_envelope::Request::Call(request)) => Work::Call(service.checked(request)),
        Some(call_envelope::Request::StartChain(request)) => Work::Chain(request),
        None => Work::Call(Err(Fault::refused("RW2002", "an envelope came without a request", "fill `call` or `start_chain`"))),
    };
    async move {
        let _permit = permit;
        let result = match work {
            Work::Call(execute) => service.run(execute, deadline).await.map(call_reply::Result::Called),
            // Rarer and larger: not in every call's future.
            Work::Shown(execute) => Box::pin(service.run_and_show(*execute, deadline)).await.map(call_reply::Result::Called),
            Work::Chain(request) => Box::pin(service.start(*request, deadline)).await.map(Box::new).map(call_reply::Result::Started),
        };
        service.counters.answered(&result);
        reply(envelope.correlation, result)
    }
}

/// What a request is once it is checked; a chain's start is checked when it runs.
enum Work {
    Call(FaultResult<Box<v1::Execute>>),
    /// A write of reference data that all peers are to show.
    Shown(Box<FaultResult<Box<v1::Execute>>>),
    Chain(Box<v1::StartChainRequest>),
}

fn reply(correlation: u64, result: FaultResult<call_reply::Result>) -> v1::CallReply {
    let result = result.unwrap_or_else(|fault| call_reply::Result::Failure(fault.into_wire()));
    v1::CallReply { correlation, result: Some(result) }
}

impl<F: Future<Output = v1::CallReply>> Answers<F> {
    /// Takes what has arrived. Never waits for room: what finds none is refused at once.
    fn read(&mut self, context: &mut Context<'_>) {
        while self.is_open && self.answered.len() < MAX_COALESCED {
            match self.incoming.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => message.envelopes.into_iter().for_each(|envelope| self.take(envelope)),
                Poll::Ready(Some(Err(status))) => {
                    tracing::debug!(message = status.message(), "a client's stream broke");
                    self.is_open = false;
                    // Nobody is there to hear the answers.
                    self.under_way.clear();
                    self.answered.clear();
                }
                Poll::Ready(None) => self.is_open = false,
                Poll::Pending => return,
            }
        }
    }

    fn take(&mut self, envelope: v1::CallEnvelope) {
        self.service.counters.came();
        match self.admit() {
            Ok(permit) => self.under_way.push((self.handle)(self.service.clone(), permit, envelope)),
            Err(fault) => {
                let refused = Err(fault);
                self.service.counters.answered(&refused);
                self.answered.push(reply(envelope.correlation, refused));
            }
        }
    }

    fn admit(&self) -> FaultResult<OwnedSemaphorePermit> {
        if self.drain.is_terminated() {
            return Err(Fault::retry("RW5002", "the router is shutting down", "nothing was executed; send it to another router"));
        }
        if self.under_way.len() >= self.service.max_in_flight_per_stream {
            return Err(Fault::overloaded(
                "RW3001",
                "the router has too many requests of this client under way (`max_in_flight_per_stream`)",
                "nothing was executed; send it again a little later",
            ));
        }
        self.service.admit()
    }
}

impl<F: Future<Output = v1::CallReply>> Stream for Answers<F> {
    type Item = Result<v1::ExchangeCallsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let _ = this.drain.poll_unpin(context);
        this.read(context);
        while this.answered.len() < MAX_COALESCED
            && let Poll::Ready(Some(reply)) = this.under_way.poll_next_unpin(context)
        {
            this.answered.push(reply);
        }
        if !this.answered.is_empty() {
            if this.answered.len() < MAX_COALESCED {
                ready!(this.turn.poll_pass(context));
            }
            let count = fitting(&this.answered, MAX_BYTES);
            let rest = this.answered.split_off(count);
            let replies = std::mem::replace(&mut this.answered, rest);
            // The next message is likely to be as large.
            this.answered.reserve(replies.len());
            return Poll::Ready(Some(Ok(v1::ExchangeCallsResponse { replies })));
        }
        if this.under_way.is_empty() && (!this.is_open || this.drain.is_terminated()) {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the allocator keeps in its quick bins, with room for what is stored around a future.
    const QUICK_BYTES: usize = 1024 - 128;

    fn size_of_future<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_under_way_is_small() {
        let bytes = size_of_future(handle);
        assert!(bytes <= QUICK_BYTES, "a request under way takes {bytes} bytes");
    }
}
