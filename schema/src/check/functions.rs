//! Functions: whether they can escape row security, and which tables they name.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::locate;
use crate::check::trees::{Home, Trees};
use crate::codes;
use crate::facts::{Access, Facts, FunctionFact};
use crate::finding::Finding;
use crate::source::Source;
use crate::sql::{self, Token};

pub(crate) fn check(source: &Source, facts: &Facts, trees: &Trees, findings: &mut Vec<Finding>) {
    triggers(source, facts, trees, findings);
    for function in &facts.functions {
        let place = locate::object(source, &function.name);
        if function.is_security_definer {
            findings.push(
                Finding::error(
                    codes::FUNCTION,
                    &place,
                    format!("function `{}` is SECURITY DEFINER and escapes row security", function.name),
                )
                .help("leave SECURITY DEFINER out; SECURITY INVOKER is the default"),
            );
        }
        if !matches!(function.language.as_str(), "sql" | "plpgsql") {
            findings.push(
                Finding::error(codes::FUNCTION, &place, format!("function `{}` is written in `{}`", function.name, function.language))
                    .help("write it in SQL or PL/pgSQL"),
            );
        }
        let entities: BTreeSet<&str> =
            touched(facts, &function.name).keys().filter_map(|table| Some(trees.member(table)?.entity.as_str())).collect();
        if entities.len() > 1 {
            let names: Vec<String> = entities.iter().map(|entity| format!("`{entity}`")).collect();
            findings.push(
                Finding::error(
                    codes::OTHER_TREE,
                    &place,
                    format!("function `{}` touches the trees of {}", function.name, names.join(" and ")),
                )
                .help("write one function for each tree, and join them in a chain"),
            );
        }
    }
}

/// A trigger of a tree stays inside it, and leaves reference data alone.
fn triggers(source: &Source, facts: &Facts, trees: &Trees, findings: &mut Vec<Finding>) {
    for table in &facts.tables {
        let Some(member) = trees.member(&table.name) else { continue };
        for trigger in &table.triggers {
            let place = locate::object(source, &trigger.name);
            for (touched, access) in touched(facts, &trigger.function) {
                let what = format!("trigger `{}` of `{}`", trigger.name, table.name);
                match trees.home(&touched) {
                    Some(Home::Tree(other)) if other.entity != member.entity => findings.push(
                        Finding::error(codes::OTHER_TREE, &place, format!("{what} touches table `{touched}` of `{}`", other.entity))
                            .help("do it in a transaction of its own, and join the two in a chain"),
                    ),
                    Some(Home::Reference) if access != Access::Reads => findings.push(
                        Finding::error(codes::WRITES_REFERENCE, &place, format!("{what} writes reference table `{touched}`"))
                            .help("write it in a transaction with `-- reference: write`"),
                    ),
                    _ => {}
                }
            }
        }
    }
}

/// The functions of the schema that a text calls.
pub(crate) fn called<'a>(facts: &'a Facts, text: &str) -> Vec<&'a FunctionFact> {
    let tokens = sql::code(text);
    let is_called = |function: &&FunctionFact| {
        tokens.windows(2).any(|pair| pair[0].identifier(text).as_deref() == Some(function.name.as_str()) && pair[1].text(text) == "(")
    };
    facts.functions.iter().filter(is_called).collect()
}

/// Whether running these statements may change settings of the session: whether they may call a function of the schema, for
/// PostgreSQL's own that could are revoked from lanes, and SET is no statement of a transaction.
///
/// On the safe side: a function counts as called by whoever names it. If the tables name one too, by a trigger, a default, a
/// check, a view or an operator, every statement may call it; and so it is if a table file has a DO, which may make anything.
pub(crate) fn may_change_settings(source: &Source, facts: &Facts, statements: &[&str]) -> bool {
    let is_function = |name: &str| facts.functions.iter().any(|function| function.name == name);
    let named = |text: &str| -> Vec<String> {
        sql::code(text).iter().filter_map(|token| token.identifier(text)).filter(|name| is_function(name)).collect()
    };
    if facts.functions.iter().all(|function| function.volatility != 'v') {
        return false;
    }
    let has_do = |text: &str| sql::code(text).iter().any(|token| token.is_word(text, "do"));
    let in_tables: usize = source.table_files.iter().map(|file| named(&file.text).len()).sum();
    in_tables > facts.functions.len()
        || source.table_files.iter().any(|file| has_do(&file.text))
        || statements.iter().flat_map(|statement| named(statement)).any(|name| reaches_volatile(facts, name))
}

/// Whether a function is volatile, or names one that is, or one that does so. PostgreSQL lets the others run nothing but
/// queries, so SET is none of theirs. What dynamic SQL calls isn't known, nor what a body does that the server keeps to itself.
fn reaches_volatile(facts: &Facts, function: String) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![function];
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        for overload in facts.functions.iter().filter(|known| known.name == name) {
            let tokens = sql::code(&overload.body);
            let is_dynamic = tokens.iter().any(|token| token.is_word(&overload.body, "execute"));
            if overload.volatility == 'v' || overload.body.is_empty() || is_dynamic {
                return true;
            }
            open.extend(tokens.iter().filter_map(|token| token.identifier(&overload.body)));
        }
    }
    false
}

/// The tables that a function names, and those that the functions name that it calls.
///
/// PL/pgSQL is not analysed by the server before it runs, so this goes by the words before a table's name. Row
/// security holds whatever this misses.
pub(crate) fn touched(facts: &Facts, function: &str) -> BTreeMap<String, Access> {
    let mut seen = BTreeSet::new();
    let mut open = vec![function.to_owned()];
    let mut found: BTreeMap<String, Access> = BTreeMap::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        for overload in facts.functions.iter().filter(|known| known.name == name) {
            for (table, access) in named_tables(facts, &overload.body) {
                let known = found.entry(table).or_insert(access);
                *known = (*known).max(access);
            }
            open.extend(called(facts, &overload.body).into_iter().map(|called| called.name.clone()));
        }
    }
    found
}

fn named_tables(facts: &Facts, body: &str) -> Vec<(String, Access)> {
    let tokens = sql::code(body);
    let is_passed_over = |token: &Token| token.is_word(body, "only") || token.is_word(body, "public") || token.text(body) == ".";
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = token.identifier(body) else { continue };
        if !facts.tables.iter().any(|table| table.name == name) {
            continue;
        }
        let before: Vec<&Token> = tokens[..at].iter().rev().filter(|token| !is_passed_over(token)).take(2).collect();
        let is_before = |back: usize, word: &str| before.get(back).is_some_and(|token| token.is_word(body, word));
        // `into` alone also fills a variable of PL/pgSQL; `for update` and `do update` are followed by no table.
        let writes = is_before(0, "update") && !is_before(1, "for") && !is_before(1, "do")
            || is_before(0, "into") && (is_before(1, "insert") || is_before(1, "merge"))
            || is_before(0, "from") && is_before(1, "delete");
        if writes {
            found.push((name, Access::Writes));
        } else if is_before(0, "from") || is_before(0, "join") || is_before(0, "using") {
            found.push((name, Access::Reads));
        }
    }
    found
}
