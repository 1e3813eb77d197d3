//! Facts about the statements of transactions: each is prepared, none is run.

use std::collections::BTreeMap;

use rootward_schema::facts::{Access, Facts, RelationUse, ServerError, StatementFact, StatementOutcome};
use rootward_schema::{BUILT_IN_PARAMETERS, Column, Source, TransactionSource, Type};
use tokio_postgres::{Error, Row, Transaction};

use super::probe::Probe;
use super::{IntrospectError, server_error};

/// Our name for the statement that is being looked at. Prepared statements outlive a rollback, so it is deallocated.
const NAME: &str = "rootward_probe";

/// A statement with its parameters' types as far as they are known; `None` is left to the server.
struct Asked<'a> {
    sql: &'a str,
    types: Vec<Option<Type>>,
}

/// Fills in what the server says about transactions and invariants.
pub(crate) async fn learn(transaction: &Transaction<'_>, source: &Source, facts: &mut Facts) -> Result<(), IntrospectError> {
    let probe = Probe::new(transaction, facts).await?;
    let mut statements = Vec::new();
    for declared in &source.transactions {
        statements.push(learn_transaction(transaction, declared, facts, &probe).await?);
    }
    let mut invariants = Vec::new();
    for invariant in &source.manifest.invariants {
        let mut outcomes = Vec::new();
        for (_, query) in invariant.queries() {
            outcomes.push(ask(transaction, facts, &probe, &Asked { sql: &query.value, types: Vec::new() }).await?);
        }
        invariants.push(outcomes);
    }
    facts.statements = statements;
    facts.invariants = invariants;
    Ok(())
}

