//! Clusters: the embedded PostgreSQL servers of `dev`, `demo` and the tests, and the set-up of real ones.
//!
//! With `worker` this is the only crate that opens database connections.

mod account;
mod binaries;
mod introspect;
mod process;
mod scratch;
mod server;
mod settings;
mod template;

pub use binaries::{Binaries, NotFound, Version};
pub use introspect::{IntrospectError, introspect};
pub use process::{Child, DeathSignal, Folder, Launcher, ProcessError, Spawn, exec_child, reap};
pub use scratch::{ScratchServer, scratch_database};
pub use server::{Server, ServerConfig, ServerError, Shutdown};
