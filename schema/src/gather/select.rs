//! The SELECT that a query is, without the clauses that only others have.

use sqlparser::ast::{Query, Select, SelectFlavor, SetExpr};

use super::{Judged, NotGathered, SHAPE, UNREADABLE};

/// The SELECT that a query is, if nothing stands around it but ORDER BY and LIMIT.
pub(super) fn plain_select(query: &Query) -> Judged<&Select> {
    let Query { with, body, order_by: _, limit_clause: _, fetch: _, locks, for_clause, settings, format_clause, pipe_operators } = query;
    if with.is_some() {
        return Err(NotGathered::new(SHAPE, "it has a common table expression (WITH) beside a tree's table", "write it without WITH"));
    }
    let select = match body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { op, .. } => {
            let message = format!("{op} would have to compare or join rows of all peers");
            return Err(NotGathered::new(SHAPE, message, "ask for each part by a query of its own"));
        }
        _ => return Err(NotGathered::new(SHAPE, "it is not one plain SELECT", "write it without parentheses around it")),
    };
    let is_plain = locks.is_empty() && for_clause.is_none() && settings.is_none() && format_clause.is_none() && pipe_operators.is_empty();
    if !is_plain || !is_plain_select(select) {
        return Err(NotGathered::new(UNREADABLE, "it has a clause that a snapshot's query has no use for", "leave it out"));
    }
    Ok(select)
}

/// Whether the clauses that only other databases have, and INTO, are missing.
fn is_plain_select(select: &Select) -> bool {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection: _,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by: _,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window: _,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    let (modifiers, start) = (select_modifiers.is_none() && top.is_none(), matches!(flavor, SelectFlavor::Standard));
    let none = exclude.is_none() && into.is_none() && prewhere.is_none() && qualify.is_none() && value_table_mode.is_none();
    let empty =
        lateral_views.is_empty() && connect_by.is_empty() && cluster_by.is_empty() && distribute_by.is_empty() && sort_by.is_empty();
    modifiers && start && none && empty
}
