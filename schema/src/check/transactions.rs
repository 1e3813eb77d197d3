//! Transactions: from annotated SQL and the server's facts to their compiled form.

use std::collections::BTreeMap;

use crate::check::assignments::{self, Assignment};
use crate::check::insert_only;
use crate::check::refusal::{self, Reason};
use crate::check::statements;
use crate::check::trees::Trees;
use crate::codes;
use crate::definition::{BUILT_IN_PARAMETERS, Column, Statement, Target, Transaction};
use crate::facts::{Facts, StatementFact, StatementOutcome};
use crate::finding::{Finding, Place};
use crate::nearest::did_you_mean;
use crate::source::{MANIFEST_FILE, Source};
use crate::transaction_file::{StatementSource, TargetSource, TransactionSource};
use crate::value::Type;

/// A transaction as far as it could be compiled.
pub(crate) struct Compiled {
    pub transaction: Transaction,
    /// Whether types and answers are known: the server took every statement.
    pub is_whole: bool,
    /// Whether it says where it runs; [`Transaction::target`] means nothing if not.
    pub has_target: bool,
    /// For what it can be refused.
    pub reasons: Vec<Reason>,
    /// What its SET clauses do.
    pub assignments: Vec<Assignment>,
    /// The tables that it inserts into.
    pub inserts: Vec<String>,
}

pub(crate) fn compile(source: &Source, facts: &Facts, trees: &Trees, findings: &mut Vec<Finding>) -> Vec<Compiled> {
    let mut compiled: Vec<Compiled> = Vec::new();
    for (at, transaction) in source.transactions.iter().enumerate() {
        let name = &transaction.name;
        if let Some(first) = compiled.iter().find(|known| known.transaction.name == name.value) {
            let message = format!("transaction `{}` is declared twice", name.value);
            let help = format!("the first one is in `{}` line {}; rename one of them", first.transaction.file, first.transaction.line);
            findings.push(Finding::error(codes::DUPLICATE, &name.place, message).help(help));
        }
        let outcomes = facts.statements.get(at).map_or(&[][..], Vec::as_slice);
        compiled.push(compile_one(source, facts, trees, transaction, outcomes, findings));
    }
    compiled
}

fn compile_one(
    source: &Source,
    facts: &Facts,
    trees: &Trees,
    transaction: &TransactionSource,
    outcomes: &[StatementOutcome],
    findings: &mut Vec<Finding>,
) -> Compiled {
    let target = target(source, trees, transaction, findings);
    for (at, statement) in transaction.statements.iter().enumerate() {
        statements::check_kind(statement, findings);
        statements::check_sequences(statement, findings);
        match outcomes.get(at) {
            Some(StatementOutcome::Refused(error)) => statements::refused(statement, error, findings),
            Some(StatementOutcome::Prepared(fact)) => {
                if let Some(target) = &target {
                    statements::check_reach(facts, trees, statement, fact, target, findings);
                }
                if target == Some(Target::Reference) {
                    statements::check_reference_delete(facts, trees, statement, fact, findings);
                }
                statements::check_root_key(trees, statement, fact, findings);
                statements::check_referred_key(facts, trees, statement, fact, findings);
                insert_only::check(source, statement, fact, findings);
            }
            Some(StatementOutcome::Skipped) | None => {}
        }
    }
    let known: Vec<Option<&StatementFact>> =
        (0..transaction.statements.len()).map(|at| outcomes.get(at).and_then(StatementOutcome::prepared)).collect();
    let mut types = parameter_types(transaction, &known, findings);
    if let Some(Target::Root { entity, parameter }) = &target {
        root_parameter(trees, transaction, entity, parameter, &mut types, findings);
    }
    let statements = compile_statements(transaction, &known, &types);
    let columns = known.iter().rev().flatten().find(|fact| !fact.columns.is_empty()).map_or_else(Vec::new, |fact| fact.columns.clone());
    let pairs = || transaction.statements.iter().zip(known.iter().copied());
    let reasons: Vec<Reason> = pairs().flat_map(|(statement, fact)| refusal::reasons(facts, statement, fact)).collect();
    Compiled {
        is_whole: known.iter().all(Option::is_some),
        has_target: target.is_some(),
        transaction: Transaction {
            name: transaction.name.value.clone(),
            target: target.unwrap_or(Target::Reference),
            parameters: caller_parameters(transaction, &types),
            statements,
            columns,
            can_refuse: !reasons.is_empty(),
            writes: pairs().any(|(statement, fact)| statements::writes(facts, statement, fact)),
            may_change_settings: super::functions::may_change_settings(
                source,
                facts,
                &transaction.statements.iter().map(|statement| statement.sql.as_str()).collect::<Vec<_>>(),
            ),
            set_wise: None,
            file: transaction.name.place.file.clone(),
            line: transaction.line,
        },
        reasons,
        assignments: transaction.statements.iter().flat_map(|statement| assignments::assignments(facts, &statement.sql)).collect(),
        inserts: transaction.statements.iter().flat_map(|statement| assignments::inserts(&statement.sql)).collect(),
    }
}

