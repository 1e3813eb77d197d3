//! Brings the tables of one database to what the schema files say. Each statement that was applied is remembered, so that
//! only new ones run; a changed table may gain columns, and nothing that holds data is ever dropped.

use std::collections::BTreeSet;

use rootward_schema::{Column, Node, Schema, Source, containment_sql, quoted};
use sha2::{Digest as _, Sha256};
use tokio_postgres::{GenericClient, Transaction};

/// Remembers what was applied, on each node by itself, so that an apply that failed half way can be run again.
const LEDGER: &str = "create table if not exists rootward.applied_statement (digest bytea primary key, sql text not null, applied_at timestamptz not null default now());
grant select on rootward.applied_statement to rootward_system;";

/// A change that would lose data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossyChange {
    /// The table that is concerned.
    pub table: String,
    /// What would be lost.
    pub what: String,
}

/// Why a database was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// PostgreSQL refused a statement.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The new files would lose data.
    #[error("{}", .0.iter().map(|change| format!("table `{}`: {}", change.table, change.what)).collect::<Vec<_>>().join("; "))]
    Lossy(Vec<LossyChange>),
}

fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Applies tables, rights and the definition in one transaction.
///
/// # Errors
/// [`ApplyError`]; the database is as it was then.
pub(crate) async fn apply_to_node(
    client: &mut tokio_postgres::Client,
    node: Node,
    source: &Source,
    schema: &Schema,
) -> Result<(), ApplyError> {
    let transaction = client.transaction().await?;
    // Whatever the superuser is called: a namespace of its name would come first.
    transaction.batch_execute("set local search_path = public").await?;
    transaction.batch_execute(LEDGER).await?;
    refuse_losses(&transaction, schema).await?;
    for statement in &source.table_statements {
        run_once(&transaction, &statement.sql, schema).await?;
    }
    transaction.batch_execute(&containment_sql(schema, node)).await?;
    transaction.batch_execute(OTHER_OBJECTS).await?;
    let definition = serde_json::to_value(schema).unwrap_or_default();
    let version = i32::try_from(schema.version).unwrap_or(i32::MAX);
    let sql = "insert into rootward.schema_version (version, definition) values ($1, $2) on conflict (version) do update set definition = excluded.definition";
    transaction.execute(sql, &[&version, &definition]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Views see what the caller sees; functions run with the caller's rights; both are the owner's, who has none of his own.
const OTHER_OBJECTS: &str = "do $$ declare v record; begin
  for v in select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'v' loop
    execute format('alter view public.%I owner to rootward_owner; revoke all on public.%I from public; grant select on public.%I to rootward_lane, rootward_reader', v.relname, v.relname, v.relname);
  end loop;
  for v in select p.oid::regprocedure as name from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' loop
    execute format('revoke all on function %s from public; grant execute on function %s to rootward_lane, rootward_system, rootward_reader', v.name, v.name);
  end loop;
end $$;";

async fn run_once(transaction: &Transaction<'_>, sql: &str, schema: &Schema) -> Result<(), ApplyError> {
    let digest = Sha256::digest(sql.trim().as_bytes()).to_vec();
    if transaction.query_opt("select from rootward.applied_statement where digest = $1", &[&digest]).await?.is_some() {
        return Ok(());
    }
    match existing_table(transaction, sql, schema).await? {
        Some(table) => add_columns(transaction, &table, schema).await?,
        None => transaction.batch_execute(sql).await?,
    }
    transaction.execute("insert into rootward.applied_statement (digest, sql) values ($1, $2)", &[&digest, &sql]).await?;
    Ok(())
}

/// The table that a changed CREATE TABLE makes, if it is there already.
async fn existing_table(transaction: &Transaction<'_>, sql: &str, schema: &Schema) -> Result<Option<String>, ApplyError> {
    let words: Vec<String> = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(|line| line.split(|character: char| character.is_whitespace() || character == '('))
        .filter(|word| !word.is_empty())
        .take(8)
        .map(str::to_lowercase)
        .collect();
    if words.first().map(String::as_str) != Some("create") || words.get(1).map(String::as_str) != Some("table") {
        return Ok(None);
    }
    let name = words.iter().skip(2).find(|word| !matches!(word.as_str(), "if" | "not" | "exists"));
    let name = name.map(|word| word.trim_start_matches("public.").trim_matches('"').to_owned());
    let Some(name) = name.filter(|name| columns_of(schema, name).is_some()) else { return Ok(None) };
    Ok(if database_columns(transaction, &name).await?.is_empty() { None } else { Some(name) })
}

async fn add_columns(transaction: &Transaction<'_>, table: &str, schema: &Schema) -> Result<(), ApplyError> {
    let known: BTreeSet<String> = database_columns(transaction, table).await?.into_iter().map(|(name, _)| name).collect();
    for column in columns_of(schema, table).unwrap_or_default().iter().filter(|column| !known.contains(&column.name)) {
        // New columns start empty: what the rows of before mean in them, nobody here can know.
        let sql = format!("alter table public.{} add column {} {}", quoted(table), quoted(&column.name), column.r#type.name());
        transaction.batch_execute(&sql).await?;
    }
    Ok(())
}

fn columns_of<'a>(schema: &'a Schema, table: &str) -> Option<&'a [Column]> {
    let reference = schema.reference.iter().find(|other| other.name == table).map(|other| other.columns.as_slice());
    schema.tree_table(table).map(|(_, table)| table.columns.as_slice()).or(reference)
}

async fn database_columns(client: &impl GenericClient, table: &str) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let sql = "select a.attname, format_type(a.atttypid, null) from pg_attribute a join pg_class c on c.oid = a.attrelid \
               where c.relnamespace = 'public'::regnamespace and c.relname = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";
    client.query(sql, &[&table]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Everything that the database has and the schema doesn't: tables, columns, and columns of another type.
async fn refuse_losses(transaction: &Transaction<'_>, schema: &Schema) -> Result<(), ApplyError> {
    let sql = "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1";
    let mut lossy = Vec::new();
    for row in transaction.query(sql, &[]).await? {
        let table: String = row.try_get(0)?;
        let Some(wanted) = columns_of(schema, &table) else {
            lossy.push(LossyChange { table, what: "it is not in the new schema, and its rows would be lost".to_owned() });
            continue;
        };
        for (name, type_name) in database_columns(transaction, &table).await? {
            match wanted.iter().find(|column| column.name == name) {
                None => lossy.push(LossyChange { table: table.clone(), what: format!("column `{name}` would be lost") }),
                Some(column) if rootward_schema::Type::from_name(&type_name) != column.r#type => {
                    let what = format!("column `{name}` would change from {type_name} to {}", column.r#type.name());
                    lossy.push(LossyChange { table: table.clone(), what });
                }
                Some(_) => {}
            }
        }
    }
    if lossy.is_empty() { Ok(()) } else { Err(ApplyError::Lossy(lossy)) }
}
