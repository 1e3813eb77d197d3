//! One row of totals, put together from one of each peer.

use std::cmp::Ordering;

use rootward_proto::{
    Fault,
    v1::{Column, Row, Value, value::Kind},
};
use rootward_schema::{Aggregate, PER_PEER, Total, Type};

use super::{
    compare::{Comparable, Comparison},
    comparison,
    decimal::Decimal,
};

/// The totals of the peers that have been added so far.
#[derive(Debug)]
pub(crate) struct Totals(Vec<One>);

/// A column.
#[derive(Debug)]
struct One {
    name: String,
    kind: OneKind,
}

#[derive(Debug)]
enum OneKind {
    /// A count, or a sum whose type is bigint; none while there was only NULL.
    Whole(Option<i128>),
    Numeric(Option<Decimal>),
    /// The least value, or the greatest.
    Extreme {
        wanted: Ordering,
        comparison: Comparison,
        best: Option<(Comparable, Value)>,
    },
}

impl Totals {
    /// Of rows with these columns.
    ///
    /// # Errors
    /// RW2023 if values can't be compared, RW2025 if they can't be added up.
    pub(crate) fn new(totals: &[Total], columns: &[Column]) -> Result<Totals, Fault> {
        if totals.len() != columns.len() {
            return Err(Fault::internal(format!("{} totals were understood, and {} came", totals.len(), columns.len())));
        }
        let one = |(total, column): (&Total, &Column)| {
            let kind = match (total.aggregate, Type::from_name(&column.r#type)) {
                // No row at all is a count of 0; every peer sends one.
                (Aggregate::Count, _) | (Aggregate::Sum, Type::Bigint) => OneKind::Whole(None),
                (Aggregate::Sum, Type::Numeric) => OneKind::Numeric(None),
                (Aggregate::Sum, other) => return Err(not_exact(&column.name, &other)),
                (Aggregate::Min, _) => extreme(Ordering::Less, column, total, "min of")?,
                (Aggregate::Max, _) => extreme(Ordering::Greater, column, total, "max of")?,
            };
            Ok(One { name: column.name.clone(), kind })
        };
        Ok(Totals(totals.iter().zip(columns).map(one).collect::<Result<_, Fault>>()?))
    }

    /// Adds one peer's row.
    ///
    /// # Errors
    /// If it is not of these columns, or a value of another form.
    pub(crate) fn add(&mut self, row: &Row) -> Result<(), Fault> {
        if row.values.len() != self.0.len() {
            return Err(Fault::internal("a peer's totals are of other columns"));
        }
        self.0.iter_mut().zip(&row.values).try_for_each(|(one, value)| one.add(value))
    }

    /// The totals over all peers.
    ///
    /// # Errors
    /// RW2025 if a sum is greater than its type holds, as it is in PostgreSQL.
    pub(crate) fn row(self) -> Result<Row, Fault> {
        Ok(Row { values: self.0.into_iter().map(One::value).collect::<Result<_, Fault>>()? })
    }
}

fn extreme(wanted: Ordering, column: &Column, total: &Total, by: &str) -> Result<OneKind, Fault> {
    Ok(OneKind::Extreme { wanted, comparison: comparison(column, total.is_bytewise, by)?, best: None })
}

fn not_exact(column: &str, r#type: &Type) -> Fault {
    let (message, help) = match r#type {
        Type::Real | Type::Double => (
            format!("`{column}`: a sum of type {} depends on the order in which it is made", r#type.name()),
            format!("cast what is summed to numeric, as in `sum(x::numeric)`; or {PER_PEER}"),
        ),
        _ => (format!("`{column}`: sums of type {} can't be added up", r#type.name()), PER_PEER.to_owned()),
    };
    Fault::refused("RW2025", message, help)
}

impl One {
    fn add(&mut self, value: &Value) -> Result<(), Fault> {
        let odd = || Fault::internal(format!("`{}` came in another form than its type has", self.name));
        match (&mut self.kind, &value.kind) {
            (_, None | Some(Kind::Null(_))) => {}
            (OneKind::Whole(sum), Some(Kind::Int64(part))) => *sum = Some(sum.unwrap_or(0) + i128::from(*part)),
            (OneKind::Numeric(sum), Some(Kind::Decimal(part))) => {
                let part = Decimal::parse(part).ok_or_else(odd)?;
                *sum = Some(match sum.take() {
                    Some(sum) => sum.plus(part),
                    None => part,
                });
            }
            (OneKind::Extreme { wanted, comparison, best }, _) => {
                if let Some(found) = comparison.read(value)?
                    && best.as_ref().is_none_or(|(best, _)| found.order(best) == *wanted)
                {
                    *best = Some((found, value.clone()));
                }
            }
            _ => return Err(odd()),
        }
        Ok(())
    }

    fn value(self) -> Result<Value, Fault> {
        let null = Value { kind: Some(Kind::Null(true)) };
        Ok(match self.kind {
            OneKind::Whole(None) | OneKind::Numeric(None) | OneKind::Extreme { best: None, .. } => null,
            OneKind::Whole(Some(sum)) => {
                let sum = i64::try_from(sum).map_err(|_| {
                    let message = format!("`{}`: the sum over all peers is {sum}, and bigint out of range", self.name);
                    Fault::refused("RW2025", message, format!("cast what is summed to numeric; or {PER_PEER}"))
                })?;
                Value { kind: Some(Kind::Int64(sum)) }
            }
            OneKind::Numeric(Some(sum)) => Value { kind: Some(Kind::Decimal(sum.text())) },
            OneKind::Extreme { best: Some((_, value)), .. } => value,
        })
    }
}

#[cfg(test)]
mod tests {
    use rootward_proto::to_wire;

    use super::*;

    fn together(aggregate: Aggregate, type_name: &str, parts: &[Option<&str>]) -> Result<Option<String>, String> {
        let declared = Type::from_name(type_name);
        let column = Column { name: "total".to_owned(), r#type: type_name.to_owned() };
        let code = |fault: Fault| fault.code().to_owned();
        let mut totals = Totals::new(&[Total { aggregate, is_bytewise: true }], &[column]).map_err(code)?;
        for part in parts {
            totals.add(&Row { values: vec![to_wire(*part, &declared)] }).map_err(code)?;
        }
        let row = totals.row().map_err(code)?;
        Ok(rootward_proto::from_wire(&row.values[0], &declared).expect("a value of the type"))
    }

    #[test]
    fn totals_are_those_of_all_rows_together() {
        use Aggregate::{Count, Max, Min, Sum};
        for (aggregate, type_name, parts, wanted) in [
            (Count, "bigint", &[Some("3"), Some("0"), Some("4")][..], Ok(Some("7"))),
            (Sum, "bigint", &[Some("9223372036854775807"), None, Some("-7")], Ok(Some("9223372036854775800"))),
            (Sum, "bigint", &[Some("9223372036854775807"), Some("5"), Some("-7")], Ok(Some("9223372036854775805"))),
            (Sum, "bigint", &[Some("9223372036854775807"), Some("1")], Err("RW2025")),
            (Sum, "numeric", &[Some("0.10"), Some("0.2"), None], Ok(Some("0.30"))),
            (Sum, "numeric", &[None, None], Ok(None)),
            (Sum, "double precision", &[Some("1")], Err("RW2025")),
            (Sum, "real", &[Some("1")], Err("RW2025")),
            (Sum, "interval", &[Some("1 day")], Err("RW2025")),
            (Min, "bigint", &[Some("10"), None, Some("9")], Ok(Some("9"))),
            (Max, "bigint", &[Some("10"), None, Some("9")], Ok(Some("10"))),
            (Max, "numeric", &[Some("9.5"), Some("10")], Ok(Some("10"))),
            (Min, "date", &[Some("2026-11-21"), Some("0044-03-15 BC")], Ok(Some("0044-03-15 BC"))),
            (Max, "text", &[Some("B"), Some("a")], Ok(Some("a"))),
            (Min, "text", &[None], Ok(None)),
            (Min, "point", &[None], Err("RW2023")),
        ] {
            let wanted = wanted.map(|text| text.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(together(aggregate, type_name, parts), wanted, "{aggregate:?} {type_name} {parts:?}");
        }
    }
}
