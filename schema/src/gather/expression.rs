//! What an expression may call and ask: functions of one row only, and subqueries whose rows are where the row outside is.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Distinct, Expr, Function, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Visit,
    Visitor,
};

use super::relation::{Level, relation_name};
use super::{APART, Judged, NotGathered, Reading, SHAPE};

/// Functions of PostgreSQL's own that make one value of the values of one row. Whatever is not among them may be an aggregate.
const OF_ONE_ROW: &str = "
    abs acos age array_append array_cat array_dims array_length array_lower array_ndims array_position array_prepend
    array_remove array_replace array_to_json array_to_string array_upper ascii asin atan atan2 bit_count bit_length btrim
    cardinality cbrt ceil ceiling char_length character_length chr clock_timestamp coalesce concat concat_ws convert_from
    convert_to cos cosh cot current_database current_date current_setting current_time current_timestamp date_bin date_part
    date_trunc decode degrees div encode exp extract factorial floor format format_type gcd gen_random_uuid get_bit get_byte
    greatest hashint2extended hashint4extended hashint8extended hashtextextended initcap isempty isfinite json_array_length
    json_build_array json_build_object json_extract_path json_extract_path_text json_object json_strip_nulls json_typeof
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object
    jsonb_path_exists jsonb_path_match jsonb_path_query_array jsonb_path_query_first jsonb_pretty jsonb_set jsonb_strip_nulls
    jsonb_typeof justify_days justify_hours justify_interval lcm least left length ln localtime localtimestamp log log10 lower
    lower_inc lower_inf lpad ltrim make_date make_interval make_time make_timestamp make_timestamptz md5 min_scale mod normalize
    now nullif num_nonnulls num_nulls octet_length overlay pg_column_size pg_typeof pi position power quote_ident quote_literal
    quote_nullable radians random regexp_count regexp_instr regexp_like regexp_match regexp_replace regexp_split_to_array
    regexp_substr repeat replace reverse right round row row_to_json rpad rtrim scale set_bit set_byte sha224 sha256 sha384
    sha512 sign sin sinh split_part sqrt starts_with statement_timestamp string_to_array strpos substr substring tan tanh
    timezone to_ascii to_char to_date to_hex to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector
    transaction_timestamp translate trim trim_array trim_scale trunc ts_rank upper upper_inc upper_inf uuid_hash_extended
    width_bucket";

/// A name as PostgreSQL folds it.
pub(super) fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

/// The name of a function of PostgreSQL's own; an empty one if it stands in another namespace.
pub(super) fn function_name(function: &Function) -> String {
    let parts: Option<Vec<&Ident>> = function.name.0.iter().map(|part| part.as_ident()).collect();
    match parts.as_deref() {
        Some([name]) => folded(name),
        Some([namespace, name]) if folded(namespace) == "pg_catalog" => folded(name),
        _ => String::new(),
    }
}

/// The arguments of a call that has nothing but plain ones.
pub(super) fn plain_arguments(function: &Function) -> Option<&FunctionArgumentList> {
    let Function { name: _, uses_odbc_syntax, parameters, args, within_group, filter: _, null_treatment, over } = function;
    let is_plain = !uses_odbc_syntax && within_group.is_empty() && null_treatment.is_none() && over.is_none();
    match (parameters, args) {
        (FunctionArguments::None, FunctionArguments::List(list)) if is_plain && list.clauses.is_empty() => Some(list),
        _ => None,
    }
}

/// The expressions of a select list that has nothing else.
pub(super) fn plain_items(items: &[SelectItem]) -> Option<Vec<&Expr>> {
    let plain = |item| match item {
        &SelectItem::UnnamedExpr(ref expression) | &SelectItem::ExprWithAlias { expr: ref expression, .. } => Some(expression),
        _ => None,
    };
    items.iter().map(plain).collect()
}

/// Whether every row that is read is one row of the result.
pub(super) fn is_ungrouped(select: &Select) -> bool {
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty());
    let is_distinct = !matches!(select.distinct, None | Some(Distinct::All));
    !is_grouped && !is_distinct && select.having.is_none()
}

/// Whether something is called that may make one value of many rows.
pub(super) fn may_aggregate(select: &Select) -> bool {
    struct Calls(bool);
    impl Visitor for Calls {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expression {
                self.0 |= !is_of_one_row(function);
            }
            ControlFlow::Continue(())
        }
    }
    let mut calls = Calls(false);
    let _ = select.visit(&mut calls);
    calls.0
}

fn is_of_one_row(function: &Function) -> bool {
    // CURRENT_DATE and the like are functions without parentheses.
    let is_bare = matches!(function.args, FunctionArguments::None) && function.over.is_none();
    (plain_arguments(function).is_some() || is_bare)
        && function.filter.is_none()
        && OF_ONE_ROW.split_whitespace().any(|known| known == function_name(function))
}

