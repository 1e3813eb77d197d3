//! What one statement does, if it is in the class.

use std::collections::BTreeSet;

use sqlparser::ast::{
    self, AssignmentTarget, BinaryOperator, Expr, Ident, ObjectName, OnConflictAction, OnInsert, Query, Select, SelectItem, SetExpr,
    TableFactor, TableObject, TableWithJoins, Value,
};

use super::Table;
use super::expression::{Scope, folded, place};
use super::parts::{Parts, conjuncts, list, parsed, parts, returned};
use crate::containment::quoted;
use crate::definition::Column;
use crate::value::Type;

/// One statement, its expressions written for the generated function.
pub(super) struct Single {
    pub action: Action,
    pub met: Met,
    /// The column that carries the root key.
    pub key_column: String,
    /// The statement's own condition.
    pub condition: Option<String>,
    /// What it returns.
    pub returning: Vec<String>,
    /// Whether leaving out what it returns changes nothing: it can't fail.
    pub returns_plainly: bool,
    /// The parameters that it uses, by their places.
    pub uses: BTreeSet<usize>,
}

/// What is known of the rows that a statement meets.
pub(super) struct Met {
    pub table: String,
    /// The name that the statement gives the table.
    pub alias: String,
    /// What holds for each of them.
    conjuncts: Vec<String>,
}

impl Met {
    /// Whether a row that is met there is met here too: it is of the same table, and all that is asked of it here is asked there.
    pub fn holds_where(&self, there: &Met) -> bool {
        (&self.table, &self.alias) == (&there.table, &there.alias) && self.conjuncts.iter().all(|asked| there.conjuncts.contains(asked))
    }
}

pub(super) enum Action {
    Select,
    /// Columns and what they become.
    Update(Vec<(String, String)>),
    Delete,
    Insert {
        values: Vec<(String, String)>,
        or_nothing: bool,
    },
}

impl Single {
    pub fn writes(&self) -> bool {
        !matches!(self.action, Action::Select)
    }

    /// Whether running it can do nothing but tell whether its row is there.
    pub fn only_asks(&self) -> bool {
        !self.writes() && self.returns_plainly
    }
}

/// How a placeholder is written in the function.
pub(super) fn parameter_name(place: usize) -> String {
    format!("rw_s.rw_v{}", place + 1)
}

/// Reads the statements of a transaction.
pub(super) struct Reader<'r, 'a> {
    pub table_of: &'r dyn Fn(&str) -> Option<Table<'a>>,
    /// The place of a placeholder's parameter.
    pub place_of: &'r dyn Fn(usize) -> Option<usize>,
    pub parameters: &'r [Column],
    /// The place of the root key.
    pub root: usize,
}

/// A table as a statement names it.
struct Named<'a> {
    table: Table<'a>,
    alias: String,
}

