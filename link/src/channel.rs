//! How a connection between two processes is made: what may be on its way, and how a dead one is noticed.

use std::{error::Error, time::Duration};

use rootward_proto::Protocol;
use tonic::transport::{self, Endpoint};

/// The largest message that is taken.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What may be on its way unread, for one stream and for a connection: several messages, so that a stream never stops for want of
/// a window while its reader keeps up.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// How long the other side may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// While a connection is made.
    pub connect: Duration,
    /// Before it is asked whether it is still there, whether or not anything is under way.
    pub asked_after: Duration,
    /// Once it was asked; then the connection is given up.
    pub given_up_after: Duration,
}

/// The other side at `address`, which is told what this process speaks; nothing is connected yet.
///
/// # Errors
/// If it is no address.
pub fn endpoint(address: &str, silence: Silence) -> Result<Endpoint, transport::Error> {
    // A header's value is ASCII, which it is.
    Ok(Endpoint::from_shared(address.to_owned())?
        .user_agent(Protocol::own().agent())?
        .connect_timeout(silence.connect)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(silence.asked_after)
        .keep_alive_timeout(silence.given_up_after)
        .keep_alive_while_idle(true))
}

/// The innermost source of an error, which says more than tonic's "transport error".
pub fn deepest(error: &dyn Error) -> &dyn Error {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
