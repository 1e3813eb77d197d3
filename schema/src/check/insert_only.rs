//! `[table.X]`: the tables are there, and no transaction changes rows that are only ever inserted.

use crate::check::statements::after_set;
use crate::codes;
use crate::definition::ContentKey;
use crate::facts::{Access, Facts, StatementFact};
use crate::finding::Finding;
use crate::nearest::did_you_mean;
use crate::source::Source;
use crate::sql::{self, Token};
use crate::transaction_file::StatementSource;

/// The tables whose rows are only ever inserted.
pub(crate) fn tables(source: &Source) -> impl Iterator<Item = &str> {
    source.manifest.tables.iter().filter(|table| table.is_insert_only).map(|table| table.name.value.as_str())
}

/// The keys that follow from their row's content.
pub(crate) fn content_keys(source: &Source) -> Vec<ContentKey> {
    let declared = source.manifest.tables.iter().filter_map(|table| Some((table, table.key.as_ref()?)));
    declared
        .map(|(table, key)| ContentKey { table: table.name.value.clone(), column: key.column.value.clone(), condition: key.condition() })
        .collect()
}

pub(crate) fn check_tables(source: &Source, facts: &Facts, findings: &mut Vec<Finding>) {
    let known: Vec<&str> = facts.tables.iter().map(|table| table.name.as_str()).collect();
    for table in &source.manifest.tables {
        let name = &table.name;
        if !known.contains(&name.value.as_str()) && facts.table_errors.is_empty() {
            let help = did_you_mean(&name.value, known.iter().copied(), "create it in `tables.sql`, or remove the setting");
            findings.push(Finding::error(codes::TABLE_SETTING, &name.place, format!("there is no table `{}`", name.value)).help(help));
        }
        if let Some(key) = &table.key
            && let Some(statement) = source.table_statements.iter().find(|statement| statement.place == key.expression.place)
            && !statement.is_allowed
        {
            let message = format!("`{}` is no one expression", key.expression.value);
            let help = "write SQL over the row's columns, for example `sha256(name, latitude, longitude)`";
            findings.push(Finding::error(codes::TABLE_SETTING, &key.expression.place, message).help(help));
        }
    }
}

/// A statement only inserts into such a table. What a function does is the database's to refuse.
pub(crate) fn check(source: &Source, statement: &StatementSource, fact: &StatementFact, findings: &mut Vec<Finding>) {
    let is_written = |table: &str| fact.relations.iter().any(|relation| relation.name == table && relation.access == Access::Writes);
    for table in tables(source).filter(|table| is_written(table)) {
        let updated = fact.updated_columns.iter().find(|(other, _)| other == table).map(|(_, column)| after_set(statement, column));
        let deleted = || deletion(&statement.sql, table).map(|token| statement.place_of(token.start));
        let Some((does, place)) = updated.map(|place| ("updates", place)).or_else(|| Some(("deletes from", deleted()?))) else { continue };
        let message = format!("the statement {does} `{table}`, whose rows are only ever inserted");
        findings.push(Finding::error(codes::INSERT_ONLY, &place, message).help("insert another row instead"));
    }
}

/// The word that begins a deletion from this table: of DELETE, or of a MERGE into it.
fn deletion(text: &str, table: &str) -> Option<Token> {
    let tokens = sql::code(text);
    let names = |tokens: &[Token]| tokens.iter().take(4).any(|token| token.identifier(text).as_deref() == Some(table));
    let is = |token: Option<&Token>, word: &str| token.is_some_and(|token| token.is_word(text, word));
    let merges = tokens
        .windows(2)
        .enumerate()
        .any(|(at, pair)| pair[0].is_word(text, "merge") && is(pair.get(1), "into") && names(&tokens[at + 2..]));
    let begins = |(at, token): &(usize, &Token)| {
        token.is_word(text, "delete")
            && (is(tokens.get(at + 1), "from") && names(&tokens[at + 2..])
                || merges && is(at.checked_sub(1).and_then(|at| tokens.get(at)), "then"))
    };
    tokens.iter().enumerate().find(begins).map(|(_, token)| *token)
}
