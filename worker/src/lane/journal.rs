//! The journal: one row for each transaction that took effect, in the same commit, each with a hash over itself and the row before.
//!
//! The lane numbers and hashes: it is the only one that writes to its partitions, so it knows each one's head. A head is read once in a
//! term, or anew when the partition has come back in another epoch, and moves on only behind COMMIT's answer. When a connection is lost the term
//! ends, and with it what is known here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use postgres_protocol::types::{bool_to_sql, bytea_to_sql, int4_to_sql, int8_to_sql, text_to_sql, timestamp_to_sql, uuid_to_sql};
use tokio_postgres::types::Type as PgType;

use super::{
    batch::{Failure, before_commit, check_standing},
    context::{LaneContext, number, since_2000},
    unit::{Claim, Unit},
};
use crate::{
    clock,
    journal::{FIRST, Hash, Progress, Row},
    pg::{Call, Connection, Parameter, Pipeline, RowType, RowTypes, binary_array},
};

/// The last row of a partition's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// In which epoch it was read: another peer may have written since.
    epoch: i64,
    sequence: i64,
    hash: Hash,
}

/// What a lane knows of the journals of its partitions.
#[derive(Debug, Default)]
pub(super) struct Journal {
    heads: Mutex<HashMap<i32, Head>>,
    /// What subscribers wait for.
    progress: Arc<Progress>,
}

/// Rows that are about to be written, and the heads behind them.
pub(super) struct Entries<'u> {
    /// By their units' places.
    rows: Vec<(usize, Row<'u>, Hash)>,
    heads: HashMap<i32, Head>,
}

/// Reads the heads that the lane doesn't know yet and these units need. Nothing of them has run.
pub(super) async fn learn_heads(context: &LaneContext, connection: &mut Connection, units: &[Unit]) -> Result<(), Failure> {
    let unknown: BTreeSet<Claim> = {
        let heads = context.journal.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unknown = |claim: &Claim| heads.get(&claim.partition).is_none_or(|head| head.epoch != claim.epoch);
        units.iter().filter(|unit| unit.is_journaled()).map(|unit| unit.claim).filter(is_unknown).collect()
    };
    if unknown.is_empty() {
        return Ok(());
    }
    let partitions = binary_array(&PgType::INT4, unknown.iter(), |claim, buffer| int4_to_sql(claim.partition, buffer));
    let call = Call::prepared("select * from rootward.journal_heads($1, $2)", vec![context.secret(), partitions]);
    let mut pipeline = Pipeline::default();
    if let Some(error) = connection.add(&mut pipeline, &[call]).await.map_err(before_commit)? {
        return Err(Failure::NotCommitted(error.message));
    }
    let ran = connection.run(pipeline).await.map_err(before_commit)?;
    if let Some(error) = ran.error {
        check_standing(&error)?;
        return Err(Failure::NotCommitted(error.message));
    }
    let found: HashMap<i32, (i64, Hash)> = ran.results.iter().flat_map(|result| &result.rows).filter_map(|row| read_head(row)).collect();
    let mut heads = context.journal.heads.lock().unwrap_or_else(PoisonError::into_inner);
    for Claim { partition, epoch, .. } in unknown {
        let (sequence, hash) = found.get(&partition).copied().unwrap_or((0, FIRST));
        heads.insert(partition, Head { epoch, sequence, hash });
    }
    Ok(())
}

fn read_head(row: &[rootward_schema::Text]) -> Option<(i32, (i64, Hash))> {
    let text = |at: usize| row.get(at)?.as_deref();
    let hash = hex::decode(text(2)?.trim_start_matches("\\x")).ok()?;
    Some((text(0)?.parse().ok()?, (text(1)?.parse().ok()?, hash.try_into().ok()?)))
}

impl Journal {
    pub(super) fn new(progress: Arc<Progress>) -> Journal {
        Journal { heads: Mutex::default(), progress }
    }

