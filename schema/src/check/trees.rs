//! The trees, derived along the foreign keys.
//!
//! A table belongs to the tree whose table it refers to; the column that maps to the parent's key column carries the
//! root key. A table that refers to two trees belongs to the one whose key is in its primary key, if only one is.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::locate;
use crate::codes;
use crate::definition::{ReferenceTable, RootEntity, TreeTable};
use crate::facts::{Facts, ForeignKeyFact, TableFact, TableKind};
use crate::finding::{Finding, Located};
use crate::manifest::RootSource;
use crate::nearest::{did_you_mean, nearest};
use crate::source::{MANIFEST_FILE, Source};
use crate::value::Type;

/// Where a table belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    Tree(Member),
    Reference,
    /// Nowhere, and a finding says why.
    Nowhere,
}

/// A table's place in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub entity: String,
    /// The column with the root key; none if no foreign key carries it, which is a finding.
    pub key_column: Option<String>,
    pub parent: Option<String>,
    pub depth: usize,
}

/// All homes.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    homes: BTreeMap<String, Home>,
    /// Declared entities with their tables' key; the key is none if the root table is unusable.
    entities: BTreeMap<String, Option<RootKey>>,
}

#[derive(Debug, Clone)]
pub(crate) struct RootKey {
    pub table: String,
    pub column: String,
    pub r#type: Type,
}

impl Trees {
    pub fn home(&self, table: &str) -> Option<&Home> {
        self.homes.get(table)
    }

    pub fn member(&self, table: &str) -> Option<&Member> {
        match self.home(table) {
            Some(Home::Tree(member)) => Some(member),
            _ => None,
        }
    }

    pub fn entity_names(&self) -> Vec<&str> {
        self.entities.keys().map(String::as_str).collect()
    }

    pub fn has_entity(&self, name: &str) -> bool {
        self.entities.contains_key(name)
    }

    pub fn root_key(&self, entity: &str) -> Option<&RootKey> {
        self.entities.get(entity)?.as_ref()
    }

    pub fn reference_tables(&self, source: &Source, facts: &Facts) -> Vec<ReferenceTable> {
        let is_tree = |table: &TableFact| self.member(&table.name).is_some();
        let targets: BTreeSet<(&str, &String)> = facts
            .tables
            .iter()
            .filter(|table| is_tree(table))
            .flat_map(|table| &table.foreign_keys)
            .flat_map(|key| key.target_columns.iter().map(|column| (key.target.as_str(), column)))
            .collect();
        let referred =
            |table: &TableFact| targets.iter().filter(|(target, _)| *target == table.name).map(|(_, column)| (*column).clone()).collect();
        let listed = source.manifest.reference.iter().filter_map(|name| facts.tables.iter().find(|table| table.name == name.value));
        listed
            .map(|table| ReferenceTable {
                name: table.name.clone(),
                columns: table.plain_columns(),
                primary_key: table.primary_key.clone(),
                is_referred_to: targets.iter().any(|(target, _)| *target == table.name),
                referred_columns: referred(table),
            })
            .collect()
    }

    pub fn into_roots(self, source: &Source, facts: &Facts) -> BTreeMap<String, RootEntity> {
        let Trees { homes, entities } = self;
        let root = |(name, key): (String, Option<RootKey>)| {
            let key = key?;
            let tables = tree_tables(&name, &homes, facts);
            let declared = source.manifest.roots.iter().find(|root| root.name.value == name);
            let root = RootEntity {
                name: name.clone(),
                table: key.table,
                key_column: key.column,
                key_type: key.r#type,
                tables,
                has_journal: declared.is_some_and(|root| root.has_journal),
                is_placed_by_region: declared.is_some_and(|root| root.place_by.is_some()),
            };
            Some((name, root))
        };
        entities.into_iter().filter_map(root).collect()
    }
}

/// The tables of one tree: by depth, then in order of creation.
fn tree_tables(entity: &str, homes: &BTreeMap<String, Home>, facts: &Facts) -> Vec<TreeTable> {
    let mut found: Vec<(usize, TreeTable)> = Vec::new();
    for table in &facts.tables {
        let Some(Home::Tree(member)) = homes.get(&table.name) else { continue };
        let (true, Some(key_column)) = (member.entity == entity, member.key_column.clone()) else { continue };
        let tree_table = TreeTable {
            name: table.name.clone(),
            key_column,
            parent: member.parent.clone(),
            columns: table.plain_columns(),
            primary_key: table.primary_key.clone(),
        };
        found.push((member.depth, tree_table));
    }
    found.sort_by_key(|(depth, _)| *depth);
    found.into_iter().map(|(_, table)| table).collect()
}

