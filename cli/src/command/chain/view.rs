//! Chains for people and for programs.

use rootward_client::v1;
use serde_json::{Value as Json, json};

use crate::output;

/// `completed   withdraw p2 1.6 ms · deposit p3 1.9 ms`, with the reason and the next command where it did not complete.
pub(super) fn summary(chain: &v1::Chain) -> String {
    let steps: Vec<String> = chain.steps.iter().map(step_text).collect();
    let mut text = format!("{}   {}   chain {}", chain.status, steps.join(" · "), chain.id);
    if let Some(failure) = &chain.failure {
        let place = if chain.step.is_empty() { String::new() } else { format!("at {}: ", chain.step) };
        text += &format!("\n  {place}[{}] {}", failure.code, failure.message);
    }
    match chain.status.as_str() {
        "parked" | "stuck" => text += &format!("\n  next: repair the cause, then rootward chain replay {}", chain.id),
        "running" | "compensating" => text += &format!("\n  it goes on by itself; next: rootward chain watch {}", chain.id),
        "waiting" | "scheduled" if !chain.next_attempt_at.is_empty() => {
            text += &format!("\n  it goes on by itself at {}; next: rootward chain watch {}", chain.next_attempt_at, chain.id);
        }
        "waiting" => text += &format!("\n  it waits for a signal; next: rootward chain signal {} {}", chain.id, step_name(chain)),
        "paused" => text += &format!("\n  next: rootward chain resume {}", chain.id),
        "completed" if !chain.result.is_empty() => text += &format!("\n  result {}", chain.result),
        _ => {}
    }
    text
}

/// The name in `2/3 deposit`.
fn step_name(chain: &v1::Chain) -> &str {
    chain.step.split_once(' ').map_or("STEP", |(_, name)| name)
}

/// What happened between two looks at a chain, a line each.
pub(super) fn watch_lines(last: &v1::Chain, chain: &v1::Chain) -> Vec<String> {
    let is_new = |step: &&v1::ChainStep| step.outcome != "open" && !last.steps.iter().any(|known| is_same(known, step));
    let mut lines: Vec<String> = chain.steps.iter().filter(is_new).map(|step| format!("  {}", effect_text(step))).collect();
    if (last.status.as_str(), last.step.as_str()) != (chain.status.as_str(), chain.step.as_str()) || chain.failure != last.failure {
        lines.push(summary(&v1::Chain { steps: Vec::new(), ..chain.clone() }));
    }
    lines
}

fn is_same(left: &v1::ChainStep, right: &v1::ChainStep) -> bool {
    (left.step, left.element, &left.direction, &left.outcome) == (right.step, right.element, &right.direction, &right.outcome)
}

/// `2 deposit[3] done at account 7 on p2  {"balance":"5.00"}`
pub(in crate::command) fn effect_text(step: &v1::ChainStep) -> String {
    let direction = if step.direction == "undo" { "undo " } else { "" };
    let element = if step.element > 0 { format!("[{}]", step.element + 1) } else { String::new() };
    let peer = if step.peer.is_empty() { String::new() } else { format!(" on {}", step.peer) };
    let result = if step.result.is_empty() { String::new() } else { format!("  {}", step.result) };
    format!("{} {direction}{}{element} {} at {} {}{peer}{result}", step.step + 1, step.name, step.outcome, step.entity, step.root_key)
}

fn step_text(step: &v1::ChainStep) -> String {
    let name = if step.direction == "undo" { format!("undo {}", step.name) } else { step.name.clone() };
    let element = if step.element > 0 { format!("[{}]", step.element + 1) } else { String::new() };
    match step.outcome.as_str() {
        "done" => format!("{name}{element} {} {}", step.peer, output::duration(step.worker_us)),
        other => format!("{name}{element} {other}"),
    }
}

/// The chains in a table, how many there are, and what can be done with them.
pub(super) fn list_text(response: &v1::ListChainsResponse) -> String {
    let mut lines = Vec::new();
    if !response.chains.is_empty() {
        lines.push(chains_table(&response.chains));
    }
    let mut counted = format!("{} of {} shown. {} running.", response.chains.len(), response.matched, response.running);
    if response.chains.iter().any(is_waiting) {
        counted += "  Replay: rootward chain replay --status parked";
    }
    lines.push(counted);
    lines.extend(missing(&response.missing_peers));
    lines.join("\n")
}

