//! Snapshots and their rows for people and for programs.

use rootward_client::v1;
use serde_json::{Value as Json, json};

use crate::{
    command::{call::keys, chain::effect_text},
    output::{self, Format},
};

/// Prints pages of rows as they come. What programs get as one object is held until the end.
pub(super) struct Printer {
    format: Format,
    columns: Vec<v1::Column>,
    /// By column, as wide as the first page wants them.
    widths: Vec<usize>,
    has_peers: bool,
    rows: Vec<Json>,
    count: u64,
    pub missing_peers: Vec<String>,
}

impl Printer {
    pub(super) fn new(format: Format) -> Printer {
        Printer { format, columns: Vec::new(), widths: Vec::new(), has_peers: false, rows: Vec::new(), count: 0, missing_peers: Vec::new() }
    }

    pub(super) fn page(&mut self, page: v1::QuerySnapshotResponse) {
        let is_first = self.columns.is_empty() && self.widths.is_empty();
        if is_first {
            self.columns.clone_from(&page.columns);
            self.has_peers = !page.peer.is_empty();
        }
        self.missing_peers.extend(page.missing_peers);
        self.count += page.rows.len() as u64;
        match self.format {
            Format::Table => self.print_cells(is_first, &page.peer, &page.rows),
            Format::Json => self.rows.extend(page.rows.iter().map(|row| row_json(&self.columns, &page.peer, row)).collect::<Vec<_>>()),
            Format::Jsonl => page.rows.iter().for_each(|row| output::print(&row_json(&self.columns, &page.peer, row).to_string())),
        }
    }

