//! Why a statement can be refused for a business reason.
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

use std::fmt;

use crate::check::functions;
use crate::facts::{Access, Action, Facts, FunctionFact, StatementFact, TableFact};
use crate::sql;
use crate::transaction_file::StatementSource;

/// One reason for which a statement can be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The server refused the statement, so nothing is known about it.
    Unknown,
    /// It has an `-- expect:`.
    Expects,
    /// It calls this function.
    Calls(String),
    /// It writes a table with a trigger.
    Trigger { table: String, trigger: String },
    /// It inserts into a table that demands something.
    Insert { table: String, demand: Demand },
    /// It inserts a row whose key may be there.
    TakenKey { table: String },
    /// It updates a column of which something is demanded.
    Update { table: String, column: String, demand: Demand },
    /// It deletes rows that those of another table refer to.
    Delete { table: String, referring: String },
}

/// What a table demands of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Demand {
    NotNull(String),
    Check {
        name: String,
        /// Whether it looks at one column only.
        is_of_one_column: bool,
    },
    PrimaryKey,
    Unique(String),
    ForeignKey(String),
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Demand::NotNull(column) => write!(f, "`{column}` is NOT NULL"),
            Demand::Check { name, .. } => write!(f, "CHECK `{name}`"),
            Demand::PrimaryKey => write!(f, "the primary key"),
            Demand::Unique(name) => write!(f, "unique key `{name}`"),
            Demand::ForeignKey(name) => write!(f, "foreign key `{name}`"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unknown => write!(f, "PostgreSQL refuses its SQL"),
            Reason::Expects => write!(f, "it expects rows"),
            Reason::Calls(function) => write!(f, "function `{function}` may raise an error"),
            Reason::Trigger { table, trigger } => write!(f, "trigger `{trigger}` of `{table}` may raise an error"),
            Reason::Insert { table, demand } => write!(f, "{demand} looks at what it inserts into `{table}`"),
            Reason::TakenKey { table } => write!(f, "the key that it inserts into `{table}` may be taken"),
            Reason::Update { table, column, demand } => write!(f, "{demand} looks at `{table}.{column}`, which it updates"),
            Reason::Delete { table, referring } => write!(f, "rows of `{referring}` may refer to those that it deletes from `{table}`"),
        }
    }
}

/// Every reason for which a statement can be refused.
pub(crate) fn reasons(facts: &Facts, statement: &StatementSource, fact: Option<&StatementFact>) -> Vec<Reason> {
    let Some(fact) = fact else { return vec![Reason::Unknown] };
    let mut found = Vec::new();
    if statement.expect.is_some() {
        found.push(Reason::Expects);
    }
    let is_harmless = |function: &FunctionFact| function.language == "sql" && function.volatility != 'v';
    let called = functions::called(facts, &statement.sql);
    found.extend(called.iter().filter(|function| !is_harmless(function)).map(|function| Reason::Calls(function.name.clone())));
    let written = fact.relations.iter().filter(|relation| relation.access == Access::Writes);
    // A view that is written is refused elsewhere or counts as its tables do.
    for table in written.filter_map(|relation| facts.tables.iter().find(|table| table.name == relation.name)) {
        write(facts, statement, fact, table, &mut found);
    }
    found
}

fn write(facts: &Facts, statement: &StatementSource, fact: &StatementFact, table: &TableFact, found: &mut Vec<Reason>) {
    let has_word = |word: &str| sql::code(&statement.sql).iter().any(|token| token.is_word(&statement.sql, word));
    let name = || table.name.clone();
    found.extend(table.triggers.iter().map(|trigger| Reason::Trigger { table: name(), trigger: trigger.name.clone() }));
    if has_word("insert") || has_word("merge") {
        found.extend(demands_of_insert(table).into_iter().map(|demand| Reason::Insert { table: name(), demand }));
        let has_fresh_key = statement.parameters.iter().any(|parameter| parameter.value == "request_id");
        if !has_fresh_key && !has_word("conflict") {
            found.push(Reason::TakenKey { table: name() });
        }
    }
    if has_word("delete") || has_word("merge") {
        found.extend(referring(facts, table).into_iter().map(|referring| Reason::Delete { table: name(), referring }));
    }
    let mut update = |column: &str| {
        let demands = demands_of_update(table, column).into_iter();
        found.extend(demands.map(|demand| Reason::Update { table: table.name.clone(), column: column.to_owned(), demand }));
    };
    // Nobody could tell which columns are updated: it may be any of them.
    if (has_word("update") || has_word("merge")) && fact.updated_columns.is_empty() {
        table.columns.iter().for_each(|column| update(&column.name));
    }
    fact.updated_columns.iter().filter(|(of, _)| *of == table.name).for_each(|(_, column)| update(column));
}

fn demands_of_insert(table: &TableFact) -> Vec<Demand> {
    let is_demanding = table.columns.iter().filter(|column| {
        column.is_not_null
            && column.default.is_none()
            && !column.is_identity
            && !column.is_generated
            && !table.primary_key.contains(&column.name)
    });
    let mut found: Vec<Demand> = table.checks.iter().map(|check| demand_of_check(&check.name, check.columns.len())).collect();
    found.extend(table.unique.iter().map(|unique| Demand::Unique(unique.name.clone())));
    found.extend(table.foreign_keys.iter().map(|key| Demand::ForeignKey(key.name.clone())));
    found.extend(is_demanding.map(|column| Demand::NotNull(column.name.clone())));
    found
}

fn demands_of_update(table: &TableFact, column: &str) -> Vec<Demand> {
    let looks_at = |columns: &[String]| columns.iter().any(|known| known == column);
    let checks = table.checks.iter().filter(|check| looks_at(&check.columns));
    let mut found: Vec<Demand> = checks.map(|check| demand_of_check(&check.name, check.columns.len())).collect();
    found.extend(looks_at(&table.primary_key).then_some(Demand::PrimaryKey));
    let unique = table.unique.iter().filter(|unique| looks_at(&unique.columns) || unique.columns.is_empty());
    found.extend(unique.map(|unique| Demand::Unique(unique.name.clone())));
    let keys = table.foreign_keys.iter().filter(|key| looks_at(&key.columns));
    found.extend(keys.map(|key| Demand::ForeignKey(key.name.clone())));
    found.extend(table.column(column).filter(|column| column.is_not_null).map(|column| Demand::NotNull(column.name.clone())));
    found
}

fn demand_of_check(name: &str, columns: usize) -> Demand {
    Demand::Check { name: name.to_owned(), is_of_one_column: columns == 1 }
}

/// The tables whose foreign keys keep rows of this one from being deleted.
fn referring(facts: &Facts, table: &TableFact) -> Vec<String> {
    let holds = |other: &&TableFact| other.foreign_keys.iter().any(|key| key.target == table.name && key.on_delete != Action::Cascade);
    facts.tables.iter().filter(holds).map(|other| other.name.clone()).collect()
}