pub(crate) fn derive(source: &Source, facts: &Facts, findings: &mut Vec<Finding>) -> Trees {
    let mut trees = Trees::default();
    for root in &source.manifest.roots {
        root_table(source, facts, root, &mut trees, findings);
    }
    for table in &source.manifest.reference {
        reference_table(source, facts, table, &mut trees, findings);
    }
    let mut open: Vec<&TableFact> = facts.tables.iter().filter(|table| !trees.homes.contains_key(&table.name)).collect();
    while !open.is_empty() {
        // A table is decided after those that it refers to. In a circle one has to go first: one with a decided target.
        let is_open = |name: &str| open.iter().any(|table| table.name == name);
        let others = |table: &TableFact| -> Vec<String> {
            table.foreign_keys.iter().map(|key| key.target.clone()).filter(|target| *target != table.name).collect()
        };
        let at = open
            .iter()
            .position(|table| others(table).iter().all(|target| !is_open(target)))
            .or_else(|| open.iter().position(|table| others(table).iter().any(|target| !is_open(target))))
            .unwrap_or(0);
        let table = open.remove(at);
        let home = decide(source, facts, table, &trees, findings);
        trees.homes.insert(table.name.clone(), home);
    }
    trees
}

/// The finding for a table that isn't there; nothing if a statement failed that may have made it.
fn missing_table(
    source: &Source,
    facts: &Facts,
    code: &'static str,
    table: &Located<String>,
    message: String,
    findings: &mut Vec<Finding>,
) {
    let failed = facts.table_errors.iter().filter_map(|failed| source.table_statements.get(failed.statement));
    let refused = source.table_statements.iter().filter(|statement| !statement.is_allowed);
    if failed.chain(refused).any(|statement| statement.sql.contains(&table.value)) {
        return;
    }
    // Nothing at all was created: the server was not asked, or the table files could not be read.
    if facts.tables.is_empty() && !source.findings.is_empty() {
        return;
    }
    let names = facts.tables.iter().map(|known| known.name.as_str());
    let help = did_you_mean(&table.value, names, "create it in `tables.sql`");
    findings.push(Finding::error(code, &table.place, message).help(help));
}

fn root_table(source: &Source, facts: &Facts, root: &RootSource, trees: &mut Trees, findings: &mut Vec<Finding>) {
    let name = &root.name.value;
    trees.entities.insert(name.clone(), None);
    let Some(table) = facts.tables.iter().find(|table| table.name == root.table.value) else {
        let message = format!("table `{}` of root entity `{name}` does not exist", root.table.value);
        return missing_table(source, facts, codes::ROOT_TABLE, &root.table, message, findings);
    };
    if let Some(member) = trees.member(&table.name) {
        let message = format!("table `{}` is the root table of `{}` and of `{name}`", table.name, member.entity);
        findings.push(Finding::error(codes::ROOT_TABLE, &root.table.place, message).help("give each root entity a table of its own"));
        return;
    }
    let key = match table.primary_key.as_slice() {
        [column] => table.column(column),
        _ => None,
    };
    let place = locate::inside(source, &table.name, &[&["primary", "key"]]);
    match key {
        None => {
            let columns = table.primary_key.len();
            let has = if columns == 0 { "no primary key".to_owned() } else { format!("a primary key of {columns} columns") };
            findings.push(
                Finding::error(codes::ROOT_TABLE, &place, format!("root table `{}` has {has}", table.name))
                    .help("give it a primary key of one column: the root key"),
            );
        }
        Some(column) if !column.r#type.is_key_type() => findings.push(
            Finding::error(
                codes::ROOT_TABLE,
                &place,
                format!("root key `{}.{}` is of type {}", table.name, column.name, column.r#type.name()),
            )
            .help("a root key is of type smallint, integer, bigint, text, varchar or uuid"),
        ),
        Some(column) => {
            let key = RootKey { table: table.name.clone(), column: column.name.clone(), r#type: column.r#type.clone() };
            trees.entities.insert(name.clone(), Some(key));
        }
    }
    let key_column = table.primary_key.first().cloned();
    trees.homes.insert(table.name.clone(), Home::Tree(Member { entity: name.clone(), key_column, parent: None, depth: 0 }));
}

fn reference_table(source: &Source, facts: &Facts, name: &Located<String>, trees: &mut Trees, findings: &mut Vec<Finding>) {
    let Some(table) = facts.tables.iter().find(|table| table.name == name.value) else {
        let message = format!("reference table `{}` does not exist", name.value);
        return missing_table(source, facts, codes::REFERENCE_TABLE, name, message, findings);
    };
    if let Some(member) = trees.member(&table.name) {
        let message = format!("reference table `{}` is the root table of `{}`", table.name, member.entity);
        findings.push(
            Finding::error(codes::REFERENCE_TABLE, &name.place, message)
                .help("a table is one or the other; remove it from one of the lists"),
        );
        return;
    }
    if table.primary_key.is_empty() {
        let place = locate::object(source, &table.name);
        let message = format!("reference table `{}` has no primary key", table.name);
        findings.push(Finding::error(codes::REFERENCE_TABLE, &place, message).help("give it one; replication finds rows by it"));
    }
    trees.homes.insert(table.name.clone(), Home::Reference);
}

/// A foreign key into a tree.
struct Branch<'a> {
    key: &'a ForeignKeyFact,
    member: &'a Member,
    /// The own column that carries the root key.
    carries: Option<String>,
}

