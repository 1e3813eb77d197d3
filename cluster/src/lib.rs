//! Placeholder.
mod introspect;
pub use introspect::introspect;
