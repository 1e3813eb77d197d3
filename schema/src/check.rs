//! The check: from what was written and what the server says to a compiled schema, or to everything that is wrong.

mod arguments;
mod assignments;
mod chains;
mod functions;
mod insert_only;
mod keys;
mod locate;
mod refusal;
mod regions;
mod statements;
mod tables;
mod transactions;
mod trees;
mod undo;

use crate::codes;
use crate::definition::{DeferrableConstraint, Invariant, Schema};
use crate::facts::{Access, Facts, StatementOutcome};
use crate::finding::{Finding, Located, Severity};
use crate::set_wise;
use crate::source::{MANIFEST_FILE, Source};
use crate::stage;
use crate::value::Type;

/// Compiles a schema.
///
/// Returns the schema with its warnings.
///
/// # Errors
/// All findings at once, in the order of files and places, if one of them is an error.
pub fn check(source: &Source, facts: &Facts) -> Result<(Schema, Vec<Finding>), Vec<Finding>> {
    let mut findings = source.findings.clone();
    tables::check(source, facts, &mut findings);
    let trees = trees::derive(source, facts, &mut findings);
    keys::check(source, facts, &trees, &mut findings);
    functions::check(source, facts, &trees, &mut findings);
    insert_only::check_tables(source, facts, &mut findings);
    regions::check(source, &trees, &mut findings);
    let transactions = transactions::compile(source, facts, &trees, &mut findings);
    let chains = chains::compile(source, &trees, &transactions, &mut findings);
    let invariants = invariants(source, facts, &mut findings);
    sort(&mut findings, source);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(findings);
    }
    let mut schema = Schema {
        name: source.manifest.name.clone(),
        version: source.manifest.version,
        partitions: source.manifest.partitions,
        regions: source.manifest.regions.iter().map(|region| region.value.clone()).collect(),
        reference: trees.reference_tables(source, facts),
        roots: trees.into_roots(source, facts),
        transactions: transactions.into_iter().map(|compiled| (compiled.transaction.name.clone(), compiled.transaction)).collect(),
        chains,
        invariants,
        deferrable: deferrable(facts),
        insert_only: insert_only::tables(source).map(str::to_owned).collect(),
        content_keys: insert_only::content_keys(source),
        stages: Vec::new(),
        table_files: source.table_files.clone(),
    };
    schema.stages = stage::compile(&source.manifest.stages, &schema, &mut findings);
    sort(&mut findings, source);
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(findings);
    }
    set_wise::compile(source, facts, &mut schema);
    Ok((schema, findings))
}

/// Puts findings in the order in which one reads the files: settings, tables, transactions.
fn sort(findings: &mut Vec<Finding>, source: &Source) {
    let rank = |file: &str| {
        let table_file = source.table_files.iter().position(|table| table.path == file);
        match table_file {
            _ if file == MANIFEST_FILE => 0,
            Some(at) => at + 1,
            None => usize::MAX,
        }
    };
    findings
        .sort_by(|a, b| (rank(&a.file), &a.file, a.span, a.code, &a.message).cmp(&(rank(&b.file), &b.file, b.span, b.code, &b.message)));
    findings.dedup();
}

fn deferrable(facts: &Facts) -> Vec<DeferrableConstraint> {
    let mut found: Vec<DeferrableConstraint> = facts.tables.iter().flat_map(|table| table.deferrable.iter().cloned()).collect();
    found.sort_by(|a, b| (&a.name, a.is_initially_deferred).cmp(&(&b.name, b.is_initially_deferred)));
    found.dedup();
    found
}

fn invariants(source: &Source, facts: &Facts, findings: &mut Vec<Finding>) -> Vec<Invariant> {
    let mut compiled = Vec::new();
    for (at, invariant) in source.manifest.invariants.iter().enumerate() {
        let outcomes = facts.invariants.get(at).map_or(&[][..], Vec::as_slice);
        for ((setting, query), outcome) in invariant.queries().zip(outcomes) {
            invariant_query(&invariant.name.value, setting, query, outcome, findings);
        }
        let text = |query: &Option<Located<String>>| query.as_ref().map(|query| query.value.clone());
        compiled.push(Invariant {
            name: invariant.name.value.clone(),
            sum: text(&invariant.sum),
            equals: text(&invariant.equals),
            none: text(&invariant.none),
        });
    }
    compiled
}

