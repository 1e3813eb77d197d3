//! What people do to chains: one by its id, or all that match a filter.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Args;
use rootward_client::{Fault, v1};
use serde_json::json;

use super::{
    super::{Context, arguments, exit, is_confirmed},
    filter::{Filter, needs_filter, rate, whoami},
    view::{chain_json, chains_table, missing, summary},
};
use crate::output::{self, StatusLine};

#[derive(Debug, Args)]
pub(super) struct Change {
    /// One chain; without it the filter says which.
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// Only say which chains it would be.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Why; it is recorded with each chain.
    #[arg(long, default_value = "")]
    reason: String,
    /// At most so many: 50/s, 600/m.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(super) struct Skip {
    /// The chain's id.
    id: String,
    /// The step at which it stands.
    #[arg(long)]
    step: String,
    /// The element, from 0, of a step that fans out.
    #[arg(long, default_value_t = 0)]
    element: u32,
    /// What the step is to have answered, for later steps that use it; can be given again.
    #[arg(long, value_name = "NAME=VALUE")]
    result: Vec<String>,
    /// Why; it is recorded.
    #[arg(long)]
    reason: String,
}

/// How a verb is called, and what is said of a chain to which it was done.
fn words(verb: v1::ChainVerb) -> (&'static str, &'static str) {
    match verb {
        v1::ChainVerb::Unspecified => ("change", "changed"),
        v1::ChainVerb::Replay => ("replay", "replayed"),
        v1::ChainVerb::Compensate => ("compensate", "turned back"),
        v1::ChainVerb::Skip => ("skip", "skipped on"),
        v1::ChainVerb::Pause => ("pause", "paused"),
        v1::ChainVerb::Resume => ("resume", "resumed"),
        v1::ChainVerb::Cancel => ("cancel", "turned back"),
        v1::ChainVerb::Abandon => ("abandon", "abandoned"),
        v1::ChainVerb::Purge => ("purge", "purged"),
    }
}

pub(super) async fn run(context: &Context, verb: v1::ChainVerb, change: Change) -> Result<ExitCode, Fault> {
    let is_gentle = matches!(verb, v1::ChainVerb::Replay | v1::ChainVerb::Resume);
    if change.id.is_none() && change.filter.is_empty() && !is_gentle {
        return Err(needs_filter(words(verb).0));
    }
    let request = v1::ChangeChainsRequest {
        verb: verb.into(),
        filter: Some(change.filter.message(change.id.as_deref())),
        reason: change.reason,
        by: whoami(),
        dry_run: false,
        per_second: change.rate.unwrap_or_default(),
        ..v1::ChangeChainsRequest::default()
    };
    if change.id.is_some() && !change.dry_run {
        return run_one(context, request).await;
    }
    let plan = context.client.change_chains_to_end(v1::ChangeChainsRequest { dry_run: true, ..request.clone() }).await?;
    if change.dry_run || plan.matched == 0 {
        print_plan(context, verb, &plan);
        return Ok(code(&plan));
    }
    if !change.yes && !is_confirmed(words(verb).0, &chains(plan.matched)) {
        return Ok(ExitCode::from(exit::USAGE));
    }
    let mut answers = context.client.change_chains(request).await?;
    let mut last = v1::ChangeChainsResponse::default();
    let mut line = StatusLine::default();
    let is_live = !context.format.is_json() && std::io::stderr().is_terminal();
    while let Some(answer) = answers.next().await? {
        last = answer;
        if is_live {
            line.show(&progress(verb, &last));
        }
    }
    line.clear();
    print_done(context, verb, &last);
    Ok(code(&last))
}

pub(super) async fn skip(context: &Context, skip: Skip) -> Result<ExitCode, Fault> {
    let request = v1::ChangeChainsRequest {
        verb: v1::ChainVerb::Skip.into(),
        filter: Some(Filter::default().message(Some(&skip.id))),
        reason: skip.reason,
        by: whoami(),
        step: skip.step,
        element: skip.element,
        result: arguments(&skip.result)?.into(),
        ..v1::ChangeChainsRequest::default()
    };
    run_one(context, request).await
}

