//! One file for each command.

pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod process;
pub(crate) mod schema;
