//! Set-wise execution: one call of one function runs a transaction for many roots at once.
//!
//! A transaction is in the class if every statement of it is a SELECT, UPDATE or DELETE of one row of one table of its
//! tree, the whole primary key given by parameters or constants, or an INSERT of one row, and if its expressions hold nothing but
//! columns of that row, parameters, constants and operators of PostgreSQL's own. Then units of different roots can't meet
//! each other, whatever order PostgreSQL runs them in, and each statement concerns one row a unit, or none.
//!
//! For each such transaction a function is generated, which runs with the rights of a role that row security doesn't
//! bind. Containment does not rest on how a statement was understood: the table's name and the condition that its root key
//! equals the unit's are written by us around the statement's own condition, and what can't be told apart at sight (a
//! subquery, a function, a type of the user's) puts the transaction outside of the class, where it runs row by row under
//! row security.

mod expression;
mod function;
mod statement;

use sha2::{Digest as _, Sha256};

use crate::definition::{Column, ExpectedRows, Schema, SetWise, Statement, Target, Transaction, TreeTable};
use crate::facts::{Action, Facts, ForeignKeyFact, TableFact, TableKind};
use crate::source::Source;
use crate::sql;
use crate::value::Type;

pub(crate) use function::OUTCOME_PARAMETERS;
use statement::Single;

/// The prefix of every name that a generated function makes up; columns of that prefix keep a table outside of the class.
const PREFIX: &str = "rw_";

/// Finds out for each transaction whether it is in the class.
pub(crate) fn compile(source: &Source, facts: &Facts, schema: &mut Schema) {
    // An operator of the user's could take the place of one of PostgreSQL's.
    let makes_operators = source.table_statements.iter().any(|statement| {
        let tokens = sql::code(&statement.sql);
        tokens.iter().any(|token| token.is_word(&statement.sql, "operator"))
    });
    if makes_operators {
        return;
    }
    let compiled: Vec<(String, SetWise)> = schema
        .transactions
        .values()
        .filter_map(|transaction| Some((transaction.name.clone(), compile_one(facts, schema, transaction)?)))
        .collect();
    for (name, set_wise) in compiled {
        if let Some(transaction) = schema.transactions.get_mut(&name) {
            transaction.set_wise = Some(set_wise);
        }
    }
}

/// A tree table with what the server says of it.
#[derive(Clone, Copy)]
struct Table<'a> {
    tree: &'a TreeTable,
    fact: &'a TableFact,
    /// Deleting a row of it writes rows of others, or is checked at COMMIT, where it would fail for the whole batch.
    delete_cascades: bool,
    /// Updating one does, or is.
    update_cascades: bool,
}

/// A statement that was understood, with what is expected of it.
struct Step<'a> {
    single: Single,
    declared: &'a Statement,
}

fn compile_one(facts: &Facts, schema: &Schema, transaction: &Transaction) -> Option<SetWise> {
    let Target::Root { entity, parameter } = &transaction.target else { return None };
    if transaction.may_change_settings || transaction.statements.is_empty() {
        return None;
    }
    let parameters = parameters(transaction)?;
    let root = parameters.iter().position(|column| column.name == *parameter)?;
    let place = |of: &Statement, at: usize| {
        let name = &of.parameters.get(at)?.name;
        parameters.iter().position(|column| column.name == *name)
    };
    let mut steps = Vec::new();
    for declared in &transaction.statements {
        let table_of = |name: &str| table(facts, schema, entity, name);
        let single = statement::understand(&declared.sql, &table_of, &|at| place(declared, at), &parameters, root)?;
        if matches!(declared.expect.as_ref().map(|expect| expect.rows), Some(ExpectedRows::Exactly(2..))) {
            return None;
        }
        steps.push(Step { single, declared });
    }
    let clean_statements = clean_statements(&steps);
    let text = function::body(&steps, &parameters, root, &transaction.columns, clean_statements)?;
    let hash = hex::encode(&Sha256::digest(text.as_bytes())[..6]);
    let name: String = transaction.name.chars().take(40).collect();
    let function = format!("{name}_{hash}");
    Some(SetWise {
        sql: function::definition(&function, &parameters, &transaction.columns, &text),
        function,
        clean_statements: u32::try_from(clean_statements).unwrap_or(0),
        parameters,
    })
}

/// A miss in the first so many statements leaves nothing behind: nothing has been written for the unit before it.
fn clean_statements(steps: &[Step<'_>]) -> usize {
    let first_write = steps.iter().position(|step| step.single.writes());
    match first_write {
        None => steps.len(),
        // One that wants no row has written one if it misses.
        Some(at) if steps[at].declared.expect.as_ref().is_some_and(|expect| expect.rows == ExpectedRows::Exactly(0)) => at,
        Some(at) => at + 1,
    }
}

/// All parameters, built-in ones among them, in order of appearance; none if one has a type of the user's.
fn parameters(transaction: &Transaction) -> Option<Vec<Column>> {
    let mut found: Vec<Column> = Vec::new();
    for column in transaction.statements.iter().flat_map(|statement| &statement.parameters) {
        if !found.iter().any(|known| known.name == column.name) {
            found.push(column.clone());
        }
    }
    let is_known = |column: &Column| !matches!(column.r#type, Type::Other(_));
    (found.iter().all(is_known) && transaction.columns.iter().all(is_known)).then_some(found)
}

/// The table of that name, if nothing of the user's runs when its rows change.
fn table<'a>(facts: &'a Facts, schema: &'a Schema, entity: &str, name: &str) -> Option<Table<'a>> {
    let (_, tree) = schema.tree_table(name).filter(|(root, _)| root.name == entity)?;
    let fact = facts.tables.iter().find(|table| table.name == name)?;
    let is_plain = fact.kind == TableKind::Ordinary
        && !fact.calls_functions
        && fact.triggers.is_empty()
        && fact.deferrable.is_empty()
        && !facts.rules.iter().any(|rule| rule.table == name)
        // Whose parent it is isn't known here.
        && !facts.tables.iter().any(|other| other.is_inherited)
        && fact.columns.iter().all(|column| !matches!(column.r#type, Type::Other(_)) && !column.name.starts_with(PREFIX));
    let cascades = |action: &dyn Fn(&ForeignKeyFact) -> Action| {
        facts.tables.iter().any(|other| {
            let waits = |key: &ForeignKeyFact| other.deferrable.iter().any(|constraint| constraint.name == key.name);
            other.foreign_keys.iter().any(|key| key.target == name && (action(key).writes() || waits(key)))
        })
    };
    is_plain.then(|| Table { tree, fact, delete_cascades: cascades(&|key| key.on_delete), update_cascades: cascades(&|key| key.on_update) })
}

#[cfg(test)]
mod tests;
