//! `rootward chain …`: start, list, show, replay and compensate chains.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use rootward_client::{Fault, v1};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Context, arguments, exit, fail};
use crate::output;

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

/// `completed   withdraw p2 1.6 ms · deposit p3 1.9 ms`, with the reason and the next command where it did not complete.
fn summary(chain: &v1::Chain) -> String {
    let steps: Vec<String> = chain.steps.iter().map(step_text).collect();
    let mut text = format!("{}   {}   chain {}", chain.status, steps.join(" · "), chain.id);
    if let Some(failure) = &chain.failure {
        text += &format!("\n  at {}: [{}] {}", chain.step, failure.code, failure.message).replace("at : ", "");
    }
    match chain.status.as_str() {
        "parked" | "stuck" => text += &format!("\n  next: repair the cause, then rootward chain replay {}", chain.id),
        "running" | "compensating" => text += &format!("\n  it goes on by itself; next: rootward chain show {}", chain.id),
        _ => {}
    }
    text
}

fn step_text(step: &v1::ChainStep) -> String {
    let name = if step.direction == "undo" { format!("undo {}", step.name) } else { step.name.clone() };
    let element = if step.element > 0 { format!("[{}]", step.element + 1) } else { String::new() };
    match step.outcome.as_str() {
        "done" => format!("{name}{element} {} {}", step.peer, output::duration(step.worker_us)),
        other => format!("{name}{element} {other}"),
    }
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

fn list_text(response: &v1::ListChainsResponse) -> String {
    let mut lines = Vec::new();
    if !response.chains.is_empty() {
        lines.push(chains_table(&response.chains));
    }
    let mut counted = format!("{} of {} shown. {} running.", response.chains.len(), response.matched, response.running);
    if response.chains.iter().any(|chain| chain.status == "parked" || chain.status == "stuck") {
        counted += "  Replay: rootward chain replay --status parked";
    }
    lines.push(counted);
    lines.extend(missing(&response.missing_peers));
    lines.join("\n")
}

fn missing(peers: &[String]) -> Option<String> {
    (!peers.is_empty()).then(|| format!("not asked, because they don't answer: {}", peers.join(", ")))
}

fn chains_table(chains: &[v1::Chain]) -> String {
    let row = |chain: &v1::Chain| {
        let error = chain.failure.as_ref().map(|failure| format!("[{}] {}", failure.code, failure.message)).unwrap_or_default();
        vec![
            chain.id.clone(),
            chain.definition.clone(),
            chain.status.clone(),
            chain.step.clone(),
            chain.attempts.to_string(),
            output::age(chain.age_s),
            error,
        ]
    };
    let rows: Vec<Vec<String>> = chains.iter().map(row).collect();
    output::table(&["CHAIN", "TYPE", "STATUS", "STEP", "ATTEMPTS", "SINCE", "ERROR"], &rows)
}

fn show(context: &Context, chain: &v1::Chain) -> ExitCode {
    if context.format.is_json() {
        output::print(&chain_json(chain).to_string());
        return ExitCode::SUCCESS;
    }
    let mut lines = vec![format!(
        "chain {}  {} version {}  {}{}\nhome {} {}  partition {}  peer {}  started {}\ninput {}",
        chain.id,
        chain.definition,
        chain.version,
        chain.status,
        if chain.step.is_empty() { String::new() } else { format!(" at {}", chain.step) },
        chain.entity,
        chain.root_key,
        chain.partition,
        chain.peer,
        chain.created_at,
        chain.input,
    )];
    let rows: Vec<Vec<String>> = chain.steps.iter().map(step_row).collect();
    lines.push(output::table(&["STEP", "DO", "OUTCOME", "ROOT", "PEER", "TRANSACTION", "ERROR"], &rows));
    lines.extend(chain.events.iter().map(|event| format!("{}  {}  {}", event.at, event.event, event.reason)));
    if let Some(failure) = &chain.failure {
        lines.push(format!("[{}] {}\n  help: {}", failure.code, failure.message, failure.help));
    }
    if chain.status == "parked" || chain.status == "stuck" {
        lines.push(format!("next: rootward chain replay {}", chain.id));
    }
    if chain.status == "parked" {
        lines.push(format!("   or: rootward chain compensate {} --reason …", chain.id));
    }
    output::print(&lines.join("\n"));
    ExitCode::SUCCESS
}

fn step_row(step: &v1::ChainStep) -> Vec<String> {
    let element = if step.element > 0 { format!("[{}]", step.element + 1) } else { String::new() };
    vec![
        format!("{} {}{element}", step.step + 1, step.name),
        step.direction.clone(),
        step.outcome.clone(),
        format!("{} {}", step.entity, step.root_key),
        step.peer.clone(),
        step.transaction.clone(),
        step.failure.as_ref().map(|failure| format!("[{}] {}", failure.code, failure.message)).unwrap_or_default(),
    ]
}

async fn run_replay(context: &Context, replay: Replay) -> Result<ExitCode, Fault> {
    let filter = replay.filter.message(replay.id.as_deref());
    let planned = context.client.replay_chains(filter.clone(), &replay.reason, true).await?;
    if planned.matched == 0 {
        output::print("no parked or stuck chain matches");
        return Ok(ExitCode::from(if planned.missing_peers.is_empty() { exit::NOT_FOUND } else { exit::PARTIAL }));
    }
    if replay.dry_run {
        if context.format.is_json() {
            output::print_list(
                context.format,
                "chains",
                planned.chains.iter().map(chain_json).collect(),
                json!({"matched": planned.matched}),
            );
        } else {
            output::print(&format!(
                "would replay {} chains; 0 effects would be repeated\n{}",
                planned.matched,
                chains_table(&planned.chains)
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if replay.id.is_none() && !replay.yes && !is_confirmed(planned.matched) {
        return Ok(ExitCode::from(2));
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

fn is_confirmed(count: u64) -> bool {
    if !std::io::stdin().is_terminal() {
        output::print_error(&format!("{count} chains match; add --yes to replay them without being asked"));
        return false;
    }
    let _ = write!(std::io::stderr(), "replay {count} chains? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// A chain for programs. The form is a promise: fields are added, never renamed.
fn chain_json(chain: &v1::Chain) -> Json {
    let step = |step: &v1::ChainStep| {
        json!({
            "name": step.name, "step": step.step, "element": step.element, "direction": step.direction, "outcome": step.outcome,
            "entity": step.entity, "root_key": step.root_key, "peer": step.peer, "transaction": step.transaction,
            "worker_us": step.worker_us, "error": step.failure.as_ref().map(output::failure_json),
        })
    };
    let event = |event: &v1::ChainEvent| json!({"at": event.at, "event": event.event, "reason": event.reason});
    json!({
        "id": chain.id, "type": chain.definition, "version": chain.version, "status": chain.status, "step": chain.step,
        "attempts": chain.attempts, "input": serde_json::from_str::<Json>(&chain.input).unwrap_or_default(),
        "entity": chain.entity, "root_key": chain.root_key, "partition": chain.partition, "peer": chain.peer,
        "error": chain.failure.as_ref().map(output::failure_json), "created_at": chain.created_at, "updated_at": chain.updated_at,
        "steps": chain.steps.iter().map(step).collect::<Vec<_>>(), "events": chain.events.iter().map(event).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_chain_is_one_line_and_a_parked_one_says_what_to_do() {
        let step = |name: &str, peer: &str| v1::ChainStep {
            name: name.into(),
            peer: peer.into(),
            outcome: "done".into(),
            direction: "do".into(),
            worker_us: 1600,
            ..v1::ChainStep::default()
        };
        let mut chain = v1::Chain {
            id: "x".into(),
            status: "completed".into(),
            steps: vec![step("withdraw", "p2"), step("deposit", "p3")],
            ..v1::Chain::default()
        };
        assert_eq!(summary(&chain), "completed   withdraw p2 1.6 ms · deposit p3 1.6 ms   chain x");
        chain.status = "parked".into();
        chain.step = "2/2 deposit".into();
        chain.failure = Some(v1::Failure { code: "RW3101".into(), message: "frozen".into(), ..v1::Failure::default() });
        assert!(summary(&chain).ends_with("at 2/2 deposit: [RW3101] frozen\n  next: repair the cause, then rootward chain replay x"));
    }
}
