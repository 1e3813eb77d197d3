//! What a lane sends for a unit and for a batch, and what a unit's results mean.

use std::{collections::HashMap, sync::Arc};

use bytes::{BufMut as _, BytesMut};
use postgres_protocol::{
    IsNull,
    types::{bool_to_sql, bytea_to_sql, int4_to_sql, int8_to_sql, text_to_sql, timestamp_to_sql, uuid_to_sql},
};
use rootward_proto::{Fault, v1};
use rootward_schema::{DeferrableConstraint, quoted};
use tokio_postgres::types::Type as PgType;
use uuid::Uuid;

use super::{
    counters::Counters,
    declared::{Declared, Effect, SetWise, Statement, Which},
    folded::Folding,
    freshness::Floors,
    journal::Journal,
    outcome::{NewOutcome, OutcomeKey, response_of},
    own::OwnCall,
    refusal,
    unit::{After, Answer, Claim, Done, OwnRow, OwnValue, Unit},
};
use crate::{
    execute::REFERENCE_PARTITION,
    journal::Progress,
    pg::{Call, Parameter, RowType, RowTypes, RowWriter, StatementResult, binary_array, values_array},
};

/// A number as PostgreSQL has it.
pub(super) fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Writes the key of an outcome, in the order of `rootward.request`, and nothing for the columns behind it.
fn write_key(partition: i32, key: &OutcomeKey, row: &mut RowWriter<'_>) {
    row.value(&PgType::INT4, |buffer| int4_to_sql(partition, buffer));
    row.value(&PgType::TEXT, |buffer| text_to_sql(&key.entity, buffer));
    row.value(&PgType::TEXT, |buffer| text_to_sql(&key.root_key, buffer));
    row.value(&PgType::UUID, |buffer| uuid_to_sql(key.request_id.into_bytes(), buffer));
    row.value(&PgType::INT4, |buffer| int4_to_sql(number(key.step), buffer));
    row.value(&PgType::INT4, |buffer| int4_to_sql(number(key.element), buffer));
    row.value(&PgType::TEXT, |buffer| text_to_sql(key.direction(), buffer));
    for r#type in [&PgType::TEXT, &PgType::BYTEA, &PgType::BOOL, &PgType::TIMESTAMPTZ] {
        row.column(r#type, |_| IsNull::Yes);
    }
}

/// Writes what an outcome keeps of its request, in the order of `rootward.request`; of what most of a batch have in common, only what is
/// different from the first one, if that is given.
fn write_request(outcome: &NewOutcome<'_>, first: Option<&NewOutcome<'_>>, row: &mut RowWriter<'_>) {
    let key = outcome.key;
    let text = |text: &str, first: Option<&str>, row: &mut RowWriter<'_>| {
        row.column(&PgType::TEXT, |buffer| unless(first == Some(text), || text_to_sql(text, buffer)));
    };
    let integer = |value: u32, first: Option<u32>, row: &mut RowWriter<'_>| {
        row.column(&PgType::INT4, |buffer| unless(first == Some(value), || int4_to_sql(number(value), buffer)));
    };
    row.value(&PgType::INT4, |buffer| int4_to_sql(outcome.partition, buffer));
    text(&key.entity, first.map(|first| first.key.entity.as_str()), row);
    row.value(&PgType::TEXT, |buffer| text_to_sql(&key.root_key, buffer));
    row.value(&PgType::UUID, |buffer| uuid_to_sql(key.request_id.into_bytes(), buffer));
    integer(key.step, first.map(|first| first.key.step), row);
    integer(key.element, first.map(|first| first.key.element), row);
    text(key.direction(), first.map(|first| first.key.direction()), row);
    text(&outcome.fingerprint.transaction, first.map(|first| first.fingerprint.transaction.as_ref()), row);
    row.value(&PgType::BYTEA, |buffer| bytea_to_sql(&outcome.fingerprint.hash, buffer));
    let is_same = first.is_some_and(|first| first.in_chain == outcome.in_chain);
    row.column(&PgType::BOOL, |buffer| unless(is_same, || bool_to_sql(outcome.in_chain, buffer)));
    row.value(&PgType::TIMESTAMPTZ, |buffer| timestamp_to_sql(since_2000(outcome.issued_at_ms), buffer));
}

