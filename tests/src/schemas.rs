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

/// Compiles one of the examples with some of its files changed.
///
/// # Errors
/// Whatever is wrong with it.
pub async fn compile_changed(exe: &Path, name: &str, change: impl Fn(&str, String) -> String) -> Result<Compiled> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schema/examples").join(name);
    let mut files = vec!["rootward.toml".to_owned(), "tables.sql".to_owned()];
    for entry in std::fs::read_dir(folder.join("transactions"))?.flatten() {
        files.push(format!("transactions/{}", entry.file_name().to_string_lossy()));
    }
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(folder.join(&file))?;
        texts.push((file.clone(), change(&file, text)));
    }
    compile(exe, Source::from_texts(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())))).await
}

/// The workflow with chains that only tests want.
///
/// # Errors
/// Whatever is wrong with it.
pub async fn compile_workflow(exe: &Path) -> Result<Compiled> {
    compile_changed(exe, "workflow", |file, text| match file {
        "rootward.toml" => text + include_str!("more_chains.toml"),
        _ => text,
    })
    .await
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
