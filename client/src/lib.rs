//! What a Rust application links: connect to routers, call transactions, run chains.
//!
//! ```no_run
//! # async fn example() -> Result<(), rootward_client::Fault> {
//! use rootward_client::{Arguments, Client};
//!
//! let client = Client::new(["http://127.0.0.1:7400"])?;
//! let answer = client.call("withdraw", Arguments::new().with("account_id", 1007).with("amount", "250.00")).send().await?;
//! println!("{} rows", answer.rows.len());
//! let transfer = Arguments::new().with("from", 1007).with("to", 2044).with("amount", 100);
//! let chain = client.start_chain("transfer", transfer).send().await?.chain.unwrap_or_default();
//! println!("{} is {}", chain.id, chain.status);
//! # Ok(())
//! # }
//! ```
//!
//! Calls and starts of chains share one stream to the router: those that wait go out together. Everything else is a request of its
//! own on the same connection.
//!
//! [`Client::take_snapshot`] takes one consistent cut over all peers, and [`Snapshot::query`] reads it with any SQL that only reads.
//!
//! A request keeps its id and its time of issue over every try, so that it takes effect once however often it is sent.
//! A [`Fault`] says with its retry class what is known: refused, not executed, or unknown.

mod arguments;
mod chains;
mod client;
mod moves;
mod request;
mod retry;
mod router;
mod send;
mod snapshots;
mod stream;
mod subscription;

pub use arguments::Arguments;
pub use chains::Answers;
pub use client::Client;
pub use request::{Call, StartChain};
pub use rootward_proto::{Fault, FaultResult, v1};
pub use snapshots::{Rows, Snapshot, SnapshotOptions};
pub use subscription::Subscription;
