//! Puts the peers' results of one query together, as `rootward_schema::gather` judged: exact, and with one page of each peer in
//! memory at most.
//!
//! Values are compared and added up here, not by a database: the router has none, and the types that are let in have one plain
//! order and one exact sum, whoever computes it. What only a server can order (a collation) is refused.

mod compare;
mod decimal;
mod merge;
mod totals;

use rootward_proto::{Fault, v1};
use rootward_schema::{OutputColumn, PER_PEER, SortKey};

pub(crate) use compare::Comparison;
pub(crate) use merge::{Merge, Next};
pub(crate) use totals::Totals;

/// How rows are compared: by which columns, in which direction.
#[derive(Debug, Clone)]
pub(crate) struct Order(Vec<OrderKey>);

#[derive(Debug, Clone)]
struct OrderKey {
    column: usize,
    comparison: Comparison,
    is_descending: bool,
    nulls_first: bool,
}

impl Order {
    /// What is compared in rows of these columns.
    ///
    /// # Errors
    /// RW2023 if a column is not there, or its type has no plain order.
    pub(crate) fn new(keys: &[SortKey], columns: &[v1::Column]) -> Result<Order, Fault> {
        let found = |key: &SortKey| {
            let column = place(&key.column, columns)?;
            let comparison = comparison(&columns[column], key.is_bytewise, "ORDER BY")?;
            Ok(OrderKey { column, comparison, is_descending: key.is_descending, nulls_first: key.nulls_first })
        };
        Ok(Order(keys.iter().map(found).collect::<Result<_, Fault>>()?))
    }
}

fn place(key: &OutputColumn, columns: &[v1::Column]) -> Result<usize, Fault> {
    let refused = |message: String| Fault::refused("RW2023", message, format!("name each column once in the select list; or {PER_PEER}"));
    match key {
        OutputColumn::At(at) if *at < columns.len() => Ok(*at),
        OutputColumn::At(at) => Err(refused(format!("ORDER BY {} is beyond the {} columns of the result", at + 1, columns.len()))),
        OutputColumn::Named(name) => {
            let mut named = columns.iter().enumerate().filter(|(_, column)| column.name == *name).map(|(at, _)| at);
            match (named.next(), named.next()) {
                (Some(at), None) => Ok(at),
                (Some(_), Some(_)) => Err(refused(format!("ORDER BY `{name}`: several columns of the result have the name"))),
                (None, _) => Err(refused(format!("ORDER BY `{name}` is no column of the result"))),
            }
        }
    }
}

fn comparison(column: &v1::Column, is_bytewise: bool, by: &str) -> Result<Comparison, Fault> {
    Comparison::of(&column.r#type, is_bytewise).ok_or_else(|| {
        let v1::Column { name, r#type } = column;
        let message = format!("{by} `{name}`: values of type {type} can't be compared as PostgreSQL would");
        let help = match r#type.as_str() {
            "text" | "varchar" | "character varying" => {
                format!("write `{name} collate \"C\"` there, which is the order of the bytes; or {PER_PEER}")
            }
            _ => format!("cast it to a number, a moment or text collate \"C\"; or {PER_PEER}"),
        };
        Fault::refused("RW2023", message, help)
    })
}
