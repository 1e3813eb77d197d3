//! Which expressions are in the class, and how they are written inside the generated function.

use sqlparser::ast::{BinaryOperator, CastKind, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, UnaryOperator, Value};

use super::Table;
use crate::containment::quoted;
use crate::value::Type;

/// What an expression may name.
pub(super) struct Scope<'a> {
    /// The row that it may look at, and by which name; none for what is yet to be inserted.
    pub table: Option<(&'a Table<'a>, &'a str)>,
    /// What a placeholder, counted from 0, is written as; none where there are none.
    pub parameter: Option<&'a dyn Fn(usize) -> Option<String>>,
}

/// Grammar of PostgreSQL's that looks like a function, and one function that cannot be replaced.
const FUNCTIONS: &[&str] = &["coalesce", "greatest", "least", "nullif", "abs"];

/// Words that look like a name and are none to PostgreSQL.
const RESERVED: &[&str] = &["current_catalog", "current_role", "current_schema", "current_user", "default", "session_user", "user"];

impl Scope<'_> {
    /// The expression as SQL in the order in which it was written, so that PostgreSQL reads it as it read the original;
    /// none if it is outside of the class.
    pub fn render(&self, expression: &Expr) -> Option<String> {
        let all = |list: &[Expr]| Some(list.iter().map(|one| self.render(one)).collect::<Option<Vec<_>>>()?.join(", "));
        let not = |is_negated: bool| if is_negated { "not " } else { "" };
        Some(match expression {
            Expr::Identifier(name) => self.column(None, name)?,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, name] => self.column(Some(table), name)?,
                _ => return None,
            },
            Expr::Value(value) => self.value(&value.value)?,
            Expr::Nested(inner) => format!("({})", self.render(inner)?),
            Expr::BinaryOp { left, op, right } => format!("{} {} {}", self.render(left)?, binary(op)?, self.render(right)?),
            Expr::UnaryOp { op, expr } => match op {
                // Two minus signs would begin a comment.
                UnaryOperator::Minus => format!("- {}", self.render(expr)?),
                UnaryOperator::Plus => format!("+ {}", self.render(expr)?),
                UnaryOperator::Not => format!("not {}", self.render(expr)?),
                _ => return None,
            },
            Expr::IsNull(inner) => format!("{} is null", self.render(inner)?),
            Expr::IsNotNull(inner) => format!("{} is not null", self.render(inner)?),
            Expr::IsTrue(inner) => format!("{} is true", self.render(inner)?),
            Expr::IsNotTrue(inner) => format!("{} is not true", self.render(inner)?),
            Expr::IsFalse(inner) => format!("{} is false", self.render(inner)?),
            Expr::IsNotFalse(inner) => format!("{} is not false", self.render(inner)?),
            Expr::IsDistinctFrom(left, right) => format!("{} is distinct from {}", self.render(left)?, self.render(right)?),
            Expr::IsNotDistinctFrom(left, right) => format!("{} is not distinct from {}", self.render(left)?, self.render(right)?),
            Expr::Between { expr, negated, low, high } => {
                format!("{} {}between {} and {}", self.render(expr)?, not(*negated), self.render(low)?, self.render(high)?)
            }
            Expr::InList { expr, list, negated } => format!("{} {}in ({})", self.render(expr)?, not(*negated), all(list)?),
            Expr::Cast { kind, expr, data_type, format: None, .. } => {
                let name = data_type.to_string();
                if matches!(Type::from_name(&name.to_lowercase()), Type::Other(_)) {
                    return None;
                }
                match kind {
                    CastKind::DoubleColon => format!("{}::{name}", self.render(expr)?),
                    CastKind::Cast => format!("cast({} as {name})", self.render(expr)?),
                    _ => return None,
                }
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let mut text = "case".to_owned();
                if let Some(operand) = operand {
                    text += &format!(" {}", self.render(operand)?);
                }
                for when in conditions {
                    text += &format!(" when {} then {}", self.render(&when.condition)?, self.render(&when.result)?);
                }
                if let Some(otherwise) = else_result {
                    text += &format!(" else {}", self.render(otherwise)?);
                }
                text + " end"
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                let FunctionArguments::List(list) = &function.args else { return None };
                let arguments: Vec<Expr> = list
                    .args
                    .iter()
                    .map(|argument| match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) => Some(inner.clone()),
                        _ => None,
                    })
                    .collect::<Option<_>>()?;
                // Whatever else a call can have (FILTER, OVER, DISTINCT, ORDER BY) shows in its text.
                let plain = arguments.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                if !FUNCTIONS.contains(&name.as_str()) || function.to_string() != format!("{}({plain})", function.name) {
                    return None;
                }
                format!("{name}({})", all(&arguments)?)
            }
            _ => return None,
        })
    }

    fn column(&self, qualifier: Option<&Ident>, name: &Ident) -> Option<String> {
        let (table, alias) = self.table?;
        if qualifier.is_some_and(|qualifier| folded(qualifier) != alias) {
            return None;
        }
        // What these mean is no column, even where one has the name.
        if name.quote_style.is_none() && RESERVED.contains(&folded(name).as_str()) {
            return None;
        }
        let name = folded(name);
        table.fact.column(&name)?;
        Some(format!("{}.{}", quoted(alias), quoted(&name)))
    }

    fn value(&self, value: &Value) -> Option<String> {
        Some(match value {
            Value::Number(digits, false) => digits.clone(),
            Value::SingleQuotedString(text) if !text.contains('\\') => format!("'{}'", text.replace('\'', "''")),
            Value::Boolean(truth) => truth.to_string(),
            Value::Null => "null".to_owned(),
            Value::Placeholder(placeholder) => (self.parameter?)(place(placeholder)?)?,
            _ => return None,
        })
    }
}

/// `$1` is 0.
pub(super) fn place(placeholder: &str) -> Option<usize> {
    placeholder.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// A name as PostgreSQL folds it.
pub(super) fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

fn binary(operator: &BinaryOperator) -> Option<&'static str> {
    Some(match operator {
        BinaryOperator::Plus => "+",
        BinaryOperator::Minus => "-",
        BinaryOperator::Multiply => "*",
        BinaryOperator::Divide => "/",
        BinaryOperator::Modulo => "%",
        BinaryOperator::StringConcat => "||",
        BinaryOperator::Gt => ">",
        BinaryOperator::Lt => "<",
        BinaryOperator::GtEq => ">=",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Eq => "=",
        BinaryOperator::NotEq => "<>",
        BinaryOperator::And => "and",
        BinaryOperator::Or => "or",
        _ => return None,
    })
}
