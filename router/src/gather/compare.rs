//! The order of values, as PostgreSQL has it: of types where it follows from the values alone.

use std::cmp::Ordering;

use rootward_proto::{
    Fault,
    v1::{Value, value::Kind},
};
use rootward_schema::Type;

use super::decimal::Decimal;

/// How the values of a column are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Integer,
    Numeric,
    Float,
    Boolean,
    /// Dates, and moments with and without a time zone.
    Moment,
    Bytes,
    /// UUIDs, and texts byte by byte.
    Text,
}

/// A value that can be compared with others of its column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparable {
    Integer(i64),
    Numeric(Decimal),
    Float(f64),
    Boolean(bool),
    /// Microseconds since 1970; the ends of time are its least and greatest.
    Moment(i128),
    Bytes(Vec<u8>),
    Text(String),
}

impl Comparison {
    /// How values of a type are compared; none if only PostgreSQL can.
    pub(crate) fn of(type_name: &str, is_bytewise: bool) -> Option<Comparison> {
        Some(match Type::from_name(type_name) {
            Type::Smallint | Type::Integer | Type::Bigint => Comparison::Integer,
            Type::Numeric => Comparison::Numeric,
            Type::Real | Type::Double => Comparison::Float,
            Type::Boolean => Comparison::Boolean,
            Type::Date | Type::Timestamp | Type::Timestamptz => Comparison::Moment,
            Type::Bytea => Comparison::Bytes,
            Type::Uuid => Comparison::Text,
            Type::Text | Type::Varchar if is_bytewise => Comparison::Text,
            Type::Text | Type::Varchar | Type::Json | Type::Jsonb | Type::Other(_) => return None,
        })
    }

    /// The value as it is compared; none for NULL.
    ///
    /// # Errors
    /// RW2023 if it is not written as PostgreSQL writes it by default.
    pub(crate) fn read(self, value: &Value) -> Result<Option<Comparable>, Fault> {
        let Some(kind) = &value.kind else { return Ok(None) };
        let text = match kind {
            Kind::Null(_) => return Ok(None),
            Kind::Text(text) | Kind::Decimal(text) | Kind::Timestamp(text) | Kind::Uuid(text) | Kind::Json(text) => text.as_str(),
            Kind::Boolean(_) | Kind::Int64(_) | Kind::Double(_) | Kind::Bytes(_) => "",
        };
        let read = match (self, kind) {
            (Comparison::Integer, Kind::Int64(number)) => Some(Comparable::Integer(*number)),
            (Comparison::Float, Kind::Double(number)) => Some(Comparable::Float(*number)),
            (Comparison::Boolean, Kind::Boolean(truth)) => Some(Comparable::Boolean(*truth)),
            (Comparison::Bytes, Kind::Bytes(bytes)) => Some(Comparable::Bytes(bytes.clone())),
            (Comparison::Numeric, Kind::Decimal(_)) => Decimal::parse(text).map(Comparable::Numeric),
            (Comparison::Moment, Kind::Timestamp(_) | Kind::Text(_)) => moment(text).map(Comparable::Moment),
            (Comparison::Text, Kind::Uuid(_) | Kind::Text(_)) => Some(Comparable::Text(text.to_owned())),
            _ => None,
        };
        read.map(Some).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let help = "the databases' settings (datestyle, bytea_output) write values in another form; read the rows with --per-peer";
            Fault::refused("RW2023", format!("the value `{shown}` is not in the form in which it can be compared"), help)
        })
    }
}

