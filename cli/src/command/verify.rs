//! `rootward verify`: counts what must hold, on every peer.

use std::process::ExitCode;

use rootward_client::v1;
use serde_json::json;

use super::{Context, exit, fail};
use crate::output;

/// Counts and prints; the code is 4 if something doesn't hold.
pub(crate) async fn run(context: &Context) -> ExitCode {
    let response = match context.client.verify().await {
        Ok(response) => response,
        Err(fault) => return fail(&fault, context.format),
    };
    if context.format.is_json() {
        let checks = response
            .checks
            .iter()
            .map(|check| json!({"name": check.name, "ok": check.is_ok, "finding": check.finding, "examples": check.examples}));
        output::print_list(context.format, "checks", checks.collect(), json!({"ok": response.is_ok}));
    } else {
        output::print(&text_of(&response));
    }
    if response.is_ok { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) }
}

fn text_of(response: &v1::VerifyResponse) -> String {
    let width = response.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in &response.checks {
        let name = check.name.replace('_', " ");
        let finding = if check.is_ok { check.finding.clone() } else { "FAILED".to_owned() };
        lines.push(format!("{name:<width$}  {finding}"));
        lines.extend(check.examples.iter().map(|example| format!("{:<width$}    {example}", "")));
    }
    lines.push(if response.is_ok { "OK".to_owned() } else { "error[RW5008]: something that must hold does not".to_owned() });
    lines.join("\n")
}
