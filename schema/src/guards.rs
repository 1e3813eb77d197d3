//! Triggers of ours that hold what rights alone don't, for the tables' owner and superusers too: rows that are only ever inserted, and
//! reference data that trees refer to.
//!
//! They don't fire where a subscription applies what the hub has let through, nor for the worker's own sessions, which take away
//! the rows of a partition that has moved.

use std::fmt::Write as _;

use crate::containment::{Node, quoted};
use crate::definition::{ReferenceTable, Schema};

/// Makes exactly the triggers that the schema asks for.
pub(crate) fn guards_sql(sql: &mut String, schema: &Schema, node: Node) {
    let trees = schema.roots.values().flat_map(|root| root.tables.iter().map(|table| table.name.as_str()));
    for table in trees.chain(schema.reference.iter().map(|table| table.name.as_str())) {
        let is_wanted = schema.is_insert_only(table);
        let why = ("rows are only ever inserted", "insert another row instead");
        guard(sql, table, "rootward_insert_only", is_wanted.then_some("update or delete"), "", why);
        guard(sql, table, "rootward_insert_only_truncate", is_wanted.then_some("truncate"), "", why);
    }
    for table in &schema.reference {
        retired(sql, table, node);
    }
}

/// The apply worker on a peer checks no foreign keys, so what trees refer to must stay where it comes from.
fn retired(sql: &mut String, table: &ReferenceTable, node: Node) {
    let is_wanted = table.is_referred_to && node == Node::Hub;
    let why = ("trees refer to its rows, which are never deleted", "retire them instead, for example with a column `is_retired`");
    guard(sql, &table.name, "rootward_retire", is_wanted.then_some("delete"), "", why);
    guard(sql, &table.name, "rootward_retire_truncate", is_wanted.then_some("truncate"), "", why);
    let columns: Vec<String> = table.referred_columns.iter().map(|column| quoted(column)).collect();
    let event = format!("update of {}", columns.join(", "));
    let is_changed: Vec<String> = columns.iter().map(|column| format!("old.{column} is distinct from new.{column}")).collect();
    let why = ("trees refer to its rows by this key, which never changes", "insert another row, and retire this one");
    let event = (is_wanted && !columns.is_empty()).then_some(event.as_str());
    guard(sql, &table.name, "rootward_keep_key", event, &is_changed.join(" or "), why);
}

fn guard(sql: &mut String, table: &str, trigger: &str, event: Option<&str>, when: &str, (why, hint): (&str, &str)) {
    let name = quoted(table);
    let Some(event) = event else {
        let _ = writeln!(sql, "drop trigger if exists {trigger} on public.{name};");
        return;
    };
    let each = if event == "truncate" { "statement" } else { "row" };
    let when = if when.is_empty() { String::new() } else { format!(" when ({when})") };
    let _ = writeln!(
        sql,
        "create or replace trigger {trigger} before {event} on public.{name} for each {each}{when} execute function rootward.refuse_change('{why}', '{hint}');"
    );
}
