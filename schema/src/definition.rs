//! The compiled definition: what the check makes of a folder of schema files.
//!
//! It is plain data. The hub stores it as JSON, workers and routers read it from there, and a chain pins the part
//! of it that it runs on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stage::Stage;
use crate::value::Type;

/// A whole schema: the root entities with their trees, the reference tables, the transactions and the chains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// The schema's name, from `rootward.toml`.
    pub name: String,
    /// The version that `schema apply` compares; it grows with every change.
    pub version: u32,
    /// How many partitions the hash space has; a power of two, fixed for the life of the cluster.
    pub partitions: u32,
    /// The regions that keys may be placed by, in order; each has as many partitions of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Root entities by name.
    pub roots: BTreeMap<String, RootEntity>,
    /// Reference tables in the order of `rootward.toml`.
    pub reference: Vec<ReferenceTable>,
    /// Declared transactions by name.
    pub transactions: BTreeMap<String, Transaction>,
    /// Declared chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// What `verify` counts over all peers.
    pub invariants: Vec<Invariant>,
    /// Constraints that can be deferred, so that a worker can make them immediate inside each unit.
    pub deferrable: Vec<DeferrableConstraint>,
    /// Tables whose rows are only ever inserted, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insert_only: Vec<String>,
    /// Keys that follow from their row's content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_keys: Vec<ContentKey>,
    /// Tables into which rows are staged, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// The table files in the order in which they are applied.
    pub table_files: Vec<SqlFile>,
}

/// A column whose value follows from the other columns of its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentKey {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// The SQL condition that every row meets.
    pub condition: String,
}

/// A kind of root, and the tree of tables under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootEntity {
    /// The entity's name.
    pub name: String,
    /// The root table; its primary key is the root key.
    pub table: String,
    /// The name of the root table's primary key column.
    pub key_column: String,
    /// The root key's type; only types with an extended hash in PostgreSQL are allowed.
    pub key_type: Type,
    /// All tables of the tree, the root table first, parents before children.
    pub tables: Vec<TreeTable>,
    /// Whether what takes effect at its roots is written into a journal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub has_journal: bool,
    /// Whether its keys begin with a region, on whose peers they live.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_placed_by_region: bool,
}

/// One table of a tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeTable {
    /// The table's name.
    pub name: String,
    /// The column that carries the root key in this table.
    pub key_column: String,
    /// The table that this one refers to by foreign key; none for the root table.
    pub parent: Option<String>,
    /// All columns, in order.
    pub columns: Vec<Column>,
    /// The columns of the primary key, in order.
    pub primary_key: Vec<String>,
}

/// A table that is copied to every peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceTable {
    /// The table's name.
    pub name: String,
    /// All columns, in order.
    pub columns: Vec<Column>,
    /// The columns of the primary key, in order.
    pub primary_key: Vec<String>,
    /// Whether a foreign key of a tree names this table; such a table refuses DELETE.
    pub is_referred_to: bool,
    /// The columns that such foreign keys name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referred_columns: Vec<String>,
}

/// A column or a parameter: a name and a type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type.
    pub r#type: Type,
}

/// A declared transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// The transaction's name.
    pub name: String,
    /// Where it runs.
    pub target: Target,
    /// The parameters that a caller gives, in order of appearance; built-in ones are not among them.
    pub parameters: Vec<Column>,
    /// The statements in order.
    pub statements: Vec<Statement>,
    /// Columns of the answer: those of the last statement that returns rows.
    pub columns: Vec<Column>,
    /// Whether a business refusal can come of it: an `expect`, a CHECK, a RAISE or a key that may be taken.
    pub can_refuse: bool,
    /// Whether it may write: a call that only reads has no place in a journal.
    #[serde(default = "yes")]
    pub writes: bool,
    /// Whether it may leave settings of the session changed, so that they have to be reset before the next unit.
    #[serde(default = "yes")]
    pub may_change_settings: bool,
    /// How it runs for many roots at once, if it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_wise: Option<SetWise>,
    /// The file that it stands in, relative to the schema's folder.
    pub file: String,
    /// The line of its `-- name:` annotation, from 1.
    pub line: u32,
}

