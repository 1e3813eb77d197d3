//! `rootward chain …`: start chains, look at them, and do what only a person can.

mod change;
mod filter;
mod view;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use rootward_client::{Fault, v1};
use serde_json::json;
use uuid::Uuid;

pub(super) use self::view::effect_text;
use self::{
    change::{Change, Skip},
    filter::{Filter, future, label, whoami},
    view::{chain_json, list_text, show_text, summary, watch_lines},
};
use super::{Context, arguments, exit, fail, verify};
use crate::output;

/// Start chains, look at them, and do what only a person can.
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
    /// Count chains of all peers by status.
    #[command(after_help = "Example:\n  rootward chain count --type transfer")]
    Count {
        #[command(flatten)]
        filter: Filter,
    },
    /// Show a chain with its steps, what people did to it, and what can be done next.
    #[command(after_help = "Example:\n  rootward chain show 0198f3a0-0000-7000-8000-000000000001")]
    Show {
        /// The chain's id.
        id: String,
    },
    /// Follow a chain until it has ended.
    #[command(after_help = "Example:\n  rootward chain watch 0198f3a0-0000-7000-8000-000000000001")]
    Watch {
        /// The chain's id.
        id: String,
    },
    /// Run parked and stuck chains on from their state, with the same id. No done step is run again.
    #[command(after_help = "Example:\n  rootward chain replay --status parked --error '%frozen%' --reason 'unfrozen'")]
    Replay(Change),
    /// Undo what parked or failed chains have done.
    #[command(after_help = "Example:\n  rootward chain compensate 0198f3a0-0000-7000-8000-000000000001 --reason 'the account is closed'")]
    Compensate(Change),
    /// Count the step at which a parked or stuck chain stands as done, with an answer that you give; nothing is run.
    #[command(
        after_help = "Example:\n  rootward chain skip 0198f3a0-0000-7000-8000-000000000001 --step deposit --reason 'paid out by hand'"
    )]
    Skip(Skip),
    /// Stop running or waiting chains where they stand.
    #[command(after_help = "Example:\n  rootward chain pause --type transfer --reason 'the bank is closed'")]
    Pause(Change),
    /// Let paused chains go on.
    #[command(after_help = "Example:\n  rootward chain resume --type transfer")]
    Resume(Change),
    /// Undo chains that have not passed their pivot.
    #[command(after_help = "Example:\n  rootward chain cancel 0198f3a0-0000-7000-8000-000000000001 --reason 'ordered by mistake'")]
    Cancel(Change),
    /// Give parked, stuck or paused chains up as they are: half done.
    #[command(after_help = "Example:\n  rootward chain abandon 0198f3a0-0000-7000-8000-000000000001 --reason 'settled by hand'")]
    Abandon(Change),
    /// Send a chain the signal that a step waits for.
    #[command(after_help = "Example:\n  rootward chain signal 0198f3a0-0000-7000-8000-000000000001 approval approved_by=ann")]
    Signal {
        /// The chain's id.
        id: String,
        /// The step that waits.
        step: String,
        /// What the signal carries.
        #[arg(value_name = "NAME=VALUE")]
        payload: Vec<String>,
    },
    /// Do the work of a chain that has ended again, under a new id; says first which effects that repeats.
    #[command(after_help = "Example:\n  rootward chain fork 0198f3a0-0000-7000-8000-000000000001 --dry-run")]
    Fork(Fork),
    /// Compare every chain with the outcomes at the roots of its steps.
    #[command(after_help = "Example:\n  rootward chain verify")]
    Verify,
    /// Forget chains that ended so long ago that no duplicate of them can come any more.
    #[command(after_help = "Example:\n  rootward chain purge --status completed --until 7d --dry-run")]
    Purge(Change),
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
    /// Answer when the first step is durable (accepted), or when the chain has ended or waits (done).
    #[arg(long, value_enum, default_value_t = Wait::Done)]
    wait: Wait,
    /// A label for lists; can be given again.
    #[arg(long, value_name = "NAME=TEXT", value_parser = label)]
    label: Vec<(String, String)>,
    /// When the first step runs: +10m, or a time such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = future)]
    start_at: Option<i64>,
    /// When it is called back unless it has passed its pivot: 10m, or a time.
    #[arg(long, value_name = "TIME", value_parser = future)]
    deadline: Option<i64>,
    /// The least version of the reference data that each step must see; a step waits until its peer shows it.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(0..))]
    min_reference_version: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wait {
    Accepted,
    Done,
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
struct Fork {
    /// The chain that has ended.
    id: String,
    /// The new chain's id; send it again with the same id if you didn't get the answer.
    #[arg(long, value_name = "UUID")]
    new_id: Option<Uuid>,
    /// Only list the effects that would be repeated.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Why; it is kept as a label of the new chain.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, chain: Chain) -> ExitCode {
    let by = |verb, change| change::run(context, verb, change);
    let done = match chain.verb {
        Verb::Start(start) => run_start(context, start).await,
        Verb::List(list) => run_list(context, list).await,
        Verb::Count { filter } => run_count(context, &filter).await,
        Verb::Show { id } => context.client.chain(&id).await.map(|chain| show(context, &chain)),
        Verb::Watch { id } => run_watch(context, &id).await,
        Verb::Replay(change) => by(v1::ChainVerb::Replay, change).await,
        Verb::Compensate(change) => by(v1::ChainVerb::Compensate, change).await,
        Verb::Skip(skip) => change::skip(context, skip).await,
        Verb::Pause(change) => by(v1::ChainVerb::Pause, change).await,
        Verb::Resume(change) => by(v1::ChainVerb::Resume, change).await,
        Verb::Cancel(change) => by(v1::ChainVerb::Cancel, change).await,
        Verb::Abandon(change) => by(v1::ChainVerb::Abandon, change).await,
        Verb::Signal { id, step, payload } => run_signal(context, id, step, &payload).await,
        Verb::Fork(fork) => run_fork(context, fork).await,
        Verb::Verify => context.client.verify_chains().await.map(|checks| verify::report(context, &checks)),
        Verb::Purge(change) => by(v1::ChainVerb::Purge, change).await,
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
    for (name, text) in &start.label {
        request = request.with_label(name, text);
    }
    if let Some(moment) = start.start_at {
        request = request.start_at_ms(moment);
    }
    if let Some(moment) = start.deadline {
        request = request.called_back_at_ms(moment);
    }
    if let Some(version) = start.min_reference_version {
        request = request.with_min_reference_version(version);
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
    Ok(code_of(&chain, start.wait == Wait::Accepted))
}

fn code_of(chain: &v1::Chain, is_accepted_enough: bool) -> ExitCode {
    match chain.status.as_str() {
        "completed" | "scheduled" | "waiting" => ExitCode::SUCCESS,
        "running" if is_accepted_enough => ExitCode::SUCCESS,
        "running" | "compensating" | "paused" => ExitCode::from(exit::UNAVAILABLE),
        _ => ExitCode::from(exit::REFUSED),
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

async fn run_count(context: &Context, filter: &Filter) -> Result<ExitCode, Fault> {
    let response = context.client.count_chains(filter.message(None)).await?;
    let mut counts: Vec<(&String, &u64)> = response.counts.iter().collect();
    counts.sort();
    if context.format.is_json() {
        output::print(&json!({"counts": response.counts, "missing_peers": response.missing_peers}).to_string());
    } else if counts.is_empty() {
        output::print("no chain matches");
    } else {
        let rows: Vec<Vec<String>> = counts.iter().map(|(status, count)| vec![(*status).clone(), count.to_string()]).collect();
        output::print(&output::table(&["STATUS", "CHAINS"], &rows));
    }
    if !context.format.is_json() {
        view::missing(&response.missing_peers).iter().for_each(|line| output::print_error(line));
    }
    Ok(match (response.missing_peers.is_empty(), counts.is_empty()) {
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

async fn run_watch(context: &Context, id: &str) -> Result<ExitCode, Fault> {
    let mut answers = context.client.watch_chain(id).await?;
    let mut last = v1::Chain::default();
    loop {
        let answer = match answers.next().await {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            // Its home has another owner now.
            Err(fault) if fault.code() == "RW5047" => {
                answers = context.client.watch_chain(id).await?;
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let chain = answer.chain.unwrap_or_default();
        if context.format.is_json() {
            output::print(&chain_json(&chain).to_string());
        } else {
            watch_lines(&last, &chain).iter().for_each(|line| output::print(line));
        }
        last = chain;
    }
    Ok(code_of(&last, false))
}

async fn run_signal(context: &Context, id: String, step: String, payload: &[String]) -> Result<ExitCode, Fault> {
    let request = v1::SignalChainRequest { id, step, payload: arguments(payload)?.into() };
    let response = context.client.signal_chain(request).await?;
    let chain = response.chain.unwrap_or_default();
    if context.format.is_json() {
        let mut object = chain_json(&chain);
        object["from_stored_outcome"] = json!(response.from_stored_outcome);
        output::print(&object.to_string());
    } else {
        let stored = if response.from_stored_outcome { "\nan earlier signal counts; this one changed nothing" } else { "" };
        output::print(&format!("{}{stored}", summary(&chain)));
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_fork(context: &Context, fork: Fork) -> Result<ExitCode, Fault> {
    let request = v1::ForkChainRequest {
        id: fork.id,
        new_id: fork.new_id.unwrap_or_else(Uuid::now_v7).to_string(),
        reason: fork.reason,
        by: whoami(),
        dry_run: true,
        wait: v1::ChainWait::Done.into(),
    };
    let planned = context.client.fork_chain(request.clone()).await?;
    let effects: Vec<String> = planned.repeated_effects.iter().map(view::effect_text).collect();
    if fork.dry_run || !fork.yes {
        if context.format.is_json() {
            output::print(&json!({"repeated_effects": effects}).to_string());
        } else {
            output::print(&format!("a fork would repeat {} effects:\n{}", effects.len(), effects.join("\n")));
        }
        if !fork.dry_run {
            output::print_error("add --yes and --reason if that is what you want");
            return Ok(ExitCode::from(exit::USAGE));
        }
        return Ok(ExitCode::SUCCESS);
    }
    output::print_error(&format!("the fork repeats {} effects:\n{}", effects.len(), effects.join("\n")));
    let response = context.client.fork_chain(v1::ForkChainRequest { dry_run: false, ..request }).await?;
    let chain = response.chain.unwrap_or_default();
    let text = if context.format.is_json() { chain_json(&chain).to_string() } else { summary(&chain) };
    output::print(&text);
    Ok(code_of(&chain, false))
}
