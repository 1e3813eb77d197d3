//! What a SELECT reads, and whether the rows of trees that meet in it are of one root.

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, Query, Select, TableFactor, TableWithJoins,
};

use super::expression::{self, folded};
use super::select::plain_select;
use super::{APART, Judged, NotGathered, Reading, SHAPE, is_known, unknown};
use crate::definition::{Column, Schema};

/// One SELECT: what it reads, inside which others it stands, and which of its trees are bound to each other.
pub(super) struct Level<'s> {
    pub schema: &'s Schema,
    pub outer: Option<&'s Level<'s>>,
    pub relations: Vec<Relation<'s>>,
    /// The root key that each relation is bound to, as the place of another relation; [`OUTER`] for that of the row outside.
    bound: Vec<usize>,
    /// Conditions of joins, and whether every row of the result meets them.
    conditions: Vec<(Expr, bool)>,
}

/// The root key of the row of the SELECT outside.
const OUTER: usize = usize::MAX;

/// What stands in FROM.
pub(super) struct Relation<'s> {
    /// The name by which columns are qualified.
    pub alias: String,
    /// None if it is a subquery or a function, whose columns nobody here knows.
    pub columns: Option<&'s [Column]>,
    pub tree: Option<Tree<'s>>,
    /// Whether a LEFT JOIN may leave it empty.
    pub is_optional: bool,
}

/// A table of a tree.
#[derive(Clone, Copy)]
pub(super) struct Tree<'s> {
    pub entity: &'s str,
    pub key_column: &'s str,
}

impl Relation<'_> {
    /// Whether it surely has such a column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.is_some_and(|columns| columns.iter().any(|known| known.name == column))
    }

    /// Whether it has such a column, or may have.
    pub fn may_have(&self, column: &str) -> bool {
        self.columns.is_none() || self.has(column)
    }
}

/// A column, as the place of its level counted outwards, of its relation, and its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub levels: usize,
    pub relation: usize,
    pub name: String,
}