/// Names the peers that were not asked.
pub(super) fn missing(peers: &[String]) -> Option<String> {
    (!peers.is_empty()).then(|| format!("not asked, because they don't answer: {}", peers.join(", ")))
}

pub(super) fn chains_table(chains: &[v1::Chain]) -> String {
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

/// Everything that is known of a chain, and what can be done next.
pub(super) fn show_text(chain: &v1::Chain) -> String {
    let mut lines = vec![
        format!(
            "chain {}  {} version {}  {}{}",
            chain.id,
            chain.definition,
            chain.version,
            chain.status,
            if chain.step.is_empty() { String::new() } else { format!(" at {}", chain.step) }
        ),
        format!(
            "home {} {}  partition {}  peer {}  started {}",
            chain.entity, chain.root_key, chain.partition, chain.peer, chain.created_at
        ),
        format!("input {}", chain.input),
    ];
    let rows: Vec<Vec<String>> = chain.steps.iter().map(step_row).collect();
    if !chain.labels.is_empty() {
        let mut labels: Vec<String> = chain.labels.iter().map(|(name, text)| format!("{name}={text}")).collect();
        labels.sort();
        lines.push(format!("labels {}", labels.join(" ")));
    }
    let times = [("deadline", &chain.deadline), ("looked at again", &chain.next_attempt_at), ("ended", &chain.ended_at)];
    lines.extend(times.iter().filter(|(_, at)| !at.is_empty()).map(|(what, at)| format!("{what} {at}")));
    if chain.attempts > 0 {
        lines.push(format!("{} attempts of the step where it stands", chain.attempts));
    }
    let headings = ["STEP", "DO", "OUTCOME", "ROOT", "PEER", "TRANSACTION", "AT", "RESULT OR ERROR"];
    lines.push(output::table(&headings, &rows));
    if !chain.result.is_empty() {
        lines.push(format!("result {}", chain.result));
    }
    lines.extend(chain.events.iter().map(|event| {
        let by = if event.by.is_empty() { String::new() } else { format!(" by {}", event.by) };
        format!("{}  {}{by}  {}", event.at, event.event, event.reason)
    }));
    if let Some(failure) = &chain.failure {
        lines.push(format!("[{}] {}\n  help: {}", failure.code, failure.message, failure.help));
    }
    lines.extend(chain.verbs.iter().enumerate().map(|(at, verb)| {
        let first = if at == 0 { "next:" } else { "   or:" };
        match verb.as_str() {
            "signal" => format!("{first} rootward chain signal {} {}", chain.id, step_name(chain)),
            "skip" => format!("{first} rootward chain skip {} --step {} --reason …", chain.id, step_name(chain)),
            "replay" | "resume" | "pause" | "fork" => format!("{first} rootward chain {verb} {}", chain.id),
            _ => format!("{first} rootward chain {verb} {} --reason …", chain.id),
        }
    }));
    lines.join("\n")
}

/// Whether it waits for a person.
fn is_waiting(chain: &v1::Chain) -> bool {
    matches!(chain.status.as_str(), "parked" | "stuck")
}

fn step_row(step: &v1::ChainStep) -> Vec<String> {
    let element = if step.element > 0 { format!("[{}]", step.element + 1) } else { String::new() };
    vec![
        format!("{} {}{element}", step.step + 1, step.name),
        step.direction.clone(),
        step.outcome.clone(),
        format!("{} {}", step.entity, step.root_key),
        step.peer.clone(),
        if step.transaction.is_empty() { step.waits_for.clone() } else { step.transaction.clone() },
        step.at.clone(),
        step.failure.as_ref().map_or_else(|| step.result.clone(), |failure| format!("[{}] {}", failure.code, failure.message)),
    ]
}

/// A chain for programs. The form is a promise: fields are added, never renamed.
pub(super) fn chain_json(chain: &v1::Chain) -> Json {
    let step = |step: &v1::ChainStep| {
        json!({
            "name": step.name, "step": step.step, "element": step.element, "direction": step.direction, "outcome": step.outcome,
            "entity": step.entity, "root_key": step.root_key, "peer": step.peer, "transaction": step.transaction,
            "worker_us": step.worker_us, "error": step.failure.as_ref().map(output::failure_json), "at": step.at,
            "result": json_or_null(&step.result), "waits_for": step.waits_for,
        })
    };
    let event = |event: &v1::ChainEvent| json!({"at": event.at, "event": event.event, "reason": event.reason, "by": event.by});
    json!({
        "id": chain.id, "type": chain.definition, "version": chain.version, "status": chain.status, "step": chain.step,
        "attempts": chain.attempts, "input": serde_json::from_str::<Json>(&chain.input).unwrap_or_default(),
        "entity": chain.entity, "root_key": chain.root_key, "partition": chain.partition, "peer": chain.peer,
        "error": chain.failure.as_ref().map(output::failure_json), "created_at": chain.created_at, "updated_at": chain.updated_at,
        "ended_at": chain.ended_at, "deadline": chain.deadline, "next_attempt_at": chain.next_attempt_at, "labels": chain.labels,
        "result": json_or_null(&chain.result), "verbs": chain.verbs,
        "steps": chain.steps.iter().map(step).collect::<Vec<_>>(), "events": chain.events.iter().map(event).collect::<Vec<_>>(),
    })
}

fn json_or_null(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_default()
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

    #[test]
    fn a_chain_for_programs_keeps_its_form() {
        let step = v1::ChainStep { name: "withdraw".into(), direction: "do".into(), outcome: "done".into(), ..v1::ChainStep::default() };
        let event = v1::ChainEvent { at: "now".into(), event: "replay".into(), reason: "unfrozen".into(), by: "ann".into() };
        let chain = v1::Chain {
            id: "x".into(),
            definition: "transfer".into(),
            input: r#"{"amount":"1.10"}"#.into(),
            failure: Some(v1::Failure { code: "RW3101".into(), ..v1::Failure::default() }),
            steps: vec![step],
            events: vec![event],
            ..v1::Chain::default()
        };
        let wanted = concat!(
            r#"{"attempts":0,"created_at":"","deadline":"","ended_at":"","entity":"","#,
            r#""error":{"code":"RW3101","detail":"","from_stored_outcome":false,"help":"","hint":"","message":"","#,
            r#""retry_class":"unspecified","sqlstate":""},"events":[{"at":"now","by":"ann","event":"replay","reason":"unfrozen"}],"#,
            r#""id":"x","input":{"amount":"1.10"},"labels":{},"next_attempt_at":"","partition":0,"peer":"","result":null,"root_key":"","#,
            r#""status":"","step":"","steps":[{"at":"","direction":"do","element":0,"entity":"","error":null,"name":"withdraw","#,
            r#""outcome":"done","peer":"","result":null,"root_key":"","step":0,"transaction":"","waits_for":"","worker_us":0}],"#,
            r#""type":"transfer","updated_at":"","verbs":[],"version":0}"#
        );
        assert_eq!(chain_json(&chain).to_string(), wanted);
    }

    #[test]
    fn a_list_says_what_is_missing_and_what_can_be_done() {
        let parked = v1::Chain {
            id: "x".into(),
            definition: "transfer".into(),
            status: "parked".into(),
            step: "2/2 deposit".into(),
            verbs: ["replay", "skip", "cancel"].map(str::to_owned).to_vec(),
            ..v1::Chain::default()
        };
        let response =
            v1::ListChainsResponse { chains: vec![parked.clone()], matched: 3, running: 418, missing_peers: vec!["p3".to_owned()] };
        let text = list_text(&response);
        for part in ["CHAIN  TYPE      STATUS", "1 of 3 shown. 418 running.  Replay: rootward chain replay", "don't answer: p3"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert_eq!(list_text(&v1::ListChainsResponse::default()), "0 of 0 shown. 0 running.");
        let verbs = "next: rootward chain replay x\n   or: rootward chain skip x --step deposit --reason …\n   or: rootward chain cancel x --reason …";
        assert!(show_text(&parked).ends_with(verbs), "{}", show_text(&parked));
    }
}