/// The referring column that maps to `target_column`.
pub(crate) fn carried_by(key: &ForeignKeyFact, target_column: Option<&String>) -> Option<String> {
    let at = key.target_columns.iter().position(|column| Some(column) == target_column)?;
    key.columns.get(at).cloned()
}

fn decide(source: &Source, facts: &Facts, table: &TableFact, trees: &Trees, findings: &mut Vec<Finding>) -> Home {
    let others = || table.foreign_keys.iter().filter(|key| key.target != table.name);
    let branches: Vec<Branch<'_>> = others()
        .filter_map(|key| {
            let member = trees.member(&key.target)?;
            Some(Branch { key, member, carries: carried_by(key, member.key_column.as_ref()) })
        })
        .collect();
    let is_in_primary_key = |branch: &&Branch<'_>| branch.carries.as_ref().is_some_and(|column| table.primary_key.contains(column));
    let entities: BTreeSet<&str> = branches.iter().map(|branch| branch.member.entity.as_str()).collect();
    let pinned: BTreeSet<&str> = branches.iter().filter(is_in_primary_key).map(|branch| branch.member.entity.as_str()).collect();
    let entity = match (entities.len(), pinned.len()) {
        (0, _) => {
            // Under a table that is in trouble itself, a second finding says nothing new.
            if !others().any(|key| trees.home(&key.target) == Some(&Home::Nowhere)) {
                no_tree(source, facts, table, trees, findings);
            }
            return Home::Nowhere;
        }
        (1, _) => entities.first(),
        (_, 1) => pinned.first(),
        _ => {
            two_roots(source, table, &branches, findings);
            return Home::Nowhere;
        }
    };
    let Some(entity) = entity.copied() else { return Home::Nowhere };
    let own: Vec<&Branch<'_>> = branches.iter().filter(|branch| branch.member.entity == entity).collect();
    let best = own.iter().filter(|branch| is_in_primary_key(branch)).max_by_key(|branch| branch.member.depth);
    let best = best.or_else(|| own.iter().find(|branch| branch.carries.is_some())).or(own.first());
    let Some(best) = best else { return Home::Nowhere };
    Home::Tree(Member {
        entity: entity.to_owned(),
        key_column: best.carries.clone(),
        parent: Some(best.key.target.clone()),
        depth: best.member.depth + 1,
    })
}

fn no_tree(source: &Source, facts: &Facts, table: &TableFact, trees: &Trees, findings: &mut Vec<Finding>) {
    if table.kind != TableKind::Ordinary || table.is_inherited || is_meant_elsewhere(source, facts, &table.name) {
        return;
    }
    let entity = trees.entities.keys().next().map_or("root", String::as_str);
    findings.push(
        Finding::error(codes::NO_TREE, &locate::object(source, &table.name), format!("table `{}` is in no tree", table.name)).help(format!(
            "add a foreign key to a table of a tree (such as that of `{entity}`), list `{}` under `[reference]`, or make it a root of its own",
            table.name
        )),
    );
}

/// Whether another finding explains already why nobody lists the table: a setting that could not be read, or a
/// misspelt name.
fn is_meant_elsewhere(source: &Source, facts: &Facts, table: &str) -> bool {
    let is_unread = |finding: &Finding| {
        finding.file == MANIFEST_FILE && matches!(finding.code, codes::UNREADABLE | codes::TOML | codes::UNKNOWN_SETTING | codes::SETTING)
    };
    let roots = source.manifest.roots.iter().map(|root| &root.table.value);
    let listed = roots.chain(source.manifest.reference.iter().map(|reference| &reference.value));
    let names = || facts.tables.iter().map(|known| known.name.as_str());
    source.findings.iter().any(is_unread)
        || listed.into_iter().any(|name| !names().any(|known| known == name) && nearest(name, names()) == Some(table))
}

fn two_roots(source: &Source, table: &TableFact, branches: &[Branch<'_>], findings: &mut Vec<Finding>) {
    let (Some(first), Some(other)) = (
        branches.first(),
        branches.iter().find(|branch| Some(&branch.member.entity) != branches.first().map(|first| &first.member.entity)),
    ) else {
        return;
    };
    let place = locate::foreign_key(source, &table.name, other.key);
    findings.push(
        Finding::error(
            codes::TWO_ROOTS,
            &place,
            format!("table `{}` hangs under two roots: `{}` and `{}`", table.name, first.member.entity, other.member.entity),
        )
        .label(format!("the way to `{}`", other.member.entity))
        .help(format!(
            "a table belongs to one root; store the key of `{}` as a plain value, make `{}` a reference table, or give each root a table of its own",
            other.member.entity, table.name
        )),
    );
}
