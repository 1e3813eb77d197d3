//! `rootward query`: one SQL statement inside a root, or over all peers at one snapshot.

use std::process::ExitCode;

use clap::Args;
use rootward_client::Fault;
use uuid::Uuid;

use super::{
    Context, call, fail, root,
    snapshot::{self, How, Whose},
    staleness::Staleness,
};

/// Run one SQL statement inside a root, where the workers allow ad-hoc SQL; or one that only reads over all peers.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rootward query --root account=1007 'select * from entry'\n  rootward query --root account=1007 --staleness 5s 'select balance from account'\n  rootward query --all 'select sum(balance) from account'"
)]
pub(crate) struct Query {
    /// The root that the statement sees.
    #[arg(long, value_name = "ENTITY=KEY", value_parser = root, required_unless_present = "all", conflicts_with = "all")]
    root: Option<(String, String)>,
    /// Run it on every peer, at one snapshot over all of them.
    #[arg(long)]
    all: bool,
    /// One SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES; with --all one that only reads.
    sql: String,
    /// The id under which the outcome is stored.
    #[arg(long, value_name = "UUID", conflicts_with = "all")]
    request_id: Option<Uuid>,
    #[command(flatten)]
    staleness: Staleness,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    whose: Whose,
}

/// Sends it and prints the answer.
pub(crate) async fn run(context: &Context, query: Query) -> ExitCode {
    if query.root.is_some()
        && (query.how.partial
            || query.how.wait.is_some()
            || query.whose.peer.is_some()
            || query.whose.per_peer
            || query.whose.progress
            || query.whose.nearest)
    {
        let message = "--partial, --wait, --peer, --per-peer, --nearest and --progress go with --all";
        return fail(&Fault::refused("RW1110", message, "leave them out, or ask all peers with --all"), context.format);
    }
    if query.staleness.staleness.is_some() && query.root.is_none() {
        let message = "--all answers from one consistent cut, and standbys, each of which replays by itself, can't be read at one";
        let help = "leave --staleness out, or read one root with --root; `rootward error RW2042` says more";
        return fail(&Fault::refused("RW2042", message, help), context.format);
    }
    if query.staleness.staleness.is_some() && query.request_id.is_some() {
        let message = "an answer with --staleness is stored under no id";
        return fail(&Fault::refused("RW1110", message, "leave --request-id out"), context.format);
    }
    match (&query.root, query.staleness.staleness) {
        (Some((entity, key)), Some(most)) => {
            let read = context.client.read_at((entity, key), &query.sql, most, query.staleness.not_before);
            call::answer(context, read.await)
        }
        (Some((entity, key)), None) => call::answer(context, context.client.query(entity, key, &query.sql, query.request_id).await),
        (None, _) => snapshot::query_all(context, &query.sql, &query.how, &query.whose).await,
    }
}
