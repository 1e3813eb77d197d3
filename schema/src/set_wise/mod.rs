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
//!
//! The same reading finds statements that needn't run, whatever class their transaction is in: those that only ask for a row which
//! the next statement can't do without.

mod alone;
mod expression;
mod function;
mod parts;
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

/// Finds out for each transaction which of its statements needn't run, and whether it is in the class.
pub(crate) fn compile(source: &Source, facts: &Facts, schema: &mut Schema) {
    // An operator of the user's could take the place of one of PostgreSQL's.
    let makes_operators = source.table_statements.iter().any(|statement| {
        let tokens = sql::code(&statement.sql);
        tokens.iter().any(|token| token.is_word(&statement.sql, "operator"))
    });
    if makes_operators {
        return;
    }
    let told: Vec<(String, Vec<usize>)> =
        schema.transactions.values().map(|transaction| (transaction.name.clone(), told(facts, schema, transaction))).collect();
    for (name, places) in told {
        if let Some(transaction) = schema.transactions.get_mut(&name) {
            places.into_iter().for_each(|place| transaction.statements[place].is_told_by_next = true);
        }
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

/// A transaction at a root, read statement by statement.
struct Reading<'a> {
    facts: &'a Facts,
    schema: &'a Schema,
    entity: &'a str,
    parameters: Vec<Column>,
    /// The place of the root key among the parameters.
    root: usize,
}

impl<'a> Reading<'a> {
    fn new(facts: &'a Facts, schema: &'a Schema, transaction: &'a Transaction) -> Option<Reading<'a>> {
        let Target::Root { entity, parameter } = &transaction.target else { return None };
        let parameters = parameters(transaction)?;
        let root = parameters.iter().position(|column| column.name == *parameter)?;
        Some(Reading { facts, schema, entity, parameters, root })
    }

    /// Gives a reader of this statement's text to `read`.
    fn of<T>(&self, declared: &Statement, read: impl FnOnce(&statement::Reader<'_, 'a>) -> T) -> T {
        let table_of = |name: &str| table(self.facts, self.schema, self.entity, name);
        let place_of = |at: usize| {
            let name = &declared.parameters.get(at)?.name;
            self.parameters.iter().position(|column| column.name == *name)
        };
        read(&statement::Reader { table_of: &table_of, place_of: &place_of, parameters: &self.parameters, root: self.root })
    }
}

/// The places of the statements that needn't run, since the next ones tell what they would: see [`Statement::is_told_by_next`]. Those that
/// give the transaction's answer run.
fn told(facts: &Facts, schema: &Schema, transaction: &Transaction) -> Vec<usize> {
    let Some(reading) = Reading::new(facts, schema, transaction) else { return Vec::new() };
    let Some(answering) = transaction.statements.iter().rposition(|statement| statement.returns_rows) else { return Vec::new() };
    let wants_a_row =
        |statement: &Statement| statement.expect.as_ref().is_some_and(|expect| expect.rows.is_met_by(1) && !expect.rows.is_met_by(0));
    let is_told = |first: &Statement, next: &Statement| {
        let asks = reading.of(first, |reader| reader.understand(&first.sql)).filter(Single::only_asks);
        let (Some(asks), true) = (asks, wants_a_row(first) && wants_a_row(next)) else { return false };
        reading.of(next, |reader| reader.met(&next.sql)).is_some_and(|met| asks.met.holds_where(&met))
    };
    let mut places: Vec<usize> = Vec::new();
    for (at, pair) in transaction.statements.windows(2).enumerate().rev() {
        // One that needn't run itself tells nothing.
        if at != answering && places.last() != Some(&(at + 1)) && is_told(&pair[0], &pair[1]) {
            places.push(at);
        }
    }
    places
}

fn compile_one(facts: &Facts, schema: &Schema, transaction: &Transaction) -> Option<SetWise> {
    if transaction.may_change_settings || transaction.statements.is_empty() {
        return None;
    }
    let reading = Reading::new(facts, schema, transaction)?;
    let (parameters, root) = (&reading.parameters, reading.root);
    let mut steps = Vec::new();
    for declared in &transaction.statements {
        let single = reading.of(declared, |reader| reader.understand(&declared.sql))?;
        if matches!(declared.expect.as_ref().map(|expect| expect.rows), Some(ExpectedRows::Exactly(2..))) {
            return None;
        }
        steps.push(Step { single, declared });
    }
    let clean_statements = clean_statements(&steps);
    let text = function::body(&steps, parameters, root, &transaction.columns, clean_statements)?;
    let hash = hex::encode(&Sha256::digest(text.as_bytes())[..6]);
    let name: String = transaction.name.chars().take(40).collect();
    let function = format!("{name}_{hash}");
    Some(SetWise {
        sql: function::definition(&function, parameters, &transaction.columns, &text),
        function,
        clean_statements: u32::try_from(clean_statements).unwrap_or(0),
        parameters: reading.parameters,
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
