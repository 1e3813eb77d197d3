//! Declared transactions as lanes run them: compiled once a term, so that a unit carries values only.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rootward_proto::v1;
use rootward_schema::{Column, Expect, Schema, Text, Transaction};

use super::outcome::wire_columns;
use crate::pg::{Call, How, oid_of};

/// What the users' part of a transaction is.
#[derive(Debug)]
pub(crate) struct Declared {
    pub name: Arc<str>,
    /// What its values are for, built-in ones among them.
    pub parameters: Vec<Column>,
    pub statements: Vec<Statement>,
    /// Columns of the answer.
    pub columns: Vec<Column>,
    /// The same as a message has them.
    pub wire_columns: Vec<v1::Column>,
    /// It may write, which a journal is of.
    pub writes: bool,
    /// They may leave settings of the session changed.
    pub may_change_settings: bool,
    pub set_wise: Option<SetWise>,
}

/// One statement of the users'.
#[derive(Debug)]
pub(crate) struct Statement {
    sql: Arc<str>,
    types: Arc<[u32]>,
    how: How,
    /// The places of its parameters among the transaction's.
    parameters: Vec<usize>,
    pub expect: Option<Expect>,
    /// Its expectation is met if the next one's is.
    is_told_by_next: bool,
    /// Where it stands, for the help of a refusal.
    pub location: Arc<str>,
}

/// Which statements of a transaction run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Without those that tell nothing if all expectations are met. If one is missed, this run knows neither which, nor what an error means.
    Untold,
}

/// How a transaction runs for many roots at once.
#[derive(Debug)]
pub(crate) struct SetWise {
    /// The call of its function.
    pub sql: Arc<str>,
    /// An answer of it without its row, as it is stored.
    pub reply: Bytes,
    /// A unit that misses an expectation of one of the first so many statements leaves nothing behind.
    pub clean_statements: usize,
}

/// The users' part of one unit.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub declared: Arc<Declared>,
    /// In the order of the transaction's parameters.
    pub values: Vec<Text>,
}

impl Declared {
    pub(crate) fn new(transaction: &Transaction) -> Declared {
        let mut parameters: Vec<Column> = Vec::new();
        for column in transaction.statements.iter().flat_map(|statement| &statement.parameters) {
            if !parameters.iter().any(|known| known.name == column.name) {
                parameters.push(column.clone());
            }
        }
        let place = |column: &Column| parameters.iter().position(|known| known.name == column.name);
        let statements = transaction.statements.iter().map(|statement| Statement {
            sql: statement.sql.as_str().into(),
            types: statement.parameters.iter().map(|column| oid_of(&column.r#type)).collect(),
            how: How::Prepared,
            parameters: statement.parameters.iter().filter_map(place).collect(),
            expect: statement.expect.clone(),
            is_told_by_next: statement.is_told_by_next,
            location: format!("{}:{}", transaction.file, statement.line).into(),
        });
        let set_wise = transaction.set_wise.as_ref().filter(|set_wise| set_wise.parameters == parameters).map(|set_wise| {
            let arrays: String =
                (0..parameters.len() + rootward_schema::SetWise::OUTCOME_PARAMETERS).map(|at| format!(", ${}", at + 3)).collect();
            SetWise {
                reply: v1::CallResponse { columns: wire_columns(&transaction.columns), ..v1::CallResponse::default() }
                    .encode_to_vec()
                    .into(),
                sql: format!("select * from rootward_set.{}($1, $2{arrays})", rootward_schema::quoted(&set_wise.function)).into(),
                clean_statements: usize::try_from(set_wise.clean_statements).unwrap_or(0),
            }
        });
        Declared {
            name: transaction.name.as_str().into(),
            statements: statements.collect(),
            columns: transaction.columns.clone(),
            wire_columns: wire_columns(&transaction.columns),
            writes: transaction.writes,
            may_change_settings: transaction.may_change_settings,
            set_wise,
            parameters,
        }
    }

    /// All transactions of a schema, by name.
    pub(crate) fn all(schema: &Schema) -> std::collections::HashMap<String, Arc<Declared>> {
        schema.transactions.iter().map(|(name, transaction)| (name.clone(), Arc::new(Declared::new(transaction)))).collect()
    }

    /// Text from outside, as a transaction of one statement.
    pub(crate) fn ad_hoc(sql: &str) -> Declared {
        let statement = Statement {
            sql: sql.into(),
            types: Arc::default(),
            how: How::AdHoc,
            parameters: Vec::new(),
            expect: None,
            is_told_by_next: false,
            location: "the statement".into(),
        };
        Declared {
            name: "sql".into(),
            parameters: Vec::new(),
            statements: vec![statement],
            columns: Vec::new(),
            wire_columns: Vec::new(),
            writes: true,
            may_change_settings: true,
            set_wise: None,
        }
    }
}

impl Effect {
    pub(super) fn statements(&self, which: Which) -> impl Iterator<Item = &Statement> {
        self.declared.statements.iter().filter(move |statement| which == Which::All || !statement.is_told_by_next)
    }

    /// The arguments by name, as JSON of canonical texts, without what the worker gives; the statement itself if it came from outside.
    pub(super) fn arguments(&self) -> String {
        let built_in = |name: &str| rootward_schema::BUILT_IN_PARAMETERS.iter().any(|(known, _)| *known == name);
        let declared = self.declared.parameters.iter().zip(&self.values).filter(|(column, _)| !built_in(&column.name));
        let ad_hoc = self.declared.statements.iter().filter(|statement| statement.how == How::AdHoc);
        let named = declared
            .map(|(column, value)| (column.name.as_str(), value.as_deref()))
            .chain(ad_hoc.map(|statement| ("sql", Some(&*statement.sql))));
        serde_json::to_string(&named.collect::<std::collections::BTreeMap<_, _>>()).unwrap_or_default()
    }
}

impl Statement {
    pub(super) fn call(&self, values: &[Text]) -> Call {
        Call {
            sql: self.sql.clone(),
            parameters: self.parameters.iter().map(|place| values.get(*place).cloned().flatten().into()).collect(),
            types: self.types.clone(),
            how: self.how,
        }
    }

    /// How many results it gives: text from outside is prepared by a statement of its own.
    pub(super) fn result_count(&self) -> usize {
        self.how.result_count()
    }
}
