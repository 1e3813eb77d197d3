//! What a query returns: rows in an order, or totals.

use sqlparser::ast::{
    DuplicateTreatment, Expr, Fetch, FunctionArg, FunctionArgExpr, LimitClause, OrderByExpr, OrderByKind, OrderByOptions, OrderBySort,
    Query, Select, SelectItem, SelectItemQualifiedWildcardKind, Value,
};

use super::expression::{self, folded, function_name, plain_arguments};
use super::relation::{Level, relation_name};
use super::{Aggregate, Gather, Judged, NotGathered, ORDER, OutputColumn, SHAPE, SortKey, Total};

/// Collations by which PostgreSQL compares byte by byte, as we can.
const BYTEWISE: &[&str] = &["C", "POSIX", "ucs_basic"];

/// How the rows that the peers return are put together.
pub(super) fn output(query: &Query, select: &Select, level: &Level<'_>) -> Judged<Gather> {
    if let Some(items) = expression::plain_items(&select.projection) {
        let mut totals = Vec::new();
        for item in &items {
            totals.extend(total(item, level)?);
        }
        if !totals.is_empty() {
            check_totals(query, select, totals.len() == items.len())?;
            return Ok(Gather::Totals(totals));
        }
    }
    check_rows(select)?;
    for item in &select.projection {
        check_item(item, level)?;
    }
    let limit = limit(query)?;
    let output = Output { items: &select.projection, level };
    let mut order = Vec::new();
    if let Some(by) = &query.order_by {
        let (OrderByKind::Expressions(keys), None) = (&by.kind, &by.interpolate) else {
            return Err(NotGathered::new(ORDER, "ORDER BY names no columns", "name the columns"));
        };
        for key in keys {
            level.check(&key.expr)?;
            order.push(output.key(key)?);
        }
    }
    Ok(Gather::Rows { order, limit })
}

/// The total that an item is, if it is one and nothing else.
fn total(item: &Expr, level: &Level<'_>) -> Judged<Option<Total>> {
    let Expr::Function(function) = item else { return Ok(None) };
    let aggregate = match function_name(function).as_str() {
        "count" => Aggregate::Count,
        "sum" => Aggregate::Sum,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        _ => return Ok(None),
    };
    let Some(list) = plain_arguments(function) else { return Ok(None) };
    if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
        let message = format!("`{function}` would count a value once that several peers have");
        return Err(NotGathered::new(SHAPE, message, "leave DISTINCT out"));
    }
    let [FunctionArg::Unnamed(argument)] = list.args.as_slice() else { return Ok(None) };
    if let Some(filter) = &function.filter {
        level.check(filter.as_ref())?;
    }
    match argument {
        FunctionArgExpr::Wildcard if aggregate == Aggregate::Count => Ok(Some(Total { aggregate, is_bytewise: false })),
        FunctionArgExpr::Expr(argument) => {
            level.check(argument)?;
            Ok(Some(Total { aggregate, is_bytewise: collation(argument) == Some(true) }))
        }
        _ => Ok(None),
    }
}

fn check_totals(query: &Query, select: &Select, are_all_totals: bool) -> Judged<()> {
    if !are_all_totals {
        let message = "a count, sum, least or greatest value stands beside what is none";
        return Err(NotGathered::new(SHAPE, message, "ask for totals and rows by two queries on the same snapshot"));
    }
    if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return Err(NotGathered::new(SHAPE, "totals are one row, and ORDER BY, LIMIT or OFFSET stands behind them", "leave it out"));
    }
    check_rows(select)
}

