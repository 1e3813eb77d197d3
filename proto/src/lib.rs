//! The wire: generated messages and services of `rootward.v1`, the conversion of values, and the one mapping of
//! failures to gRPC statuses and back.

mod failure;
mod protocol;
mod value;

/// Generated from `proto/rootward/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("rootward.v1");
}

pub use failure::{Fault, FaultResult};
pub use protocol::Protocol;
pub use value::{BadWireValue, from_wire, to_wire};

/// The encoded descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rootward.bin"));
