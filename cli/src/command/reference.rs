//! `rootward reference …`: the copies of the reference data.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use rootward_cluster::{Repaired, repair_reference};
use serde_json::json;

use super::schema::{explain, topology_of};
use crate::output::{self, Format};

/// Look after the peers' copies of the reference data.
#[derive(Debug, Args)]
pub(crate) struct Reference {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a peer's copy and its subscription anew, while it is read: after its slot is gone, its subscription is broken, or somebody
    /// changed the copy. Can be run again at any time.
    /// It comes from the relay of the peer's region then, or from the hub, also if it had to take another way before.
    #[command(after_help = "Example:\n  rootward reference repair p1 --cluster docs/samples/cluster.toml")]
    Repair {
        /// The peer; all of them, one after the other, if none is named.
        peer: Option<String>,
        /// The file that names the hub's and the peers' databases.
        #[arg(long, value_name = "FILE")]
        cluster: PathBuf,
        /// Copy from this relay, or from `hub`.
        #[arg(long, value_name = "ID")]
        from: Option<String>,
    },
}

/// Runs the verb.
pub(crate) async fn run(reference: Reference, format: Format) -> anyhow::Result<ExitCode> {
    let Verb::Repair { peer, cluster, from } = reference.verb;
    let Some(topology) = topology_of(&cluster)? else { return Ok(ExitCode::from(2)) };
    let peers = peer.map_or_else(|| topology.peer.keys().cloned().collect(), |peer| vec![peer]);
    for peer in peers {
        match repair_reference(&topology, &peer, from.as_deref()).await {
            Ok(repaired) if format.is_json() => output::print(&repaired_json(&repaired).to_string()),
            Ok(repaired) => output::print(&repaired_text(&repaired)),
            Err(error) => {
                let (code, exit, help) = explain(&error);
                output::print_error(&format!("error[{code}]: {error}\n  help: {help}"));
                return Ok(ExitCode::from(exit));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn repaired_text(repaired: &Repaired) -> String {
    let from = repaired.from_version.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"));
    let rows = match repaired.repaired_rows.as_slice() {
        [] => "every row was right".to_owned(),
        tables => tables.iter().map(|(table, rows)| format!("{rows} rows of `{table}` differed")).collect::<Vec<_>>().join(", "),
    };
    format!("{}: {from} -> version {}, {rows}; the subscription is new, by {}", repaired.peer, repaired.version, repaired.source)
}

fn repaired_json(repaired: &Repaired) -> serde_json::Value {
    let rows: serde_json::Map<_, _> = repaired.repaired_rows.iter().map(|(table, rows)| (table.clone(), json!(rows))).collect();
    json!({"peer": repaired.peer, "source": repaired.source, "from_version": repaired.from_version, "version": repaired.version, "repaired_rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_says_what_it_found() {
        let mut repaired = Repaired {
            peer: "p1".into(),
            source: "r1".into(),
            from_version: Some(3),
            version: 5,
            repaired_rows: vec![("place".into(), 2)],
        };
        assert_eq!(repaired_text(&repaired), "p1: version 3 -> version 5, 2 rows of `place` differed; the subscription is new, by r1");
        assert_eq!(
            repaired_json(&repaired).to_string(),
            r#"{"from_version":3,"peer":"p1","repaired_rows":{"place":2},"source":"r1","version":5}"#
        );
        repaired.repaired_rows.clear();
        repaired.from_version = None;
        assert_eq!(repaired_text(&repaired), "p1: nothing -> version 5, every row was right; the subscription is new, by r1");
    }
}
