//! The integration tests, in one program: each works on real PostgreSQL servers that it starts itself.

#![allow(clippy::disallowed_methods)] // connections of tests end with the test

mod bench;
mod catalog;
mod chains;
mod collection;
mod connections;
mod controls;
mod docs;
mod durability;
mod embedded;
mod escapes;
mod failover;
mod faults;
mod gather;
mod history;
mod insert_only;
mod journal;
mod kill_points;
mod manners;
mod metrics;
mod moves;
mod nearest;
mod overload;
mod placement;
mod plans;
mod reference;
mod refusals;
mod regions;
mod relays;
mod repair;
mod request_ids;
mod rolling;
mod routing;
mod schema_fixtures;
mod set_wise;
mod shared;
mod snapshots;
mod stage;
mod staleness;
mod standby;
mod stream;
mod structure;
mod subscribe;
mod verify;
