//! The stream to one worker: how it is opened, and what its failures are called.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rootward_link::{Exchange, Outgoing};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, reply, worker_client::WorkerClient},
};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::metrics::LinkCounters;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest message that is taken.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What may be on its way unread, for one stream and for a connection: several messages, so that a stream never stops for want of
/// a window while its reader keeps up.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The stream to the worker at this address.
pub(crate) struct ToWorker {
    pub address: Arc<str>,
    pub counters: Arc<LinkCounters>,
}

/// A handle to it.
pub(crate) type Link = rootward_link::Link<ToWorker>;

impl Exchange for ToWorker {
    type Envelope = v1::Envelope;
    type Request = v1::ExchangeRequest;
    type Response = v1::ExchangeResponse;
    type Answer = reply::Result;
    const MAX_BYTES: usize = 16 << 20;

    fn set_number(envelope: &mut v1::Envelope, number: u64) {
        envelope.correlation = number;
    }

    fn message(envelopes: Vec<v1::Envelope>) -> v1::ExchangeRequest {
        v1::ExchangeRequest { envelopes }
    }

    fn answers(response: v1::ExchangeResponse) -> impl Iterator<Item = (u64, FaultResult<reply::Result>)> {
        response.replies.into_iter().map(|reply| {
            let answer = match reply.result {
                Some(reply::Result::Failure(failure)) => Err(Fault::from(failure)),
                Some(result) => Ok(result),
                None => Err(Fault::internal("a worker sent an empty reply")),
            };
            (reply.correlation, answer)
        })
    }

    async fn open(&self, outgoing: Outgoing<ToWorker>) -> Result<Streaming<v1::ExchangeResponse>, String> {
        let mut client = connect(&self.address).await?;
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        client.exchange(outgoing).await.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    }

    fn full(&self, limit: usize) -> Fault {
        Fault::overloaded(
            "RW3001",
            format!("the queue to worker {} is full ({limit} requests)", self.address),
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
            format!("the stream to worker {} broke before the answer came: {why}", self.address),
            "send it again with the same request id: it takes effect once",
        )
    }
}

pub(crate) fn unreachable(address: &str, why: &str) -> Fault {
    Fault::retry("RW5002", format!("worker {address} can't be reached: {why}"), "nothing was executed; see `rootward peer list`")
}

/// A client of the worker at `address`, connected.
pub(crate) async fn connect(address: &str) -> Result<WorkerClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    let channel = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(|_| "no connection within a second".to_owned())?
        .map_err(|error| root_cause(&error))?;
    Ok(WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// The innermost source of an error, which says more than tonic's "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
