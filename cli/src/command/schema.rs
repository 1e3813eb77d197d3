//! `rootward schema …`: check, show and apply a folder of schema files.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rootward_cluster::{ApplyError, CompileError, Compiled, DeployError, Topology, TopologyError, compile_folder, deploy, parse_topology};
use rootward_schema::{Finding, Source};

use crate::{
    output::{self, Format},
    schema_command,
};

/// Check, show and apply schema files.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find everything that is wrong, with file, line, reason and help.
    #[command(after_help = "Example:\n  rootward schema check schema/examples/bank")]
    Check(Folder),
    /// Print the trees, the transactions and the chains.
    #[command(after_help = "Example:\n  rootward schema show schema/examples/shop")]
    Show(Folder),
    /// Set up the databases of a cluster, and bring tables, rights and definitions to all of them. Resumable.
    #[command(after_help = "Example:\n  rootward schema apply schema/examples/bank --cluster docs/samples/cluster.toml")]
    Apply {
        #[command(flatten)]
        folder: Folder,
        /// The file that names the hub's and the peers' databases.
        #[arg(long, value_name = "FILE")]
        cluster: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Folder {
    /// The folder with rootward.toml, tables and transactions.
    dir: PathBuf,
    /// Take the facts from this empty database, not from a scratch server.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl Folder {
    async fn compile(&self) -> anyhow::Result<Result<Compiled, CompileError>> {
        let exe = std::env::current_exe()?;
        Ok(compile_folder(Path::new(&self.dir), &exe, self.database.as_deref()).await)
    }
}

/// Runs the verb.
pub(crate) async fn run(schema: Schema, format: Format) -> anyhow::Result<ExitCode> {
    match schema.verb {
        Verb::Check(folder) => check(&folder, format).await,
        Verb::Show(folder) => match folder.compile().await? {
            Ok(compiled) if format.is_json() => {
                output::print(&serde_json::to_string(&schema_command::show_json(&compiled.schema))?);
                Ok(ExitCode::SUCCESS)
            }
            Ok(compiled) => {
                output::print(schema_command::show_text(&compiled.schema).trim_end());
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => refuse(error),
        },
        Verb::Apply { folder, cluster } => match folder.compile().await? {
            Ok(compiled) => apply(&compiled, &cluster).await,
            Err(error) => refuse(error),
        },
    }
}

async fn check(folder: &Folder, format: Format) -> anyhow::Result<ExitCode> {
    match folder.compile().await? {
        Ok(compiled) => {
            if format.is_json() {
                output::print(&serde_json::to_string(&schema_command::findings_json(&compiled.warnings, &compiled.source))?);
            } else {
                let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                if !compiled.warnings.is_empty() {
                    output::print_error(schema_command::report(&compiled.warnings, &compiled.source, is_coloured).trim_end());
                }
                let schema = &compiled.schema;
                output::print(&format!(
                    "schema `{}` version {} is right: {} root entities, {} reference tables, {} transactions, {} chains",
                    schema.name,
                    schema.version,
                    schema.roots.len(),
                    schema.reference.len(),
                    schema.transactions.len(),
                    schema.chains.len()
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(CompileError::Findings(source, findings)) if format.is_json() => {
            output::print(&serde_json::to_string(&schema_command::findings_json(&findings, &source))?);
            Ok(ExitCode::from(2))
        }
        Err(error) => refuse(error),
    }
}

/// Prints what is wrong with a schema; the code of wrong files is 2.
pub(crate) fn refuse(error: CompileError) -> anyhow::Result<ExitCode> {
    let CompileError::Findings(source, findings) = error else { return Err(error.into()) };
    print_findings(&source, &findings);
    Ok(ExitCode::from(2))
}

pub(crate) fn print_findings(source: &Source, findings: &[Finding]) {
    let is_coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    output::print_error(schema_command::report(findings, source, is_coloured).trim_end());
}

/// Sets up one more peer: what the others have already stays as it is.
pub(crate) async fn apply_to_new(dir: &Path, cluster: &Path, id: &str) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(cluster).with_context(|| format!("can't read {}", cluster.display()))?;
    if let Ok(topology) = parse_topology(&text)
        && !topology.peer.contains_key(id)
    {
        output::print_error(&format!(
            "error[RW1102]: {}: there is no [peer.{id}]\n  help: add it with its `database`; docs/samples/cluster.toml is a complete example",
            cluster.display()
        ));
        return Ok(ExitCode::from(2));
    }
    let folder = Folder { dir: dir.to_owned(), database: None };
    match folder.compile().await? {
        Ok(compiled) => apply(&compiled, cluster).await,
        Err(error) => refuse(error),
    }
}

/// The databases that a file names; none if it is wrong, which has been said then.
pub(super) fn topology_of(cluster: &Path) -> anyhow::Result<Option<Topology>> {
    let text = std::fs::read_to_string(cluster).with_context(|| format!("can't read {}", cluster.display()))?;
    let parsed = parse_topology(&text);
    let wrong = |error: &TopologyError| {
        output::print_error(&format!("error[RW1102]: {}: {error}\n  help: {}", cluster.display(), error.help()));
    };
    Ok(parsed.inspect_err(wrong).ok())
}

async fn apply(compiled: &Compiled, cluster: &Path) -> anyhow::Result<ExitCode> {
    let Some(topology) = topology_of(cluster)? else { return Ok(ExitCode::from(2)) };
    match deploy(&topology, &compiled.source, &compiled.schema).await {
        Ok(deployed) => {
            let from = deployed.from_version.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"));
            output::print(&format!("{}: {from} -> version {} on {}", topology.name, deployed.version, deployed.nodes.join(", ")));
            for id in &deployed.copying {
                output::print_error(&format!("warning: {id} is still copying the reference data; see `rootward status`"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let (code, exit, help) = explain(&error);
            output::print_error(&format!("error[{code}]: {error}\n  help: {help}"));
            Ok(ExitCode::from(exit))
        }
    }
}

pub(super) fn explain(error: &DeployError) -> (&'static str, u8, &'static str) {
    match error {
        DeployError::Postgres { .. } => ("RW5006", 5, "what was done stays; the same command goes on from there"),
        DeployError::Apply { source: ApplyError::Lossy(_), .. } => {
            ("RW1103", 4, "nothing is dropped by `schema apply`: move the data yourself, or keep the table or column in the schema")
        }
        DeployError::Apply { .. } => ("RW5006", 5, "that database is unchanged, the others are done; the same command goes on from there"),
        DeployError::SameVersion(_) | DeployError::OlderVersion(..) => ("RW1104", 4, "raise `version` in rootward.toml with every change"),
        DeployError::Partitions(..) => ("RW1105", 4, "put the old number back into rootward.toml"),
        DeployError::NoNode(..) => ("RW5007", 3, "name one of them"),
        DeployError::NoSource(..) => ("RW5010", 2, "name the hub or a relay with --from, or leave it out"),
        DeployError::Placement(_) => ("RW1111", 4, "put regions and `place_by` back into rootward.toml; new regions come at the end"),
        DeployError::NoPeer(rootward_schema::NoPeer::InRegion(_)) => {
            ("RW1112", 4, "give a peer that region in the file of the cluster's databases, or take the region out of the schema")
        }
        DeployError::NoCapacity(_) | DeployError::NoPeer(_) => ("RW1102", 2, "give at least one peer a capacity above 0"),
        DeployError::Moving(_) => ("RW5041", 4, "wait for the end of the moves, or cancel them: `rootward partition moves`"),
        DeployError::Definition(_) => ("RW5006", 5, "this program may be older than the one that applied it"),
    }
}
