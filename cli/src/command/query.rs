//! `rootward query`: one SQL statement inside a root.

use std::process::ExitCode;

use clap::Args;
use uuid::Uuid;

use super::{Context, call, root};

/// Run one SQL statement inside a root, where the workers allow ad-hoc SQL.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward query --root account=1007 'select * from entry'")]
pub(crate) struct Query {
    /// The root that the statement sees.
    #[arg(long, value_name = "ENTITY=KEY", value_parser = root)]
    root: (String, String),
    /// One SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES.
    sql: String,
    /// The id under which the outcome is stored.
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

/// Sends it and prints the answer.
pub(crate) async fn run(context: &Context, query: Query) -> ExitCode {
    let (entity, key) = &query.root;
    call::answer(context, context.client.query(entity, key, &query.sql, query.request_id).await)
}