fn target(source: &Source, trees: &Trees, transaction: &TransactionSource, findings: &mut Vec<Finding>) -> Option<Target> {
    match &transaction.target {
        Some(TargetSource::Reference(_)) => Some(Target::Reference),
        Some(TargetSource::Root { entity, parameter }) => {
            if !trees.has_entity(&entity.value) {
                // Without settings no entity is known, and one finding says so.
                if source
                    .findings
                    .iter()
                    .any(|finding| finding.file == MANIFEST_FILE && matches!(finding.code, codes::TOML | codes::UNREADABLE))
                {
                    return None;
                }
                let help = did_you_mean(&entity.value, trees.entity_names(), "declare it in `rootward.toml`");
                findings
                    .push(Finding::error(codes::NO_ROOT, &entity.place, format!("root entity `{}` is unknown", entity.value)).help(help));
                return None;
            }
            Some(Target::Root { entity: entity.value.clone(), parameter: parameter.value.clone() })
        }
        None => {
            if !has_wrong_annotation(source, transaction) {
                let name = &transaction.name;
                let entity = trees.entity_names().first().copied().unwrap_or("account").to_owned();
                findings.push(
                    Finding::error(codes::NO_ROOT, &name.place, format!("transaction `{}` does not say where it runs", name.value))
                        .help(format!("write `-- root: {entity} = :{entity}_id` below its name, or `-- reference: write`")),
                );
            }
            None
        }
    }
}

/// Whether reading the file has found fault with the annotation already that should have been the target.
fn has_wrong_annotation(source: &Source, transaction: &TransactionSource) -> bool {
    let place = &transaction.name.place;
    let next = source
        .transactions
        .iter()
        .filter(|other| other.name.place.file == place.file && other.name.place.span.offset > place.span.offset)
        .map(|other| other.name.place.span.offset)
        .min()
        .unwrap_or(usize::MAX);
    source.findings.iter().any(|finding| {
        finding.file == place.file
            && (place.span.offset..next).contains(&finding.span.offset)
            && matches!(finding.code, codes::NO_ROOT | codes::ANNOTATION)
    })
}

/// The type of each parameter, and a finding for each that has two.
fn parameter_types(
    transaction: &TransactionSource,
    known: &[Option<&StatementFact>],
    findings: &mut Vec<Finding>,
) -> BTreeMap<String, Type> {
    let mut types: BTreeMap<String, (Type, Place)> = BTreeMap::new();
    for (statement, fact) in transaction.statements.iter().zip(known) {
        let Some(fact) = fact else { continue };
        for (parameter, found) in statement.parameters.iter().zip(&fact.parameter_types) {
            let wanted = built_in(&parameter.value).or_else(|| types.get(&parameter.value).map(|(known, _)| known.clone()));
            match wanted {
                Some(wanted) if !is_same(&wanted, found) => {
                    findings.push(
                        Finding::error(
                            codes::TWO_TYPES,
                            &parameter.place,
                            format!("parameter `:{}` is used as {} and as {}", parameter.value, wanted.name(), found.name()),
                        )
                        .label(format!("as {} here", found.name()))
                        .help(format!("cast it: `:{}::{}`", parameter.value, wanted.name())),
                    );
                }
                _ => {
                    types.entry(parameter.value.clone()).or_insert_with(|| (found.clone(), parameter.place.clone()));
                }
            }
        }
    }
    types.into_iter().map(|(name, (found, _))| (name, found)).collect()
}

