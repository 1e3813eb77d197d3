//! Keeps one stream to one process, and connects again when it broke.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use futures_util::Stream;
use prost::Message;
use rootward_proto::{Fault, FaultResult};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Streaming;

use crate::{
    fit::{MAX_COALESCED, fitting},
    flight::{Asker, Flight},
    turn::Turn,
};

/// How many requests may wait for the stream; more are refused at once.
const QUEUE: usize = 8192;

/// Why there is no stream.
#[derive(Debug)]
pub enum Unopened {
    /// Nobody answers; a fragment of a sentence.
    Unreachable(String),
    /// The other side has refused it. Nothing was executed.
    Refused(Fault),
}

impl From<String> for Unopened {
    fn from(why: String) -> Unopened {
        Unopened::Unreachable(why)
    }
}

/// One kind of stream: its messages, how it is opened, and what its failures are called.
pub trait Exchange: Send + Sync + Sized + 'static {
    /// One request with its number.
    type Envelope: Message + 'static;
    /// What goes out: envelopes.
    type Request: Send + 'static;
    /// What comes in: answers with the numbers of their requests.
    type Response: Send + 'static;
    /// What an asker gets.
    type Answer: Send + 'static;
    /// How many bytes go out in one message, unless one request alone is larger.
    const MAX_BYTES: usize;

    /// Numbers a request.
    fn set_number(envelope: &mut Self::Envelope, number: u64);

    /// A message of these envelopes.
    fn message(envelopes: Vec<Self::Envelope>) -> Self::Request;

    /// The answers of a message.
    fn answers(response: Self::Response) -> impl Iterator<Item = (u64, FaultResult<Self::Answer>)>;

    /// Connects and opens the stream.
    ///
    /// # Errors
    /// Why there is none.
    fn open(&self, outgoing: Outgoing<Self>) -> impl Future<Output = Result<Streaming<Self::Response>, Unopened>> + Send;

    /// The queue is full; `limit` requests wait. Nothing was executed.
    fn full(&self, limit: usize) -> Fault;

    /// There is no stream. Nothing was executed.
    fn unreachable(&self, why: &str) -> Fault;

    /// The stream broke before the answer came: executed or not.
    fn broken(&self, why: &str) -> Fault;
}

/// A handle to the stream; cheap to clone. The stream ends when the last handle is dropped, or when the token that it was made
/// with is cancelled.
pub struct Link<X: Exchange> {
    sender: mpsc::Sender<Pending<X>>,
    exchange: Arc<X>,
}

struct Pending<X: Exchange> {
    envelope: X::Envelope,
    asker: Asker<X::Answer>,
}

/// What waits for the stream. It outlives a stream that broke, and belongs to the one that is open.
struct Waiting<X: Exchange> {
    queue: mpsc::Receiver<Pending<X>>,
    /// Out of the queue, but in no message yet.
    taken: Vec<Pending<X>>,
}

/// The sending half of a stream. Each time the connection has room it makes one message of what waits, without a task or a
/// queue in between.
pub struct Outgoing<X: Exchange> {
    waiting: Arc<Mutex<Waiting<X>>>,
    flight: Arc<Flight<X::Answer>>,
    turn: Turn,
}

impl<X: Exchange> Link<X> {
    /// Starts the task that keeps the stream. It connects when there is something to send.
    pub fn start(exchange: X, tasks: &TaskTracker, shutdown: CancellationToken) -> Link<X> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let exchange = Arc::new(exchange);
        tasks.spawn(keep(exchange.clone(), Waiting { queue, taken: Vec::new() }, shutdown));
        Link { sender, exchange }
    }

    /// Sends one request at once; the future waits for its answer. What is sent is no part of the future, which stays small.
    ///
    /// Cancel safety: dropping the future drops the answer, not the request, unless it still waits for the stream.
    ///
    /// # Errors
    /// What the other side answered, or what [`Exchange`] calls it: the queue is full or no stream could be opened (not
    /// executed), or the stream broke before the answer came (unknown).
    pub fn ask(&self, envelope: X::Envelope) -> impl Future<Output = FaultResult<X::Answer>> + Send + use<X> {
        let (asker, answered) = oneshot::channel();
        let sent = self.sender.try_send(Pending { envelope, asker }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.exchange.full(QUEUE),
            mpsc::error::TrySendError::Closed(_) => self.exchange.unreachable("this process is shutting down"),
        });
        let exchange = self.exchange.clone();
        async move {
            sent?;
            answered.await.unwrap_or_else(|_| Err(exchange.broken("the stream ended")))
        }
    }
}

/// How a stream ended.
enum End {
    NotOpened(Unopened),
    Broken(String),
}

