//! What the processes of a cluster logged: nothing that nobody expected.

use std::path::Path;

use crate::{cluster::Cluster, invariants::Violation};

/// Lines of PostgreSQL's log that are no sign of anything wrong, each with its reason.
const EXPECTED_OF_POSTGRES: &[(&str, &str)] = &[
    ("terminating connection due to administrator command", "a new worker ends the lanes of the one before; a shutdown ends all"),
    ("terminating background worker", "a shutdown ends replication"),
    ("connection to client lost", "a worker was killed while its PostgreSQL answered"),
    ("wait for synchronous replication", "a lane that waited for a standby was ended with its worker"),
    ("terminating logical replication worker", "a move drops its subscription"),
    ("this worker's term", "a step of a move came from a worker that has been replaced, and was refused"),
    ("replication origin with ID", "a worker of a subscription began before its predecessor had quite gone"),
    ("because of crash of another server process", "a backend was killed, and the server restarts the others"),
    ("the database system is", "somebody asks while the server starts, stops or recovers"),
    ("terminating walreceiver", "a subscription ends with its server"),
    ("could not connect to the publisher", "the hub is down"),
    ("could not receive data from WAL stream", "the hub went down"),
    ("could not send data to WAL stream", "the hub went down"),
    ("could not start WAL streaming", "the hub came back and the old sender still holds the slot"),
    ("replication slot", "the same, or the slot's own news"),
    ("error receiving", "the hub went down"),
    ("connection to server", "the hub went down"),
    ("could not send end-of-streaming message", "the hub went down"),
];

/// Checks the logs of every process.
///
/// # Errors
/// The first line that nobody expected.
pub fn check_logs(cluster: &Cluster) -> Result<(), Violation> {
    let folder = cluster.embedded.folder();
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Violation::new("logs", error))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            wrong.extend(bad_lines(&path, |line| line.contains("ERROR") || line.contains("panicked")));
        }
        let postgres = path.join("postgresql.log");
        if postgres.exists() {
            wrong.extend(bad_lines(&postgres, is_unexpected_of_postgres));
        }
    }
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(Violation::new("logs", format!("{} unexpected lines, such as {first}", wrong.len()))),
    }
}

fn is_unexpected_of_postgres(line: &str) -> bool {
    let is_news = ["ERROR:", "FATAL:", "PANIC:", "WARNING:"].iter().any(|level| line.contains(level));
    is_news && !EXPECTED_OF_POSTGRES.iter().any(|(part, _)| line.contains(part))
}

fn bad_lines(path: &Path, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    (0..lines.len())
        .filter(|at| is_bad(lines[*at]))
        .map(|at| format!("{name}: {}", lines[at..(at + 8).min(lines.len())].join("\n")))
        .collect()
}