fn invariant_query(name: &str, setting: &str, query: &Located<String>, outcome: &StatementOutcome, findings: &mut Vec<Finding>) {
    let fact = match outcome {
        StatementOutcome::Skipped => return,
        StatementOutcome::Refused(error) => {
            let message = format!("`{setting}` of invariant `{name}` is refused by PostgreSQL: {}", error.message);
            let help = error.hint.clone().unwrap_or_else(|| "it must be one query that runs on every peer".to_owned());
            return findings.push(Finding::error(codes::INVARIANT, &query.place, message).help(help));
        }
        StatementOutcome::Prepared(fact) => fact,
    };
    let is_number = |r#type: &Type| matches!(r#type, Type::Smallint | Type::Integer | Type::Bigint | Type::Numeric);
    let trouble = if fact.relations.iter().any(|relation| relation.access == Access::Writes) {
        Some("writes; it may only read")
    } else if !fact.parameter_types.is_empty() {
        Some("has parameters, which nobody gives")
    } else if setting != "none" && (fact.columns.len() != 1 || !fact.columns.iter().all(|column| is_number(&column.r#type))) {
        Some("does not return one column of an exact number")
    } else {
        None
    };
    if let Some(trouble) = trouble {
        findings.push(
            Finding::error(codes::INVARIANT, &query.place, format!("`{setting}` of invariant `{name}` {trouble}"))
                .help("`sum` and `equals` return one numeric value, for example `select coalesce(sum(balance), 0) from account`; `none` returns the rows that should not be"),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::finding::render;

    /// A step with any of the settings that steps have, right and wrong ones.
    fn step() -> impl Strategy<Value = String> {
        let name = proptest::sample::select(vec!["a", "b", "c", ""]);
        let settings = vec![
            "call = \"t\"",
            "call = 1",
            "wait = \"1h\"",
            "wait = \"x\"",
            "signal = { x = \"text\" }",
            "timeout = \"1s\"",
            "root = { e = \"$p\" }",
            "root = { e = \"$steps.a.x\" }",
            "args = { x = \"$steps.b.x\", y = \"$element\" }",
            "for_each = \"$p\"",
            "for_each = \"$steps.a.x\"",
            "compensate = \"t\"",
            "compensate = { call = \"t\", args = { x = \"$steps.c.x\" } }",
            "pivot = true",
            "after = []",
            "after = [\"a\"]",
            "after = [\"b\", \"c\", \"d\"]",
            "retry = { initial = \"1h\", attempts = 0, non_retryable = [\"x\"] }",
            "on_exhausted = \"fail\"",
            "on_failure = \"keep\"",
        ];
        let count = settings.len();
        (name, proptest::sample::subsequence(settings, 0..=count))
            .prop_map(|(name, settings)| format!("{{ {} }}", [vec![format!("name = \"{name}\"")], unique(&settings)].concat().join(", ")))
    }

    /// TOML takes each key once.
    fn unique(settings: &[&str]) -> Vec<String> {
        let key = |setting: &str| setting.split(' ').next().unwrap_or("").to_owned();
        let is_first = |at: &usize| settings[..*at].iter().all(|other| key(other) != key(settings[*at]));
        (0..settings.len()).filter(is_first).map(|at| settings[at].to_owned()).collect()
    }

    proptest! {
        #[test]
        fn any_chain_is_checked_without_a_panic(steps in proptest::collection::vec(step(), 0..6), deadline in 0..2) {
            let deadline = if deadline == 1 { "deadline = \"1s\"\n" } else { "" };
            let manifest = format!(
                "name = \"n\"\n[root.e]\ntable = \"e\"\n[chain.c]\n{deadline}params = {{ p = \"json\" }}\nsteps = [{}]\n",
                steps.join(", ")
            );
            let files = [(MANIFEST_FILE, manifest.as_str()), ("transactions/t.sql", "-- name: t\n-- root: e = :id\nselect :id, :x;\n")];
            let source = Source::from_texts(files);
            prop_assert!(!source.findings.iter().any(|finding| finding.code == codes::TOML), "{manifest}");
            let findings = match check(&source, &Facts::default()) {
                Ok((_, findings)) | Err(findings) => findings,
            };
            render(&findings, &source);
        }

        #[test]
        fn any_files_are_checked_without_a_panic(
            manifest in "(name|version|partitions|\\[root\\.a\\]|\\[chain\\.c\\]|table|steps|params|call|[a-z$.\"=\\[\\]{}, \n]|[0-9])*",
            tables in "(create table |a|\\(|\\)|;|'|references |primary key|[a-z \n])*",
            transactions in "(-- name: |-- root: |select |:a|;|[a-z=' \n])*",
        ) {
            let files = [(MANIFEST_FILE, manifest.as_str()), ("tables.sql", tables.as_str()), ("transactions/t.sql", transactions.as_str())];
            let source = Source::from_texts(files);
            let findings = match check(&source, &Facts::default()) {
                Ok((_, findings)) | Err(findings) => findings,
            };
            render(&findings, &source);
        }
    }
}
