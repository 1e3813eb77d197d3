//! The stream to one worker: how it is opened, and what its failures are called.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rootward_link::{Exchange, MAX_MESSAGE_BYTES, Outgoing, Silence, Unopened, deepest, endpoint};
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, reply, worker_client::WorkerClient},
};
use tonic::{Streaming, transport::Channel};

use crate::metrics::LinkCounters;

/// A worker is near: one that says nothing is given up soon.
const SILENCE: Silence =
    Silence { connect: Duration::from_secs(1), asked_after: Duration::from_secs(5), given_up_after: Duration::from_secs(3) };

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

    async fn open(&self, outgoing: Outgoing<ToWorker>) -> Result<Streaming<v1::ExchangeResponse>, Unopened> {
        let mut client = connect(&self.address).await?;
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        client.exchange(outgoing).await.map(tonic::Response::into_inner).map_err(|status| unopened(&status))
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

/// A worker of another build may refuse us by name.
fn unopened(status: &tonic::Status) -> Unopened {
    let fault = Fault::from_status(status);
    if fault.code() == OTHER_VERSION { Unopened::Refused(fault) } else { Unopened::Unreachable(status.message().to_owned()) }
}

/// The code of a worker that has no version of the messages in common with us.
pub(crate) const OTHER_VERSION: &str = "RW5030";

pub(crate) fn unreachable(address: &str, why: &str) -> Fault {
    Fault::retry("RW5002", format!("worker {address} can't be reached: {why}"), "nothing was executed; see `rootward peer list`")
}

/// A client of the worker at `address`, connected.
///
/// # Errors
/// Why there is no connection within a second.
pub async fn connect(address: &str) -> Result<WorkerClient<Channel>, String> {
    let endpoint = endpoint(address, SILENCE).map_err(|error| error.to_string())?;
    let channel = tokio::time::timeout(SILENCE.connect, endpoint.connect())
        .await
        .map_err(|_| "no connection within a second".to_owned())?
        .map_err(|error| deepest(&error).to_string())?;
    Ok(WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}
