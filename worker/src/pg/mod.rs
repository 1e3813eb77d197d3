//! The lane's own PostgreSQL client: values pass as text both ways, a whole pipeline goes out with one Sync, and the
//! command tags and the transaction's status come back, so that the lane knows what took effect.
//!
//! Everything else in the worker uses tokio-postgres and deadpool-postgres; see ARCHITECTURE.md for why lanes don't.

mod array;
mod connect;
mod connection;
mod defaults;
mod pipeline;
mod row;
mod silence;

pub(crate) use array::{array, binary_array, values_array};
pub(crate) use connect::{ConnectError, connect, tls_for};
pub(crate) use connection::{Connection, ConnectionLost};
pub use defaults::behind_defaults;
pub(crate) use pipeline::{Call, How, MAX_RESULT_BYTES, Parameter, Pipeline, Ran, ServerError, StatementResult, oid_of};
pub(crate) use row::{RowType, RowTypes, RowWriter};
pub(crate) use silence::Silence;
