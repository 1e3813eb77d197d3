//! What a lane sends for a unit and for a batch, and what a unit's results mean.

use std::sync::Arc;

use rootward_proto::{Fault, v1};
use rootward_schema::{DeferrableConstraint, Text, quoted};

use super::{
    counters::Counters,
    declared::{Effect, SetWise, Statement},
    freshness::Floors,
    outcome::{NewOutcome, OutcomeKey, response_of},
    refusal,
    unit::{After, Answer, Claim, Done, OwnRow, Unit},
};
use crate::{
    clock::timestamp,
    execute::REFERENCE_PARTITION,
    pg::{ArrayText, Call, StatementResult, array},
};

/// What a lane knows besides its connection.
pub(crate) struct LaneContext {
    number: u32,
    secret: Text,
    term: Text,
    /// What ends a unit that has run users' statements; the last of them resets the session's settings.
    closing: Vec<Call>,
    floors: Arc<Floors>,
    pub(super) how: How,
    pub(super) counters: Arc<Counters>,
}

/// How batches are made, by the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub max_batch: usize,
    pub set_wise: bool,
}

impl LaneContext {
    pub(crate) fn new(
        number: u32,
        secret: &[u8],
        term: i64,
        deferrable: &[DeferrableConstraint],
        floors: Arc<Floors>,
        how: How,
        counters: Arc<Counters>,
    ) -> LaneContext {
        LaneContext {
            number,
            secret: Some(format!("\\x{}", hex::encode(secret))),
            term: Some(term.to_string()),
            closing: closing_calls(deferrable),
            floors,
            how,
            counters,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Why a unit is too old to run, if it is.
    pub(super) fn staleness(&self, unit: &Unit) -> Option<Fault> {
        self.floors.refusal(unit.freshness)
    }

    pub(super) fn begin(&self, claims: &[Claim]) -> Call {
        // Of different versions, none: each claim is looked up then.
        let version = claims.first().map(|first| first.version).filter(|version| claims.iter().all(|claim| claim.version == *version));
        let partitions = array(claims.iter().map(|claim| Some(claim.partition.to_string())));
        let epochs = array(claims.iter().map(|claim| Some(claim.epoch.to_string())));
        Call::prepared(
            "select rootward.begin_batch($1, $2, $3, $4, $5)",
            vec![self.secret.clone(), self.term.clone(), version.map(|version| version.to_string()), Some(partitions), Some(epochs)],
        )
    }

    pub(super) fn enter(&self, context: &str) -> Call {
        Call::prepared("select rootward.enter($1, $2)", vec![self.secret.clone(), Some(context.to_owned())])
    }

    pub(super) fn find(&self, units: &[&Unit]) -> Call {
        let outcomes: Vec<_> = units.iter().filter_map(|unit| Some((unit.claim.partition, &unit.outcome.as_ref()?.key))).collect();
        let column = |of: &dyn Fn(&(i32, &OutcomeKey)) -> String| Some(array(outcomes.iter().map(|row| Some(of(row)))));
        Call::prepared(
            "select * from rootward.find_outcomes($1, $2, $3, $4, $5, $6, $7, $8)",
            vec![
                self.secret.clone(),
                column(&|(partition, _)| partition.to_string()),
                column(&|(_, key)| key.entity.clone()),
                column(&|(_, key)| key.root_key.clone()),
                column(&|(_, key)| key.request_id.to_string()),
                column(&|(_, key)| key.step.to_string()),
                column(&|(_, key)| key.element.to_string()),
                column(&|(_, key)| key.direction().to_owned()),
            ],
        )
    }

    pub(super) fn record(&self, outcomes: &[NewOutcome<'_>]) -> Call {
        let column = |bytes: usize, push: &dyn Fn(&mut ArrayText, &NewOutcome<'_>)| {
            let mut text = ArrayText::with_capacity(bytes * outcomes.len());
            outcomes.iter().for_each(|row| push(&mut text, row));
            Some(text.finish())
        };
        let replies: usize = outcomes.iter().map(|row| row.reply.len()).sum();
        Call::prepared(
            "select rootward.record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            vec![
                self.secret.clone(),
                column(5, &|text, row| text.push_plain(row.partition)),
                column(16, &|text, row| text.push(Some(&row.key.entity))),
                column(16, &|text, row| text.push(Some(&row.key.root_key))),
                column(37, &|text, row| text.push_plain(row.key.request_id)),
                column(4, &|text, row| text.push_plain(row.key.step)),
                column(4, &|text, row| text.push_plain(row.key.element)),
                column(5, &|text, row| text.push(Some(row.key.direction()))),
                column(10, &|text, row| text.push(Some(row.kind.name()))),
                column(24, &|text, row| text.push(Some(&row.fingerprint.transaction))),
                column(70, &|text, row| text.push_bytes(&row.fingerprint.hash)),
                column(6 + 2 * replies / outcomes.len().max(1), &|text, row| text.push_bytes(&row.reply)),
                column(6, &|text, row| text.push_plain(row.in_chain)),
                column(32, &|text, row| text.push(Some(&timestamp(row.issued_at_ms)))),
            ],
        )
    }

    /// The call of a set-wise transaction for these units, whose places in the batch are given.
    pub(super) fn for_all(&self, set_wise: &SetWise, units: &[(usize, &Effect)]) -> Call {
        let mut parameters = Vec::with_capacity(units.first().map_or(0, |(_, effect)| effect.values.len()) + 2);
        parameters.push(self.secret.clone());
        parameters.push(Some(array(units.iter().map(|(place, _)| Some(place.to_string())))));
        for at in 0..units.first().map_or(0, |(_, effect)| effect.values.len()) {
            parameters.push(Some(array(units.iter().map(|(_, effect)| effect.values.get(at).and_then(Option::as_deref)))));
        }
        Call::prepared(set_wise.sql.clone(), parameters)
    }

    /// The call of a function of ours for these rows.
    pub(super) fn own(&self, rows: &[&OwnRow]) -> Call {
        let Some(first) = rows.first() else { return Call::prepared("select 1 where false", Vec::new()) };
        let mut parameters = vec![self.secret.clone()];
        for at in 0..first.values.len() {
            parameters.push(Some(array(rows.iter().map(|row| row.values.get(at).and_then(Option::as_deref)))));
        }
        Call::prepared(first.sql, parameters)
    }

    /// What ends this unit.
    fn closing_calls(&self, unit: &Unit) -> &[Call] {
        match &unit.effect {
            None => &[],
            Some(effect) if effect.declared.may_change_settings => &self.closing,
            Some(_) => self.closing.split_last().map_or(&[], |(_, others)| others),
        }
    }
}

/// Makes every constraint that can wait immediate, which checks it now, and then again what the schema says. After that,
/// settings that a function of the users' changed become the session's own again: the next unit must not meet them, nor
/// COMMIT, which `synchronous_commit = off` would make a promise that PostgreSQL doesn't keep.
fn closing_calls(deferrable: &[DeferrableConstraint]) -> Vec<Call> {
    let mut calls = Vec::new();
    let names = |rows: Vec<&DeferrableConstraint>| rows.iter().map(|row| quoted(&row.name)).collect::<Vec<_>>().join(", ");
    if !deferrable.is_empty() {
        calls.push(Call::prepared(format!("set constraints {} immediate", names(deferrable.iter().collect())), Vec::new()));
    }
    let deferred: Vec<_> = deferrable.iter().filter(|row| row.is_initially_deferred).collect();
    if !deferred.is_empty() {
        calls.push(Call::prepared(format!("set constraints {} deferred", names(deferred)), Vec::new()));
    }
    calls.push(Call::prepared("reset all", Vec::new()));
    calls
}

impl LaneContext {
    /// The statements of a unit, ours around the users'; without [`After::Row`], which is done for many units at once.
    pub(super) fn calls_of(&self, unit: &Unit) -> Vec<Call> {
        let mut calls = Vec::new();
        calls.extend(unit.context.as_ref().map(|context| self.enter(context)));
        if let Some(effect) = &unit.effect {
            calls.extend(effect.declared.statements.iter().map(|statement| statement.call(&effect.values)));
        }
        // A constraint that waits for COMMIT would fail there for the whole batch.
        calls.extend(self.closing_calls(unit).iter().cloned());
        if let Some(After::Call(call)) = &unit.after {
            calls.push(call.clone());
        }
        calls
    }

    /// The user's statement at a place among [`LaneContext::calls_of`].
    pub(super) fn statement_at<'u>(&self, unit: &'u Unit, call: usize) -> Option<&'u Statement> {
        unit.effect.as_ref()?.declared.statements.get(call.checked_sub(usize::from(unit.context.is_some()))?)
    }

