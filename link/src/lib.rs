//! The asking side of a long-lived stream between two processes: client and router, router and worker.
//!
//! Whatever waits when the stream becomes free goes out as one message, so that under load the cost of a message is shared
//! and without load nothing waits for company. Answers come in any order and find their asker by a number.

mod ask;
mod channel;
mod fit;
mod flight;
mod turn;

pub use ask::{Exchange, Link, Outgoing, Unopened};
pub use channel::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES, Silence, deepest, endpoint};
pub use fit::{MAX_COALESCED, fitting};
pub use turn::Turn;