impl Level<'_> {
    /// Whether an expression of the SELECT is about one row and what belongs to its root.
    ///
    /// # Errors
    /// [`NotGathered`] if not, or if that can't be seen.
    pub fn check(&self, node: &impl Visit) -> Judged<()> {
        self.walk(node, 0)
    }

    /// All of a SELECT inside another one: what it does with the rows of one root is its own affair.
    pub fn check_whole(&self, query: &Query) -> Judged<()> {
        // Tables and joins were judged before; a subquery in FROM would be taken for one in an expression.
        let mut bare = query.clone();
        if let SetExpr::Select(select) = bare.body.as_mut() {
            select.from.clear();
        }
        self.join_conditions().try_for_each(|condition| self.check(condition))?;
        // The query itself is met first.
        self.walk(&bare, -1)
    }

    fn walk(&self, node: &impl Visit, depth: i32) -> Judged<()> {
        let mut walk = Walk { level: self, depth, looks_for_key: Vec::new() };
        match node.visit(&mut walk) {
            ControlFlow::Break(why) => Err(*why),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn check_call(&self, function: &Function) -> Judged<()> {
        if is_of_one_row(function) {
            return Ok(());
        }
        let name = function.name.to_string();
        if self.outer.is_some() {
            return check_not_of_outer(Some(self), self.outer, function);
        }
        if function.over.is_some() {
            let message = format!("the window of `{name}` would reach over rows of several peers");
            return Err(NotGathered::new(SHAPE, message, "compute it from the rows"));
        }
        let message = format!("`{name}` is not known to be about one row alone");
        let help = match function_name(function).as_str() {
            "count" | "sum" | "min" | "max" => "write it plainly into the select list, with nothing around it",
            "avg" => "ask for sum and count, and divide",
            _ => "count, sum, min and max are put together, plain in the select list",
        };
        Err(NotGathered::new(SHAPE, message, help))
    }

    fn check_subquery(&self, query: &Query, looks_for_key: bool) -> Judged<()> {
        if Reading::of(query, self.schema)?.has_tree {
            return Level::inner(self, query, looks_for_key);
        }
        // All of it is on each peer. Only an aggregate of the row outside would be one of the SELECT outside.
        struct Calls<'l>(&'l Level<'l>);
        impl Visitor for Calls<'_> {
            type Break = Box<NotGathered>;

            fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
                match expression {
                    Expr::Function(function) if !is_of_one_row(function) => match check_not_of_outer(None, Some(self.0), function) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(why) => ControlFlow::Break(Box::new(why)),
                    },
                    _ => ControlFlow::Continue(()),
                }
            }
        }
        match query.visit(&mut Calls(self)) {
            ControlFlow::Break(why) => Err(*why),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// An aggregate over columns of a row outside belongs to the SELECT outside, wherever it is written.
fn check_not_of_outer<'l>(own: Option<&'l Level<'l>>, outer: Option<&'l Level<'l>>, function: &Function) -> Judged<()> {
    struct Names<'l> {
        own: Option<&'l Level<'l>>,
        outer: Option<&'l Level<'l>>,
    }
    impl Names<'_> {
        fn may_be_outside(&self, qualifier: Option<&Ident>, name: &Ident) -> bool {
            let is_own = self.own.is_some_and(|level| {
                level.relations.iter().any(|relation| match qualifier {
                    Some(alias) => relation.alias == folded(alias),
                    None => relation.has(&folded(name)),
                })
            });
            if is_own {
                return false;
            }
            let mut level = self.outer;
            while let Some(here) = level {
                let is_here = here.relations.iter().any(|relation| match qualifier {
                    Some(alias) => relation.alias == folded(alias),
                    None => relation.alias == folded(name) || relation.may_have(&folded(name)),
                });
                if is_here {
                    return true;
                }
                level = here.outer;
            }
            false
        }
    }
    impl Visitor for Names<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            let is_outside = match expression {
                Expr::Identifier(name) => self.may_be_outside(None, name),
                Expr::CompoundIdentifier(parts) => {
                    parts.first().zip(parts.last()).is_some_and(|(first, last)| self.may_be_outside(Some(first), last))
                }
                Expr::QualifiedWildcard(name, _) => relation_name(name).is_none_or(|name| self.may_be_outside(None, &Ident::new(name))),
                _ => false,
            };
            if is_outside { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    if function.visit(&mut Names { own, outer }).is_break() {
        let message = format!("`{function}` in a subquery names a column that may be one of the row outside");
        return Err(NotGathered::new(APART, message, "name the subquery's own columns by its own table, under another name"));
    }
    Ok(())
}

/// Goes through one SELECT's expressions, and hands subqueries on.
struct Walk<'l> {
    level: &'l Level<'l>,
    /// How many queries it is inside.
    depth: i32,
    /// Subqueries in which the root key is looked for, by their addresses.
    looks_for_key: Vec<usize>,
}

fn address(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

impl Walk<'_> {
    fn judged(result: Judged<()>) -> ControlFlow<Box<NotGathered>> {
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => ControlFlow::Break(Box::new(why)),
        }
    }
}

impl Visitor for Walk<'_> {
    type Break = Box<NotGathered>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        if self.depth == 1 {
            let looks_for_key = self.looks_for_key.contains(&address(query));
            return Walk::judged(self.level.check_subquery(query, looks_for_key));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        match expression {
            Expr::Function(function) => Walk::judged(self.level.check_call(function)),
            Expr::InSubquery { expr, subquery, .. } if self.level.is_key(expr) => {
                self.looks_for_key.push(address(subquery));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
