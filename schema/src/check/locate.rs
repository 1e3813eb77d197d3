//! Finds the place of an object in the table files, for the caret.

use crate::facts::ForeignKeyFact;
use crate::finding::{Place, Span};
use crate::source::{Source, TableStatement};
use crate::sql::{self, Token};

/// `create unlogged table if not exists public . name`: the name of what is defined stands among the first words.
const OPENING_TOKENS: usize = 9;

/// The place where an object is defined; the beginning of the first table file if it cannot be found.
pub(crate) fn object(source: &Source, name: &str) -> Place {
    opening_place(source, name).unwrap_or_else(|| Place {
        file: source.table_files.first().map_or_else(|| crate::source::MANIFEST_FILE.to_owned(), |file| file.path.clone()),
        span: Span::default(),
    })
}

fn opening_place(source: &Source, name: &str) -> Option<Place> {
    source.table_statements.iter().find_map(|statement| {
        let opening = opening_token(statement, name)?;
        Some(place(statement, opening, opening))
    })
}

/// The place of the first of several word sequences that stands in a definition of `table`; that of the table's name
/// if none does.
pub(crate) fn inside(source: &Source, table: &str, sequences: &[&[&str]]) -> Place {
    let found = sequences.iter().find_map(|words| {
        let about_table = source.table_statements.iter().filter(|statement| opening_token(statement, table).is_some());
        about_table.into_iter().find_map(|statement| sequence(statement, words))
    });
    found.unwrap_or_else(|| object(source, table))
}

/// The place of the `references` of a foreign key: the one that stands with all of its columns in one element of the
/// definition, whether as a column's constraint or as the table's.
pub(crate) fn foreign_key(source: &Source, table: &str, key: &ForeignKeyFact) -> Place {
    let about_table = source.table_statements.iter().filter(|statement| opening_token(statement, table).is_some());
    let found = about_table.into_iter().find_map(|statement| references(statement, key));
    found.unwrap_or_else(|| inside(source, table, &[&[&key.name], &["references", &key.target]]))
}

fn references(statement: &TableStatement, key: &ForeignKeyFact) -> Option<Place> {
    let text = &statement.sql;
    let tokens = sql::code(text);
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.is_word(text, "references")) {
        let target = tokens.iter().skip(at + 1).take(3).find(|target| target.identifier(text).as_deref() == Some(&key.target));
        let element = element_before(text, &tokens[..at]);
        let has = |column: &String| element.iter().any(|token| token.identifier(text).as_ref() == Some(column));
        if let (Some(target), true) = (target, key.columns.iter().all(has)) {
            return Some(place(statement, *token, *target));
        }
    }
    None
}

/// The tokens back to the comma or the parenthesis that opens the element in which the last one stands.
fn element_before<'a>(text: &str, tokens: &'a [Token]) -> &'a [Token] {
    let mut depth = 0_usize;
    let opens = tokens.iter().rposition(|token| {
        match token.text(text) {
            ")" => depth += 1,
            "(" if depth == 0 => return true,
            "(" => depth -= 1,
            "," if depth == 0 => return true,
            _ => {}
        }
        false
    });
    tokens.get(opens.map_or(0, |at| at + 1)..).unwrap_or(&[])
}

fn opening_token(statement: &TableStatement, name: &str) -> Option<Token> {
    sql::code(&statement.sql).into_iter().take(OPENING_TOKENS).find(|token| token.identifier(&statement.sql).as_deref() == Some(name))
}

fn sequence(statement: &TableStatement, words: &[&str]) -> Option<Place> {
    let tokens = sql::code(&statement.sql);
    let matched = tokens
        .windows(words.len().max(1))
        .find(|window| window.iter().zip(words).all(|(token, word)| token.identifier(&statement.sql).as_deref() == Some(*word)))?;
    Some(place(statement, *matched.first()?, *matched.last()?))
}

fn place(statement: &TableStatement, first: Token, last: Token) -> Place {
    let start = statement.place.span.offset;
    Place { file: statement.place.file.clone(), span: Span::between(start + first.start, start + last.end) }
}