/// NULL, or what is written.
fn unless(is_null: bool, write: impl FnOnce()) -> IsNull {
    if is_null {
        return IsNull::Yes;
    }
    write();
    IsNull::No
}

/// Microseconds since 2000-01-01, as PostgreSQL counts; a moment out of its range becomes the nearest in it.
pub(super) fn since_2000(ms: i64) -> i64 {
    const BEGIN_MS: i64 = 946_684_800_000;
    const FIRST: i64 = -211_813_488_000_000_000;
    const LAST: i64 = 9_223_371_331_199_999_999;
    ms.saturating_sub(BEGIN_MS).saturating_mul(1_000).clamp(FIRST, LAST)
}

/// Writes a value of a row of ours in its type's binary form.
fn write_own(value: &OwnValue, r#type: &PgType, buffer: &mut BytesMut) -> IsNull {
    match value {
        OwnValue::Null => return IsNull::Yes,
        OwnValue::Integer(number) => int4_to_sql(*number, buffer),
        OwnValue::Boolean(flag) => bool_to_sql(*flag, buffer),
        OwnValue::Text(text) => {
            if *r#type == PgType::JSONB {
                buffer.put_u8(1); // the version of this form
            }
            text_to_sql(text, buffer);
        }
        OwnValue::Bytes(bytes) => bytea_to_sql(bytes, buffer),
        OwnValue::Uuid(id) => uuid_to_sql(id.into_bytes(), buffer),
        OwnValue::Moment(ms) => timestamp_to_sql(since_2000(*ms), buffer),
        OwnValue::Never => timestamp_to_sql(i64::MAX, buffer),
    }
    IsNull::No
}