impl<'a> Reader<'_, 'a> {
    /// Reads a statement; none if it is outside of the class.
    pub fn understand(&self, sql: &str) -> Option<Single> {
        let statement = parsed(sql)?;
        match &statement {
            ast::Statement::Query(_) => self.select(&parts(&statement)?),
            ast::Statement::Update(update) => self.update(update, &parts(&statement)?),
            ast::Statement::Delete(_) => self.delete(&parts(&statement)?),
            ast::Statement::Insert(insert) => self.insert(insert, &statement.to_string()),
            _ => None,
        }
    }

    /// What is known of the rows that a statement meets if its row count isn't 0: of an UPDATE or DELETE, be it in the class or not, or of
    /// a SELECT in the class. Others may give a row where they meet none, as `count(*)` does.
    pub fn met(&self, sql: &str) -> Option<Met> {
        let statement = parsed(sql)?;
        let parts = parts(&statement)?;
        match &statement {
            ast::Statement::Query(_) => self.select(&parts).map(|single| single.met),
            _ => Some(self.met_by(&self.named(parts.from)?, Some(parts.condition))),
        }
    }

    /// What is outside of the class is left out: there may be more that holds.
    fn met_by(&self, named: &Named<'a>, condition: Option<&Expr>) -> Met {
        let conjuncts = condition.map(conjuncts).unwrap_or_default().into_iter().filter_map(|asked| self.render(Some(named), asked));
        Met { table: named.table.tree.name.clone(), alias: named.alias.clone(), conjuncts: conjuncts.collect() }
    }

    fn select(&self, parts: &Parts<'_>) -> Option<Single> {
        self.single(&self.named(parts.from)?, Action::Select, Some(parts.condition), parts.returning)
    }

    fn update(&self, update: &ast::Update, parts: &Parts<'_>) -> Option<Single> {
        let named = self.named(parts.from)?;
        if named.table.update_cascades {
            return None;
        }
        let mut changes = Vec::new();
        for assignment in &update.assignments {
            let AssignmentTarget::ColumnName(column) = &assignment.target else { return None };
            let column = one_name(column)?;
            let is_key = named.table.tree.primary_key.contains(&column) || named.table.tree.key_column == column;
            let fact = named.table.fact.column(&column).filter(|fact| !fact.is_generated && !fact.is_identity)?;
            if is_key {
                return None;
            }
            changes.push((fact.name.clone(), self.render(Some(&named), &assignment.value)?));
        }
        let mut single = self.single(&named, Action::Update(changes), Some(parts.condition), parts.returning)?;
        for assignment in &update.assignments {
            self.note_uses(&assignment.value, &mut single.uses);
        }
        Some(single)
    }

    fn delete(&self, parts: &Parts<'_>) -> Option<Single> {
        let named = self.named(parts.from)?;
        if named.table.delete_cascades {
            return None;
        }
        self.single(&named, Action::Delete, Some(parts.condition), parts.returning)
    }

    fn insert(&self, insert: &ast::Insert, text: &str) -> Option<Single> {
        let TableObject::TableName(name) = &insert.table else { return None };
        let source = insert.source.as_ref()?;
        let returning = insert.returning.as_deref().unwrap_or_default();
        let columns: Vec<String> = insert.columns.iter().map(one_name).collect::<Option<_>>()?;
        let or_nothing = match &insert.on {
            None => false,
            Some(OnInsert::OnConflict(conflict)) => {
                matches!(conflict.action, OnConflictAction::DoNothing) && conflict.conflict_target.is_none()
            }
            Some(_) => return None,
        };
        let on = if or_nothing { " ON CONFLICT DO NOTHING" } else { "" };
        if text != format!("INSERT INTO {name} ({}) {source}{on}{}", list(&insert.columns), returned(returning)) {
            return None;
        }
        let name = one_name(name)?;
        let named = Named { table: (self.table_of)(&name)?, alias: name };
        let (expressions, condition) = row(source)?;
        if expressions.len() != columns.len() || columns.is_empty() {
            return None;
        }
        let mut values = Vec::new();
        for (column, expression) in columns.iter().zip(&expressions) {
            let fact = named.table.fact.column(column).filter(|fact| !fact.is_generated && !fact.is_identity)?;
            // The row is the unit's own: its key is the parameter itself, not something that is computed from it.
            if *column == named.table.tree.key_column && self.parameter(expression) != Some(self.root) {
                return None;
            }
            values.push((fact.name.clone(), self.render(None, expression)?));
        }
        let is_left_out = |column: &&crate::facts::ColumnFact| !columns.contains(&column.name) && !column.is_generated;
        let are_defaults_plain = named
            .table
            .fact
            .columns
            .iter()
            .filter(is_left_out)
            .all(|column| !column.is_identity && column.default.as_deref().is_none_or(is_plain_default));
        if !columns.contains(&named.table.tree.key_column) || !are_defaults_plain {
            return None;
        }
        let mut single = self.single(&named, Action::Insert { values, or_nothing }, None, returning)?;
        if let Some(condition) = &condition {
            single.condition = Some(self.render(None, condition)?);
            self.note_uses(condition, &mut single.uses);
        }
        for expression in &expressions {
            self.note_uses(expression, &mut single.uses);
        }
        Some(single)
    }

    fn single(&self, named: &Named<'a>, action: Action, condition: Option<&Expr>, returning: &[SelectItem]) -> Option<Single> {
        let is_insert = matches!(action, Action::Insert { .. });
        if let Some(condition) = condition
            && !self.is_one_row(named, condition)
        {
            return None;
        }
        let mut uses = BTreeSet::from([self.root]);
        let mut columns = Vec::new();
        let mut returns_plainly = true;
        for item in returning {
            match item {
                // To PostgreSQL, a string behind a string on the line before is more of it.
                SelectItem::ExprWithAlias { alias, .. } if alias.quote_style == Some('\'') => return None,
                SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. } => {
                    // What INSERT returns can name the new row only.
                    let scope = Scope { table: Some((&named.table, &named.alias)), parameter: None };
                    columns.push(if is_insert { scope.render(expression)? } else { self.render(Some(named), expression)? });
                    returns_plainly &= matches!(expression, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_));
                    self.note_uses(expression, &mut uses);
                }
                SelectItem::Wildcard(options) if options.to_string().is_empty() => {
                    let all = named.table.fact.columns.iter();
                    columns.extend(all.map(|column| format!("{}.{}", quoted(&named.alias), quoted(&column.name))));
                }
                _ => return None,
            }
        }
        if let Some(condition) = condition {
            self.note_uses(condition, &mut uses);
        }
        let met = self.met_by(named, condition);
        let condition = match condition {
            Some(condition) => Some(self.render(Some(named), condition)?),
            None => None,
        };
        Some(Single { action, met, key_column: named.table.tree.key_column.clone(), condition, returning: columns, returns_plainly, uses })
    }

    fn named(&self, from: &TableWithJoins) -> Option<Named<'a>> {
        let TableFactor::Table { name, alias, .. } = &from.relation else { return None };
        let alias_text = alias.as_ref().map(|alias| format!(" {alias}")).unwrap_or_default();
        let alias_text = [alias_text.clone(), alias_text.replacen(' ', " AS ", 1)];
        if !alias_text.iter().any(|alias| from.to_string() == format!("{name}{alias}")) {
            return None;
        }
        if alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
            return None;
        }
        let name = one_name(name)?;
        let alias = alias.as_ref().map_or_else(|| name.clone(), |alias| folded(&alias.name));
        Some(Named { table: (self.table_of)(&name)?, alias }).filter(|named| !named.alias.starts_with(super::PREFIX))
    }

    /// Whether the condition holds for one row at most: every column of the primary key equals a parameter or a constant.
    /// The root key's does in any case: the generated function says so.
    fn is_one_row(&self, named: &Named<'_>, condition: &Expr) -> bool {
        let mut pinned: BTreeSet<String> = BTreeSet::from([named.table.tree.key_column.clone()]);
        self.pins(named, condition, &mut pinned);
        !named.table.tree.primary_key.is_empty() && named.table.tree.primary_key.iter().all(|column| pinned.contains(column))
    }

    fn pins(&self, named: &Named<'_>, condition: &Expr, pinned: &mut BTreeSet<String>) {
        match condition {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.pins(named, left, pinned);
                self.pins(named, right, pinned);
            }
            Expr::Nested(inner) => self.pins(named, inner, pinned),
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                for (column, value) in [(left, right), (right, left)] {
                    let name = match column.as_ref() {
                        Expr::Identifier(name) => folded(name),
                        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                            [table, name] if folded(table) == named.alias => folded(name),
                            _ => continue,
                        },
                        _ => continue,
                    };
                    if self.is_fixed(value) && named.table.fact.column(&name).is_some_and(|fact| is_exact(&fact.r#type)) {
                        pinned.insert(name);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether an expression is one value, which equals one value of a column at most.
    fn is_fixed(&self, value: &Expr) -> bool {
        match value {
            Expr::Value(constant) => match &constant.value {
                Value::Placeholder(placeholder) => {
                    place(placeholder).and_then(self.place_of).is_some_and(|at| is_exact(&self.parameters[at].r#type))
                }
                _ => true,
            },
            Expr::Cast { expr, data_type, .. } => is_exact(&Type::from_name(&data_type.to_string().to_lowercase())) && self.is_fixed(expr),
            _ => false,
        }
    }

    fn render(&self, named: Option<&Named<'_>>, expression: &Expr) -> Option<String> {
        let parameter = |at: usize| Some(parameter_name((self.place_of)(at)?));
        Scope { table: named.map(|named| (&named.table, named.alias.as_str())), parameter: Some(&parameter) }.render(expression)
    }

    /// The parameter that an expression is.
    fn parameter(&self, expression: &Expr) -> Option<usize> {
        let Expr::Value(value) = expression else { return None };
        let Value::Placeholder(placeholder) = &value.value else { return None };
        (self.place_of)(place(placeholder)?)
    }

    /// Placeholders show in an expression's text, strings aside, which can only name too many.
    fn note_uses(&self, expression: &Expr, uses: &mut BTreeSet<usize>) {
        let text = expression.to_string();
        for (at, _) in text.match_indices('$') {
            let digits: String = text[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            uses.extend(digits.parse::<usize>().ok().and_then(|number| number.checked_sub(1)).and_then(|number| (self.place_of)(number)));
        }
    }
}

/// The one row that an INSERT makes, and on which condition.
fn row(source: &Query) -> Option<(Vec<Expr>, Option<Expr>)> {
    match source.body.as_ref() {
        SetExpr::Values(values) => {
            let [row] = values.rows.as_slice() else { return None };
            let expressions: Vec<Expr> = row.content.clone();
            (source.to_string() == format!("VALUES ({})", list(&expressions))).then_some((expressions, None))
        }
        SetExpr::Select(select) => {
            let Select { projection, selection, from, .. } = select.as_ref();
            let expressions = projection.iter().map(|item| match item {
                SelectItem::UnnamedExpr(expression) => Some(expression.clone()),
                _ => None,
            });
            let expressions: Vec<Expr> = expressions.collect::<Option<_>>()?;
            let condition = selection.as_ref().map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
            let is_plain = from.is_empty() && source.to_string() == format!("SELECT {}{condition}", list(projection));
            is_plain.then(|| (expressions, selection.clone()))
        }
        _ => None,
    }
}

/// Whether equal values of the type are the same: as floats, many numbers are equal to one.
fn is_exact(r#type: &Type) -> bool {
    !matches!(r#type, Type::Real | Type::Double | Type::Other(_))
}

/// Whether a default is a constant or the time: nothing is called for it, and it doesn't tell who runs.
fn is_plain_default(text: &str) -> bool {
    const WHO: &[&str] = &["CURRENT_USER", "CURRENT_ROLE", "SESSION_USER", "USER", "CURRENT_SCHEMA"];
    text == "now()" || (!text.contains('(') && !WHO.iter().any(|word| text.starts_with(word)))
}

fn one_name(name: &ObjectName) -> Option<String> {
    let parts: Vec<&Ident> = name.0.iter().map(|part| part.as_ident()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [name] => Some(folded(name)),
        [schema, name] if folded(schema) == "public" => Some(folded(name)),
        _ => None,
    }
}
