//! Which columns a prepared statement updates.
//!
//! PostgreSQL shows nobody the target list of a plan, but it checks rights on it: a role that may do everything but
//! update one column is refused exactly by the statements that update it. `EXPLAIN` checks rights and runs nothing.

use rootward_schema::facts::{Access, Facts, StatementFact};
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, SimpleQueryMessage, Transaction};

/// The role that asks, if it could be made; it never outlives the transaction.
pub(crate) struct Probe {
    role: Option<String>,
}

impl Probe {
    /// Makes the role. Without the right to do so the facts are thinner: no UPDATE of a root key is found here, and
    /// the database itself refuses it when it runs.
    pub async fn new(transaction: &Transaction<'_>, facts: &Facts) -> Result<Probe, Error> {
        // Roles belong to the whole server, so that two checks at once need two names.
        let role: String = transaction.query_one("select 'rootward_schema_probe_' || pg_backend_pid()", &[]).await?.get(0);
        transaction.batch_execute("savepoint rootward_probe").await?;
        let mut sql = format!("create role {role}; grant {role} to current_user; grant usage on schema public to {role};");
        let relations = facts.tables.iter().map(|table| &table.name).chain(facts.views.iter().map(|view| &view.name));
        for relation in relations {
            sql.push_str(&format!("grant select, insert, delete on public.{} to {role};", quote(relation)));
        }
        for table in &facts.tables {
            let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
            if !columns.is_empty() {
                sql.push_str(&format!("grant update ({}) on public.{} to {role};", columns.join(", "), quote(&table.name)));
            }
        }
        if let Err(error) = transaction.batch_execute(&sql).await {
            // A broken connection shows itself at the next statement.
            tracing::warn!(%error, "no probe role: the check doesn't find an UPDATE of a root key");
            transaction.batch_execute("rollback to savepoint rootward_probe").await?;
            return Ok(Probe { role: None });
        }
        Ok(Probe { role: Some(role) })
    }

    /// How the prepared statement `name` uses a table; none if it doesn't.
    pub async fn access(&self, transaction: &Transaction<'_>, name: &str, parameters: usize, table: &str) -> Result<Option<Access>, Error> {
        if self.role.is_none() {
            return Ok(planned_access(&plan(transaction, name, parameters).await?, table));
        }
        for (rights, access) in [("insert, update, delete", Access::Writes), ("all", Access::Reads)] {
            if self.is_refused_without(transaction, name, parameters, &format!("{rights} on public.{}", quote(table))).await? {
                return Ok(Some(access));
            }
        }
        Ok(None)
    }

    /// The columns that the prepared statement `name` updates, as table and column.
    pub async fn updated_columns(
        &self,
        transaction: &Transaction<'_>,
        facts: &Facts,
        name: &str,
        fact: &StatementFact,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        let is_written = |table: &str| fact.relations.iter().any(|relation| relation.name == table && relation.access == Access::Writes);
        for table in facts.tables.iter().filter(|table| is_written(&table.name)) {
            for column in &table.columns {
                let right = format!("update ({}) on public.{}", quote(&column.name), quote(&table.name));
                if self.is_refused_without(transaction, name, fact.parameter_types.len(), &right).await? {
                    found.push((table.name.clone(), column.name.clone()));
                }
            }
        }
        Ok(found)
    }

    /// Whether the role is refused the statement once a right is taken from it.
    async fn is_refused_without(&self, transaction: &Transaction<'_>, name: &str, parameters: usize, right: &str) -> Result<bool, Error> {
        let Some(role) = &self.role else { return Ok(false) };
        let execute = execute(name, parameters);
        let sql = format!("savepoint rootward_right; revoke {right} from {role}; set local role {role}; explain {execute}");
        let explained = transaction.simple_query(&sql).await;
        transaction.batch_execute("rollback to savepoint rootward_right").await?;
        // Any other error, such as a division by a NULL that was folded, tells nothing about rights.
        Ok(explained.is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)))
    }
}

fn execute(name: &str, parameters: usize) -> String {
    let arguments = if parameters == 0 { String::new() } else { format!("({})", vec!["null"; parameters].join(", ")) };
    format!("execute {name}{arguments}")
}

/// The plan of a prepared statement; nothing if it cannot be planned.
async fn plan(transaction: &Transaction<'_>, name: &str, parameters: usize) -> Result<Value, Error> {
    let sql = format!("savepoint rootward_plan; explain (format json) {}", execute(name, parameters));
    let explained = transaction.simple_query(&sql).await;
    transaction.batch_execute("rollback to savepoint rootward_plan").await?;
    let Ok(messages) = explained else { return Ok(Value::Null) };
    let text = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null))
}

/// How a plan uses a table. It is second best to rights: the planner leaves out what it proves to be useless.
fn planned_access(plan: &Value, table: &str) -> Option<Access> {
    let own = match plan {
        Value::Object(node) if node.get("Relation Name").and_then(Value::as_str) == Some(table) => {
            let is_write = node.get("Node Type").and_then(Value::as_str) == Some("ModifyTable");
            Some(if is_write { Access::Writes } else { Access::Reads })
        }
        _ => None,
    };
    let inner = match plan {
        Value::Object(node) => node.values().filter_map(|value| planned_access(value, table)).max(),
        Value::Array(values) => values.iter().filter_map(|value| planned_access(value, table)).max(),
        _ => None,
    };
    own.max(inner)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