fn write_own_row(own: &OwnRow, has_companions: bool, row: &mut RowWriter<'_>) {
    for (at, (r#type, value)) in own.values.iter().enumerate() {
        let other = own.values_with_companions.iter().find(|(place, _)| has_companions && *place == at);
        row.column(r#type, |buffer| write_own(other.map_or(value, |(_, other)| other), r#type, buffer));
    }
}

/// What a lane knows besides its connection.
pub(crate) struct LaneContext {
    number: u32,
    secret: Parameter,
    term: Parameter,
    row_types: RowTypes,
    /// What ends a unit that has run users' statements; the last of them resets the session's settings.
    closing: Vec<Call>,
    floors: Arc<Floors>,
    pub(super) how: How,
    pub(super) counters: Arc<Counters>,
    pub(super) folding: Folding,
    pub(super) journal: Journal,
}

/// How batches are made, by the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub max_batch: usize,
    pub set_wise: bool,
    /// Always, but in a control of `bench journal`: without it a repeated call takes effect again.
    pub stores_outcomes: bool,
}

impl LaneContext {
    #[allow(clippy::too_many_arguments)] // the parts of a lane
    pub(crate) fn new(
        number: u32,
        secret: &[u8],
        term: i64,
        row_types: RowTypes,
        deferrable: &[DeferrableConstraint],
        floors: Arc<Floors>,
        how: How,
        counters: Arc<Counters>,
        progress: Arc<Progress>,
    ) -> LaneContext {
        LaneContext {
            number,
            secret: Parameter::Binary(secret.to_vec().into()),
            term: Parameter::Text(term.to_string()),
            row_types,
            closing: closing_calls(deferrable),
            floors,
            how,
            counters,
            folding: Folding::default(),
            journal: Journal::new(progress),
        }
    }

    pub(super) fn secret(&self) -> Parameter {
        self.secret.clone()
    }

    pub(super) fn row_types(&self) -> RowTypes {
        self.row_types
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
        let parameters = vec![
            self.secret.clone(),
            self.term.clone(),
            version.map(|version| version.to_string()).into(),
            binary_array(&PgType::INT4, claims.iter(), |claim, buffer| int4_to_sql(claim.partition, buffer)),
            binary_array(&PgType::INT8, claims.iter(), |claim, buffer| int8_to_sql(claim.epoch, buffer)),
        ];
        Call::prepared("select rootward.begin_batch($1, $2, $3, $4, $5)", parameters)
    }

    pub(super) fn begin_read(&self, claim: Claim) -> Call {
        let parameters = vec![
            self.secret.clone(),
            self.term.clone(),
            Parameter::Text(claim.partition.to_string()),
            Parameter::Text(claim.epoch.to_string()),
        ];
        Call::prepared("select rootward.begin_read($1, $2, $3, $4)", parameters)
    }

    pub(super) fn enter(&self, context: &str) -> Call {
        Call::prepared("select rootward.enter($1, $2)", vec![self.secret.clone(), Parameter::Text(context.to_owned())])
    }

    /// Whether an outcome is to be stored. Chains can't do without theirs.
    pub(super) fn stores(&self, outcome: &NewOutcome<'_>) -> bool {
        self.how.stores_outcomes || outcome.in_chain
    }

    pub(super) fn find(&self, units: &[&Unit]) -> Call {
        let keys: Vec<_> = units.iter().filter_map(|unit| Some((unit.claim.partition, &unit.outcome.as_ref()?.key))).collect();
        let requests = self.row_types.array(RowType::Request, keys.into_iter(), |(partition, key), row| write_key(partition, key, row));
        Call::prepared("select * from rootward.find_outcomes($1, $2)", vec![self.secret.clone(), requests])
    }

    pub(super) fn record(&self, outcomes: &[NewOutcome<'_>]) -> Call {
        let rows = outcomes.iter();
        let parameters = vec![
            self.secret.clone(),
            self.row_types.array(RowType::Request, rows.clone(), |outcome, row| write_request(outcome, None, row)),
            binary_array(&PgType::TEXT, rows.clone(), |row, buffer| text_to_sql(row.kind.name(), buffer)),
            binary_array(&PgType::BYTEA, rows, |row, buffer| bytea_to_sql(&row.reply, buffer)),
        ];
        Call::prepared("select rootward.record($1, $2, $3, $4)", parameters)
    }

    /// The call of a set-wise transaction for these units, whose places in the batch are given; their outcomes too, if the
    /// function is to store them, and with those their entries of the journal, unless NULL.
    pub(super) fn for_all(
        &self,
        declared: &Declared,
        set_wise: &SetWise,
        units: &[(usize, &Effect)],
        outcomes: Option<&[NewOutcome<'_>]>,
        entries: Parameter,
    ) -> Call {
        let mut parameters = Vec::with_capacity(declared.parameters.len() + 2 + rootward_schema::SetWise::OUTCOME_PARAMETERS);
        parameters.push(self.secret.clone());
        let places = units.iter().map(|(place, _)| i32::try_from(*place).unwrap_or(i32::MAX));
        parameters.push(binary_array(&PgType::INT4, places, int4_to_sql));
        for (at, column) in declared.parameters.iter().enumerate() {
            let values = units.iter().map(|(_, effect)| effect.values.get(at).and_then(Option::as_deref));
            parameters.push(values_array(&column.r#type, values));
        }
        match outcomes {
            None => parameters.extend([Parameter::Null, Parameter::Null]),
            Some(outcomes) => {
                let (mut first, rows) = (None, outcomes.iter());
                parameters.push(self.row_types.array(RowType::Request, rows, |outcome, row| {
                    write_request(outcome, first, row);
                    first.get_or_insert(outcome);
                }));
                parameters.push(Parameter::Binary(set_wise.reply.clone()));
            }
        }
        parameters.push(entries);
        Call::prepared(set_wise.sql.clone(), parameters)
    }

    /// The call of a function of ours for these rows.
    pub(super) fn own(&self, call: &OwnCall<'_>) -> Call {
        let rows = self.row_types.array(call.r#type, call.rows.iter(), |own, row| write_own_row(own, false, row));
        Call::prepared(call.sql, vec![self.secret.clone(), rows])
    }

    /// The same behind the outcomes of the rows' units, in the same commit. Of each row's chain so many must be there; one, if nothing is said.
    pub(super) fn own_if_recorded(&self, call: &OwnCall<'_>, wanted: &HashMap<Uuid, usize>) -> Call {
        let Some(sql) = call.sql_if_recorded else { return self.own(call) };
        let wanted_of = |own: &&OwnRow| wanted.get(&own.key).copied().unwrap_or(1);
        let rows = self.row_types.array(call.r#type, call.rows.iter(), |own, row| write_own_row(own, wanted_of(own) > 1, row));
        let counts = call.rows.iter().map(|own| i32::try_from(wanted_of(own)).unwrap_or(i32::MAX));
        Call::prepared(sql, vec![self.secret.clone(), rows, binary_array(&PgType::INT4, counts, int4_to_sql)])
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
        calls.push(Call::plain(format!("set constraints {} immediate", names(deferrable.iter().collect()))));
    }
    let deferred: Vec<_> = deferrable.iter().filter(|row| row.is_initially_deferred).collect();
    if !deferred.is_empty() {
        calls.push(Call::plain(format!("set constraints {} deferred", names(deferred))));
    }
    calls.push(Call::plain("reset all"));
    calls
}

impl LaneContext {
    /// The statements of a unit, ours around the users'; without [`After::Row`], which is done for many units at once.
    pub(super) fn calls_of(&self, unit: &Unit, which: Which) -> Vec<Call> {
        let mut calls = Vec::new();
        calls.extend(unit.context.as_ref().map(|context| self.enter(context)));
        if let Some(effect) = &unit.effect {
            calls.extend(effect.statements(which).map(|statement| statement.call(&effect.values)));
        }
        // A constraint that waits for COMMIT would fail there for the whole batch.
        calls.extend(self.closing_calls(unit).iter().cloned());
        if let Some(After::Call(call)) = &unit.after {
            calls.push(call.clone());
        }
        calls
    }

    /// The user's statement at a place among [`LaneContext::calls_of`].
    pub(super) fn statement_at<'u>(&self, unit: &'u Unit, which: Which, call: usize) -> Option<&'u Statement> {
        unit.effect.as_ref()?.statements(which).nth(call.checked_sub(usize::from(unit.context.is_some()))?)
    }

    /// The refusal of the first statement whose row count is not what it expects, if its result is among these. It comes
    /// before the error of a later statement, which was on its way already.
    pub(super) fn missed_expectation(&self, unit: &Unit, which: Which, results: &[StatementResult]) -> Option<Fault> {
        let mut results = results.iter().skip(usize::from(unit.context.is_some()));
        unit.effect.as_ref()?.statements(which).find_map(|statement| {
            let result = results.by_ref().nth(statement.result_count() - 1)?;
            let expect = statement.expect.as_ref().filter(|expect| !expect.rows.is_met_by(result.row_count))?;
            Some(refusal::missed(unit, statement, &expect.reason, result.row_count))
        })
    }

    /// The answer that the results of [`LaneContext::calls_of`] make.
    pub(super) fn answer_of(&self, unit: &Unit, which: Which, results: &[StatementResult]) -> Answer {
        if let Some(fault) = self.missed_expectation(unit, which, results) {
            return Err(fault);
        }
        if results.iter().any(|result| result.is_too_large) {
            return Err(refusal::too_large(unit));
        }
        let mut results = results.iter().skip(usize::from(unit.context.is_some()));
        let mut last = StatementResult::default();
        for statement in unit.effect.iter().flat_map(|effect| effect.statements(which)) {
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
