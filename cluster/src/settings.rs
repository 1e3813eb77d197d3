//! What an embedded server is configured with, as text.

use std::path::Path;

/// The superuser of embedded servers.
pub(crate) const SUPERUSER: &str = "rootward";

/// Settings of every embedded server. They are written anew at each start, so that a kept folder follows the program.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_permissions", "0700"),
    // What is acknowledged is durable, here too: the demo kills servers and shows that nothing is lost.
    ("fsync", "on"),
    ("wal_level", "logical"),
    ("max_connections", "100"),
    ("shared_buffers", "64MB"),
    // One of each for every peer that copies reference data, and some for moves.
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_logical_replication_workers", "20"),
    ("max_worker_processes", "32"),
    // A subscription that failed because its publisher was down tries again soon.
    ("wal_retrieve_retry_interval", "200ms"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] %a "),
    ("log_min_messages", "warning"),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("password_encryption", "scram-sha-256"),
];

/// Sockets lie in a folder that only their owner enters; over the network a password is asked for.
pub(crate) const HOST_BASED_AUTHENTICATION: &str = "\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
local replication all trust
host replication all 127.0.0.1/32 scram-sha-256
";

/// The text of `postgresql.conf`; `overrides` come last and win.
pub(crate) fn configuration(name: &str, port: u16, sockets: &Path, overrides: &[(String, String)]) -> String {
    let sockets = sockets.display().to_string();
    let port = port.to_string();
    let own = [("cluster_name", name), ("port", &port), ("unix_socket_directories", &sockets)];
    let overrides = overrides.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let lines = own.into_iter().chain(SETTINGS.iter().copied()).chain(overrides);
    let head = "# Written by rootward at each start; `alter system` sets what shall stay.\n".to_owned();
    lines.fold(head, |text, (name, value)| text + &format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// A libpq connection string of these keywords and values.
pub(crate) fn conninfo(pairs: &[(&str, &str)]) -> String {
    let quoted = |(name, value): &(&str, &str)| format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    pairs.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_come_last() {
        let text = configuration("hub", 5433, Path::new("/tmp/it's"), &[("fsync".to_owned(), "off".to_owned())]);
        assert!(text.contains("unix_socket_directories = '/tmp/it''s'\n"), "{text}");
        assert!(text.find("fsync = 'on'") < text.find("fsync = 'off'"), "{text}");
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(conninfo(&[("host", "/a b"), ("user", "o'n\\e")]), r"host='/a b' user='o\'n\\e'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\"), " E'a''b\\\\'");
    }
}
