//! What PostgreSQL says about a schema once it was tried out in a scratch database.
//!
//! Plain data: the crate that holds the connection fills it in, the check reads it.

use crate::definition::{Column, DeferrableConstraint};
use crate::value::Type;

/// Everything that the server told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Statements of table files that the server refused.
    pub table_errors: Vec<TableError>,
    /// The tables, in order of creation.
    pub tables: Vec<TableFact>,
    /// Views and materialized views.
    pub views: Vec<ViewFact>,
    /// Functions and procedures.
    pub functions: Vec<FunctionFact>,
    /// Relations and functions that were created outside namespace `public`, as namespace and name.
    pub strays: Vec<(String, String)>,
    /// Rules, those behind views excepted.
    pub rules: Vec<RuleFact>,
    /// For each transaction of the source, for each of its statements. Empty if the tables could not be created.
    pub statements: Vec<Vec<StatementOutcome>>,
    /// For each invariant of the source, for each of its queries in the order of `InvariantSource::queries`.
    pub invariants: Vec<Vec<StatementOutcome>>,
}

/// An error of the server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerError {
    /// SQLSTATE.
    pub sqlstate: String,
    /// The server's message, unchanged.
    pub message: String,
    /// The server's detail.
    pub detail: Option<String>,
    /// The server's hint.
    pub hint: Option<String>,
    /// Where in the statement, in bytes from 0.
    pub offset: Option<usize>,
}

/// A statement of a table file that the server refused.
#[derive(Debug, Clone, PartialEq)]
pub struct TableError {
    /// Which of the source's table statements.
    pub statement: usize,
    /// What the server said.
    pub error: ServerError,
}

/// What kind of relation a table is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // The names are PostgreSQL's.
pub enum TableKind {
    #[default]
    Ordinary,
    Partitioned,
    Foreign,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableFact {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: TableKind,
    /// Whether a crash empties it.
    pub is_unlogged: bool,
    /// Whether it inherits from another table, or is a partition of one.
    pub is_inherited: bool,
    /// Its columns, in order.
    pub columns: Vec<ColumnFact>,
    /// The primary key's columns, in order.
    pub primary_key: Vec<String>,
    /// Unique constraints, unique indexes and exclusion constraints, the primary key excepted.
    pub unique: Vec<UniqueFact>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKeyFact>,
    /// Check constraints.
    pub checks: Vec<CheckFact>,
    /// Triggers that the schema made.
    pub triggers: Vec<TriggerFact>,
    /// Constraints that can be deferred.
    pub deferrable: Vec<DeferrableConstraint>,
    /// Whether a constraint, a default or an index of it calls a function or an operator of the schema's own.
    pub calls_functions: bool,
}

impl TableFact {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnFact> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Columns as the definition has them.
    pub fn plain_columns(&self) -> Vec<Column> {
        self.columns.iter().map(|column| Column { name: column.name.clone(), r#type: column.r#type.clone() }).collect()
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnFact {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: Type,
    /// Whether NULL is refused.
    pub is_not_null: bool,
    /// The default's SQL.
    pub default: Option<String>,
    /// Whether it is an identity column.
    pub is_identity: bool,
    /// Whether it is generated from other columns.
    pub is_generated: bool,
}

/// Something that must be unique.
#[derive(Debug, Clone, PartialEq)]
pub struct UniqueFact {
    /// The name of the constraint or index.
    pub name: String,
    /// The plain columns that must be equal for two rows to collide; expressions are not among them.
    pub columns: Vec<String>,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct TriggerFact {
    /// Its name.
    pub name: String,
    /// The function that it calls.
    pub function: String,
}

/// What a foreign key does when its target changes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // The names are SQL's.
pub enum Action {
    #[default]
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

impl Action {
    /// SQL's words for it.
    pub fn sql(self) -> &'static str {
        match self {
            Action::NoAction => "NO ACTION",
            Action::Restrict => "RESTRICT",
            Action::Cascade => "CASCADE",
            Action::SetNull => "SET NULL",
            Action::SetDefault => "SET DEFAULT",
        }
    }

    /// Whether it writes the referring row.
    pub fn writes(self) -> bool {
        matches!(self, Action::Cascade | Action::SetNull | Action::SetDefault)
    }
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignKeyFact {
    /// The constraint's name.
    pub name: String,
    /// The referring columns.
    pub columns: Vec<String>,
    /// The table referred to.
    pub target: String,
    /// The columns referred to, in the order of `columns`.
    pub target_columns: Vec<String>,
    /// ON DELETE.
    pub on_delete: Action,
    /// ON UPDATE.
    pub on_update: Action,
}

/// A check constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckFact {
    /// The constraint's name.
    pub name: String,
    /// The columns that it looks at.
    pub columns: Vec<String>,
}

/// A view.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewFact {
    /// Its name.
    pub name: String,
    /// Whether it is a materialized view.
    pub is_materialized: bool,
    /// Whether it runs with the rights of who asks.
    pub is_security_invoker: bool,
}

/// A function or procedure.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionFact {
    /// Its name.
    pub name: String,
    /// Its language.
    pub language: String,
    /// Whether it runs with the rights of its owner.
    pub is_security_definer: bool,
    /// `i`, `s` or `v`: immutable, stable, volatile.
    pub volatility: char,
    /// Its source text; empty for a body in SQL's standard form, which the server resolves itself.
    pub body: String,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleFact {
    /// Its name.
    pub name: String,
    /// Its table.
    pub table: String,
}

/// What the server said to a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum StatementOutcome {
    /// It was not asked, because the statement was known to be wrong.
    Skipped,
    /// It refuses the statement.
    Refused(ServerError),
    /// It takes the statement.
    Prepared(StatementFact),
}

impl StatementOutcome {
    /// What is known about a statement that the server takes.
    pub fn prepared(&self) -> Option<&StatementFact> {
        match self {
            StatementOutcome::Prepared(fact) => Some(fact),
            _ => None,
        }
    }
}

/// What the server knows about a statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatementFact {
    /// The type of each placeholder.
    pub parameter_types: Vec<Type>,
    /// The columns that it returns; none if it returns no rows.
    pub columns: Vec<Column>,
    /// The relations that it touches, functions' doings excepted.
    pub relations: Vec<RelationUse>,
    /// Columns that it updates, as table and column. A SELECT FOR UPDATE updates none.
    pub updated_columns: Vec<(String, String)>,
}

/// How a statement uses a relation.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationUse {
    /// The relation's name.
    pub name: String,
    /// How.
    pub access: Access,
}

/// How a relation is used, known by the lock that PostgreSQL takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read: AccessShareLock.
    Reads,
    /// Rows are locked, as SELECT FOR UPDATE does: RowShareLock.
    Locks,
    /// Written: RowExclusiveLock.
    Writes,
}
