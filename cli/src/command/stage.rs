//! `rootward stage …`: rows that were staged by plain SQL, and what became of them.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use rootward_client::{Fault, v1};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Context, exit, fail, is_confirmed};
use crate::output;

/// Look after rows that were staged by plain SQL.
#[derive(Debug, Args)]
pub(crate) struct Stage {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List staged rows of all peers, oldest first; those that were refused if no state is given.
    #[command(after_help = "Example:\n  rootward stage list location --state staged")]
    List {
        /// The stage's name, from `[stage.NAME]`; all of them if none is given.
        stage: Option<String>,
        /// What became of them.
        #[arg(long, value_enum, default_value_t)]
        state: State,
        /// At most this many.
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Send refused rows anew, each as another request: after the cause is repaired.
    #[command(after_help = "Example:\n  rootward stage replay location")]
    Replay {
        /// The stage's name, from `[stage.NAME]`.
        stage: String,
        /// Only this row.
        #[arg(long, value_name = "UUID")]
        id: Option<Uuid>,
    },
    /// Delete refused rows that nobody wants any more.
    #[command(after_help = "Example:\n  rootward stage drop location --id 0198f3a0-0000-7000-8000-000000000001")]
    Drop {
        /// The stage's name, from `[stage.NAME]`.
        stage: String,
        /// Only this row; all refused rows of the stage without it.
        #[arg(long, value_name = "UUID")]
        id: Option<Uuid>,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum State {
    /// Waits to be sent, or to be sent again.
    Staged,
    /// Took effect, or became a chain.
    Done,
    /// Was refused, and waits for a person.
    #[default]
    Refused,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, stage: Stage) -> ExitCode {
    match stage.verb {
        Verb::List { stage, state, limit } => {
            let state = match state {
                State::Staged => "staged",
                State::Done => "done",
                State::Refused => "refused",
            };
            let request = v1::ListStagedRequest { stage: stage.unwrap_or_default(), state: state.to_owned(), limit };
            match context.client.list_staged(request).await {
                Ok(response) => list(context, &response),
                Err(fault) => fail(&fault, context.format),
            }
        }
        Verb::Replay { stage, id } => {
            let request = v1::ReplayStagedRequest { stage, id: id.map(|id| id.to_string()).unwrap_or_default() };
            match context.client.replay_staged(request).await {
                Ok(response) => changed(context, ("replayed", "sent anew"), response.replayed, &response.missing_peers),
                Err(fault) => fail(&fault, context.format),
            }
        }
        Verb::Drop { stage, id, yes } => drop_rows(context, stage, id, yes).await.unwrap_or_else(|fault| fail(&fault, context.format)),
    }
}

fn list(context: &Context, response: &v1::ListStagedResponse) -> ExitCode {
    if context.format.is_json() {
        let more = json!({"matched": response.matched, "missing_peers": response.missing_peers});
        output::print_list(context.format, "rows", response.rows.iter().map(row_json).collect(), more);
    } else {
        let rows: Vec<Vec<String>> = response.rows.iter().map(row_cells).collect();
        let headings = ["STAGE", "PEER", "ID", "STAGED AT", "STATE", "ATTEMPTS", "VALUES", "REASON"];
        output::print(&format!("{}\n{} of {} rows", output::table(&headings, &rows), response.rows.len(), response.matched));
    }
    missing(&response.missing_peers)
}

fn row_cells(row: &v1::StagedRow) -> Vec<String> {
    let reason = if row.code.is_empty() { String::new() } else { format!("{}: {}", row.code, row.message) };
    let cells = [&row.stage, &row.peer, &row.id, &row.staged_at, &row.state, &row.attempts.to_string(), &row.values, &reason];
    cells.into_iter().cloned().collect()
}

fn row_json(row: &v1::StagedRow) -> Json {
    json!({
        "stage": row.stage, "peer": row.peer, "id": row.id, "staged_at": row.staged_at, "state": row.state, "attempts": row.attempts,
        "values": serde_json::from_str::<Json>(&row.values).unwrap_or_default(), "code": row.code, "message": row.message,
    })
}

async fn drop_rows(context: &Context, stage: String, id: Option<Uuid>, yes: bool) -> Result<ExitCode, Fault> {
    if id.is_none() && !yes {
        let request = v1::ListStagedRequest { stage: stage.clone(), state: "refused".to_owned(), limit: 1 };
        let rows = context.client.list_staged(request).await?.matched;
        if rows > 0 && !is_confirmed("drop", &format!("{rows} refused rows of `{stage}`")) {
            return Ok(ExitCode::from(exit::USAGE));
        }
    }
    let request = v1::DropStagedRequest { stage, id: id.map(|id| id.to_string()).unwrap_or_default() };
    let response = context.client.drop_staged(request).await?;
    Ok(changed(context, ("dropped", "dropped"), response.dropped, &response.missing_peers))
}

/// Says how many rows of all peers were changed; `name` is the JSON object's word for it and that of the sentence.
fn changed(context: &Context, name: (&str, &str), count: u64, missing_peers: &[String]) -> ExitCode {
    if context.format.is_json() {
        output::print(&json!({(name.0): count, "missing_peers": missing_peers}).to_string());
    } else {
        output::print(&format!("{count} rows are {}", name.1));
    }
    if count == 0 && missing_peers.is_empty() {
        return ExitCode::from(exit::NOT_FOUND);
    }
    missing(missing_peers)
}

fn missing(peers: &[String]) -> ExitCode {
    if peers.is_empty() {
        return ExitCode::SUCCESS;
    }
    output::print_error(&format!("warning: no answer from {}", peers.join(", ")));
    ExitCode::from(exit::PARTIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_row_is_told_with_its_reason() {
        let row = v1::StagedRow {
            peer: "p1".into(),
            stage: "location".into(),
            id: "0193".into(),
            staged_at: "2026-01-01".into(),
            state: "refused".into(),
            attempts: 1,
            code: "RW3101".into(),
            message: "no".into(),
            values: r#"{"name": "a"}"#.into(),
        };
        assert_eq!(row_cells(&row), ["location", "p1", "0193", "2026-01-01", "refused", "1", r#"{"name": "a"}"#, "RW3101: no"]);
        assert_eq!(row_json(&row)["values"]["name"], "a");
    }
}
