//! The worker: it serves one peer, which is one PostgreSQL database.
//!
//! Lanes run transactions, each stored with its outcome in one commit; chains are driven from the home of their first
//! step; ownership, term and containment are checked by the database itself. See ARCHITECTURE.md for the walkthroughs.

mod catalog;
mod chain;
mod clock;
mod collect;
mod config;
mod describe;
mod execute;
mod fail_point;
mod host;
mod journal;
mod lane;
mod metrics;
mod moves;
mod pg;
mod pool;
mod primary;
mod promotion;
mod reads;
mod reference;
mod route;
mod run;
mod service;
mod serving;
mod snapshot;
mod stage;
mod system;
mod term;
mod verify;

pub use config::{Config, ConfigError, parse_config};
pub use pg::behind_defaults;
pub use route::{Position, ROUTE_LOCK, RenewError, Renewed, Side, Source, SourceSessions, Way, declared_source, renew, slot_name};
pub use run::{RunError, Worker};
pub use system::{HUB_SQL, PEER_SQL};
