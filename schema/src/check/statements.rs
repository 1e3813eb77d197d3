//! One statement: its kind, the server's refusal in our words, and what it reaches.

use crate::check::functions;
use crate::check::trees::{Home, Trees};
use crate::codes;
use crate::definition::Target;
use crate::facts::{Access, Facts, ServerError, StatementFact};
use crate::finding::Finding;
use crate::sql::{self, Kind};
use crate::transaction_file::StatementSource;

/// The words that a statement can begin with. The server's PREPARE is the gate; this one has the better message.
const OPENING_WORDS: &[&str] = &["select", "insert", "update", "delete", "merge", "values", "with", "table"];

/// Whether a statement begins as one that can be prepared.
pub(crate) fn is_preparable(sql: &str) -> bool {
    let tokens = sql::code(sql);
    let first = tokens.iter().find(|token| token.text(sql) != "(");
    first.is_some_and(|first| OPENING_WORDS.iter().any(|word| first.is_word(sql, word)))
}

pub(crate) fn check_kind(statement: &StatementSource, findings: &mut Vec<Finding>) {
    if is_preparable(&statement.sql) {
        return;
    }
    let first = sql::code(&statement.sql).first().map_or(String::new(), |first| first.text(&statement.sql).chars().take(30).collect());
    let help = match first.to_ascii_lowercase().as_str() {
        "begin" | "commit" | "rollback" | "start" | "end" | "savepoint" => {
            "leave it out; a transaction is committed as a whole by the worker"
        }
        "call" | "do" => "make it a function and call it: `select f(:a)`",
        "truncate" => "use DELETE",
        "create" | "alter" | "drop" => "definitions belong into `tables.sql`",
        _ => "use SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES",
    };
    let message = format!("a transaction cannot hold `{first}`");
    findings.push(Finding::error(codes::STATEMENT_KIND, &statement.place_of(0), message).help(help));
}

pub(crate) fn check_sequences(statement: &StatementSource, findings: &mut Vec<Finding>) {
    let tokens = sql::code(&statement.sql);
    let draws = tokens
        .windows(2)
        .find(|pair| ["nextval", "setval"].iter().any(|word| pair[0].is_word(&statement.sql, word)) && pair[1].text(&statement.sql) == "(");
    if let Some(pair) = draws {
        findings.push(
            Finding::error(codes::SEQUENCE, &statement.place_of(pair[0].start), "a sequence counts on one peer only")
                .help("use `:request_id`, which is unique everywhere, or count per root"),
        );
    }
}

/// The finding for a statement that the server refuses.
pub(crate) fn refused(statement: &StatementSource, error: &ServerError, findings: &mut Vec<Finding>) {
    if !is_preparable(&statement.sql) {
        return;
    }
    let offset = error.offset.unwrap_or(0);
    let mut place = statement.place_of(offset);
    // The server may point into the middle of what is one token here.
    place.span.len = place.span.len.max(1);
    let parameter = parameter_at(statement, offset);
    let finding = match (error.sqlstate.as_str(), parameter) {
        // Indeterminate datatype; an operator or function that is not unique because an argument is unknown.
        ("42P18", Some(name)) | ("42725", Some(name)) => {
            Finding::error(codes::PARAMETER_TYPE, &place, format!("PostgreSQL cannot tell the type of `:{name}`: {}", error.message))
                .help(format!("cast it, for example `:{name}::bigint`"))
        }
        ("42P08", Some(name)) => {
            Finding::error(codes::TWO_TYPES, &place, format!("parameter `:{name}` is used with two types: {}", error.message))
                .help(format!("cast it at one place, for example `:{name}::text`"))
        }
        _ => Finding::error(codes::STATEMENT_SQL, &place, format!("PostgreSQL refuses the statement: {}", error.message))
            .label(format!("SQLSTATE {}", error.sqlstate))
            .help(error.hint.clone().or_else(|| error.detail.clone()).unwrap_or_default()),
    };
    findings.push(finding);
}

/// The parameter that an error is about: the one at its place, or the first one after an operator there.
fn parameter_at(statement: &StatementSource, offset: usize) -> Option<&str> {
    let tokens = sql::code(&statement.sql);
    let token = tokens.iter().find(|token| token.end > offset && token.kind == Kind::Position)?;
    let number: usize = token.text(&statement.sql).trim_start_matches('$').parse().ok()?;
    statement.parameters.get(number.checked_sub(1)?).map(|parameter| parameter.value.as_str())
}

/// The relations that a statement uses, those of the functions that it calls among them.
fn uses(facts: &Facts, statement: &StatementSource, fact: &StatementFact) -> Vec<(String, Access, Option<String>)> {
    let mut found: Vec<(String, Access, Option<String>)> =
        fact.relations.iter().map(|relation| (relation.name.clone(), relation.access, None)).collect();
    for function in functions::called(facts, &statement.sql) {
        let touched = functions::touched(facts, &function.name);
        found.extend(touched.into_iter().map(|(table, access)| (table, access, Some(function.name.clone()))));
    }
    found
}

