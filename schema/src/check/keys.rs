//! Keys: every primary, unique and foreign key of a tree carries the root key.

use crate::check::locate;
use crate::check::trees::{Home, Member, Trees, carried_by};
use crate::codes;
use crate::facts::{ColumnFact, Facts, ForeignKeyFact, TableFact};
use crate::finding::Finding;
use crate::source::Source;

pub(crate) fn check(source: &Source, facts: &Facts, trees: &Trees, findings: &mut Vec<Finding>) {
    for table in &facts.tables {
        match trees.home(&table.name) {
            Some(Home::Tree(member)) => tree_table(source, table, member, trees, findings),
            Some(Home::Reference) => reference_table(source, table, trees, findings),
            Some(Home::Nowhere) | None => {}
        }
    }
}

fn tree_table(source: &Source, table: &TableFact, member: &Member, trees: &Trees, findings: &mut Vec<Finding>) {
    if member.parent.is_some()
        && let Some(key_column) = &member.key_column
    {
        primary_key(source, table, key_column, member, findings);
    }
    unique_keys(source, table, member, findings);
    for key in &table.foreign_keys {
        foreign_key(source, table, key, member, trees, findings);
    }
    for column in &table.columns {
        sequence(source, table, column, findings);
    }
}

fn primary_key(source: &Source, table: &TableFact, key_column: &String, member: &Member, findings: &mut Vec<Finding>) {
    if table.primary_key.contains(key_column) {
        return;
    }
    let name = &table.name;
    if table.primary_key.is_empty() {
        let place = locate::object(source, name);
        findings.push(
            Finding::error(codes::PRIMARY_KEY, &place, format!("table `{name}` has no primary key"))
                .help(format!("give it one that begins with `{key_column}`: `primary key ({key_column}, …)`")),
        );
        return;
    }
    let place = locate::inside(source, name, &[&["primary", "key"]]);
    findings.push(
        Finding::error(codes::PRIMARY_KEY, &place, format!("the primary key of `{name}` lacks the root key `{key_column}`"))
            .label(format!("`{}` is unique in one `{}` only", table.primary_key.join(", "), member.entity))
            .help(format!("write `primary key ({key_column}, {})`", table.primary_key.join(", "))),
    );
}

fn unique_keys(source: &Source, table: &TableFact, member: &Member, findings: &mut Vec<Finding>) {
    let is_root = member.parent.is_none();
    let Some(key_column) = &member.key_column else { return };
    for unique in table.unique.iter().filter(|unique| !unique.columns.contains(key_column)) {
        let column = unique.columns.first().map_or("", String::as_str);
        let place = locate::inside(source, &table.name, &[&[&unique.name], &["unique"], &["exclude"], &[column]]);
        let over = if unique.columns.is_empty() { "an expression".to_owned() } else { format!("`{}`", unique.columns.join(", ")) };
        if is_root {
            findings.push(
                Finding::error(codes::GLOBAL_UNIQUE, &place, format!("`{}` demands that {over} is unique over all roots", table.name))
                    .help(format!("make the value a root entity of its own and reserve it in a chain, or drop `{}`", unique.name)),
            );
        } else {
            findings.push(
                Finding::error(
                    codes::UNIQUE_KEY,
                    &place,
                    format!("unique key `{}` of `{}` lacks the root key `{key_column}`", unique.name, table.name),
                )
                .help(format!("write `unique ({key_column}, …)`; uniqueness holds within one `{}` only", member.entity)),
            );
        }
    }
}

fn foreign_key(source: &Source, table: &TableFact, key: &ForeignKeyFact, member: &Member, trees: &Trees, findings: &mut Vec<Finding>) {
    let name = &table.name;
    // A table is its own home already when its foreign key leads to itself.
    match trees.home(&key.target) {
        Some(Home::Tree(target)) if target.entity == member.entity => {
            let carries = carried_by(key, target.key_column.as_ref());
            let is_sound = carries.is_some() && (carries == member.key_column || target.key_column.is_none());
            if is_sound || target.key_column.is_none() {
                return;
            }
            let root_key = target.key_column.clone().unwrap_or_default();
            findings.push(
                Finding::error(
                    codes::FOREIGN_KEY,
                    &locate::foreign_key(source, &table.name, key),
                    format!("foreign key `{}` of `{name}` lacks the root key", key.name),
                )
                .label("could lead to a row of another root")
                .help(format!(
                    "refer to `{}` by its whole key, `{root_key}` first; to point at another `{}`, store its key without a foreign key",
                    key.target, member.entity
                )),
            );
        }
        Some(Home::Tree(target)) => findings.push(
            Finding::error(
                codes::FOREIGN_TREE,
                &locate::foreign_key(source, &table.name, key),
                format!("foreign key of `{name}` leads into the tree of `{}`", target.entity),
            )
            .label(format!("`{name}` belongs to `{}`", member.entity))
            .help(format!("store the key without a foreign key, make `{}` reference data, or use a chain to write both", key.target)),
        ),
        Some(Home::Reference) => reference_action(source, table, key, findings),
        Some(Home::Nowhere) | None => {}
    }
}

fn reference_action(source: &Source, table: &TableFact, key: &ForeignKeyFact, findings: &mut Vec<Finding>) {
    for (event, action) in [("ON DELETE", key.on_delete), ("ON UPDATE", key.on_update)] {
        if action.writes() {
            let message = format!("foreign key of `{}` to reference table `{}` has {event} {}", table.name, key.target, action.sql());
            findings.push(
                Finding::error(codes::REFERENCE_ACTION, &locate::foreign_key(source, &table.name, key), message)
                    .label("replication fires no such action")
                    .help(format!("leave {event} out, and retire rows of `{}` instead of deleting them", key.target)),
            );
        }
    }
}

fn reference_table(source: &Source, table: &TableFact, trees: &Trees, findings: &mut Vec<Finding>) {
    for key in &table.foreign_keys {
        if let Some(member) = trees.member(&key.target) {
            let message = format!("reference table `{}` refers to the tree of `{}`", table.name, member.entity);
            findings.push(
                Finding::error(codes::REFERENCE_TO_TREE, &locate::foreign_key(source, &table.name, key), message)
                    .help(format!("store the key without a foreign key, or move `{}` into the tree", table.name)),
            );
        }
    }
}

fn sequence(source: &Source, table: &TableFact, column: &ColumnFact, findings: &mut Vec<Finding>) {
    let draws = column.is_identity || column.default.as_deref().is_some_and(|default| default.contains("nextval("));
    if !draws {
        return;
    }
    let is_key = table.primary_key.contains(&column.name) || table.unique.iter().any(|unique| unique.columns.contains(&column.name));
    let kind = if column.is_identity { "an identity column" } else { "drawn from a sequence" };
    let place = locate::inside(source, &table.name, &[&[&column.name]]);
    let finding = if is_key {
        Finding::error(
            codes::SEQUENCE,
            &place,
            format!("key column `{}.{}` is {kind}, which is not unique after a move", table.name, column.name),
        )
    } else {
        Finding::warning(codes::SEQUENCE, &place, format!("column `{}.{}` is {kind}, which counts per peer", table.name, column.name))
    };
    findings.push(finding.help("make it a uuid and give it `:request_id`, or count per root"));
}
