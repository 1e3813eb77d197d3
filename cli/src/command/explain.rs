//! `rootward explain`: where a root lies, and why.

use std::process::ExitCode;

use clap::Args;
use rootward_client::{Arguments, v1};
use serde_json::json;

use super::{Context, arguments, fail, root};
use crate::output;

/// Say which root, partition and peer a transaction or a statement goes to, and why. Nothing is run.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rootward explain withdraw account_id=1007 amount=250\n  rootward explain --root account=1007\n  rootward explain 'select * from entry where account_id = 1007'"
)]
pub(crate) struct Explain {
    /// A root; alone, or for a statement whose conditions don't fix it.
    #[arg(long, value_name = "ENTITY=KEY", value_parser = root)]
    root: Option<(String, String)>,
    /// A transaction's name, from the schema, or one SQL statement.
    #[arg(required_unless_present = "root", value_name = "TRANSACTION|SQL")]
    subject: Option<String>,
    /// Its arguments.
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
}

/// Asks and prints the answer.
pub(crate) async fn run(context: &Context, explain: Explain) -> ExitCode {
    let asked = async {
        let (entity, root_key) = explain.root.unwrap_or_default();
        let arguments: Arguments = arguments(&explain.arguments)?;
        // A transaction's name is one word; no statement is.
        let subject = explain.subject.unwrap_or_default();
        let (transaction, sql) =
            if subject.trim().contains(char::is_whitespace) { (String::new(), subject) } else { (subject, String::new()) };
        context.client.explain(v1::ExplainRequest { transaction, arguments: arguments.into(), entity, root_key, sql }).await
    };
    match asked.await {
        Ok(answer) if context.format.is_json() => output::print(
            &json!({
                "entity": answer.entity, "root_key": answer.root_key, "partition": answer.partition, "peer": answer.peer,
                "worker_address": answer.worker_address, "epoch": answer.epoch, "map_version": answer.map_version, "reasons": answer.reasons,
            })
            .to_string(),
        ),
        Ok(answer) => {
            let root = if answer.entity.is_empty() { "reference data".to_owned() } else { format!("{} {}", answer.entity, answer.root_key) };
            let mut lines = vec![format!("{root}  partition {}  peer {}  {}", answer.partition, answer.peer, answer.worker_address)];
            lines.extend(answer.reasons.iter().map(|reason| format!("  {reason}")));
            output::print(&lines.join("\n"));
        }
        Err(fault) => return fail(&fault, context.format),
    }
    ExitCode::SUCCESS
}
