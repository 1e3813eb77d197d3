//! The router: it finds the owner of a root and sends the work there, again and again inside the deadline, always with
//! the same request id.
//!
//! It keeps nothing but a copy of the catalog, which it follows from any worker, and it opens no database connection.
//! Workers use the same [`Routing`] to send the steps of chains to each other.

mod catalog;
mod chains;
mod config;
mod exchange;
mod explain;
mod follow;
mod gather;
mod journal;
mod link;
mod message;
mod metrics;
mod nearness;
mod reference;
mod request;
mod routing;
mod run;
mod service;
mod snapshot;
mod stage;
mod subscribe;
mod verify;

pub use catalog::{Catalog, CatalogPeer, Owner};
pub use config::{Config, ConfigError, is_address, parse_config};
pub use link::connect as connect_worker;
pub use message::{call_message, chain_message};
pub use request::{canonical_arguments, check_arguments, resolve_root};
pub use routing::{Routing, Sent};
pub use run::{Router, RunError};