    fn print_cells(&mut self, is_first: bool, peer: &str, rows: &[v1::Row]) {
        let mut lines: Vec<Vec<String>> = Vec::new();
        let peers = || self.has_peers.then(|| peer.to_owned());
        lines.extend(rows.iter().map(|row| peers().into_iter().chain(row.values.iter().map(output::value_text)).collect()));
        if is_first {
            let heading = self.has_peers.then(|| "peer".to_owned());
            let heading: Vec<String> = heading.into_iter().chain(self.columns.iter().map(|column| column.name.clone())).collect();
            let width = |at: usize| {
                let cells = lines.iter().chain([&heading]).filter_map(|line| line.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            self.widths = (0..heading.len()).map(width).collect();
            lines.insert(0, heading);
        }
        for line in lines {
            let padded = line.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}"));
            output::print(padded.collect::<Vec<_>>().join("  ").trim_end());
        }
    }

    /// Prints what is said at the end.
    pub(super) fn end(&mut self, facts: Option<&v1::TakeSnapshotResponse>) {
        match self.format {
            Format::Json => {
                let described = |column: &v1::Column| json!({"name": column.name, "type": column.r#type});
                let columns: Vec<Json> = self.columns.iter().map(described).collect();
                output::print(
                    &json!({
                        "columns": columns, "rows": std::mem::take(&mut self.rows), "row_count": self.count,
                        "missing_peers": self.missing_peers, "snapshot": facts.map(facts_json),
                    })
                    .to_string(),
                );
            }
            Format::Jsonl => {}
            Format::Table => {
                output::print(&rows_text(self.count));
                match facts {
                    Some(facts) => output::print(&facts_text(facts)),
                    None if self.missing_peers.is_empty() => {}
                    None => output::print(&format!("not in the snapshot: {}", self.missing_peers.join(", "))),
                }
            }
        }
    }
}

/// How far a query is.
pub(super) fn progress_text(progress: &v1::QueryProgress) -> String {
    let v1::QueryProgress { peers, peers_begun, peers_done, rows_read } = progress;
    format!("{} read  {peers_begun} of {peers} peers have answered, {peers_done} to the end", rows_text(*rows_read))
}

fn rows_text(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// A row for programs. The form is a promise: fields are added, never renamed.
fn row_json(columns: &[v1::Column], peer: &str, row: &v1::Row) -> Json {
    let row: Json = keys(columns).into_iter().zip(row.values.iter().map(output::value_json)).collect();
    if peer.is_empty() { json!({"row": row}) } else { json!({"peer": peer, "row": row}) }
}

/// When it was taken, what it took, and the chains that were in flight with what they hold.
pub(super) fn facts_text(facts: &v1::TakeSnapshotResponse) -> String {
    let mut lines = vec![format!(
        "{} peers at one moment  lanes held {}  new chains held {}",
        facts.peers.len(),
        output::duration(facts.pause_us),
        output::duration(facts.drain_us)
    )];
    if !facts.missing_peers.is_empty() {
        lines.push(format!("not in the snapshot: {}", facts.missing_peers.join(", ")));
    }
    match (facts.in_flight_total, facts.in_flight.len() as u64) {
        (0, _) => lines.push("no chain in flight".to_owned()),
        (total, listed) if total == listed => lines.push(format!("{total} chains in flight:")),
        (total, listed) => lines.push(format!("{total} chains in flight, the oldest {listed}:")),
    }
    for chain in &facts.in_flight {
        let place = if chain.step.is_empty() { String::new() } else { format!(" at {}", chain.step) };
        lines.push(format!(
            "  {} {} {}{place}  since {}  input {}",
            chain.id,
            chain.definition,
            chain.status,
            output::age(chain.age_s),
            chain.input
        ));
        lines.extend(chain.steps.iter().map(|step| format!("    {}", effect_text(step))));
    }
    lines.join("\n")
}

/// The same for programs. The form is a promise: fields are added, never renamed.
pub(super) fn facts_json(facts: &v1::TakeSnapshotResponse) -> Json {
    let step = |step: &v1::ChainStep| {
        json!({
            "step": step.step + 1, "name": step.name, "element": step.element, "direction": step.direction, "outcome": step.outcome,
            "transaction": step.transaction, "entity": step.entity, "root_key": step.root_key, "peer": step.peer, "at": step.at,
        })
    };
    let chain = |chain: &v1::Chain| {
        json!({
            "id": chain.id, "type": chain.definition, "status": chain.status, "step": chain.step, "peer": chain.peer,
            "age_s": chain.age_s, "input": serde_json::from_str::<Json>(&chain.input).unwrap_or_default(),
            "holds": chain.steps.iter().map(step).collect::<Vec<_>>(),
        })
    };
    let peer = |peer: &v1::SnapshotPeer| json!({"peer": peer.peer, "term": peer.term, "reference_version": peer.reference_version, "pause_us": peer.pause_us});
    json!({
        "id": facts.snapshot_id, "taken_at_ms": facts.taken_at_ms, "expires_at_ms": facts.expires_at_ms, "pause_us": facts.pause_us,
        "drain_us": facts.drain_us, "peers": facts.peers.iter().map(peer).collect::<Vec<_>>(), "missing_peers": facts.missing_peers,
        "in_flight": facts.in_flight.iter().map(chain).collect::<Vec<_>>(), "in_flight_total": facts.in_flight_total,
    })
}

#[cfg(test)]
mod tests {
    use rootward_client::v1::value::Kind;

    use super::*;

    fn facts() -> v1::TakeSnapshotResponse {
        let step = v1::ChainStep {
            name: "withdraw".into(),
            direction: "do".into(),
            outcome: "done".into(),
            transaction: "transfer_out".into(),
            entity: "account".into(),
            root_key: "7".into(),
            peer: "p1".into(),
            ..v1::ChainStep::default()
        };
        let chain = v1::Chain {
            id: "0193".into(),
            definition: "transfer".into(),
            status: "parked".into(),
            step: "2/2 deposit".into(),
            input: r#"{"amount":"5"}"#.into(),
            peer: "p1".into(),
            age_s: 3.0,
            steps: vec![step],
            ..v1::Chain::default()
        };
        v1::TakeSnapshotResponse {
            snapshot_id: "0194".into(),
            peers: vec![v1::SnapshotPeer { peer: "p1".into(), term: 2, reference_version: 1, pause_us: 1_800 }],
            pause_us: 1_800,
            drain_us: 900,
            in_flight: vec![chain],
            in_flight_total: 1,
            ..v1::TakeSnapshotResponse::default()
        }
    }

    #[test]
    fn chains_in_flight_stand_with_what_they_hold() {
        let text = facts_text(&facts());
        assert!(text.starts_with("1 peers at one moment  lanes held 1.8 ms  new chains held 900 us\n1 chains in flight:\n"), "{text}");
        assert!(text.contains("0193 transfer parked at 2/2 deposit  since 3s"), "{text}");
        assert!(text.ends_with("1 withdraw done at account 7 on p1"), "{text}");
        let partial = v1::TakeSnapshotResponse { missing_peers: vec!["p2".into()], in_flight: vec![], in_flight_total: 0, ..facts() };
        assert!(facts_text(&partial).ends_with("not in the snapshot: p2\nno chain in flight"));
    }

    #[test]
    fn what_programs_get_keeps_its_form() {
        let wanted = r#"{"drain_us":900,"expires_at_ms":0,"id":"0194","in_flight":[{"age_s":3.0,"holds":[{"at":"","direction":"do","element":0,"entity":"account","name":"withdraw","outcome":"done","peer":"p1","root_key":"7","step":1,"transaction":"transfer_out"}],"id":"0193","input":{"amount":"5"},"peer":"p1","status":"parked","step":"2/2 deposit","type":"transfer"}],"in_flight_total":1,"missing_peers":[],"pause_us":1800,"peers":[{"pause_us":1800,"peer":"p1","reference_version":1,"term":2}],"taken_at_ms":0}"#;
        assert_eq!(facts_json(&facts()).to_string(), wanted);
        let columns = [v1::Column { name: "sum".into(), r#type: "numeric".into() }];
        let row = v1::Row { values: vec![v1::Value { kind: Some(Kind::Decimal("750.00".into())) }] };
        assert_eq!(row_json(&columns, "p1", &row).to_string(), r#"{"peer":"p1","row":{"sum":"750.00"}}"#);
        assert_eq!(row_json(&columns, "", &row).to_string(), r#"{"row":{"sum":"750.00"}}"#);
    }
}