    /// The refusal of the first statement whose row count is not what it expects, if its result is among these. It comes
    /// before the error of a later statement, which was on its way already.
    pub(super) fn missed_expectation(&self, unit: &Unit, results: &[StatementResult]) -> Option<Fault> {
        let mut results = results.iter().skip(usize::from(unit.context.is_some()));
        unit.effect.as_ref()?.declared.statements.iter().find_map(|statement| {
            let result = results.by_ref().nth(statement.result_count() - 1)?;
            let expect = statement.expect.as_ref().filter(|expect| !expect.rows.is_met_by(result.row_count))?;
            Some(refusal::missed(unit, statement, &expect.reason, result.row_count))
        })
    }

    /// The answer that the results of [`LaneContext::calls_of`] make.
    pub(super) fn answer_of(&self, unit: &Unit, results: &[StatementResult]) -> Answer {
        if let Some(fault) = self.missed_expectation(unit, results) {
            return Err(fault);
        }
        if results.iter().any(|result| result.is_too_large) {
            return Err(refusal::too_large(unit));
        }
        let mut results = results.iter().skip(usize::from(unit.context.is_some()));
        let mut last = StatementResult::default();
        for statement in unit.effect.iter().flat_map(|effect| &effect.declared.statements) {
            let result = results.by_ref().nth(statement.result_count() - 1).cloned().unwrap_or_default();
            if !result.columns.is_empty() {
                last = result;
            } else if last.columns.is_empty() {
                last.row_count = result.row_count;
            }
        }
        let after = results.nth(self.closing_calls(unit).len()).and_then(StatementResult::scalar).map(str::to_owned);
        let mark = unit.outcome.as_ref().and_then(|outcome| outcome.mark.as_deref());
        let mut response = mark.map_or_else(|| response_of(&last), v1::CallResponse::clone);
        if unit.claim.partition == REFERENCE_PARTITION {
            response.reference_version = after.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
        }
        Ok(Done { response, after })
    }
}
