//! A statement taken apart.

use sqlparser::ast::{BinaryOperator, Expr, FromTable, SelectItem, SetExpr, Statement, TableWithJoins};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// A statement about rows of one table, taken apart, with nothing else in it.
pub(super) struct Parts<'s> {
    pub from: &'s TableWithJoins,
    pub condition: &'s Expr,
    pub returning: &'s [SelectItem],
}

/// Takes a SELECT, UPDATE or DELETE apart; none if there is more to it.
///
/// Clauses that nothing here knows can't be overlooked: what was understood is put together again and compared with what was
/// read.
pub(super) fn parts(statement: &Statement) -> Option<Parts<'_>> {
    let (parts, again) = match statement {
        Statement::Query(query) => {
            let SetExpr::Select(select) = query.body.as_ref() else { return None };
            let [from] = select.from.as_slice() else { return None };
            let (condition, returning) = (select.selection.as_ref()?, select.projection.as_slice());
            (Parts { from, condition, returning }, format!("SELECT {} FROM {from} WHERE {condition}", list(returning)))
        }
        Statement::Update(update) => {
            let (from, condition) = (&update.table, update.selection.as_ref()?);
            let returning = update.returning.as_deref().unwrap_or_default();
            let again = format!("UPDATE {from} SET {} WHERE {condition}{}", list(&update.assignments), returned(returning));
            (Parts { from, condition, returning }, again)
        }
        Statement::Delete(delete) => {
            let FromTable::WithFromKeyword(from) = &delete.from else { return None };
            let [from] = from.as_slice() else { return None };
            let (condition, returning) = (delete.selection.as_ref()?, delete.returning.as_deref().unwrap_or_default());
            (Parts { from, condition, returning }, format!("DELETE FROM {from} WHERE {condition}{}", returned(returning)))
        }
        _ => return None,
    };
    (statement.to_string() == again).then_some(parts)
}

pub(super) fn parsed(sql: &str) -> Option<Statement> {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).ok()?;
    if statements.len() == 1 { statements.pop() } else { None }
}

/// A condition taken apart at its outermost ANDs.
pub(super) fn conjuncts(condition: &Expr) -> Vec<&Expr> {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => [conjuncts(left), conjuncts(right)].concat(),
        Expr::Nested(inner) => conjuncts(inner),
        condition => vec![condition],
    }
}

pub(super) fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn returned(returning: &[SelectItem]) -> String {
    if returning.is_empty() { String::new() } else { format!(" RETURNING {}", list(returning)) }
}
