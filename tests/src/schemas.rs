//! Compiled schemas for tests, each compiled once in a process.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use rootward_cluster::{Compiled, introspect, scratch_database};
use rootward_schema::{Source, check, render};
use tokio_postgres::NoTls;

/// Compiles one of the examples: `bank`, `shop`, `locations`, `workflow`.
///
/// # Errors
/// Whatever is wrong with it.
pub async fn compile_example(exe: &Path, name: &str) -> Result<Compiled> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schema/examples").join(name);
    compile(exe, Source::read(&folder)).await
}

/// Compiles what was read or written by a test.
///
/// # Errors
/// The findings as text.
pub async fn compile(exe: &Path, source: Source) -> Result<Compiled> {
    let scratch = scratch_database(exe.to_owned()).await?;
    let (mut client, connection) = tokio_postgres::connect(&scratch.conninfo(), NoTls).await?;
    let task = tokio::spawn(connection);
    let facts = introspect(&mut client, &source).await.context("the tables could not be tried out")?;
    drop(client);
    let _ = task.await;
    match check(&source, &facts) {
        Ok((schema, warnings)) => Ok(Compiled { source, schema, warnings }),
        Err(findings) => Err(anyhow!("{}", render(&findings, &source))),
    }
}
