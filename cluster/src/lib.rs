//! Clusters: the embedded PostgreSQL servers of `dev`, `demo` and the tests, and the set-up of real ones.
//!
//! With `worker` this is the only crate that opens database connections.

mod account;
mod apply;
mod binaries;
mod compile;
mod deploy;
mod embedded;
mod introspect;
mod measure;
mod process;
mod reference;
mod repair;
mod scratch;
mod server;
mod session;
mod settings;
mod template;
mod topology;

pub use apply::{ApplyError, LossyChange};
pub use binaries::{Binaries, NotFound, Version};
pub use compile::{CompileError, Compiled, compile_folder, compile_source};
pub use deploy::{DeployError, Deployed, deploy};
pub use embedded::{Elsewhere, EmbeddedCluster, EmbeddedError, EmbeddedOptions, Standbys};
pub use introspect::{IntrospectError, introspect};
pub use measure::{
    Books, BooksError, Gauge, Messages, Moved, PageError, Pgbench, PgbenchError, PgbenchResult, PgbenchRun, Pgbouncer, PgbouncerError,
    Place, ProcessorTime, ShardClient, Shards, ShardsError, Transferred, TwoPhaseClient, TwoPhaseError, TwoPhaseTransfer, metric,
    resident_bytes, run_sql,
};
pub use process::{Child, DeathSignal, Folder, Launcher, ProcessError, Spawn, exec_child, reap};
pub use repair::{Repaired, repair_reference};
pub use scratch::{ScratchServer, scratch_database};
pub use server::{Server, ServerConfig, ServerError, Shutdown};
pub use topology::{Node, Position, Topology, TopologyError, parse_topology};