fn is_same(left: &Type, right: &Type) -> bool {
    let plain = |r#type: &Type| if *r#type == Type::Varchar { Type::Text } else { r#type.clone() };
    plain(left) == plain(right)
}

/// The type of a built-in parameter.
pub(crate) fn built_in(name: &str) -> Option<Type> {
    BUILT_IN_PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, r#type)| r#type.clone())
}

fn root_parameter(
    trees: &Trees,
    transaction: &TransactionSource,
    entity: &str,
    parameter: &str,
    types: &mut BTreeMap<String, Type>,
    findings: &mut Vec<Finding>,
) {
    let Some(TargetSource::Root { parameter: written, .. }) = &transaction.target else { return };
    let used = || transaction.statements.iter().flat_map(|statement| statement.parameters.iter());
    if !used().any(|used| used.value == parameter) {
        if transaction.statements.is_empty() || built_in(parameter).is_some() {
            return;
        }
        let help = did_you_mean(
            parameter,
            used().map(|used| used.value.as_str()).collect::<Vec<_>>(),
            "use it in a statement, or correct the name",
        );
        let message = format!("no statement of `{}` uses the root's parameter `:{parameter}`", transaction.name.value);
        findings.push(Finding::error(codes::ROOT_PARAMETER, &written.place, message).help(help));
        return;
    }
    let Some(key) = trees.root_key(entity) else { return };
    if let Some(found) = types.get(parameter).filter(|found| !is_same(found, &key.r#type)) {
        findings.push(
            Finding::error(
                codes::ROOT_PARAMETER,
                &written.place,
                format!(
                    "the root's parameter `:{parameter}` is used as {}, but the root key `{}.{}` is {}",
                    found.name(),
                    key.table,
                    key.column,
                    key.r#type.name()
                ),
            )
            .help(format!(
                "give the column that it meets the type {}, or cast it: `:{parameter}::{}`",
                key.r#type.name(),
                key.r#type.name()
            )),
        );
    }
    types.insert(parameter.to_owned(), key.r#type.clone());
}

fn compile_statements(transaction: &TransactionSource, known: &[Option<&StatementFact>], types: &BTreeMap<String, Type>) -> Vec<Statement> {
    let compiled = transaction.statements.iter().zip(known).map(|(statement, fact)| Statement {
        sql: statement.sql.clone(),
        parameters: statement.parameters.iter().map(|parameter| column(&parameter.value, types)).collect(),
        returns_rows: fact.is_some_and(|fact| !fact.columns.is_empty()),
        expect: statement.expect.clone(),
        is_told_by_next: false,
        line: statement.line,
    });
    compiled.collect()
}

fn column(name: &str, types: &BTreeMap<String, Type>) -> Column {
    let r#type = built_in(name).or_else(|| types.get(name).cloned()).unwrap_or(Type::Text);
    Column { name: name.to_owned(), r#type }
}

/// What a caller gives, in order of appearance.
fn caller_parameters(transaction: &TransactionSource, types: &BTreeMap<String, Type>) -> Vec<Column> {
    let mut found: Vec<Column> = Vec::new();
    for parameter in transaction.statements.iter().flat_map(|statement: &StatementSource| statement.parameters.iter()) {
        if built_in(&parameter.value).is_none() && !found.iter().any(|known| known.name == parameter.value) {
            found.push(column(&parameter.value, types));
        }
    }
    found
}
