//! How the results of one SELECT on every peer become the result over all peers, or why they can't.
//!
//! Every tree row lies on one peer, and every reference row on each. So the rows of a query are those of all peers together if
//! no row of it can need rows of two roots: it reads one tree, joined with itself by the root key only, and reference
//! tables that no join keeps without a row of the tree. Then counts, sums, least and greatest values of the peers can be put
//! together, too, and ordered rows merged. Everything else is refused by name: a wrong total is worse than none.
//!
//! The peers are sent the statement as it was written, never what was understood of it. What a parser doesn't show plainly is
//! outside: the judgement errs to refusing.

mod expression;
mod output;
mod relation;
mod select;
mod words;

use std::ops::ControlFlow;

use sqlparser::ast::{ObjectName, Query, SetExpr, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::definition::Schema;
use relation::{Level, relation_name};
use words::Words;

/// How the peers' results are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gather {
    /// The query reads no tree, so one peer's result is the result.
    OnePeer,
    /// All peers' rows; each peer sends its own in this order and up to this number.
    Rows {
        /// The order to keep while merging; rows come in any order without.
        order: Vec<SortKey>,
        /// How many rows at most.
        limit: Option<u64>,
    },
    /// One row, of which each peer sends its part.
    Totals(Vec<Total>),
}

/// A column that rows are ordered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// Which column of the result.
    pub column: OutputColumn,
    /// From the greatest to the least.
    pub is_descending: bool,
    /// Whether NULLs come before all else.
    pub nulls_first: bool,
    /// Whether texts are compared byte by byte; else nobody but PostgreSQL knows their order.
    pub is_bytewise: bool,
}

/// A column of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputColumn {
    /// By its place, from 0.
    At(usize),
    /// The only one of that name: `*` stands for columns that only the server knows.
    Named(String),
}

/// A column that is put together from one value of each peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// How.
    pub aggregate: Aggregate,
    /// As in [`SortKey::is_bytewise`].
    pub is_bytewise: bool,
}

/// What can be put together from the parts of the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are SQL's.
pub enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
}

/// Why a query has no result over all peers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotGathered {
    /// A code of the catalogue.
    pub code: &'static str,
    /// What is in the way, by name.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// The statement is none that can be judged.
const UNREADABLE: &str = "RW2020";
/// Rows of different roots would have to meet.
const APART: &str = "RW2021";
/// The peers' results can't be put together.
const SHAPE: &str = "RW2022";
/// Nobody but PostgreSQL can order the rows.
const ORDER: &str = "RW2023";
/// It reads what is no table of the schema, or runs the schema's own code.
const UNKNOWN: &str = "RW2024";

/// What is always possible instead.
pub const PER_PEER: &str = "read the rows of each peer with --per-peer";

impl NotGathered {
    fn new(code: &'static str, message: impl Into<String>, help: &str) -> NotGathered {
        let help = if help.is_empty() { PER_PEER.to_owned() } else { format!("{help}; or {PER_PEER}") };
        NotGathered { code, message: message.into(), help }
    }
}

type Judged<T> = Result<T, NotGathered>;

/// The most words and signs that may nest: whoever walks through a statement does so on a stack.
const MAX_DEEP_TOKENS: usize = 1_000;

/// Judges one SELECT that is to run on every peer.
///
/// # Errors
/// [`NotGathered`] if the peers' results are not the whole result, or can't be seen to be.
pub fn gather(schema: &Schema, sql: &str) -> Result<Gather, NotGathered> {
    let words = Words::of(schema);
    words.check(sql)?;
    let query = read(sql)?;
    let reading = Reading::of(&*query, schema)?;
    if !reading.has_tree {
        return Ok(Gather::OnePeer);
    }
    if let Some(name) = words.operators() {
        let message = format!("the schema makes operators (`{name}`), so what a condition means can't be seen");
        return Err(NotGathered::new(UNKNOWN, message, ""));
    }
    let select = select::plain_select(&query)?;
    let level = Level::outermost(schema, select)?;
    output::output(&query, select, &level)
}

