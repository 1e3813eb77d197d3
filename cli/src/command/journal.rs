//! `rootward journal …`: whether what took effect is still what is written down.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use rootward_client::{Fault, v1};
use serde_json::{Value as Json, json};

use super::{Context, exit, fail};
use crate::output;

/// Look after the journals of what took effect.
#[derive(Debug, Args)]
pub(crate) struct Journal {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read every row, and find those that were edited, deleted or cut off; code 4 if there are any.
    #[command(after_help = "Example:\n  rootward journal verify")]
    Verify {
        /// Heads that were kept elsewhere, as `journal heads -o json` printed them.
        #[arg(long, value_name = "FILE")]
        heads: Option<PathBuf>,
    },
    /// Print the last row's number and hash of each partition, to be kept elsewhere.
    #[command(after_help = "Example:\n  rootward journal heads -o json")]
    Heads,
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, journal: Journal) -> ExitCode {
    match journal.verb {
        Verb::Heads => match context.client.journal_heads().await {
            Ok(response) => heads(context, &response),
            Err(fault) => fail(&fault, context.format),
        },
        Verb::Verify { heads } => {
            let verify = async {
                let heads = heads.map_or(Ok(Vec::new()), |file| read_heads(&file))?;
                context.client.verify_journal(heads).await
            };
            match verify.await {
                Ok(response) => verified(context, &response),
                Err(fault) => fail(&fault, context.format),
            }
        }
    }
}

fn heads(context: &Context, response: &v1::ListJournalHeadsResponse) -> ExitCode {
    if context.format.is_json() {
        let items = response.heads.iter().map(head_json).collect();
        output::print_list(context.format, "heads", items, json!({"missing_peers": response.missing_peers}));
    } else {
        let rows: Vec<Vec<String>> = response
            .heads
            .iter()
            .map(|head| vec![head.partition.to_string(), head.sequence.to_string(), hex::encode(&head.hash)])
            .collect();
        output::print(&output::table(&["PARTITION", "SEQUENCE", "HASH"], &rows));
    }
    missing(&response.missing_peers)
}

fn missing(peers: &[String]) -> ExitCode {
    if peers.is_empty() {
        return ExitCode::SUCCESS;
    }
    output::print_error(&format!("warning: no answer from {}", peers.join(", ")));
    ExitCode::from(exit::PARTIAL)
}

fn verified(context: &Context, response: &v1::VerifyJournalResponse) -> ExitCode {
    if context.format.is_json() {
        output::print(&verified_json(response).to_string());
    } else {
        output::print(&verified_text(response));
    }
    if response.fault_count > 0 { ExitCode::from(exit::REFUSED) } else { missing(&response.missing_peers) }
}

fn verified_text(response: &v1::VerifyJournalResponse) -> String {
    let counted = format!(
        "{} rows in {} partitions, {} heads compared: {}",
        response.rows,
        response.partitions,
        response.compared_heads,
        if response.fault_count == 0 { "sound".to_owned() } else { format!("{} faults", response.fault_count) }
    );
    let fault = |fault: &v1::JournalFault| {
        format!("FAIL  peer {}  rootward.journal partition {} sequence {}: {}", fault.peer, fault.partition, fault.sequence, fault.what)
    };
    response.faults.iter().map(fault).chain(std::iter::once(counted)).collect::<Vec<_>>().join("\n")
}

fn verified_json(response: &v1::VerifyJournalResponse) -> Json {
    let fault = |fault: &v1::JournalFault| json!({"peer": fault.peer, "table": "rootward.journal", "partition": fault.partition, "sequence": fault.sequence, "what": fault.what});
    json!({
        "is_ok": response.fault_count == 0, "rows": response.rows, "partitions": response.partitions,
        "compared_heads": response.compared_heads, "fault_count": response.fault_count,
        "faults": response.faults.iter().map(fault).collect::<Vec<_>>(), "missing_peers": response.missing_peers,
    })
}

fn head_json(head: &v1::JournalHead) -> Json {
    json!({"partition": head.partition, "sequence": head.sequence, "hash": hex::encode(&head.hash)})
}

fn read_heads(file: &std::path::Path) -> Result<Vec<v1::JournalHead>, Fault> {
    let wrong = |why: String| {
        let help = "give a file as `rootward journal heads -o json` prints it";
        Fault::refused("RW1130", format!("{}: {why}", file.display()), help)
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    parse_heads(&text).map_err(wrong)
}

fn parse_heads(text: &str) -> Result<Vec<v1::JournalHead>, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let list = json.get("heads").and_then(Json::as_array).ok_or("it has no list `heads`")?;
    list.iter()
        .map(|head| {
            let number = |name: &str| head.get(name).and_then(Json::as_i64).ok_or_else(|| format!("a head has no `{name}`"));
            let hash = head.get("hash").and_then(Json::as_str).ok_or("a head has no `hash`")?;
            Ok(v1::JournalHead {
                partition: i32::try_from(number("partition")?).map_err(|error| error.to_string())?,
                sequence: number("sequence")?,
                hash: hex::decode(hash).map_err(|error| error.to_string())?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_heads_prints_is_what_verify_reads() {
        let heads = vec![v1::JournalHead { partition: 7, sequence: 3, hash: vec![1, 255] }];
        let printed = json!({"heads": heads.iter().map(head_json).collect::<Vec<_>>(), "missing_peers": []}).to_string();
        assert_eq!(printed, r#"{"heads":[{"hash":"01ff","partition":7,"sequence":3}],"missing_peers":[]}"#);
        assert_eq!(parse_heads(&printed), Ok(heads));
        for wrong in ["", "{}", r#"{"heads":[{}]}"#, r#"{"heads":[{"partition":1,"sequence":1,"hash":"x"}]}"#] {
            assert!(parse_heads(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_fault_names_table_partition_and_sequence() {
        let fault = v1::JournalFault { peer: "p1".into(), partition: 7, sequence: 3, what: "this row is missing".into() };
        let mut response = v1::VerifyJournalResponse { rows: 9, partitions: 2, ..v1::VerifyJournalResponse::default() };
        assert_eq!(verified_text(&response), "9 rows in 2 partitions, 0 heads compared: sound");
        response.fault_count = 1;
        response.faults.push(fault);
        let text = verified_text(&response);
        assert!(text.starts_with("FAIL  peer p1  rootward.journal partition 7 sequence 3: this row is missing\n9 rows"), "{text}");
        assert_eq!(verified_json(&response)["faults"][0]["sequence"], 3);
    }
}
