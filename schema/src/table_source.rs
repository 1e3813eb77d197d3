//! `[table.X]`: what holds for a table beyond its definition.

use toml::de::DeValue;

use crate::codes;
use crate::containment::quoted;
use crate::finding::{Finding, Located};
use crate::manifest::{self, Entry};
use crate::source::TableStatement;
use crate::sql::{self, Kind, Token};

/// `[table.X]`
#[derive(Debug, Clone)]
pub struct TableSource {
    /// The table's name.
    pub name: Located<String>,
    /// Whether its rows are only ever inserted.
    pub is_insert_only: bool,
    /// `key = { COLUMN = "EXPRESSION" }`: the column's value follows from the row's content.
    pub key: Option<KeySource>,
}

/// A column whose value follows from the others'.
#[derive(Debug, Clone)]
pub struct KeySource {
    /// The column.
    pub column: Located<String>,
    /// What was written.
    pub expression: Located<String>,
}

/// Reads `[table.X]`.
pub(crate) fn parse(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> TableSource {
    let mut table = TableSource { name: entry.key.clone(), is_insert_only: false, key: None };
    for setting in manifest::sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "insert_only" => table.is_insert_only = manifest::boolean(&setting, findings).unwrap_or(false),
            "key" => table.key = key(&setting, findings),
            _ => manifest::unknown(&setting.key, &["insert_only", "key"], &format!("table.{}", entry.key.value), findings),
        }
    }
    table
}

fn key(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<KeySource> {
    if let DeValue::Table(columns) = entry.value.get_ref()
        && columns.len() == 1
    {
        let column = manifest::entries(columns).into_iter().next()?;
        return Some(KeySource { expression: manifest::string(&column, findings)?, column: column.key });
    }
    let message = "setting `key` names no one column with what its value follows from";
    let help = "write for example `key = { location_id = \"sha256(name, latitude, longitude)\" }`";
    findings.push(Finding::error(codes::SETTING, &entry.place(), message).help(help));
    None
}

impl KeySource {
    /// The condition that every row meets, as SQL; never NULL.
    pub(crate) fn condition(&self) -> String {
        format!("({} = ({})) is true", quoted(&self.column.value), expanded(&self.expression.value))
    }
}

/// The statement that makes the database check each key that is inserted. It is applied like one of a table file, and the server's word
/// about a column or a function that is not there is the check's.
pub(crate) fn key_statement(table: &TableSource) -> Option<TableStatement> {
    let key = table.key.as_ref()?;
    let (name, constraint) = (quoted(&table.name.value), quoted(&format!("{}_{}_is_content", table.name.value, key.column.value)));
    let sql = format!("alter table {name} drop constraint if exists {constraint}, add constraint {constraint} check ({})", key.condition());
    Some(TableStatement { sql, place: key.expression.place.clone(), is_allowed: is_one_expression(&key.expression.value) })
}

/// Whether a text can't end the parenthesis that is put around it.
fn is_one_expression(text: &str) -> bool {
    let mut depth = 0_i32;
    for token in sql::tokens(text) {
        match token.text(text) {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth < 0 || matches!(token.kind, Kind::Unterminated | Kind::Semicolon) {
            return false;
        }
    }
    depth == 0
}

/// `sha256(a, b)`, over plain columns, is the hash in hexadecimal of the columns' texts, each behind its length in bytes and a colon, and a
/// lone minus for NULL: so no two contents are written alike. Everything else is SQL as it stands.
fn expanded(expression: &str) -> String {
    let Some(columns) = columns_of_sha256(expression) else { return expression.to_owned() };
    let part = |column: &String| {
        let text = format!("{}::text", quoted(column));
        format!("coalesce(octet_length(convert_to({text}, 'UTF8'))::text || ':' || {text}, '-')")
    };
    format!("encode(sha256(convert_to({}, 'UTF8')), 'hex')", columns.iter().map(part).collect::<Vec<_>>().join(" || "))
}

fn columns_of_sha256(expression: &str) -> Option<Vec<String>> {
    let tokens: Vec<Token> = sql::code(expression);
    let [name, open, inner @ .., close] = tokens.as_slice() else { return None };
    // A comma behind the last column is no list.
    if inner.len().is_multiple_of(2) || !name.is_word(expression, "sha256") || open.text(expression) != "(" || close.text(expression) != ")"
    {
        return None;
    }
    inner
        .chunks(2)
        .enumerate()
        .map(|(at, pair)| match pair {
            [column, comma] if comma.text(expression) == "," => column.identifier(expression),
            [column] if at * 2 + 1 == inner.len() => column.identifier(expression),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_over_plain_columns_only() {
        assert_eq!(columns_of_sha256("sha256(name, latitude)"), Some(vec!["name".to_owned(), "latitude".to_owned()]));
        for other in ["sha256(name::bytea)", "sha256(a || b)", "encode(sha256(a), 'hex')", "sha256(a,)", "sha256(a b)", "f(a, b)"] {
            assert_eq!(columns_of_sha256(other), None, "{other}");
            assert_eq!(expanded(other), other);
        }
        assert!(expanded("sha256(a)").starts_with("encode(sha256(convert_to(coalesce(octet_length("));
    }

    #[test]
    fn an_expression_stays_in_its_parenthesis() {
        for good in ["f(a)", "(a) || ')'", "\"(\" || a"] {
            assert!(is_one_expression(good), "{good}");
        }
        for bad in ["a) or (true", "a; drop table t", "(a", "'a"] {
            assert!(!is_one_expression(bad), "{bad}");
        }
    }
}
