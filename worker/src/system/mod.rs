//! What Rootward keeps in the databases, as SQL that set-up applies.

/// Roles, tables and functions of every peer.
pub const PEER_SQL: &str = concat!(
    include_str!("peer.sql"),
    include_str!("read.sql"),
    include_str!("reference.sql"),
    include_str!("guards.sql"),
    include_str!("journal.sql"),
    include_str!("stage.sql"),
    "\n",
    include_str!("move.sql"),
    "\n",
    include_str!("route.sql")
);
/// The catalog's tables, on the hub only.
pub const HUB_SQL: &str = concat!(include_str!("hub.sql"), "\n", include_str!("hub_move.sql"));
