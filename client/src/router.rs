//! The routers: where they are, whose turn it is, and what a failed try means.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rootward_link::{Link, MAX_MESSAGE_BYTES, Silence, deepest, endpoint};
use rootward_proto::{
    Fault, FaultResult,
    v1::{RetryClass, rootward_client::RootwardClient},
};
use tonic::{ConnectError, Status, codegen::http::Uri, transport::Channel};

use crate::stream::ToRouter;

/// A router may be far away.
const SILENCE: Silence =
    Silence { connect: Duration::from_secs(2), asked_after: Duration::from_secs(10), given_up_after: Duration::from_secs(5) };
const DEFAULT_PORT: u16 = 7400;
const EXAMPLE: &str = "give an address such as http://127.0.0.1:7400";

/// Connections to all routers; cheap to clone. Each connects when it is first used, and again when it broke.
#[derive(Debug, Clone)]
pub(crate) struct Routers {
    all: Arc<[Arc<Router>]>,
    /// Counts up when a router did not answer; its remainder is the router that is asked. Read and written by all clones.
    turn: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(crate) struct Router {
    pub address: String,
    pub service: RootwardClient<Channel>,
    /// Carries calls and starts of chains, over the same connection as everything else.
    pub stream: Link<ToRouter>,
}

impl Routers {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>) -> FaultResult<Routers> {
        let all: Vec<Arc<Router>> = addresses.into_iter().map(|address| Router::new(&address).map(Arc::new)).collect::<FaultResult<_>>()?;
        if all.is_empty() {
            return Err(Fault::refused("RW1106", "no router is named", EXAMPLE));
        }
        Ok(Routers { all: all.into(), turn: Arc::default() })
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The router that is asked now, and its turn.
    pub(crate) fn current(&self) -> (usize, Arc<Router>) {
        let turn = self.turn.load(Ordering::Relaxed);
        (turn, self.all[turn % self.all.len()].clone())
    }

    /// The router of that turn did not help: the next one is asked. Many requests that say so at once move on by one.
    pub(crate) fn pass_on(&self, turn: usize) {
        let _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Router {
    fn new(text: &str) -> FaultResult<Router> {
        let address = normalized(text)?;
        let endpoint = endpoint(&address, SILENCE).map_err(|error| wrong(text, &error.to_string()))?;
        let channel = endpoint.connect_lazy();
        let service =
            RootwardClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let stream = ToRouter { address: address.clone(), service: service.clone() }.start();
        Ok(Router { address, service, stream })
    }

    /// What a try's status means.
    pub(crate) fn fault(&self, status: &Status) -> Fault {
        let sources = std::iter::successors(status.source(), |&error| error.source());
        if sources.into_iter().any(|error| error.is::<ConnectError>()) {
            return unreachable(&self.address, &cause(status));
        }
        Fault::from_status(status)
    }
}

/// There is no connection to a router.
pub(crate) fn unreachable(address: &str, why: &str) -> Fault {
    Fault::retry(
        "RW5009",
        format!("router {address} can't be reached: {why}"),
        "nothing was executed; is it running? another one is named with --router or ROOTWARD_ROUTER",
    )
}

/// A try had no answer of any kind when its time was over.
pub(crate) fn silent(address: &str) -> Fault {
    Fault::new(
        "RW5003",
        RetryClass::OutcomeUnknown,
        format!("router {address} did not answer in time"),
        "send it again with the same request id: it takes effect once",
    )
}

/// What the system said, if it was the system; else the status's own words.
pub(crate) fn cause(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_owned(), |source| deepest(source).to_string())
}

/// With scheme and port: `10.0.0.1` is `http://10.0.0.1:7400`.
fn normalized(text: &str) -> FaultResult<String> {
    let given = text.trim();
    let given = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    let uri: Uri = given.parse().map_err(|error: tonic::codegen::http::uri::InvalidUri| wrong(text, &error.to_string()))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong(text, "only http is spoken, inside a network that you trust"));
    }
    match (uri.host(), uri.port_u16(), uri.path()) {
        (None | Some(""), ..) => Err(wrong(text, "it names no host")),
        (Some(host), port, "" | "/") => Ok(format!("http://{host}:{}", port.unwrap_or(DEFAULT_PORT))),
        _ => Err(wrong(text, "it has a path")),
    }
}

fn wrong(text: &str, why: &str) -> Fault {
    Fault::refused("RW1106", format!("`{text}` is no router's address: {why}"), EXAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_scheme_and_port() {
        for (given, meant) in [
            ("127.0.0.1", "http://127.0.0.1:7400"),
            ("router.example:80", "http://router.example:80"),
            (" http://[::1]:7401/ ", "http://[::1]:7401"),
        ] {
            assert_eq!(normalized(given).expect("an address"), meant);
        }
        for wrong in ["", "https://a", "http://a/path", "http://:7400", "a b", "tcp://a:1"] {
            assert_eq!(normalized(wrong).expect_err(wrong).code(), "RW1106");
        }
    }

    #[tokio::test]
    async fn routers_take_turns_and_many_failures_at_once_move_on_by_one() {
        let routers = Routers::new(["a", "b"].map(str::to_owned)).expect("two routers");
        let (turn, first) = routers.current();
        assert_eq!(first.address, "http://a:7400");
        routers.pass_on(turn);
        routers.pass_on(turn);
        assert_eq!(routers.current().1.address, "http://b:7400");
        assert_eq!(Routers::new([]).expect_err("none").code(), "RW1106");
    }
}