async fn keep<X: Exchange>(exchange: Arc<X>, waiting: Waiting<X>, shutdown: CancellationToken) {
    let waiting = Arc::new(Mutex::new(waiting));
    while wait_for_first(&waiting, &shutdown).await {
        let flight = Arc::<Flight<X::Answer>>::default();
        let outgoing = Outgoing { waiting: waiting.clone(), flight: flight.clone(), turn: Turn::default() };
        let end = tokio::select! {
            end = run(&*exchange, outgoing, &flight) => end,
            () = shutdown.cancelled() => End::Broken("this process is shutting down".to_owned()),
        };
        let answer_all = |fault: &dyn Fn() -> Fault| {
            for asker in flight.end() {
                let _ = asker.send(Err(fault()));
            }
        };
        // Everything that waits while there is no stream is refused together: each sender decides for itself whether to try again.
        match end {
            End::Broken(why) => answer_all(&|| exchange.broken(&why)),
            End::NotOpened(Unopened::Unreachable(why)) => {
                // The first message may have gone out before it was known that nobody answers.
                answer_all(&|| exchange.broken(&why));
                refuse_all(&waiting, || exchange.unreachable(&why));
            }
            End::NotOpened(Unopened::Refused(fault)) => {
                answer_all(&|| fault.clone());
                refuse_all(&waiting, || fault.clone());
            }
        }
    }
}

/// Waits until there is something to send; false if there never will be.
async fn wait_for_first<X: Exchange>(waiting: &Mutex<Waiting<X>>, shutdown: &CancellationToken) -> bool {
    let first = poll_fn(|context| {
        let mut waiting = lock(waiting);
        if waiting.taken.is_empty() {
            let first = ready!(waiting.queue.poll_recv(context));
            waiting.taken.extend(first);
        }
        Poll::Ready(!waiting.taken.is_empty())
    });
    tokio::select! {
        is_there = first => is_there,
        () = shutdown.cancelled() => false,
    }
}

async fn run<X: Exchange>(exchange: &X, outgoing: Outgoing<X>, flight: &Flight<X::Answer>) -> End {
    let mut incoming = match exchange.open(outgoing).await {
        Ok(incoming) => incoming,
        Err(why) => return End::NotOpened(why),
    };
    loop {
        match incoming.message().await {
            Ok(Some(response)) => flight.answer(X::answers(response)),
            Ok(None) => return End::Broken("it was closed".to_owned()),
            Err(status) => return End::Broken(status.message().to_owned()),
        }
    }
}

fn refuse_all<X: Exchange>(waiting: &Mutex<Waiting<X>>, fault: impl Fn() -> Fault) {
    let mut waiting = lock(waiting);
    for pending in waiting.taken.drain(..) {
        let _ = pending.asker.send(Err(fault()));
    }
    while let Ok(pending) = waiting.queue.try_recv() {
        let _ = pending.asker.send(Err(fault()));
    }
}

fn lock<X: Exchange>(waiting: &Mutex<Waiting<X>>) -> MutexGuard<'_, Waiting<X>> {
    // A panic while it is held loses no more than what was being sent.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<X: Exchange> Waiting<X> {
    /// Fills up `taken`; false when there is nothing and never will be.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let room = MAX_COALESCED.saturating_sub(self.taken.len());
        // With something in hand only what waits already comes along.
        let took = if room == 0 { Poll::Pending } else { self.queue.poll_recv_many(context, &mut self.taken, room) };
        // Nobody waits for these any more, and they have not been sent.
        self.taken.retain(|pending| !pending.asker.is_closed());
        match took {
            _ if !self.taken.is_empty() => Poll::Ready(true),
            Poll::Ready(0) => Poll::Ready(false),
            Poll::Ready(_) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<X: Exchange> Stream for Outgoing<X> {
    type Item = X::Request;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<X::Request>> {
        let this = self.get_mut();
        let sent = this.flight.sending(|number| {
            let mut waiting = lock(&this.waiting);
            if !ready!(waiting.poll_take(context)) {
                return Poll::Ready(None);
            }
            if waiting.taken.len() < MAX_COALESCED {
                ready!(this.turn.poll_pass(context));
            }
            let count = fitting(waiting.taken.iter().map(|pending| &pending.envelope), X::MAX_BYTES);
            let numbered = waiting.taken.drain(..count).map(|mut pending| {
                X::set_number(&mut pending.envelope, number(pending.asker));
                pending.envelope
            });
            Poll::Ready(Some(X::message(numbered.collect())))
        });
        sent.unwrap_or(Poll::Ready(None))
    }
}

impl<X: Exchange> Clone for Link<X> {
    fn clone(&self) -> Link<X> {
        Link { sender: self.sender.clone(), exchange: self.exchange.clone() }
    }
}

impl<X: Exchange> fmt::Debug for Link<X> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Link").finish_non_exhaustive()
    }
}
