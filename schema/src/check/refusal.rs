//! Whether a statement can be refused for a business reason.
//!
//! The rule, on the safe side but usable. A statement can be refused if
//! - it has an `-- expect:`;
//! - it calls a function of the schema that may RAISE or write: one that is not both in SQL and stable or immutable;
//! - it writes a table with a trigger, which may RAISE;
//! - it inserts (or merges) into a table with a CHECK, a unique key besides the primary key, a foreign key, or a
//!   NOT NULL column that is neither in the primary key nor has a default; or with a primary key that may be taken:
//!   one that the statement doesn't fill from `:request_id`, unless it says ON CONFLICT;
//! - it updates a column that a CHECK, a primary, unique or foreign key or NOT NULL looks at;
//! - it deletes from a table that a foreign key refers to and that key doesn't delete along.
//!
//! Faults that are no refusals, such as an overflow or a division by zero, are not counted.

use crate::check::functions;
use crate::facts::{Access, Action, Facts, FunctionFact, StatementFact, TableFact};
use crate::sql;
use crate::transaction_file::StatementSource;

pub(crate) fn can_refuse(facts: &Facts, statement: &StatementSource, fact: Option<&StatementFact>) -> bool {
    let Some(fact) = fact else { return true };
    let is_harmless = |function: &FunctionFact| function.language == "sql" && function.volatility != 'v';
    if statement.expect.is_some() || !functions::called(facts, &statement.sql).iter().all(|function| is_harmless(function)) {
        return true;
    }
    let written = fact.relations.iter().filter(|relation| relation.access == Access::Writes);
    // A view that is written is refused elsewhere or counts as its tables do.
    let mut tables = written.filter_map(|relation| facts.tables.iter().find(|table| table.name == relation.name));
    tables.any(|table| can_refuse_write(facts, statement, fact, table))
}

fn can_refuse_write(facts: &Facts, statement: &StatementSource, fact: &StatementFact, table: &TableFact) -> bool {
    let has_word = |word: &str| sql::code(&statement.sql).iter().any(|token| token.is_word(&statement.sql, word));
    !table.triggers.is_empty()
        || (has_word("insert") || has_word("merge")) && can_refuse_insert(statement, table, has_word("conflict"))
        || (has_word("delete") || has_word("merge")) && can_refuse_delete(facts, table)
        // Nobody could tell which columns are updated: it may be any of them.
        || (has_word("update") || has_word("merge"))
            && fact.updated_columns.is_empty()
            && table.columns.iter().any(|column| can_refuse_update(table, &column.name))
        || fact.updated_columns.iter().any(|(name, column)| *name == table.name && can_refuse_update(table, column))
}

fn can_refuse_insert(statement: &StatementSource, table: &TableFact, handles_conflict: bool) -> bool {
    let has_fresh_key = statement.parameters.iter().any(|parameter| parameter.value == "request_id");
    let is_demanding = table.columns.iter().any(|column| {
        column.is_not_null
            && column.default.is_none()
            && !column.is_identity
            && !column.is_generated
            && !table.primary_key.contains(&column.name)
    });
    !table.checks.is_empty()
        || !table.unique.is_empty()
        || !table.foreign_keys.is_empty()
        || is_demanding
        || !(has_fresh_key || handles_conflict)
}

fn can_refuse_update(table: &TableFact, column: &String) -> bool {
    table.column(column).is_some_and(|column| column.is_not_null)
        || table.primary_key.contains(column)
        || table.checks.iter().any(|check| check.columns.contains(column))
        || table.unique.iter().any(|unique| unique.columns.contains(column) || unique.columns.is_empty())
        || table.foreign_keys.iter().any(|key| key.columns.contains(column))
}

fn can_refuse_delete(facts: &Facts, table: &TableFact) -> bool {
    let mut referring = facts.tables.iter().flat_map(|other| other.foreign_keys.iter());
    referring.any(|key| key.target == table.name && key.on_delete != Action::Cascade)
}