impl Comparable {
    /// The order of two values of one column.
    pub(crate) fn order(&self, other: &Comparable) -> Ordering {
        match (self, other) {
            (Comparable::Integer(left), Comparable::Integer(right)) => left.cmp(right),
            (Comparable::Numeric(left), Comparable::Numeric(right)) => left.cmp(right),
            // Zeros are equal whatever their signs, and no number is greater than NaN.
            (Comparable::Float(left), Comparable::Float(right)) => {
                left.partial_cmp(right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
            }
            (Comparable::Boolean(left), Comparable::Boolean(right)) => left.cmp(right),
            (Comparable::Moment(left), Comparable::Moment(right)) => left.cmp(right),
            (Comparable::Bytes(left), Comparable::Bytes(right)) => left.cmp(right),
            (Comparable::Text(left), Comparable::Text(right)) => left.as_bytes().cmp(right.as_bytes()),
            // One column has one type.
            _ => Ordering::Equal,
        }
    }
}

const MICROS_PER_SECOND: i128 = 1_000_000;
const SECONDS_PER_DAY: i128 = 86_400;

/// `2026-11-21`, `2026-11-21 10:02:11.5`, `2026-11-21 10:02:11.5+05:30`, `0044-03-15 BC`, `infinity`: PostgreSQL's ISO style.
fn moment(text: &str) -> Option<i128> {
    match text {
        "infinity" => return Some(i128::MAX),
        "-infinity" => return Some(i128::MIN),
        _ => {}
    }
    let (text, is_before_christ) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (date, time) = text.split_once(' ').map_or((text, None), |(date, time)| (date, Some(time)));
    let [year, month, day] = numbers(date, '-')?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if is_before_christ { 1 - year } else { year };
    let mut micros = days(year, month, day) * SECONDS_PER_DAY * MICROS_PER_SECOND;
    if let Some(time) = time {
        let zone = time.find(['+', '-']).unwrap_or(time.len());
        micros += clock(&time[..zone])?;
        if let Some(offset) = time[zone..].strip_prefix('+') {
            micros -= clock(offset)?;
        } else if let Some(offset) = time[zone..].strip_prefix('-') {
            micros += clock(offset)?;
        }
    }
    Some(micros)
}

/// `10:02:11.5`, `05:30` or `05`, in microseconds.
fn clock(text: &str) -> Option<i128> {
    let mut micros = 0;
    let mut unit = 3_600 * MICROS_PER_SECOND;
    for part in text.split(':') {
        let (whole, fraction) = part.split_once('.').unwrap_or((part, ""));
        if fraction.len() > 6 || unit < MICROS_PER_SECOND {
            return None;
        }
        micros += digits(whole)? * unit;
        if !fraction.is_empty() {
            micros += digits(&format!("{fraction:0<6}"))? * unit / MICROS_PER_SECOND;
        }
        unit /= 60;
    }
    Some(micros)
}

fn numbers<const N: usize>(text: &str, between: char) -> Option<[i128; N]> {
    let numbers: Vec<i128> = text.split(between).map(digits).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// A number without a sign, nothing else; PostgreSQL's years have six digits at most.
fn digits(text: &str) -> Option<i128> {
    let is_number = !text.is_empty() && text.len() <= 7 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Days since 1970 in the Gregorian calendar, before it was made, too. A year begins in March here, so that the leap day is its
/// last; four centuries have 146,097 days.
fn days(year: i128, month: i128, day: i128) -> i128 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let century = year.div_euclid(400);
    let of_centuries = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    century * 146_097 + of_centuries * 365 + of_centuries / 4 - of_centuries / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(type_name: &str, texts: &[&str]) {
        let declared = Type::from_name(type_name);
        let comparison = Comparison::of(type_name, true).expect("a type with an order");
        let read = |text: &&str| comparison.read(&rootward_proto::to_wire(Some(text), &declared)).expect("a value").expect("not NULL");
        let values: Vec<Comparable> = texts.iter().map(read).collect();
        for (at, left) in values.iter().enumerate() {
            for (other, right) in values.iter().enumerate() {
                assert_eq!(left.order(right), at.cmp(&other), "{} and {}", texts[at], texts[other]);
            }
        }
    }

    #[test]
    fn values_stand_in_postgresqls_order() {
        sorted("bigint", &["-9223372036854775808", "-1", "0", "7", "9223372036854775807"]);
        sorted("numeric", &["-Infinity", "-10.5", "-10.25", "-9", "-0.001", "0", "0.10", "0.11", "2", "10", "10.0001", "Infinity", "NaN"]);
        sorted("double precision", &["-Infinity", "-1.5", "0", "1e-7", "2", "1e300", "Infinity", "NaN"]);
        sorted("boolean", &["false", "true"]);
        sorted(
            "date",
            &[
                "-infinity",
                "4713-01-01 BC",
                "0001-12-31 BC",
                "0001-01-01",
                "1969-12-31",
                "2024-02-29",
                "2024-03-01",
                "10000-01-01",
                "infinity",
            ],
        );
        sorted(
            "timestamptz",
            &["2026-11-21 10:02:11+05:30", "2026-11-21 10:02:11+02", "2026-11-21 10:02:11.5+02", "2026-11-21 10:02:11-03", "infinity"],
        );
        sorted("timestamp", &["0044-03-15 12:00:00 BC", "2026-11-21 00:00:00", "2026-11-21 00:00:00.000001"]);
        sorted("uuid", &["00000000-0000-0000-0000-000000000001", "0198f3a0-0000-7000-8000-000000000001"]);
        sorted("bytea", &["\\x", "\\x00", "\\x0001", "\\x01", "\\xff"]);
        sorted("text", &["", "A", "B", "a", "aa", "b", "ä"]);
    }

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        let at = |text| moment(text).map(|micros| micros / MICROS_PER_SECOND / SECONDS_PER_DAY);
        assert_eq!((at("1970-01-01"), at("2000-03-01"), at("1600-01-01")), (Some(0), Some(11_017), Some(-135_140)));
        assert_eq!(moment("2026-11-21 10:00:00+01"), moment("2026-11-21 09:00:00+00"));
        assert_eq!(moment("1970-01-01 00:00:00.25"), Some(250_000));
        for wrong in ["21.11.2026", "2026-11", "2026-13-01", "Sat Nov 21", "", "2026-11-21 10:00:00.1234567"] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_only_a_server_can_order_is_refused() {
        for (type_name, is_bytewise) in
            [("text", false), ("varchar", false), ("json", true), ("character", true), ("inet", true), ("bigint[]", true)]
        {
            assert_eq!(Comparison::of(type_name, is_bytewise), None, "{type_name}");
        }
        let odd = Value { kind: Some(Kind::Text("21.11.2026".to_owned())) };
        assert_eq!(Comparison::Moment.read(&odd).expect_err("another style").code(), "RW2023");
        assert_eq!(Comparison::Moment.read(&Value::default()).expect("NULL"), None);
    }
}
