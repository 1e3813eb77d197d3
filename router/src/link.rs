//! One long-lived stream to one worker. Whatever waits when the stream becomes free goes out as one message.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message as _;
use rootward_proto::{
    Fault, FaultResult,
    v1::{self, RetryClass, reply, worker_client::WorkerClient},
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Channel, Endpoint};

/// How many requests may wait for the stream; more are refused at once.
const QUEUE: usize = 8192;
/// How many go out in one message.
const MAX_COALESCED: usize = 512;
/// How many bytes go out in one message, unless one request alone is larger.
const MAX_COALESCED_BYTES: usize = 16 << 20;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest message that is taken.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A handle to the stream; cheap to clone. The stream ends when the token that it was made with is cancelled.
#[derive(Clone)]
pub struct Link {
    sender: mpsc::Sender<Pending>,
    address: Arc<str>,
}

struct Pending {
    execute: v1::Execute,
    answer: oneshot::Sender<FaultResult<reply::Result>>,
}

type InFlight = Arc<Mutex<HashMap<u64, oneshot::Sender<FaultResult<reply::Result>>>>>;

impl Link {
    /// Starts the task that keeps the stream. It connects when there is something to send.
    pub fn start(address: &str, tasks: &TaskTracker, shutdown: CancellationToken) -> Link {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let address: Arc<str> = address.into();
        tasks.spawn(keep_stream(address.clone(), receiver, shutdown));
        Link { sender, address }
    }

    /// Sends one transaction and waits for its answer.
    ///
    /// Cancel safety: dropping the future drops the answer, not the transaction.
    ///
    /// # Errors
    /// What the worker answered, or: RW3001 if the queue is full (not executed), RW5002 if no connection could be made
    /// (not executed), RW5003 if the stream broke before the answer came (unknown).
    pub async fn send(&self, execute: v1::Execute) -> FaultResult<reply::Result> {
        let (answer, answered) = oneshot::channel();
        self.sender.try_send(Pending { execute, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Fault::retry(
                "RW3001",
                format!("the queue to worker {} is full ({QUEUE} requests)", self.address),
                "nothing was executed; send it again a little later",
            ),
            mpsc::error::TrySendError::Closed(_) => {
                Fault::retry("RW5002", "this process is shutting down", "nothing was executed; send it to another router")
            }
        })?;
        answered.await.unwrap_or_else(|_| Err(broken(&self.address, "the stream ended")))
    }
}

fn broken(address: &str, why: &str) -> Fault {
    Fault::new(
        "RW5003",
        RetryClass::OutcomeUnknown,
        format!("the stream to worker {address} broke before the answer came: {why}"),
        "send it again with the same request id: it takes effect once",
    )
}

pub(crate) fn unreachable(address: &str, why: &str) -> Fault {
    Fault::retry("RW5002", format!("worker {address} can't be reached: {why}"), "nothing was executed; see `rootward peer list`")
}

async fn keep_stream(address: Arc<str>, mut receiver: mpsc::Receiver<Pending>, shutdown: CancellationToken) {
    let mut next_correlation = 0;
    let mut waiting: Option<Pending> = None;
    loop {
        if waiting.is_none() {
            waiting = tokio::select! {
                first = receiver.recv() => first,
                () = shutdown.cancelled() => None,
            };
        }
        let Some(first) = waiting.take() else { return };
        match connect(&address).await {
            Ok(client) => run_stream(&address, client, first, &mut receiver, &mut next_correlation, &shutdown).await,
            Err(why) => {
                // Everything that waits is refused together: each sender decides for itself whether to try again.
                let _ = first.answer.send(Err(unreachable(&address, &why)));
                while let Ok(pending) = receiver.try_recv() {
                    let _ = pending.answer.send(Err(unreachable(&address, &why)));
                }
            }
        }
    }
}

/// A client of the worker at `address`, connected.
pub(crate) async fn connect(address: &str) -> Result<WorkerClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
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

async fn run_stream(
    address: &str,
    mut client: WorkerClient<Channel>,
    first: Pending,
    receiver: &mut mpsc::Receiver<Pending>,
    next_correlation: &mut u64,
    shutdown: &CancellationToken,
) {
    let in_flight: InFlight = InFlight::default();
    let (outbox, outgoing) = mpsc::channel::<v1::ExchangeRequest>(16);
    let mut batch = vec![first];
    // The first message goes in before the call: tonic answers a stream's call only when the server sends its headers.
    if outbox.send(message(&mut batch, &in_flight, next_correlation)).await.is_err() {
        return;
    }
    let mut incoming = match client.exchange(ReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return fail_all(&in_flight, address, status.message()),
    };
    loop {
        tokio::select! {
            taken = receiver.recv_many(&mut batch, MAX_COALESCED) => {
                if taken == 0 {
                    break;
                }
                while !batch.is_empty() {
                    if outbox.send(message(&mut batch, &in_flight, next_correlation)).await.is_err() {
                        return fail_all(&in_flight, address, "it was closed");
                    }
                }
            }
            received = incoming.message() => match received {
                Ok(Some(response)) => complete(&in_flight, response),
                Ok(None) => break,
                Err(status) => return fail_all(&in_flight, address, status.message()),
            },
            () = shutdown.cancelled() => break,
        }
    }
    fail_all(&in_flight, address, "it was closed");
}

/// A message of what waits, as much of it as fits.
fn message(batch: &mut Vec<Pending>, in_flight: &InFlight, next_correlation: &mut u64) -> v1::ExchangeRequest {
    let mut bytes = 0;
    let fitting = batch.iter().take_while(|pending| {
        bytes += pending.execute.encoded_len();
        bytes <= MAX_COALESCED_BYTES
    });
    let count = fitting.count().max(1);
    let mut answers = lock(in_flight);
    let envelopes = batch
        .drain(..count)
        .map(|pending| {
            *next_correlation += 1;
            answers.insert(*next_correlation, pending.answer);
            v1::Envelope { correlation: *next_correlation, execute: Some(pending.execute) }
        })
        .collect();
    v1::ExchangeRequest { envelopes }
}

fn complete(in_flight: &InFlight, response: v1::ExchangeResponse) {
    let mut answers = lock(in_flight);
    for reply in response.replies {
        let Some(answer) = answers.remove(&reply.correlation) else { continue };
        let _ = answer.send(match reply.result {
            Some(reply::Result::Failure(failure)) => Err(Fault::from(failure)),
            Some(result) => Ok(result),
            None => Err(Fault::internal("a worker sent an empty reply")),
        });
    }
}

fn fail_all(in_flight: &InFlight, address: &str, why: &str) {
    for (_, answer) in lock(in_flight).drain() {
        let _ = answer.send(Err(broken(address, why)));
    }
}

fn lock(in_flight: &InFlight) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<FaultResult<reply::Result>>>> {
    // A panic while it is held can't leave the map half changed.
    in_flight.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
