//! `rootward snapshot …` and `rootward query --all`: one consistent cut over all peers, and what is read of it.

mod view;

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use rootward_client::{Fault, Snapshot as Taken, SnapshotOptions, v1};

use self::view::{Printer, facts_json, facts_text, progress_text};
use super::{Context, exit, fail};
use crate::output::{self, StatusLine};

/// How often a query says how far it is.
const PROGRESS_MS: u32 = 1_000;

/// Take one consistent cut over all peers, and read it.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a snapshot and print its id; it lives for a minute after it was used last.
    #[command(after_help = "Example:\n  rootward snapshot take --wait 5")]
    Take {
        #[command(flatten)]
        how: How,
        /// How long it lives after it was used last, in seconds.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
        lifetime: Option<u64>,
    },
    /// Run one SQL statement that only reads on every peer, at a snapshot.
    #[command(after_help = "Example:\n  rootward snapshot query 0198f3a0-0000-7000-8000-000000000001 'select count(*) from account'")]
    Query {
        /// The snapshot's id.
        id: String,
        /// One SELECT, VALUES or WITH.
        sql: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Let go of a snapshot before it expires.
    #[command(after_help = "Example:\n  rootward snapshot release 0198f3a0-0000-7000-8000-000000000001")]
    Release {
        /// The snapshot's id.
        id: String,
    },
}

/// How a snapshot is taken.
#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// Do without peers that don't answer; the code is 6 then.
    #[arg(long)]
    pub partial: bool,
    /// How long chains that are under way are waited for, in seconds; as long as --timeout if it is not given.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: Option<u64>,
}

/// Whose rows are wanted.
#[derive(Debug, Clone, Args)]
pub(crate) struct Whose {
    /// Only this peer's rows.
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// The rows of each peer by themselves.
    #[arg(long)]
    pub per_peer: bool,
    /// Read a query of reference data alone at the peer that is nearest to the router, not at the hub. Its copy may be older.
    #[arg(long, conflicts_with_all = ["peer", "per_peer"])]
    pub nearest: bool,
    /// Say once a second on stderr how far it is; a terminal is told anyway.
    #[arg(long)]
    pub progress: bool,
}

/// Does it and prints the answer.
pub(crate) async fn run(context: &Context, snapshot: Snapshot) -> ExitCode {
    match snapshot.verb {
        Verb::Take { how, lifetime } => match take(context, &how, lifetime).await {
            Ok(taken) => print_facts(context, taken.facts()),
            Err(fault) => fail(&fault, context.format),
        },
        Verb::Query { id, sql, whose } => match query(context, &id, &sql, &whose).await {
            Ok(mut printer) => {
                printer.end(None);
                code_of(&printer.missing_peers)
            }
            Err(fault) => fail(&fault, context.format),
        },
        Verb::Release { id } => match context.client.release_snapshot(&id).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => fail(&fault, context.format),
        },
    }
}

/// Takes a snapshot, runs one statement on it and lets go of it.
pub(crate) async fn query_all(context: &Context, sql: &str, how: &How, whose: &Whose) -> ExitCode {
    let taken = match take(context, how, None).await {
        Ok(taken) => taken,
        Err(fault) => return fail(&fault, context.format),
    };
    let printed = query(context, taken.id(), sql, whose).await;
    let facts = taken.facts().clone();
    // What can't be released expires by itself.
    let _ = taken.release().await;
    match printed {
        Ok(mut printer) => {
            printer.end(Some(&facts));
            code_of(&facts.missing_peers)
        }
        Err(fault) => fail(&fault, context.format),
    }
}

async fn take(context: &Context, how: &How, lifetime: Option<u64>) -> Result<Taken, Fault> {
    let options =
        SnapshotOptions { partial: how.partial, wait: how.wait.map(Duration::from_secs), lifetime: lifetime.map(Duration::from_secs) };
    context.client.take_snapshot(options).await
}

async fn query(context: &Context, id: &str, sql: &str, whose: &Whose) -> Result<Printer, Fault> {
    let request = v1::QuerySnapshotRequest {
        snapshot_id: id.to_owned(),
        sql: sql.to_owned(),
        peer: whose.peer.clone().unwrap_or_default(),
        per_peer: whose.per_peer,
        nearest: whose.nearest,
        progress_ms: if whose.progress || std::io::stderr().is_terminal() { PROGRESS_MS } else { 0 },
    };
    let mut pages = context.client.query_snapshot(request).await?;
    let mut printer = Printer::new(context.format);
    let mut status = StatusLine::default();
    while let Some(page) = pages.next().await? {
        match &page.progress {
            Some(progress) => status.show(&progress_text(progress)),
            None => {
                status.clear();
                printer.page(page);
            }
        }
    }
    Ok(printer)
}

fn print_facts(context: &Context, facts: &v1::TakeSnapshotResponse) -> ExitCode {
    if context.format.is_json() {
        output::print(&facts_json(facts).to_string());
    } else {
        output::print(&format!("snapshot {}", facts.snapshot_id));
        output::print(&facts_text(facts));
    }
    code_of(&facts.missing_peers)
}

fn code_of(missing: &[String]) -> ExitCode {
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::PARTIAL) }
}