/// No clause may need rows of several peers at once.
fn check_rows(select: &Select) -> Judged<()> {
    let refused = |message: &str, help: &str| Err(NotGathered::new(SHAPE, message, help));
    if !matches!(select.distinct, None | Some(sqlparser::ast::Distinct::All)) {
        return refused("DISTINCT would have to compare rows of all peers", "leave it out and drop duplicates yourself");
    }
    if select.having.is_some() {
        return refused("HAVING judges groups that several peers may share", "filter the groups yourself");
    }
    if !expression::is_ungrouped(select) {
        return refused("GROUP BY makes groups that several peers may share", "ask for one group's total at a time with WHERE");
    }
    if !select.named_window.is_empty() {
        return refused("a window would reach over rows of several peers", "leave WINDOW out");
    }
    Ok(())
}

fn check_item(item: &SelectItem, level: &Level<'_>) -> Judged<()> {
    let unknown = || NotGathered::new(SHAPE, format!("`{item}` in the select list is not understood"), "name the columns");
    match item {
        SelectItem::UnnamedExpr(expression) => level.check(expression),
        // To PostgreSQL, a string behind a string on the line before is more of it.
        SelectItem::ExprWithAlias { alias, .. } if alias.quote_style == Some('\'') => Err(unknown()),
        SelectItem::ExprWithAlias { expr: expression, .. } => level.check(expression),
        SelectItem::Wildcard(options) if options.to_string().is_empty() => Ok(()),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options) if options.to_string().is_empty() => Ok(()),
        _ => Err(unknown()),
    }
}

/// How many rows at most.
fn limit(query: &Query) -> Judged<Option<u64>> {
    let refused = |message: String, help: &str| Err(NotGathered::new(SHAPE, message, help));
    let number = |count: &Expr| match count {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, false) => digits.parse::<u64>().ok(),
            _ => None,
        },
        _ => None,
    };
    let counted = match (&query.limit_clause, &query.fetch) {
        (None, None) => return Ok(None),
        (Some(LimitClause::LimitOffset { limit, offset: None, limit_by }), None) if limit_by.is_empty() => match limit {
            None => return Ok(None),
            Some(count) => number(count),
        },
        (None, Some(Fetch { with_ties: false, percent: false, quantity })) => quantity.as_ref().map_or(Some(1), number),
        (Some(LimitClause::LimitOffset { offset: Some(_), .. }), _) => {
            return refused("OFFSET leaves out rows that no one peer can count".to_owned(), "raise LIMIT and skip rows yourself");
        }
        _ => None,
    };
    match counted {
        Some(count) => Ok(Some(count)),
        None => refused("LIMIT is not a plain number".to_owned(), "write a number"),
    }
}

/// Whether an expression says how its texts are compared: byte by byte, or in some other way.
fn collation(expression: &Expr) -> Option<bool> {
    match expression {
        Expr::Nested(inner) => collation(inner),
        Expr::Collate { collation, .. } => {
            let name = collation.0.last().and_then(|part| part.as_ident()).map(folded);
            Some(name.is_some_and(|name| BYTEWISE.contains(&name.as_str())))
        }
        _ => None,
    }
}

/// The select list.
struct Output<'q> {
    items: &'q [SelectItem],
    level: &'q Level<'q>,
}

