//! What Rootward keeps in the databases, as SQL that set-up applies.

/// Roles, tables and functions of every peer.
pub const PEER_SQL: &str = include_str!("peer.sql");
/// The catalog's tables, on the hub only.
pub const HUB_SQL: &str = include_str!("hub.sql");
