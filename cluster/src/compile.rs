//! From a folder of schema files to a compiled schema, by way of a scratch database.

use std::path::{Path, PathBuf};

use rootward_schema::{Finding, Schema, Source, check};

use crate::{IntrospectError, ServerError, introspect, scratch_database, session};

/// A schema that the check found nothing wrong with.
#[derive(Debug)]
pub struct Compiled {
    /// What was read.
    pub source: Source,
    /// The definition.
    pub schema: Schema,
    /// What is not wrong but worth a look.
    pub warnings: Vec<Finding>,
}

/// Why there is no compiled schema.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The files are wrong; everything that is wrong with them.
    #[error("the schema has {} findings", .1.len())]
    Findings(Box<Source>, Vec<Finding>),
    /// No scratch server.
    #[error("the scratch server did not start")]
    Server(#[from] ServerError),
    /// The given database can't be reached.
    #[error("the database can't be reached")]
    Connect(#[from] tokio_postgres::Error),
    /// The facts could not be read.
    #[error("the tables could not be tried out")]
    Introspect(#[from] IntrospectError),
}

/// Reads and checks a folder. The facts come from `database`, or from a scratch server that is started and thrown away.
///
/// # Errors
/// [`CompileError`]; with all findings if the files are wrong.
pub async fn compile_folder(folder: &Path, rootward_exe: &Path, database: Option<&str>) -> Result<Compiled, CompileError> {
    compile_source(Source::read(folder), rootward_exe, database).await
}

/// The same for files that have been read already.
///
/// # Errors
/// As [`compile_folder`].
pub async fn compile_source(source: Source, rootward_exe: &Path, database: Option<&str>) -> Result<Compiled, CompileError> {
    let facts = match database {
        Some(database) => facts_from(database, &source).await?,
        None => {
            let server = scratch_database(PathBuf::from(rootward_exe)).await?;
            facts_from(&server.conninfo(), &source).await?
        }
    };
    match check(&source, &facts) {
        Ok((schema, warnings)) => Ok(Compiled { source, schema, warnings }),
        Err(findings) => Err(CompileError::Findings(Box::new(source), findings)),
    }
}

async fn facts_from(database: &str, source: &Source) -> Result<rootward_schema::facts::Facts, CompileError> {
    let (mut client, connection) = session::connect(database).await?;
    // The connection's own task; it ends when the client is dropped.
    #[allow(clippy::disallowed_methods)] // it is waited for below
    let task = tokio::spawn(connection);
    let facts = introspect(&mut client, source).await;
    drop(client);
    let _ = task.await;
    Ok(facts?)
}
