//! `rootward call`: one declared transaction.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use rootward_client::{Fault, v1};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    Context, arguments, exit, fail,
    staleness::{self, Staleness},
};
use crate::output;

/// Call a declared transaction at the owner of its root.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward call withdraw account_id=1007 amount=250")]
pub(crate) struct Call {
    /// The transaction's name, from the schema.
    transaction: String,
    /// Its arguments: name=value; name:=null is NULL, name:=JSON is JSON.
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// The id under which the outcome is stored; send it again with the same id if you didn't get the answer.
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
    /// For a write of reference data: `all` answers when every peer shows it, and ends with code 6 if one doesn't in time.
    #[arg(long, value_enum, value_name = "WHOM", default_value_t)]
    wait: Wait,
    /// Run when the peer shows this version of the reference data, which a write's answer tells.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(0..))]
    min_reference_version: Option<i64>,
    #[command(flatten)]
    staleness: Staleness,
}

/// Whom a write of reference data waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Nobody: the write is durable on the hub.
    #[default]
    None,
    /// Every peer.
    All,
}

/// Sends it and prints the answer.
pub(crate) async fn run(context: &Context, call: Call) -> ExitCode {
    let sent = async {
        let request = context.client.call(&call.transaction, arguments(&call.arguments)?);
        let request = match call.request_id {
            Some(id) => request.with_request_id(id),
            None => request,
        };
        let request = if call.wait == Wait::All { request.wait_for_all_peers() } else { request };
        let request = match call.min_reference_version {
            Some(version) => request.with_min_reference_version(version),
            None => request,
        };
        let request = match call.staleness.staleness {
            Some(most) => request.with_staleness(most),
            None => request,
        };
        let request = match call.staleness.not_before {
            Some(position) => request.not_before(position),
            None => request,
        };
        request.send().await
    };
    answer(context, sent.await)
}

/// Prints the answer of a call or a query.
pub(super) fn answer(context: &Context, answer: Result<v1::CallResponse, Fault>) -> ExitCode {
    let response = match answer {
        Ok(response) => response,
        Err(fault) => return fail(&fault, context.format),
    };
    output::print(&if context.format.is_json() { json_of(&response).to_string() } else { text_of(&response) });
    if response.lagging_peers.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::PARTIAL) }
}

fn text_of(response: &v1::CallResponse) -> String {
    let mut place = vec![];
    if response.partition < 0 {
        place.push(format!("reference data version {}", response.reference_version));
    } else {
        place.push(format!("{} {}", response.entity, response.root_key));
        place.push(format!("partition {}", response.partition));
    }
    place.push(format!("peer {}", response.peer));
    if let Some(freshness) = &response.freshness {
        place.push(staleness::text_of(freshness));
        place.push(output::duration(response.worker_us));
    } else if response.from_stored_outcome {
        place.push("answered from the stored outcome; nothing was done twice".to_owned());
    } else {
        place.push(format!("lane {}", response.lane));
        place.push(output::duration(response.worker_us));
        place.push(format!("request {}", response.request_id));
    }
    let behind = response.lagging_peers.iter().map(lagging_text);
    let place = std::iter::once(place.join("  ")).chain(behind).collect::<Vec<_>>().join("\n");
    match response.rows.as_slice() {
        [row] if response.columns.len() <= 6 => format!("{}     {place}", row_text(&response.columns, row)),
        [] if response.columns.is_empty() => format!("{}     {place}", rows(response.row_count)),
        many => {
            let headings: Vec<&str> = response.columns.iter().map(|column| column.name.as_str()).collect();
            let cells: Vec<Vec<String>> = many.iter().map(|row| row.values.iter().map(output::value_text).collect()).collect();
            format!("{}\n{}     {place}", output::table(&headings, &cells), rows(response.row_count))
        }
    }
}