async fn run_one(context: &Context, request: v1::ChangeChainsRequest) -> Result<ExitCode, Fault> {
    let verb = request.verb();
    let done = context.client.change_chains_to_end(request).await?;
    match done.chains.first() {
        Some(chain) if context.format.is_json() => output::print(&chain_json(chain).to_string()),
        Some(chain) => output::print(&summary(chain)),
        None => print_done(context, verb, &done),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says which chains it would be.
fn print_plan(context: &Context, verb: v1::ChainVerb, plan: &v1::ChangeChainsResponse) {
    if context.format.is_json() {
        let more = json!({"matched": plan.matched, "steps": plan.steps, "missing_peers": plan.missing_peers});
        return output::print_list(context.format, "chains", plan.chains.iter().map(chain_json).collect(), more);
    }
    let name = words(verb).0;
    if plan.matched == 0 {
        output::print(&format!("nothing to {name}: no chain matches"));
    } else {
        output::print(&format!("{}\n{}", plan_text(verb, plan), chains_table(&plan.chains)));
    }
    missing(&plan.missing_peers).iter().for_each(|line| output::print_error(line));
}

fn plan_text(verb: v1::ChainVerb, plan: &v1::ChangeChainsResponse) -> String {
    let mut text = format!("would {} {}", words(verb).0, chains(plan.matched));
    if matches!(verb, v1::ChainVerb::Replay | v1::ChainVerb::Resume) {
        let mut steps: Vec<(&String, &u64)> = plan.steps.iter().collect();
        steps.sort();
        let goes_on = |(step, count): (&String, &u64)| match step.split_once(' ') {
            Some((number, name)) => format!("{count} go on at step {number} `{name}`"),
            None => format!("{count} go on"),
        };
        let steps: Vec<String> = steps.into_iter().map(goes_on).collect();
        text += &format!(": {}; 0 effects would be repeated", steps.join(", "));
    }
    text
}

fn progress(verb: v1::ChainVerb, answer: &v1::ChangeChainsResponse) -> String {
    let mut parts = vec![format!("{} matched", answer.matched), format!("{} {}", answer.changed, words(verb).1)];
    let mut statuses: Vec<(&String, &u64)> = answer.statuses.iter().collect();
    statuses.sort();
    for (status, count) in statuses {
        let is_back = verb == v1::ChainVerb::Replay && matches!(status.as_str(), "parked" | "stuck");
        if status != words(verb).1 {
            parts.push(format!("{count} {status}{}", if is_back { " again" } else { "" }));
        }
    }
    if answer.refused > 0 {
        parts.push(format!("{} could not be", answer.refused));
    }
    parts.join("  ")
}

fn print_done(context: &Context, verb: v1::ChainVerb, done: &v1::ChangeChainsResponse) {
    if context.format.is_json() {
        let object = json!({
            "verb": words(verb).0, "matched": done.matched, "changed": done.changed, "refused": done.refused,
            "statuses": done.statuses, "error": done.failure.as_ref().map(output::failure_json), "missing_peers": done.missing_peers,
        });
        return output::print(&object.to_string());
    }
    output::print(&progress(verb, done));
    if let Some(failure) = &done.failure {
        output::print_error(&output::fault_text(&Fault::from(failure.clone())));
    }
    missing(&done.missing_peers).iter().for_each(|line| output::print_error(line));
}

fn code(done: &v1::ChangeChainsResponse) -> ExitCode {
    match (done.missing_peers.is_empty() && done.refused == 0, done.matched) {
        (false, _) => ExitCode::from(exit::PARTIAL),
        (true, 0) => ExitCode::from(exit::NOT_FOUND),
        (true, _) => ExitCode::SUCCESS,
    }
}

/// Asks on a terminal; elsewhere nobody can answer, so the answer is no.
fn chains(count: u64) -> String {
    if count == 1 { "1 chain".to_owned() } else { format!("{count} chains") }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_replay_says_where_it_would_go_on_and_how_it_ended() {
        let answer = v1::ChangeChainsResponse {
            matched: 37,
            changed: 37,
            steps: HashMap::from([("2/2 deposit".to_owned(), 37)]),
            statuses: HashMap::from([("completed".to_owned(), 36), ("parked".to_owned(), 1)]),
            ..v1::ChangeChainsResponse::default()
        };
        let text = plan_text(v1::ChainVerb::Replay, &answer);
        assert_eq!(text, "would replay 37 chains: 37 go on at step 2/2 `deposit`; 0 effects would be repeated");
        assert_eq!(progress(v1::ChainVerb::Replay, &answer), "37 matched  37 replayed  36 completed  1 parked again");
        assert_eq!(
            progress(v1::ChainVerb::Pause, &v1::ChangeChainsResponse { refused: 2, ..answer }),
            "37 matched  37 paused  36 completed  1 parked  2 could not be"
        );
    }
}
