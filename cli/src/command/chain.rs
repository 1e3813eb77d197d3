//! `rootward chain …`: start, list, show, replay and compensate chains.

mod view;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use rootward_client::{Fault, v1};
use serde_json::json;
use uuid::Uuid;

use super::{Context, arguments, exit, fail};
use crate::output;
use view::{chain_json, chains_table, list_text, missing, show_text, summary};

/// Start, list, show, replay and compensate chains.
#[derive(Debug, Args)]
pub(crate) struct Chain {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a chain and wait for its end; the same id again answers from the first start.
    #[command(after_help = "Example:\n  rootward chain start transfer from=1007 to=2044 amount=100")]
    Start(Start),
    /// List chains of all peers, newest first.
    #[command(after_help = "Example:\n  rootward chain list --status parked,stuck")]
    List(List),
    /// Show a chain with its steps, what people did to it, and what can be done next.
    #[command(after_help = "Example:\n  rootward chain show 0198f3a0-0000-7000-8000-000000000001")]
    Show {
        /// The chain's id.
        id: String,
    },
    /// Run parked and stuck chains on from their state, with the same id.
    #[command(after_help = "Example:\n  rootward chain replay --status parked --error '%frozen%' --reason 'unfrozen'")]
    Replay(Replay),
    /// Undo what a parked chain has done.
    #[command(after_help = "Example:\n  rootward chain compensate 0198f3a0-0000-7000-8000-000000000001 --reason 'the account is closed'")]
    Compensate {
        /// The chain's id.
        id: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
struct Start {
    /// The chain's name, from the schema.
    chain: String,
    /// Its input: name=value; name:=JSON is JSON.
    #[arg(value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// The chain's id; send it again with the same id if you didn't get the answer.
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Answer when the first step is durable (accepted), or when the chain has ended or parked (done).
    #[arg(long, value_enum, default_value_t = Wait::Done)]
    wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wait {
    Accepted,
    Done,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only these statuses: running, compensating, parked, stuck, completed, failed, compensated.
    #[arg(long, value_delimiter = ',', value_name = "STATUS", value_parser = STATUSES)]
    status: Vec<String>,
    /// Only chains of this name.
    #[arg(long = "type", value_name = "NAME")]
    definition: Option<String>,
    /// Only chains whose error (code, SQLSTATE, message) is like this, with % for anything.
    #[arg(long, value_name = "PATTERN")]
    error: Option<String>,
}

const STATUSES: [&str; 7] = ["running", "compensating", "parked", "stuck", "completed", "failed", "compensated"];

impl Filter {
    fn message(&self, id: Option<&str>) -> v1::ChainFilter {
        v1::ChainFilter {
            statuses: self.status.clone(),
            definition: self.definition.clone().unwrap_or_default(),
            error: self.error.clone().unwrap_or_default(),
            id: id.unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

#[derive(Debug, Args)]
struct Replay {
    /// One chain; without it the filter says which.
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Only say which chains would be replayed.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Why; it is recorded.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, chain: Chain) -> ExitCode {
    let done = match chain.verb {
        Verb::Start(start) => run_start(context, start).await,
        Verb::List(list) => run_list(context, list).await,
        Verb::Show { id } => context.client.chain(&id).await.map(|chain| show(context, &chain)),
        Verb::Replay(replay) => run_replay(context, replay).await,
        Verb::Compensate { id, reason } => context.client.compensate_chain(&id, &reason).await.map(|chain| show(context, &chain)),
    };
    done.unwrap_or_else(|fault| fail(&fault, context.format))
}

async fn run_start(context: &Context, start: Start) -> Result<ExitCode, Fault> {
    let mut request = context.client.start_chain(&start.chain, arguments(&start.input)?);
    if let Some(id) = start.id {
        request = request.with_id(id);
    }
    if start.wait == Wait::Accepted {
        request = request.accepted();
    }
    let response = request.send().await?;
    let chain = response.chain.unwrap_or_default();
    if context.format.is_json() {
        let mut object = chain_json(&chain);
        object["from_stored_outcome"] = json!(response.from_stored_outcome);
        output::print(&object.to_string());
    } else {
        let stored = if response.from_stored_outcome { "\nthe same chain was started before; nothing was done twice" } else { "" };
        output::print(&format!("{}{stored}", summary(&chain)));
    }
    Ok(match chain.status.as_str() {
        "completed" => ExitCode::SUCCESS,
        "running" if start.wait == Wait::Accepted => ExitCode::SUCCESS,
        "running" | "compensating" => ExitCode::from(exit::UNAVAILABLE),
        _ => ExitCode::from(exit::REFUSED),
    })
}

async fn run_list(context: &Context, list: List) -> Result<ExitCode, Fault> {
    let response = context.client.list_chains(list.filter.message(None), list.limit).await?;
    if context.format.is_json() {
        let more = json!({"matched": response.matched, "running": response.running, "missing_peers": response.missing_peers});
        output::print_list(context.format, "chains", response.chains.iter().map(chain_json).collect(), more);
    } else {
        output::print(&list_text(&response));
    }
    Ok(match (response.missing_peers.is_empty(), response.chains.is_empty()) {
        (false, _) => ExitCode::from(exit::PARTIAL),
        (true, true) => ExitCode::from(exit::NOT_FOUND),
        (true, false) => ExitCode::SUCCESS,
    })
}

fn show(context: &Context, chain: &v1::Chain) -> ExitCode {
    let text = if context.format.is_json() { chain_json(chain).to_string() } else { show_text(chain) };
    output::print(&text);
    ExitCode::SUCCESS
}

async fn run_replay(context: &Context, replay: Replay) -> Result<ExitCode, Fault> {
    let filter = replay.filter.message(replay.id.as_deref());
    let planned = context.client.replay_chains(filter.clone(), &replay.reason, true).await?;
    if replay.dry_run || planned.matched == 0 {
        print_plan(context, &planned);
        return Ok(match (planned.missing_peers.is_empty(), planned.matched) {
            (false, _) => ExitCode::from(exit::PARTIAL),
            (true, 0) => ExitCode::from(exit::NOT_FOUND),
            (true, _) => ExitCode::SUCCESS,
        });
    }
    if replay.id.is_none() && !replay.yes && !is_confirmed(planned.matched) {
        return Ok(ExitCode::from(exit::USAGE));
    }
    let replayed = context.client.replay_chains(filter, &replay.reason, false).await?;
    if context.format.is_json() {
        let object = json!({"matched": replayed.matched, "replayed": replayed.replayed, "missing_peers": replayed.missing_peers});
        output::print(&object.to_string());
    } else {
        output::print(&format!("{} matched  {} replayed", replayed.matched, replayed.replayed));
        missing(&replayed.missing_peers).iter().for_each(|line| output::print_error(line));
    }
    Ok(if replayed.missing_peers.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::PARTIAL) })
}

/// Says which chains would be replayed.
fn print_plan(context: &Context, planned: &v1::ReplayChainsResponse) {
    if context.format.is_json() {
        let more = json!({"matched": planned.matched, "missing_peers": planned.missing_peers});
        return output::print_list(context.format, "chains", planned.chains.iter().map(chain_json).collect(), more);
    }
    if planned.matched == 0 {
        output::print("no parked or stuck chain matches");
    } else {
        let table = chains_table(&planned.chains);
        output::print(&format!("would replay {}; 0 effects would be repeated\n{table}", chains(planned.matched)));
    }
    missing(&planned.missing_peers).iter().for_each(|line| output::print_error(line));
}

/// Asks on a terminal; elsewhere nobody can answer, so the answer is no.
fn is_confirmed(count: u64) -> bool {
    if !std::io::stdin().is_terminal() {
        output::print_error(&format!("{} would be replayed; add --yes where nobody can be asked", chains(count)));
        return false;
    }
    let _ = write!(std::io::stderr(), "replay {}? [y/N] ", chains(count));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn chains(count: u64) -> String {
    if count == 1 { "1 chain".to_owned() } else { format!("{count} chains") }
}