    /// The rows of these units, given with their places in order; none if nothing of them is journaled. Each moves a head on that is not kept before
    /// [`Journal::keep`].
    ///
    /// # Errors
    /// If a head is not known; nothing may be committed then.
    pub(super) fn entries<'u>(&self, units: impl Iterator<Item = (usize, &'u Unit)>) -> Result<Option<Entries<'u>>, Failure> {
        let known = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Entries { rows: Vec::new(), heads: HashMap::new() };
        let at_ms = clock::now_ms();
        for (place, unit) in units.filter(|(_, unit)| unit.is_journaled()) {
            let (Some(outcome), Some(effect)) = (&unit.outcome, &unit.effect) else { continue };
            let Claim { partition, epoch, .. } = unit.claim;
            let head = match entries.heads.get(&partition).or_else(|| known.get(&partition)) {
                Some(head) if head.epoch == epoch => *head,
                _ => return Err(Failure::NotCommitted(format!("the head of partition {partition}'s journal is not known"))),
            };
            let row = Row {
                partition,
                sequence: head.sequence + 1,
                entity: outcome.key.entity.as_str().into(),
                root_key: outcome.key.root_key.as_str().into(),
                request_id: outcome.key.request_id,
                step: number(outcome.key.step),
                element: number(outcome.key.element),
                direction: outcome.key.direction().into(),
                is_in_chain: outcome.in_chain,
                transaction: (&*effect.declared.name).into(),
                arguments: effect.arguments().into(),
                issued_at_us: outcome.issued_at_ms.saturating_mul(1_000),
                at_us: at_ms.saturating_mul(1_000),
            };
            let hash = row.hash(&head.hash);
            entries.heads.insert(partition, Head { epoch, sequence: row.sequence, hash });
            entries.rows.push((place, row, hash));
        }
        Ok((!entries.rows.is_empty()).then_some(entries))
    }

    /// Remembers the heads of rows that are committed, and wakes who waits for them.
    pub(super) fn keep(&self, entries: Entries<'_>) {
        self.progress.reached(entries.heads.iter().map(|(partition, head)| (*partition, head.sequence)));
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).extend(entries.heads);
    }
}

fn moment(us: i64) -> i64 {
    since_2000(us / 1_000)
}

impl Entries<'_> {
    /// The call that writes them. Each row's unit must have taken effect in the same transaction.
    pub(super) fn call(&self, types: RowTypes, secret: Parameter) -> Call {
        let entries = types.array(RowType::Journal, self.rows.iter(), |(_, entry, hash), row| {
            row.value(&PgType::INT4, |buffer| int4_to_sql(entry.partition, buffer));
            row.value(&PgType::INT8, |buffer| int8_to_sql(entry.sequence, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.entity, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.root_key, buffer));
            row.value(&PgType::UUID, |buffer| uuid_to_sql(entry.request_id.into_bytes(), buffer));
            row.value(&PgType::INT4, |buffer| int4_to_sql(entry.step, buffer));
            row.value(&PgType::INT4, |buffer| int4_to_sql(entry.element, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.direction, buffer));
            row.value(&PgType::BOOL, |buffer| bool_to_sql(entry.is_in_chain, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.transaction, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.arguments, buffer));
            row.value(&PgType::TIMESTAMPTZ, |buffer| timestamp_to_sql(moment(entry.issued_at_us), buffer));
            row.value(&PgType::TIMESTAMPTZ, |buffer| timestamp_to_sql(moment(entry.at_us), buffer));
            row.value(&PgType::BYTEA, |buffer| bytea_to_sql(hash, buffer));
        });
        Call::prepared("select rootward.append_journal($1, $2)", vec![secret, entries])
    }

    /// What a function that stores the outcomes of these units needs beside those; NULL if they have no rows.
    pub(super) fn of(&self, places: &[usize], types: RowTypes) -> Parameter {
        let row_at = |place: &usize| self.rows.binary_search_by_key(place, |(place, ..)| *place).ok().map(|at| &self.rows[at]);
        let rows: Vec<_> = places.iter().filter_map(row_at).collect();
        if rows.is_empty() {
            return Parameter::Null;
        }
        types.array(RowType::JournalEntry, rows.into_iter(), |(_, entry, hash), row| {
            row.value(&PgType::INT8, |buffer| int8_to_sql(entry.sequence, buffer));
            row.value(&PgType::TEXT, |buffer| text_to_sql(&entry.arguments, buffer));
            row.value(&PgType::TIMESTAMPTZ, |buffer| timestamp_to_sql(moment(entry.at_us), buffer));
            row.value(&PgType::BYTEA, |buffer| bytea_to_sql(hash, buffer));
        })
    }
}
