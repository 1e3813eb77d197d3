//! What a Rust application links: connect to routers, call transactions, run chains.
//!
//! ```no_run
//! # async fn example() -> Result<(), rootward_client::Fault> {
//! use rootward_client::{Arguments, Client};
//!
//! let client = Client::new(["http://127.0.0.1:7400"])?;
//! let answer = client.call("withdraw", Arguments::new().with("account_id", 1007).with("amount", "250.00")).send().await?;
//! println!("{} rows", answer.rows.len());
//! # Ok(())
//! # }
//! ```
//!
//! A request keeps its id and its time of issue over every try, so that it takes effect once however often it is sent.

mod arguments;
mod client;
mod retry;

pub use arguments::Arguments;
pub use client::{Call, Client, StartChain};
pub use rootward_proto::{Fault, v1};
