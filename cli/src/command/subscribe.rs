//! `rootward subscribe`: what takes effect, as it takes effect.

use std::process::ExitCode;

use clap::Args;
use rootward_client::{FaultResult, v1};
use serde_json::{Value as Json, json};

use super::{Context, fail};
use crate::output;

/// Print what takes effect at the roots of an entity that has a journal, in order within each partition, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  rootward subscribe --root account\n  rootward subscribe --root account=1007 --from 1 -o jsonl")]
pub(crate) struct Subscribe {
    /// All roots of an entity, or one.
    #[arg(long, value_name = "ENTITY[=KEY]")]
    root: String,
    /// Begin with this number of each partition, 1 for the first; without it only what takes effect from now on is printed.
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// End after so many events.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Prints until it is interrupted.
pub(crate) async fn run(context: &Context, subscribe: Subscribe) -> ExitCode {
    match follow(context, subscribe).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fail(&fault, context.format),
    }
}

async fn follow(context: &Context, subscribe: Subscribe) -> FaultResult<()> {
    let (entity, root_key) = subscribe.root.split_once('=').unwrap_or((&subscribe.root, ""));
    let mut after = Vec::new();
    if let Some(from) = subscribe.from.filter(|from| *from > 1) {
        let partitions = i32::try_from(context.client.partitions().await?.owners.len()).unwrap_or(i32::MAX);
        after = (0..partitions).map(|partition| v1::JournalPosition { partition, sequence: from - 1 }).collect();
    }
    let request =
        v1::SubscribeRequest { entity: entity.to_owned(), root_key: root_key.to_owned(), after, from_start: subscribe.from.is_some() };
    let mut subscription = context.client.subscribe(request);
    let mut left = subscribe.limit.unwrap_or(usize::MAX);
    while left > 0 {
        for event in subscription.next().await?.events.iter().take(left) {
            output::print(&if context.format.is_json() { event_json(event).to_string() } else { event_text(event) });
            left -= 1;
        }
    }
    Ok(())
}

fn event_text(event: &v1::JournalEvent) -> String {
    let undo = if event.direction == "undo" { " (undo)" } else { "" };
    format!(
        "{}/{}  {} {}  {}{undo}  {}  request {}",
        event.partition, event.sequence, event.entity, event.root_key, event.transaction, event.arguments, event.request_id
    )
}

fn event_json(event: &v1::JournalEvent) -> Json {
    json!({
        "partition": event.partition, "sequence": event.sequence, "entity": event.entity, "root_key": event.root_key,
        "request_id": event.request_id, "step": event.step, "element": event.element, "direction": event.direction,
        "in_chain": event.in_chain, "transaction": event.transaction,
        "arguments": serde_json::from_str::<Json>(&event.arguments).unwrap_or_default(),
        "issued_at_ms": event.issued_at_ms, "at_ms": event.at_ms, "hash": hex::encode(&event.hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = v1::JournalEvent {
            partition: 7,
            sequence: 3,
            entity: "account".into(),
            root_key: "1007".into(),
            request_id: "0193".into(),
            direction: "undo".into(),
            transaction: "deposit".into(),
            arguments: r#"{"amount":"5"}"#.into(),
            ..v1::JournalEvent::default()
        };
        assert_eq!(event_text(&event), r#"7/3  account 1007  deposit (undo)  {"amount":"5"}  request 0193"#);
        assert_eq!(event_json(&event)["arguments"]["amount"], "5");
    }
}