fn yes() -> bool {
    true
}

/// A transaction that may run for many roots by one call of a function.
///
/// The function takes the secret, the units' places in their batch, an array for each parameter, and
/// [`SetWise::OUTCOME_PARAMETERS`] more: what the units' outcomes keep of their requests (rows of `rootward.request`; NULL is what the first row has), what the replies
/// have in common, and what the journal keeps beside that (rows of `rootward.journal_entry`). If the first of them is NULL, it stores no
/// outcome and writes no journal; if the last is, no journal; if it is not, whoever is refused takes all back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetWise {
    /// The function's name, in namespace `rootward_set`; another text makes another name.
    pub function: String,
    /// The statement that makes the function.
    pub sql: String,
    /// The parameters for which it is given arrays, built-in ones among them, in order.
    pub parameters: Vec<Column>,
    /// A unit that misses an expectation of one of the first so many statements leaves nothing behind.
    pub clean_statements: u32,
}

impl SetWise {
    /// How many parameters follow the transaction's own.
    pub const OUTCOME_PARAMETERS: usize = crate::set_wise::OUTCOME_PARAMETERS;
}

/// Where a transaction runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At the owner of one root.
    Root {
        /// The root entity's name.
        entity: String,
        /// The parameter that carries the root key.
        parameter: String,
    },
    /// On the hub; it writes reference tables.
    Reference,
}

/// One SQL statement of a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// The text with `$1`, `$2`, … in place of `:name`.
    pub sql: String,
    /// What each placeholder stands for, in order.
    pub parameters: Vec<Column>,
    /// Whether it returns rows.
    pub returns_rows: bool,
    /// What its row count must be.
    pub expect: Option<Expect>,
    /// It only asks whether a row is there, and the next statement meets no row where that one isn't: if the next one's expectation is met, so is
    /// this one's, and it needs not run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_told_by_next: bool,
    /// The line where it begins, from 1.
    pub line: u32,
}

/// A demand on a statement's row count; a miss is a business refusal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expect {
    /// How many rows.
    pub rows: ExpectedRows,
    /// The reason that the caller is told; a standard one if the file gives none.
    pub reason: String,
}

/// How many rows an `-- expect:` wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedRows {
    /// At least one.
    Some,
    /// Exactly this many; `one` is 1 and `none` is 0.
    Exactly(u64),
}

impl ExpectedRows {
    /// Whether `rows` is what is wanted.
    pub fn is_met_by(self, rows: u64) -> bool {
        match self {
            ExpectedRows::Some => rows > 0,
            ExpectedRows::Exactly(wanted) => rows == wanted,
        }
    }
}

/// Parameters that the worker gives to every statement that names them.
pub const BUILT_IN_PARAMETERS: &[(&str, Type)] = &[
    // UUIDv5 over (chain, step, element, do|undo) inside a chain, the client's request id outside: never repeated by a compensation.
    ("request_id", Type::Uuid),
    // The chain's id, NULL outside a chain.
    ("chain_id", Type::Uuid),
    // The element of a step that fans out, 0 elsewhere.
    ("element", Type::Integer),
    // When the client issued the request, which stays the same however often it is sent.
    ("now", Type::Timestamptz),
];

/// A chain: steps over several roots.
///
/// A chain in flight keeps the definition that it started with as JSON, so every setting that was added later has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// The chain's name.
    pub name: String,
    /// Its parameters; one of type `json` can be fanned out over.
    pub parameters: Vec<Column>,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// How long after its start the chain is called back if it has not passed its pivot, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What a completed chain answers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result: BTreeMap<String, Expression>,
}

