//! What a session of ours is by itself. Databases and roles have defaults of their own (`alter role … set`), and administrators use
//! them; some would change what statements mean, or end sessions that are right to wait.

/// In front of a session's own options, which therefore win.
const PINNED: &[&str] = &[
    // A lane without work says nothing, nor does the session that holds the peer: the end of either is the end of the term.
    "idle_session_timeout=0",
    "exit_on_error=off",
    "statement_timeout=0",
    "lock_timeout=0",
    // What was acknowledged, and who owns what, outlives a crash.
    "synchronous_commit=on",
    "default_transaction_isolation=read\\ committed",
    "row_security=on",
    "search_path=public",
    // The meaning of SQL: what was checked when the schema was compiled is what runs.
    "standard_conforming_strings=on",
    "transform_null_equals=off",
    "array_nulls=on",
    // The form of values: outcomes are read and compared as text, and so are rows of one peer with those of another.
    "datestyle=ISO,MDY",
    "intervalstyle=postgres",
    "timezone=UTC",
    "bytea_output=hex",
    "extra_float_digits=1",
];

/// These options of a connection, behind what every session of ours names, so that neither a database's defaults nor a role's count.
pub fn behind_defaults(options: &str) -> String {
    let pinned = PINNED.iter().map(|setting| format!("-c {setting} "));
    pinned.chain([options.to_owned()]).collect::<String>().trim_end().to_owned()
}