/// The one query that the text is.
fn read(sql: &str) -> Judged<Box<Query>> {
    let deep = crate::sql::code(sql).into_iter().filter(|token| {
        use crate::sql::Kind;
        matches!(token.kind, Kind::Word | Kind::Quoted) || (token.kind == Kind::Symbol && token.text(sql) != ",")
    });
    let deep = deep.count();
    if deep > MAX_DEEP_TOKENS {
        let message = format!("the statement has {deep} words and signs; {MAX_DEEP_TOKENS} are judged at most");
        return Err(NotGathered::new(UNREADABLE, message, "shorten it"));
    }
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql)
        .map_err(|error| NotGathered::new(UNREADABLE, format!("the statement can't be judged: {error}"), "write it in plainer words"))?;
    match (statements.pop(), statements.len()) {
        (Some(Statement::Query(query)), 0) => Ok(query),
        (Some(_), 0) => Err(NotGathered { help: ONLY_READS.to_owned(), ..NotGathered::new(UNREADABLE, "the statement is no SELECT", "") }),
        (Some(_), more) => Err(NotGathered {
            help: "send one statement at a time".to_owned(),
            ..NotGathered::new(UNREADABLE, format!("there are {} statements, and a snapshot answers one", more + 1), "")
        }),
        (None, _) => Err(NotGathered { help: "write one SELECT".to_owned(), ..NotGathered::new(UNREADABLE, "there is no statement", "") }),
    }
}

const ONLY_READS: &str = "a snapshot only reads; write with a transaction (`rootward call`) or a chain";

/// Which tables a part of a statement reads, however deep they stand.
#[derive(Default)]
struct Reading<'s> {
    schema: Option<&'s Schema>,
    names: Vec<String>,
    has_tree: bool,
    /// Common table expressions.
    common: Vec<String>,
}

impl<'s> Reading<'s> {
    /// # Errors
    /// [`NotGathered`] if it reads what is no table of the schema.
    fn of(node: &impl Visit, schema: &'s Schema) -> Judged<Reading<'s>> {
        let mut reading = Reading { schema: Some(schema), ..Reading::default() };
        if let ControlFlow::Break(why) = node.visit(&mut reading) {
            return Err(*why);
        }
        for name in &reading.names {
            let is_table = is_known(schema, name);
            let is_common = reading.common.contains(name);
            if is_table && is_common {
                let message = format!("`{name}` is a table and a common table expression at once");
                return Err(NotGathered::new(SHAPE, message, "give the expression another name"));
            }
            if !is_table && !is_common {
                return Err(unknown(name));
            }
            reading.has_tree |= schema.tree_table(name).is_some();
        }
        Ok(reading)
    }
}

fn is_known(schema: &Schema, name: &str) -> bool {
    schema.tree_table(name).is_some() || schema.reference.iter().any(|table| table.name == name)
}

fn unknown(name: &str) -> NotGathered {
    NotGathered::new(UNKNOWN, format!("`{name}` is no table of the schema, so what it holds on each peer is not known"), "")
}

impl Visitor for Reading<'_> {
    type Break = Box<NotGathered>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if let Some(with) = &query.with {
            self.common.extend(with.cte_tables.iter().map(|common| expression::folded(&common.alias.name)));
        }
        if names_no_relation(&query.body) {
            let why =
                NotGathered::new(UNREADABLE, "a query of the statement is neither SELECT nor VALUES", "write `select * from` a table");
            return ControlFlow::Break(Box::new(why));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        // A function in place of a table has no name that is a relation's; whether it may run is judged with all words.
        if let TableFactor::Table { name, args: None, .. } = factor {
            match relation_name(name) {
                Some(name) => self.names.push(name),
                None => return ControlFlow::Break(Box::new(unknown(&name.to_string()))),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Self::Break> {
        // Every relation stands in a factor that was seen before, or calls a function. Whatever else the parser may take for
        // one must not be a tree.
        match relation_name(name) {
            Some(known) if self.schema.is_some_and(|schema| schema.tree_table(&known).is_some()) => self.names.push(known),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `TABLE name`, or a statement that writes: the parser keeps no relation for the first.
fn names_no_relation(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Query(_) => false,
        SetExpr::SetOperation { left, right, .. } => names_no_relation(left) || names_no_relation(right),
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) | SetExpr::Table(_) => true,
    }
}

#[cfg(test)]
mod tests;
