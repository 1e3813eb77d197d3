//! `rootward peer add`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use rootward_client::{Fault, v1};

use super::{Context, exit, fail};
use crate::output;

/// Which peer, and what it gets.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The peer's id, as the file of databases has it.
    id: String,
    /// The folder with the schema that is in force.
    dir: PathBuf,
    /// The file that names the databases, the new one among them.
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
}

/// Sets the peer up, by what `schema apply` does for all of them.
pub(crate) async fn run(context: &Context, add: Add) -> ExitCode {
    match super::schema::apply_to_new(&add.dir, &add.cluster, &add.id).await {
        Ok(code) if code == ExitCode::SUCCESS => {
            if !context.format.is_json() {
                output::print(&format!(
                    "{} is set up; start its worker, wait until `rootward peer list` shows it serving, then `rootward rebalance --plan`",
                    add.id
                ));
            }
            code
        }
        Ok(code) => code,
        Err(error) => {
            let fault = Fault::new("RW5006", v1::RetryClass::Retry, format!("{error:#}"), "the same command goes on from there");
            fail(&fault, context.format);
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}
