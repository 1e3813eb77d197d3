//! Table files: what the server refused, and kinds of objects that have no place in a tree.

use crate::check::locate;
use crate::codes;
use crate::facts::{Facts, TableFact, TableKind};
use crate::finding::{Finding, Place, Span};
use crate::names;
use crate::source::{MANIFEST_FILE, Source};

pub(crate) fn check(source: &Source, facts: &Facts, findings: &mut Vec<Finding>) {
    server_errors(source, facts, findings);
    for table in &facts.tables {
        names::check("table", &table.name, &locate::object(source, &table.name), findings);
        kind(source, table, findings);
    }
    for view in &facts.views {
        let place = locate::object(source, &view.name);
        if view.is_materialized {
            findings.push(
                Finding::error(
                    codes::MATERIALIZED_VIEW,
                    &place,
                    format!("materialized view `{}` keeps rows outside their root", view.name),
                )
                .help("use a view `with (security_invoker = true)`, or keep the sum in a column of the root"),
            );
        } else if !view.is_security_invoker {
            findings.push(
                Finding::error(codes::VIEW, &place, format!("view `{}` escapes row security", view.name))
                    .label("runs with its owner's rights")
                    .help(format!("write `create view {} with (security_invoker = true) as …`", view.name)),
            );
        }
    }
    for (namespace, name) in &facts.strays {
        findings.push(
            Finding::error(codes::STRAY, &locate::object(source, name), format!("`{name}` is created in namespace `{namespace}`"))
                .help(format!("leave `{namespace}.` out; everything lives in namespace `public`")),
        );
    }
    for rule in &facts.rules {
        findings.push(
            Finding::error(
                codes::RULE,
                &locate::object(source, &rule.name),
                format!("rule `{}` rewrites statements on `{}`", rule.name, rule.table),
            )
            .help("use a trigger"),
        );
    }
}

fn server_errors(source: &Source, facts: &Facts, findings: &mut Vec<Finding>) {
    for failed in &facts.table_errors {
        let Some(statement) = source.table_statements.get(failed.statement) else { continue };
        let start = statement.place.span.offset + failed.error.offset.unwrap_or(0);
        let length = source.text(&statement.place.file).and_then(|text| text.get(start..)).map_or(1, word_length);
        let place = match statement.place.file.as_str() {
            // A statement that follows from a setting: the server's place is one in ours.
            MANIFEST_FILE => statement.place.clone(),
            file => Place { file: file.to_owned(), span: Span { offset: start, len: length } },
        };
        let help = failed.error.hint.clone().or_else(|| failed.error.detail.clone()).unwrap_or_default();
        let message = format!("PostgreSQL refuses the statement: {}", failed.error.message);
        findings.push(Finding::error(codes::TABLE_SQL, &place, message).label(format!("SQLSTATE {}", failed.error.sqlstate)).help(help));
    }
}

/// The length of the word at the beginning of a text, at least 1.
pub(crate) fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()).max(text.chars().next().map_or(1, char::len_utf8))
}

fn kind(source: &Source, table: &TableFact, findings: &mut Vec<Finding>) {
    let kind = match table.kind {
        TableKind::Partitioned => "partitioned",
        TableKind::Foreign => "a foreign table",
        TableKind::Ordinary if table.is_inherited => "inherited from another table",
        TableKind::Ordinary if table.is_unlogged => "unlogged",
        TableKind::Ordinary => return,
    };
    let help = match table.kind {
        TableKind::Partitioned => "use a plain table; Rootward partitions by root key itself",
        TableKind::Foreign => "use a plain table, or load the data as reference data",
        TableKind::Ordinary if table.is_inherited => "use a plain table with all columns written out",
        TableKind::Ordinary => "leave UNLOGGED out; a crash would empty the table",
    };
    let place = locate::object(source, &table.name);
    findings.push(Finding::error(codes::TABLE_KIND, &place, format!("table `{}` is {kind}", table.name)).help(help));
}