/// One step of a chain: a transaction at a root, or a wait at the chain's home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The step's name, unique in its chain.
    pub name: String,
    /// The declared transaction that it calls; empty for a wait.
    pub call: String,
    /// The root entity that `call` runs at; for a wait that of the first step.
    pub entity: String,
    /// The root key; for a wait that of the first step.
    pub root_key: Expression,
    /// The arguments of `call`, without the root key's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, Expression>,
    /// The list to fan out over: one element of the step for each of its elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<Expression>,
    /// The transaction that undoes the step, at the same root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Compensation>,
    /// After this step the chain only goes forward.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_pivot: bool,
    /// What a refusal of this step does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// The earlier steps, by their places from 0, that must be done before this one begins; none means the step before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<u32>>,
    /// How transient errors are retried.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// What happens when the attempts are used up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_exhausted: OnExhausted,
    /// What the step waits for in place of a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// A chain's definition is stored with each chain: what says nothing is left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a step waits for. Its outcome is stored at the chain's home like any other step's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// For time to pass.
    Timer {
        /// How long, in milliseconds, from when the step begins.
        after_ms: u64,
    },
    /// For somebody to send a signal of the step's name.
    Signal {
        /// What the signal carries, by name; later steps use it as `$steps.STEP.NAME`.
        payload: Vec<Column>,
        /// How long it waits, in milliseconds; then the step counts as refused. None waits as long as it takes.
        timeout_ms: Option<u64>,
    },
}

/// How transient errors of a step are retried. A peer that is away is no attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// The pause before the second attempt, in milliseconds.
    pub initial_ms: u64,
    /// By how much each further pause is longer.
    pub factor: f64,
    /// The longest pause, in milliseconds.
    pub max_ms: u64,
    /// How many attempts there are in all.
    pub attempts: u32,
    /// The part of a pause, from 0 to 1, by which it is shortened or lengthened at random.
    pub jitter: f64,
    /// SQLSTATEs that use up the attempts at once.
    pub non_retryable: Vec<String>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { initial_ms: 50, factor: 2.0, max_ms: 60_000, attempts: 20, jitter: 0.2, non_retryable: Vec::new() }
    }
}

/// What happens when a step's attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// The chain waits for a person.
    #[default]
    Park,
    /// As if the step had been refused: it is called off, and what took effect is undone.
    Fail,
}

/// What undoes a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compensation {
    /// The declared transaction that it calls, at the step's root.
    pub call: String,
    /// Its arguments, without the root key's.
    pub args: BTreeMap<String, Expression>,
}

/// What happens when a step is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The refusal is recorded and what took effect is undone.
    #[default]
    Compensate,
    /// The chain is parked, so that a person can repair the cause and replay.
    Park,
    /// The refusal is recorded and what took effect stays; a person may still have it undone.
    Keep,
}

/// Where an argument of a step comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expression {
    /// A fixed text.
    Literal(String),
    /// `$name`: a parameter of the chain.
    Parameter(String),
    /// `$element` or `$element.field`: the element that the step is run for.
    Element(Option<String>),
    /// `$steps.STEP.COLUMN`: a column of an earlier step's first row. From inside a step that fans out over the
    /// same list, the earlier step's row of the same element.
    StepResult {
        /// The earlier step's name.
        step: String,
        /// The column of its reply.
        column: String,
    },
}

/// Something that must hold over all peers, counted by `verify` with plain SQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invariant {
    /// The invariant's name.
    pub name: String,
    /// A query of one numeric value, run on every peer; the values are added up.
    pub sum: Option<String>,
    /// A query of one numeric value whose total over all peers must equal that of `sum`; 0 where it is missing.
    pub equals: Option<String>,
    /// A query that must return no row on any peer.
    pub none: Option<String>,
}

/// A constraint that may be checked at COMMIT only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeferrableConstraint {
    /// The constraint's name.
    pub name: String,
    /// Whether it starts out deferred.
    pub is_initially_deferred: bool,
}

/// One file of SQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SqlFile {
    /// The path relative to the schema's folder.
    pub path: String,
    /// The text.
    pub text: String,
}

impl Schema {
    /// Whether rows of a table are only ever inserted.
    pub fn is_insert_only(&self, table: &str) -> bool {
        self.insert_only.iter().any(|other| other == table)
    }

    /// The tree table of that name, with its entity.
    pub fn tree_table(&self, name: &str) -> Option<(&RootEntity, &TreeTable)> {
        self.roots.values().find_map(|root| root.tables.iter().find(|table| table.name == name).map(|table| (root, table)))
    }
}
