//! Tries a schema out on a PostgreSQL server and learns the facts that the check needs.
//!
//! Everything happens inside one transaction that is rolled back, roles included, so that a database that a user
//! names is left as it was. Nothing of the schema is executed but its definitions: statements are prepared and
//! explained. `PREPARE` itself is the gate that lets only SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES pass.

mod catalogue;
mod probe;
mod statements;

use rootward_schema::Source;
use rootward_schema::facts::{Facts, ServerError, TableError};
use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::{Client, Transaction};

/// A statement of a schema file that runs longer than this is not a definition.
const STATEMENT_TIMEOUT: &str = "30s";

/// Why a schema could not be tried out. Faults of the schema itself are facts, not errors.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectError {
    /// The database has objects of the names that the schema wants to create.
    #[error("the database holds {names} already; a schema is tried out in an empty database")]
    NotEmpty {
        /// The names, in backquotes.
        names: String,
    },
    /// The connection broke, or the server refused one of our own statements.
    #[error("cannot try the schema out on the server")]
    Database(#[from] tokio_postgres::Error),
}

/// Tries a schema out and returns what the server says about it.
///
/// The session must be allowed to create tables in namespace `public`, and roles. It is rolled back at the end; when
/// the future is dropped midway, the server rolls it back as soon as the connection is used again or closed.
///
/// # Errors
/// [`IntrospectError`] if the database is not empty, or fails.
pub async fn introspect(client: &mut Client, source: &Source) -> Result<Facts, IntrospectError> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "set local search_path = public; set local standard_conforming_strings = on; set local check_function_bodies = on;
             set local statement_timeout = '{STATEMENT_TIMEOUT}'; set local lock_timeout = '10s';
             set local plan_cache_mode = force_generic_plan; set local row_security = on"
        ))
        .await?;
    let facts = gather(&transaction, source).await;
    transaction.rollback().await?;
    facts
}

async fn gather(transaction: &Transaction<'_>, source: &Source) -> Result<Facts, IntrospectError> {
    let before = catalogue::existing(transaction).await?;
    let table_errors = create_tables(transaction, source).await?;
    let taken: Vec<String> = table_errors.iter().filter_map(|failed| taken_name(&before, &failed.error)).collect();
    if !taken.is_empty() {
        return Err(IntrospectError::NotEmpty { names: taken.join(", ") });
    }
    let mut facts = catalogue::read(transaction, &before).await?;
    // Statements on top of missing tables would only repeat in many words what is wrong with the tables.
    let is_whole = table_errors.is_empty() && source.table_statements.iter().all(|statement| statement.is_allowed);
    facts.table_errors = table_errors;
    if is_whole {
        statements::learn(transaction, source, &mut facts).await?;
    }
    Ok(facts)
}

async fn create_tables(transaction: &Transaction<'_>, source: &Source) -> Result<Vec<TableError>, IntrospectError> {
    let mut failed: Vec<TableError> = Vec::new();
    for (at, statement) in source.table_statements.iter().enumerate() {
        if !statement.is_allowed {
            continue;
        }
        transaction.batch_execute("savepoint rootward_table").await?;
        // The extended protocol takes one statement only, whatever our tokenizer thought of the text.
        let Err(error) = transaction.execute(statement.sql.as_str(), &[]).await else {
            transaction.batch_execute("release savepoint rootward_table").await?;
            continue;
        };
        let error = server_error(error, &statement.sql, 0)?;
        transaction.batch_execute("rollback to savepoint rootward_table").await?;
        let is_consequence = error.sqlstate == "42P01"
            && (failed.iter().filter_map(|earlier| source.table_statements.get(earlier.statement)))
                .chain(source.table_statements.iter().filter(|statement| !statement.is_allowed))
                .any(|earlier| error.message.split('"').nth(1).is_some_and(|name| earlier.sql.contains(name)));
        if !is_consequence {
            failed.push(TableError { statement: at, error });
        } else if failed.is_empty() {
            tracing::debug!(message = error.message, "a statement fails because of one that was not run");
        }
    }
    Ok(failed)
}

/// The name that is taken by something that was there before.
fn taken_name(before: &catalogue::Existing, error: &ServerError) -> Option<String> {
    let name = error.message.split('"').nth(1)?;
    // duplicate_table, duplicate_object, duplicate_function
    let is_taken = matches!(error.sqlstate.as_str(), "42P07" | "42710" | "42723") && before.names.iter().any(|known| known == name);
    is_taken.then(|| format!("`{name}`"))
}

/// What the server said about a text that stands behind `prefix` bytes of ours.
///
/// # Errors
/// The error itself if it is none of the server's about this statement: the connection broke, or was ended.
fn server_error(error: tokio_postgres::Error, sql: &str, prefix: usize) -> Result<ServerError, IntrospectError> {
    let Some(told) = error.as_db_error() else { return Err(error.into()) };
    if told.code().code().starts_with("57P") || told.code().code().starts_with("08") {
        return Err(error.into());
    }
    Ok(ServerError {
        sqlstate: told.code().code().to_owned(),
        message: told.message().to_owned(),
        detail: told.detail().map(str::to_owned),
        hint: told.hint().map(str::to_owned),
        offset: offset(told, sql, prefix),
    })
}

/// PostgreSQL counts characters from 1, over the whole text that it was sent.
fn offset(error: &DbError, sql: &str, prefix: usize) -> Option<usize> {
    let Some(ErrorPosition::Original(position)) = error.position() else { return None };
    let character = usize::try_from(*position).ok()?.checked_sub(1 + prefix)?;
    Some(sql.char_indices().nth(character).map_or(sql.len(), |(at, _)| at))
}