impl Output<'_> {
    fn key(&self, key: &OrderByExpr) -> Judged<SortKey> {
        let OrderByExpr { expr, options: OrderByOptions { sort, nulls_first }, with_fill } = key;
        let refused = |message: String, help: &str| NotGathered::new(ORDER, message, help);
        let is_descending = match sort {
            None | Some(OrderBySort::Asc) => false,
            Some(OrderBySort::Desc) => true,
            Some(OrderBySort::Using(_)) => {
                return Err(refused("ORDER BY … USING an operator can't be merged".to_owned(), "write ASC or DESC"));
            }
        };
        if with_fill.is_some() {
            return Err(refused(format!("`{key}` is not understood"), "write a column, ASC or DESC"));
        }
        if collation(expr) == Some(false) {
            return Err(refused(format!("`{expr}`: only PostgreSQL knows the order of this collation"), "write COLLATE \"C\""));
        }
        let is_said = collation(expr) == Some(true);
        let by = without_collation(expr);
        // A name or a number alone means a column of the result, as in SQL-92, whose collation is then that of its item. Behind
        // COLLATE it is an expression over the tables; what that says nothing about has its table's collation, unknown here.
        let found = if is_said { None } else { self.named(by)? };
        let (column, is_bytewise) = match found {
            Some((column, item)) => (column, item.and_then(collation) == Some(true)),
            None => (self.find_expression(by).ok_or_else(|| missing(by))?, is_said),
        };
        Ok(SortKey { column, is_descending, nulls_first: nulls_first.unwrap_or(is_descending), is_bytewise })
    }

    fn has_star(&self) -> bool {
        self.items.iter().any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)))
    }

    fn expression(&self, at: usize) -> Option<&Expr> {
        match self.items.get(at)? {
            SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } => Some(expression),
            _ => None,
        }
    }

    /// The column of the result that a name or a number alone means, with its item's expression; none if it must be looked for
    /// among the tables' columns.
    fn named(&self, by: &Expr) -> Judged<Option<(OutputColumn, Option<&Expr>)>> {
        match by {
            Expr::Value(value) => match &value.value {
                Value::Number(digits, false) => {
                    let place = digits.parse::<usize>().ok().and_then(|place| place.checked_sub(1)).ok_or_else(|| missing(by))?;
                    Ok(Some((OutputColumn::At(place), self.expression(place).filter(|_| !self.has_star()))))
                }
                _ => Err(missing(by)),
            },
            Expr::Identifier(name) => {
                let name = folded(name);
                let named: Vec<usize> = (0..self.items.len()).filter(|at| self.name(&self.items[*at]).as_ref() == Some(&name)).collect();
                match named.as_slice() {
                    _ if self.has_star() => Ok(Some((OutputColumn::Named(name), named.first().and_then(|at| self.expression(*at))))),
                    [only] => Ok(Some((OutputColumn::At(*only), self.expression(*only)))),
                    // What an item is called that has no name of its own is PostgreSQL's to say; it might be this name.
                    [] if self.items.iter().all(|item| self.name(item).is_some()) => Ok(None),
                    _ => Err(missing(by)),
                }
            }
            _ => Ok(None),
        }
    }

    /// The item that is the same expression, or the column of a `*` that is.
    fn find_expression(&self, by: &Expr) -> Option<OutputColumn> {
        let column = self.level.column(by);
        let is_same = |expression: &Expr| match &column {
            Some(column) => self.level.column(without_collation(expression)).as_ref() == Some(column),
            None => expression.to_string() == by.to_string(),
        };
        let at = (0..self.items.len()).find(|at| self.expression(*at).is_some_and(is_same));
        if !self.has_star() {
            return Some(OutputColumn::At(at?));
        }
        if let Some(at) = at {
            return self.name(&self.items[at]).map(OutputColumn::Named);
        }
        let column = column?;
        let alias = &self.level.relations[column.relation].alias;
        let covers = |item: &SelectItem| match item {
            SelectItem::Wildcard(_) => true,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                relation_name(name).as_ref() == Some(alias)
            }
            _ => false,
        };
        self.items.iter().any(covers).then_some(OutputColumn::Named(column.name))
    }

    /// What an item is called, if it has an alias or is a column.
    fn name(&self, item: &SelectItem) -> Option<String> {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(folded(name)),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(folded),
            _ => None,
        }
    }
}

fn missing(by: &Expr) -> NotGathered {
    let help = format!("add `{by}` to the select list, under a name of its own, and order by that");
    NotGathered::new(ORDER, format!("ORDER BY `{by}` is no column of the result that can be told apart"), &help)
}

fn without_collation(expression: &Expr) -> &Expr {
    match expression {
        Expr::Nested(inner) => without_collation(inner),
        Expr::Collate { expr, .. } => without_collation(expr),
        other => other,
    }
}