impl<'s> Level<'s> {
    /// The SELECT that is sent to the peers. All its tables of trees must be bound to one root.
    pub fn outermost(schema: &'s Schema, select: &Select) -> Judged<Level<'s>> {
        let level = Level::of(schema, None, select)?;
        if level.trees().next().is_none() {
            let message = "it reads reference tables outside and a tree inside: each peer has all rows of the first and some of the second";
            return Err(NotGathered::new(APART, message, "write the tree's table into FROM and join the reference table to it"));
        }
        level.must_be_one_root()?;
        level.join_conditions().chain(&select.selection).try_for_each(|condition| level.check(condition))?;
        Ok(level)
    }

    /// A SELECT inside another one. `is_in_key`: its one column is looked for the root key of the row outside.
    pub fn inner(outer: &'s Level<'s>, query: &Query, is_in_key: bool) -> Judged<()> {
        let select = plain_select(query)?;
        let mut level = Level::of(outer.schema, Some(outer), select)?;
        let is_unbound = level.trees().all(|at| level.root_of(at) != OUTER);
        if is_in_key
            && is_unbound
            && let Some(at) = level.key_alone(query, select)
        {
            level.bind(at, OUTER);
        }
        if let Some(at) = level.trees().find(|at| level.root_of(*at) != OUTER) {
            let alias = &level.relations[at].alias;
            let message =
                format!("the subquery over `{alias}` is not bound to the root of the row outside, so it would need rows of other peers");
            let key = level.relations[at].tree.map(|tree| tree.key_column).unwrap_or_default();
            let help = format!("compare `{alias}.{key}` in its WHERE with the root key outside");
            return Err(NotGathered::new(APART, message, &help));
        }
        level.check_whole(query)
    }

    fn of(schema: &'s Schema, outer: Option<&'s Level<'s>>, select: &Select) -> Judged<Level<'s>> {
        let mut level = Level { schema, outer, relations: Vec::new(), bound: Vec::new(), conditions: Vec::new() };
        for item in &select.from {
            level.add_item(item)?;
        }
        // Only now is it known which columns a name may mean.
        let conditions = level.conditions.clone();
        let of_all_rows = conditions.iter().filter(|(_, is_met)| *is_met).map(|(condition, _)| condition);
        for condition in of_all_rows.chain(&select.selection) {
            level.bind_by(condition);
        }
        let entities: Vec<&str> = level.relations.iter().filter_map(|relation| relation.tree).map(|tree| tree.entity).collect();
        if let Some(first) = entities.first()
            && let Some(other) = entities.iter().find(|other| *other != first)
        {
            let message = format!("it joins the trees of `{first}` and `{other}`, whose rows lie on different peers");
            return Err(NotGathered::new(APART, message, "ask for each by a query of its own on the same snapshot"));
        }
        Ok(level)
    }

    fn trees(&self) -> impl Iterator<Item = usize> {
        self.relations.iter().enumerate().filter(|(_, relation)| relation.tree.is_some()).map(|(at, _)| at)
    }

    fn must_be_one_root(&self) -> Judged<()> {
        let mut trees = self.trees();
        let Some(first) = trees.next() else { return Ok(()) };
        match trees.find(|at| self.root_of(*at) != self.root_of(first)) {
            None => Ok(()),
            Some(other) => Err(not_bound(&self.relations[first], &self.relations[other])),
        }
    }

    fn add_item(&mut self, item: &TableWithJoins) -> Judged<()> {
        let from = self.relations.len();
        self.add(&item.relation)?;
        for join in &item.joins {
            self.join(join, from)?;
        }
        Ok(())
    }

    fn add(&mut self, factor: &TableFactor) -> Judged<()> {
        let relation = match factor {
            TableFactor::Table { name, alias, args: None, sample: None, .. } if is_plain_factor(factor) => {
                let name = relation_name(name).ok_or_else(|| unknown(&name.to_string()))?;
                let alias = match alias {
                    Some(alias) if !alias.columns.is_empty() => {
                        let message = format!("`{}` gets other names for its columns", folded(&alias.name));
                        return Err(NotGathered::new(SHAPE, message, "use the columns' own names"));
                    }
                    Some(alias) => folded(&alias.name),
                    None => name.clone(),
                };
                let tree = self.schema.tree_table(&name);
                let columns = match tree {
                    Some((_, table)) => Some(table.columns.as_slice()),
                    None => self.schema.reference.iter().find(|table| table.name == name).map(|table| table.columns.as_slice()),
                };
                let tree = tree.map(|(root, table)| Tree { entity: &root.name, key_column: &table.key_column });
                if !is_known(self.schema, &name) {
                    return Err(unknown(&name));
                }
                Relation { alias, columns, tree, is_optional: false }
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                let alias = alias.as_ref().map(|alias| folded(&alias.name)).unwrap_or_default();
                if Reading::of(subquery, self.schema)?.has_tree {
                    let message = format!("the subquery in FROM (`{alias}`) reads a tree");
                    return Err(NotGathered::new(SHAPE, message, "join the tree's table itself"));
                }
                Relation { alias, columns: None, tree: None, is_optional: false }
            }
            other => {
                let message = format!("`{other}` in FROM is neither a table nor a subquery over reference tables");
                return Err(NotGathered::new(SHAPE, message, "write plain tables and joins"));
            }
        };
        self.bound.push(self.relations.len());
        self.relations.push(relation);
        Ok(())
    }

    /// `from` is the first relation of the item that the join is part of.
    fn join(&mut self, join: &Join, from: usize) -> Judged<()> {
        self.add(&join.relation)?;
        let right = self.relations.len() - 1;
        let unknown_join = || {
            let message = format!("`{}` keeps rows of one side whatever the other peers have, or is not known", join.to_string().trim());
            NotGathered::new(SHAPE, message, "write JOIN, or LEFT JOIN with the tree's table on its left")
        };
        let (constraint, is_left) = match &join.join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) | JoinOperator::CrossJoin(constraint) => (constraint, false),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => (constraint, true),
            _ => return Err(unknown_join()),
        };
        if join.global {
            return Err(unknown_join());
        }
        let before = self.bound.clone();
        match constraint {
            JoinConstraint::On(condition) if is_left => {
                // What a LEFT JOIN's condition says holds for its right side only.
                self.bind_by(condition);
                self.conditions.push((condition.clone(), false));
            }
            JoinConstraint::On(condition) => self.conditions.push((condition.clone(), true)),
            JoinConstraint::Using(columns) => {
                for column in columns {
                    let name = relation_name(column).ok_or_else(unknown_join)?;
                    self.bind_using(&name, from, right);
                }
            }
            JoinConstraint::None => {}
            JoinConstraint::Natural => {
                let message = "NATURAL JOIN compares whatever columns there are";
                return Err(NotGathered::new(SHAPE, message, "write ON or USING"));
            }
        }
        if is_left {
            self.relations[right].is_optional = true;
            if self.relations[right].tree.is_some() {
                let bound = (from..right).find(|at| self.relations[*at].tree.is_some() && self.root_of(*at) == self.root_of(right));
                if bound.is_none() {
                    return Err(match (from..right).find(|at| self.relations[*at].tree.is_some()) {
                        Some(left) => not_bound(&self.relations[left], &self.relations[right]),
                        None => unknown_join(),
                    });
                }
            }
            // Bindings among what stands left of it may not come from this condition.
            for (at, was) in before.into_iter().enumerate().take(right) {
                self.bound[at] = was;
            }
        }
        Ok(())
    }

    /// Binds what a condition that must hold says is equal.
    fn bind_by(&mut self, condition: &Expr) {
        match condition {
            Expr::Nested(inner) => self.bind_by(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.bind_by(left);
                self.bind_by(right);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                if let (Some((left, left_of)), Some((right, right_of))) = (self.key(left), self.key(right))
                    && left_of == right_of
                {
                    self.bind(left, right);
                }
            }
            _ => {}
        }
    }

