//! Which units of a batch run set-wise, and what the one call for all of them means for each.

use std::{collections::HashMap, sync::Arc};

use super::{
    declared::{Declared, Effect},
    outcome::wire_row,
    refusal,
    unit::{Answer, Done, Unit},
};
use crate::pg::StatementResult;
use rootward_proto::v1;

/// Units of one transaction, each at a root of its own.
pub(super) struct Group {
    pub declared: Arc<Declared>,
    pub places: Vec<usize>,
}

/// What a call for a group gave.
pub(super) enum Given {
    Answers(Vec<(usize, Answer)>),
    /// This unit has missed an expectation after it had written something: all must be taken back.
    Dirty(usize, rootward_proto::Fault),
    /// The rows are not what the function promises, or too many: row by row is the way.
    Unusable,
}

/// Splits a batch into groups of so many units at least and the units that run row by row. A root that comes twice keeps its
/// order row by row.
pub(super) fn split(units: &[&Unit], runs: impl Fn(&usize) -> bool, fewest: usize) -> (Vec<Group>, Vec<usize>) {
    let mut roots: HashMap<(i32, &str, &str), usize> = HashMap::with_capacity(units.len());
    for unit in units.iter().filter(|unit| unit.effect.is_some()) {
        if let Some(root) = root_of(unit) {
            *roots.entry(root).or_default() += 1;
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut rows = Vec::new();
    for (place, unit) in units.iter().enumerate().filter(|(place, _)| runs(place)) {
        match unit.effect.as_ref().filter(|effect| effect.declared.set_wise.is_some()) {
            Some(effect) if root_of(unit).is_some_and(|root| roots.get(&root) == Some(&1)) => {
                match groups.iter_mut().find(|group| Arc::ptr_eq(&group.declared, &effect.declared)) {
                    Some(group) => group.places.push(place),
                    None => groups.push(Group { declared: effect.declared.clone(), places: vec![place] }),
                }
            }
            _ => rows.push(place),
        }
    }
    let few: Vec<usize> = groups.iter().filter(|group| group.places.len() < fewest).flat_map(|group| group.places.clone()).collect();
    groups.retain(|group| group.places.len() >= fewest);
    rows.extend(few);
    rows.sort_unstable();
    (groups, rows)
}

/// The root that a unit touches; none if it touches rows of ours only.
pub(super) fn root_of(unit: &Unit) -> Option<(i32, &str, &str)> {
    let key = &unit.outcome.as_ref()?.key;
    Some((unit.claim.partition, &key.entity, &key.root_key))
}

impl Group {
    /// The units' values with their places.
    pub(super) fn effects<'u>(&self, units: &[&'u Unit]) -> Vec<(usize, &'u Effect)> {
        self.places.iter().filter_map(|place| Some((*place, units[*place].effect.as_ref()?))).collect()
    }

    /// What the function's rows say: a unit's place, the statement whose expectation it missed or NULL, the answer's columns.
    pub(super) fn answers(&self, units: &[&Unit], result: &StatementResult) -> Given {
        let Some(set_wise) = self.declared.set_wise.as_ref().filter(|_| !result.is_too_large) else { return Given::Unusable };
        let mut answers: HashMap<usize, Answer> = HashMap::with_capacity(self.places.len());
        for row in &result.rows {
            let number = |at: usize| row.get(at).and_then(Option::as_deref).map(str::parse::<usize>);
            let Some(Ok(place)) = number(0) else { return Given::Unusable };
            let Some(unit) = units.get(place) else { return Given::Unusable };
            match number(1) {
                None => {
                    answers.entry(place).or_insert_with(|| Ok(self.done(Some(row.get(2..).unwrap_or_default()))));
                }
                Some(Ok(at)) => {
                    let Some(statement) = self.declared.statements.get(at) else { return Given::Unusable };
                    let Some(expect) = &statement.expect else { return Given::Unusable };
                    let rows = u64::from(expect.rows.is_met_by(0));
                    let fault = refusal::missed(unit, statement, &expect.reason, rows);
                    if at >= set_wise.clean_statements {
                        return Given::Dirty(place, fault);
                    }
                    answers.insert(place, Err(fault));
                }
                Some(Err(_)) => return Given::Unusable,
            }
        }
        Given::Answers(self.places.iter().map(|place| (*place, answers.remove(place).unwrap_or_else(|| Ok(self.done(None))))).collect())
    }

    fn done(&self, row: Option<&[rootward_schema::Text]>) -> Done {
        let columns = &self.declared.columns;
        let response = v1::CallResponse {
            columns: self.declared.wire_columns.clone(),
            row_count: u64::from(row.is_some()),
            rows: row.filter(|_| !columns.is_empty()).map(|row| wire_row(row, columns)).into_iter().collect(),
            ..v1::CallResponse::default()
        };
        Done { response, after: None }
    }
}