/// Asks about each statement by itself first, so that a parameter with two types is noticed. Where the server cannot
/// tell a type, the other statements' answers help: `-:amount` alone could be of any numeric type.
async fn learn_transaction(
    transaction: &Transaction<'_>,
    declared: &TransactionSource,
    facts: &Facts,
    probe: &Probe,
) -> Result<Vec<StatementOutcome>, IntrospectError> {
    let mut known: BTreeMap<String, Type> = BTreeMap::new();
    let mut outcomes = Vec::new();
    for statement in &declared.statements {
        let types = statement.parameters.iter().map(|parameter| built_in(&parameter.value)).collect();
        let outcome = ask(transaction, facts, probe, &Asked { sql: &statement.sql, types }).await?;
        if let Some(fact) = outcome.prepared() {
            for (parameter, r#type) in statement.parameters.iter().zip(&fact.parameter_types) {
                known.entry(parameter.value.clone()).or_insert_with(|| r#type.clone());
            }
        }
        outcomes.push(outcome);
    }
    for (statement, outcome) in declared.statements.iter().zip(&mut outcomes) {
        if !matches!(outcome, StatementOutcome::Refused(error) if is_about_types(error)) {
            continue;
        }
        let types: Vec<Option<Type>> = statement
            .parameters
            .iter()
            .map(|parameter| built_in(&parameter.value).or_else(|| known.get(&parameter.value).cloned()))
            .collect();
        let again = ask(transaction, facts, probe, &Asked { sql: &statement.sql, types }).await?;
        if again.prepared().is_some() {
            *outcome = again;
        }
    }
    Ok(outcomes)
}

fn built_in(name: &str) -> Option<Type> {
    BUILT_IN_PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, r#type)| r#type.clone())
}

/// Errors that may go away once a parameter's type is known: indeterminate, ambiguous, mismatched, no such operator.
fn is_about_types(error: &ServerError) -> bool {
    matches!(error.sqlstate.as_str(), "42P18" | "42725" | "42804" | "42883")
}

async fn ask(transaction: &Transaction<'_>, facts: &Facts, probe: &Probe, asked: &Asked<'_>) -> Result<StatementOutcome, IntrospectError> {
    transaction.batch_execute("savepoint rootward_statement").await?;
    let outcome = prepare(transaction, facts, probe, asked).await;
    // The rollback also lets the locks go, which the next statement is known by.
    transaction.batch_execute("rollback to savepoint rootward_statement").await?;
    if matches!(outcome, Ok(StatementOutcome::Prepared(_))) {
        transaction.batch_execute(&format!("deallocate {NAME}")).await?;
    }
    outcome
}

async fn prepare(
    transaction: &Transaction<'_>,
    facts: &Facts,
    probe: &Probe,
    asked: &Asked<'_>,
) -> Result<StatementOutcome, IntrospectError> {
    let locks = held_locks(transaction).await?;
    let types: Vec<&str> = asked.types.iter().map(|r#type| r#type.as_ref().map_or("unknown", Type::name)).collect();
    let types = if types.is_empty() { String::new() } else { format!("({})", types.join(", ")) };
    let prefix = format!("prepare {NAME}{types} as ");
    // The extended protocol takes one statement only, so nothing can hide behind the first.
    if let Err(error) = transaction.execute(&format!("{prefix}{}", asked.sql), &[]).await {
        return Ok(StatementOutcome::Refused(server_error(error, asked.sql, prefix.chars().count())?));
    }
    let parameter_types = parameter_types(transaction).await?;
    let relations = relations(transaction, probe, &locks, parameter_types.len()).await?;
    let columns = match columns(transaction, asked, &parameter_types).await {
        Ok(columns) => columns,
        Err(error) => {
            transaction.batch_execute("rollback to savepoint rootward_statement").await?;
            transaction.batch_execute(&format!("deallocate {NAME}")).await?;
            return Ok(StatementOutcome::Refused(server_error(error, asked.sql, 0)?));
        }
    };
    let mut fact = StatementFact { parameter_types, columns, relations, updated_columns: Vec::new() };
    fact.updated_columns = probe.updated_columns(transaction, facts, NAME, &fact).await?;
    Ok(StatementOutcome::Prepared(fact))
}

/// The types are `regtype`s, whose text is PostgreSQL's own name.
async fn parameter_types(transaction: &Transaction<'_>) -> Result<Vec<Type>, Error> {
    let row = transaction.query_one("select parameter_types::text[] from pg_prepared_statements where name = $1", &[&NAME]).await?;
    let names: Vec<String> = row.get(0);
    Ok(names.iter().map(|name| Type::from_name(name)).collect())
}

async fn columns(transaction: &Transaction<'_>, asked: &Asked<'_>, types: &[Type]) -> Result<Vec<Column>, Error> {
    // The same types again, else the server would be as puzzled as before.
    let mut oids = Vec::new();
    for (at, r#type) in types.iter().enumerate() {
        let is_given = asked.types.get(at).is_some_and(Option::is_some);
        oids.push(if is_given { wire_type(r#type) } else { tokio_postgres::types::Type::UNKNOWN });
    }
    let statement = transaction.prepare_typed(asked.sql, &oids).await?;
    let column =
        |column: &tokio_postgres::Column| Column { name: column.name().to_owned(), r#type: Type::from_name(column.type_().name()) };
    Ok(statement.columns().iter().map(column).collect())
}

fn wire_type(r#type: &Type) -> tokio_postgres::types::Type {
    use tokio_postgres::types::Type as Wire;
    match r#type {
        Type::Boolean => Wire::BOOL,
        Type::Smallint => Wire::INT2,
        Type::Integer => Wire::INT4,
        Type::Bigint => Wire::INT8,
        Type::Real => Wire::FLOAT4,
        Type::Double => Wire::FLOAT8,
        Type::Numeric => Wire::NUMERIC,
        Type::Text => Wire::TEXT,
        Type::Varchar => Wire::VARCHAR,
        Type::Uuid => Wire::UUID,
        Type::Timestamptz => Wire::TIMESTAMPTZ,
        Type::Timestamp => Wire::TIMESTAMP,
        Type::Date => Wire::DATE,
        Type::Json => Wire::JSON,
        Type::Jsonb => Wire::JSONB,
        Type::Bytea => Wire::BYTEA,
        Type::Other(_) => Wire::UNKNOWN,
    }
}

/// Locks of this transaction on relations of namespace `public`: relation and mode.
type Locks = Vec<(String, String)>;

/// Creating a table leaves AccessExclusiveLock, which tells nothing; a view or a function left those of its tables.
async fn held_locks(transaction: &Transaction<'_>) -> Result<Locks, Error> {
    let rows = transaction
        .query(
            "select relname::text, mode from pg_locks join pg_class on pg_class.oid = relation
             where pid = pg_backend_pid() and locktype = 'relation' and relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'f', 'v', 'm')",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row: &Row| (row.get(0), row.get(1))).collect())
}

async fn relations(transaction: &Transaction<'_>, probe: &Probe, before: &Locks, parameters: usize) -> Result<Vec<RelationUse>, Error> {
    let mut found: BTreeMap<String, Access> = BTreeMap::new();
    let held = held_locks(transaction).await?;
    for (relation, mode) in held.clone() {
        let Some(access) = access(&mode) else { continue };
        let was_locked = before.iter().any(|(known, mode)| *known == relation && self::access(mode).is_some());
        // A lock that a definition left hides the statement's own, so rights have to tell.
        let access = if was_locked { probe.access(transaction, NAME, parameters, &relation).await? } else { Some(access) };
        let Some(mut access) = access else { continue };
        // SELECT FOR UPDATE wants the right to write, but takes no lock to write.
        if access == Access::Writes && !held.contains(&(relation.clone(), "RowExclusiveLock".to_owned())) {
            access = Access::Locks;
        }
        let known = found.entry(relation).or_insert(access);
        *known = (*known).max(access);
    }
    Ok(found.into_iter().map(|(name, access)| RelationUse { name, access }).collect())
}

/// What a statement that can be prepared does to a relation, by the lock that it takes on it.
fn access(mode: &str) -> Option<Access> {
    match mode {
        "AccessShareLock" => Some(Access::Reads),
        "RowShareLock" => Some(Access::Locks),
        "RowExclusiveLock" => Some(Access::Writes),
        _ => None,
    }
}