    fn bind_using(&mut self, column: &str, from: usize, right: usize) {
        let is_key = |relation: &Relation<'_>| relation.tree.is_some_and(|tree| tree.key_column == column);
        let left = (from..right).find(|at| self.relations[*at].may_have(column));
        if let Some(left) = left
            && is_key(&self.relations[left])
            && is_key(&self.relations[right])
            && self.relations[left].tree.map(|tree| tree.entity) == self.relations[right].tree.map(|tree| tree.entity)
        {
            self.bind(left, right);
        }
    }

    /// The relation whose root key an expression is, with its entity; [`OUTER`] if it stands outside.
    fn key(&self, expression: &Expr) -> Option<(usize, &'s str)> {
        let found = self.column(expression)?;
        let mut level = self;
        for _ in 0..found.levels {
            level = level.outer?;
        }
        let tree = level.relations[found.relation].tree.filter(|tree| tree.key_column == found.name)?;
        Some((if found.levels == 0 { found.relation } else { OUTER }, tree.entity))
    }

    /// Whether an expression is the root key of a row of this SELECT, and never NULL.
    pub fn is_key(&self, expression: &Expr) -> bool {
        self.key(expression).is_some_and(|(at, _)| at != OUTER && !self.relations[at].is_optional)
    }

    /// The column that an expression is, if it is one and which one is certain.
    pub fn column(&self, expression: &Expr) -> Option<Found> {
        let name_of = |name: &Ident| folded(name);
        let (qualifier, name) = match expression {
            Expr::Nested(inner) => return self.column(inner),
            Expr::Identifier(name) => (None, name_of(name)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, name] => (Some(name_of(table)), name_of(name)),
                _ => return None,
            },
            _ => return None,
        };
        let mut levels = 0;
        let mut level = self;
        loop {
            let is_meant = |relation: &Relation<'_>| match &qualifier {
                Some(alias) => relation.alias == *alias,
                // A relation whose columns are not known may have it.
                None => relation.may_have(&name),
            };
            let mut meant = level.relations.iter().enumerate().filter(|(_, relation)| is_meant(relation));
            if let Some((relation, found)) = meant.next() {
                let is_certain = meant.next().is_none() && found.has(&name);
                return is_certain.then_some(Found { levels, relation, name });
            }
            level = level.outer?;
            levels += 1;
        }
    }

    /// The tree whose root key is all that a subquery selects, if every row of it does.
    fn key_alone(&self, query: &Query, select: &Select) -> Option<usize> {
        let expressions = expression::plain_items(&select.projection)?;
        let [only] = expressions.as_slice() else { return None };
        let (at, _) = self.key(only).filter(|(at, _)| *at != OUTER && !self.relations[*at].is_optional)?;
        let is_whole = query.limit_clause.is_none() && query.fetch.is_none() && expression::is_ungrouped(select);
        let is_one_root = self.trees().all(|other| self.root_of(other) == self.root_of(at));
        (is_whole && is_one_root && !expression::may_aggregate(select)).then_some(at)
    }

    fn root_of(&self, at: usize) -> usize {
        let mut at = at;
        while at != OUTER && self.bound[at] != at {
            at = self.bound[at];
        }
        at
    }

    fn bind(&mut self, left: usize, right: usize) {
        let (left, right) = (self.root_of(left), self.root_of(right));
        match (left, right) {
            _ if left == right => {}
            (OUTER, inner) | (inner, OUTER) => self.bound[inner] = OUTER,
            (left, right) => self.bound[left.max(right)] = left.min(right),
        }
    }

    /// The conditions of all joins.
    pub fn join_conditions(&self) -> impl Iterator<Item = &Expr> {
        self.conditions.iter().map(|(condition, _)| condition)
    }
}

fn not_bound(left: &Relation<'_>, right: &Relation<'_>) -> NotGathered {
    let key = |relation: &Relation<'_>| format!("{}.{}", relation.alias, relation.tree.map(|tree| tree.key_column).unwrap_or_default());
    let message =
        format!("`{}` and `{}` are joined, but not on the root key, so rows of different peers would meet", left.alias, right.alias);
    NotGathered::new(APART, message, &format!("join on `{} = {}`", key(left), key(right)))
}

/// A table and perhaps an alias, nothing else.
fn is_plain_factor(factor: &TableFactor) -> bool {
    let TableFactor::Table { name, alias, .. } = factor else { return false };
    let alias = alias.as_ref().map(|alias| format!(" {alias}")).unwrap_or_default();
    let text = factor.to_string();
    text == format!("{name}{alias}") || text == format!("{name}{}", alias.replacen(' ', " AS ", 1))
}

/// The table that a name means, if it is in the schema's namespace.
pub(super) fn relation_name(name: &ObjectName) -> Option<String> {
    let parts: Vec<&Ident> = name.0.iter().map(|part| part.as_ident()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [name] => Some(folded(name)),
        [namespace, name] if folded(namespace) == "public" => Some(folded(name)),
        _ => None,
    }
}