/// Whether a statement writes, as far as can be known; a called function that is not immutable or stable may.
pub(crate) fn writes(facts: &Facts, statement: &StatementSource, fact: Option<&StatementFact>) -> bool {
    let Some(fact) = fact else { return true };
    fact.relations.iter().any(|relation| relation.access == Access::Writes)
        || functions::called(facts, &statement.sql).iter().any(|function| function.volatility == 'v')
}

/// A transaction stays inside its tree and the reference tables.
pub(crate) fn check_reach(
    facts: &Facts,
    trees: &Trees,
    statement: &StatementSource,
    fact: &StatementFact,
    target: &Target,
    findings: &mut Vec<Finding>,
) {
    for (table, access, through) in uses(facts, statement, fact) {
        let place = statement.place_of_name(through.as_deref().unwrap_or(&table));
        let by = through.map_or(String::new(), |function| format!(" through function `{function}`"));
        let finding = match (target, trees.home(&table)) {
            (Target::Root { entity, .. }, Some(Home::Tree(member))) if member.entity != *entity => Finding::error(
                codes::OTHER_TREE,
                &place,
                format!("a transaction of `{entity}` touches table `{table}` of `{}`{by}", member.entity),
            )
            .label(format!("belongs to the tree of `{}`", member.entity))
            .help("pass the value as a parameter, make the table reference data, or split the work into the steps of a chain"),
            (Target::Root { .. }, Some(Home::Reference)) if access != Access::Reads => {
                let does = if access == Access::Writes { "writes" } else { "locks rows of" };
                Finding::error(codes::WRITES_REFERENCE, &place, format!("a transaction of a root {does} reference table `{table}`{by}"))
                    .help("write it in a transaction with `-- reference: write`")
            }
            (Target::Reference, Some(Home::Tree(member))) => Finding::error(
                codes::REFERENCE_TOUCHES_TREE,
                &place,
                format!("a reference write touches table `{table}` of `{}`{by}", member.entity),
            )
            .help("reference data is written on the hub, which holds no roots; leave the table out"),
            _ => continue,
        };
        findings.push(finding);
    }
}

/// Rows of a reference table that a tree refers to are retired, never deleted.
pub(crate) fn check_reference_delete(
    facts: &Facts,
    trees: &Trees,
    statement: &StatementSource,
    fact: &StatementFact,
    findings: &mut Vec<Finding>,
) {
    let tokens = sql::code(&statement.sql);
    let Some(delete) = tokens.iter().find(|token| token.is_word(&statement.sql, "delete")) else { return };
    let is_referred_to = |table: &str| {
        let mut referring = facts.tables.iter().filter(|other| trees.member(&other.name).is_some()).flat_map(|other| &other.foreign_keys);
        referring.any(|key| key.target == table)
    };
    let written = fact.relations.iter().filter(|relation| relation.access == Access::Writes);
    for table in written.map(|relation| &relation.name).filter(|table| trees.home(table) == Some(&Home::Reference) && is_referred_to(table))
    {
        findings.push(
            Finding::error(
                codes::REFERENCE_DELETE,
                &statement.place_of(delete.start),
                format!("the statement deletes from `{table}`, which trees refer to"),
            )
            .help("retire rows instead, for example with a column `is_retired`"),
        );
    }
}

/// Nor does a key of reference data that trees refer to.
pub(crate) fn check_referred_key(
    facts: &Facts,
    trees: &Trees,
    statement: &StatementSource,
    fact: &StatementFact,
    findings: &mut Vec<Finding>,
) {
    let referred = facts.tables.iter().filter(|table| trees.member(&table.name).is_some()).flat_map(|table| &table.foreign_keys);
    let is_referred = |table: &str, column: &String| {
        trees.home(table) == Some(&Home::Reference)
            && referred.clone().any(|key| key.target == table && key.target_columns.contains(column))
    };
    for (table, column) in fact.updated_columns.iter().filter(|(table, column)| is_referred(table, column)) {
        let place = after_set(statement, column);
        let message = format!("the statement updates `{table}.{column}`, by which trees refer to its rows");
        findings.push(Finding::error(codes::REFERENCE_KEY_UPDATE, &place, message).help("insert another row, and retire this one"));
    }
}

/// A root key never changes.
pub(crate) fn check_root_key(trees: &Trees, statement: &StatementSource, fact: &StatementFact, findings: &mut Vec<Finding>) {
    for (table, column) in &fact.updated_columns {
        let is_key = trees.member(table).is_some_and(|member| member.key_column.as_ref() == Some(column));
        if is_key {
            let place = after_set(statement, column);
            findings.push(
                Finding::error(codes::ROOT_KEY_UPDATE, &place, format!("the statement updates the root key `{table}.{column}`"))
                    .help("a root key decides where the row lives and never changes; insert a new root and delete the old one"),
            );
        }
    }
}

/// The place of a column behind SET, or its first one.
pub(crate) fn after_set(statement: &StatementSource, column: &str) -> crate::finding::Place {
    let tokens = sql::code(&statement.sql);
    let set = tokens.iter().position(|token| token.is_word(&statement.sql, "set")).unwrap_or(0);
    let found = tokens[set.min(tokens.len())..].iter().find(|token| token.identifier(&statement.sql).as_deref() == Some(column));
    found.map_or_else(|| statement.place_of_name(column), |token| statement.place_of(token.start))
}