fn lagging_text(lagging: &v1::LaggingPeer) -> String {
    let shows = if lagging.reference_version < 0 { String::new() } else { format!(" (it shows version {})", lagging.reference_version) };
    format!("peer {} does not show it yet: {}{shows}", lagging.peer, lagging.reason)
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

fn row_text(columns: &[v1::Column], row: &v1::Row) -> String {
    let cells = columns.iter().zip(&row.values).map(|(column, value)| format!("{} {}", column.name, output::value_text(value)));
    cells.collect::<Vec<_>>().join("  ")
}

/// The names by which a row's values are found: a second `a` is `a_2`, so that none is lost.
pub(super) fn keys(columns: &[v1::Column]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(columns.len());
    for column in columns {
        let numbered = (2..).map(|number| format!("{}_{number}", column.name));
        let free = std::iter::once(column.name.clone()).chain(numbered).find(|key| !keys.contains(key));
        keys.extend(free);
    }
    keys
}

/// The answer for programs. The form is a promise: fields are added, never renamed.
fn json_of(response: &v1::CallResponse) -> Json {
    let keys = keys(&response.columns);
    let row = |row: &v1::Row| -> Json { keys.iter().cloned().zip(row.values.iter().map(output::value_json)).collect() };
    let mut json = json!({
        "columns": response.columns.iter().map(|column| json!({"name": column.name, "type": column.r#type})).collect::<Vec<_>>(),
        "rows": response.rows.iter().map(row).collect::<Vec<_>>(),
        "row_count": response.row_count, "request_id": response.request_id, "entity": response.entity, "root_key": response.root_key,
        "partition": response.partition, "peer": response.peer, "lane": response.lane,
        "from_stored_outcome": response.from_stored_outcome, "worker_us": response.worker_us,
        "reference_version": response.reference_version,
        "lagging_peers": response.lagging_peers.iter().map(|lagging| json!({
            "peer": lagging.peer, "reference_version": lagging.reference_version, "reason": lagging.reason,
        })).collect::<Vec<_>>(),
    });
    if let Some(freshness) = &response.freshness {
        json["freshness"] = staleness::json_of(freshness);
    }
    json
}

#[cfg(test)]
mod tests {
    use rootward_client::v1::value::Kind;

    use super::*;

    fn response() -> v1::CallResponse {
        v1::CallResponse {
            columns: vec![v1::Column { name: "balance".into(), r#type: "numeric".into() }],
            rows: vec![v1::Row { values: vec![v1::Value { kind: Some(Kind::Decimal("750.00".into())) }] }],
            row_count: 1,
            request_id: "0193".into(),
            entity: "account".into(),
            root_key: "1007".into(),
            partition: 417,
            peer: "p2".into(),
            lane: 1,
            worker_us: 1800,
            ..v1::CallResponse::default()
        }
    }

    #[test]
    fn one_row_is_one_line() {
        assert_eq!(text_of(&response()), "balance 750.00     account 1007  partition 417  peer p2  lane 1  1.8 ms  request 0193");
        let stored = v1::CallResponse { from_stored_outcome: true, ..response() };
        assert!(text_of(&stored).ends_with("answered from the stored outcome; nothing was done twice"));
    }

    #[test]
    fn the_answer_for_programs_keeps_its_form() {
        let wanted = r#"{"columns":[{"name":"balance","type":"numeric"}],"entity":"account","from_stored_outcome":false,"lagging_peers":[],"lane":1,"partition":417,"peer":"p2","reference_version":0,"request_id":"0193","root_key":"1007","row_count":1,"rows":[{"balance":"750.00"}],"worker_us":1800}"#;
        assert_eq!(json_of(&response()).to_string(), wanted);
    }

    #[test]
    fn columns_of_one_name_are_told_apart() {
        let column = |name: &str| v1::Column { name: name.into(), r#type: "integer".into() };
        assert_eq!(keys(&[column("a"), column("a"), column("a_2"), column("a")]), ["a", "a_2", "a_2_2", "a_3"]);
    }

    #[test]
    fn several_rows_are_a_table_and_none_is_a_count() {
        let row = response().rows[0].clone();
        let two = v1::CallResponse { rows: vec![row.clone(), row], row_count: 2, ..response() };
        assert!(text_of(&two).starts_with("balance\n750.00\n750.00\n2 rows     account 1007  "), "{}", text_of(&two));
        let none = v1::CallResponse { rows: vec![], columns: vec![], row_count: 0, ..response() };
        assert!(text_of(&none).starts_with("0 rows     account 1007"));
        let reference = v1::CallResponse { partition: -1, reference_version: 9, ..response() };
        assert!(text_of(&reference).contains("reference data version 9  peer p2"));
        let lagging = v1::LaggingPeer { peer: "p3".into(), reference_version: 7, reason: "it was behind".into() };
        let behind = v1::CallResponse { lagging_peers: vec![lagging], ..reference };
        assert!(text_of(&behind).ends_with("\npeer p3 does not show it yet: it was behind (it shows version 7)"), "{}", text_of(&behind));
    }
}
