//! Our own rows of a batch: one call for all of a kind.

use std::collections::HashSet;

use rootward_schema::Text;
use uuid::Uuid;

use super::unit::{After, OwnRow, Unit};
use crate::pg::{RowType, StatementResult};

/// Rows for one call, with the places of their units.
pub(super) struct OwnCall<'u> {
    pub places: Vec<usize>,
    pub rows: Vec<&'u OwnRow>,
    /// What is said of them in [`OwnRow`], the same for all.
    pub sql: &'static str,
    pub sql_if_recorded: Option<&'static str>,
    pub r#type: RowType,
    keys: HashSet<Uuid>,
}

/// The calls for these units, in order: rows with the same key go into different ones.
pub(super) fn calls<'u>(units: impl Iterator<Item = (usize, &'u Unit)>) -> Vec<OwnCall<'u>> {
    let mut calls: Vec<OwnCall<'u>> = Vec::new();
    for (place, unit) in units {
        let Some(After::Row(row)) = &unit.after else { continue };
        // The first call behind the last one that holds the key.
        let behind = calls.iter().rposition(|call| call.sql == row.sql && call.keys.contains(&row.key)).map_or(0, |at| at + 1);
        match calls.iter_mut().skip(behind).find(|call| call.sql == row.sql) {
            Some(call) => {
                call.places.push(place);
                call.rows.push(row);
                call.keys.insert(row.key);
            }
            None => calls.push(OwnCall::of(place, row)),
        }
    }
    calls
}

impl<'u> OwnCall<'u> {
    /// One row, of the unit at this place.
    pub(super) fn of(place: usize, row: &'u OwnRow) -> OwnCall<'u> {
        let &OwnRow { sql, sql_if_recorded, r#type, key, .. } = row;
        OwnCall { places: vec![place], rows: vec![row], sql, sql_if_recorded, r#type, keys: HashSet::from([key]) }
    }

    /// The value of each unit's row.
    pub(super) fn values(&self, result: &StatementResult) -> Vec<(usize, Text)> {
        let value = |row: &Vec<Text>| {
            let at: usize = row.first()?.as_deref()?.parse().ok()?;
            Some((*self.places.get(at)?, row.get(1).cloned().flatten()))
        };
        result.rows.iter().filter_map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(sql: &'static str, key: Uuid) -> Unit {
        let row =
            OwnRow { sql, sql_if_recorded: None, key, r#type: RowType::ChainNote, values: Vec::new(), values_with_companions: Vec::new() };
        Unit { after: Some(After::Row(row)), ..Unit::of_test("own", 0) }
    }

    #[test]
    fn rows_of_one_key_keep_their_order_in_calls_of_their_own() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let units = [unit("note", a), unit("open", a), unit("note", b), unit("note", a), unit("note", b), unit("note", a)];
        let calls = calls(units.iter().enumerate());
        let places: Vec<&[usize]> = calls.iter().map(|call| call.places.as_slice()).collect();
        assert_eq!(places, [&[0, 2][..], &[1], &[3, 4], &[5]]);
    }
}
