//! Types and the canonical text of values.
//!
//! Inside Rootward a value is PostgreSQL's own text form plus a declared type; NULL is `None`. Canonical text makes
//! two spellings of one value equal, which fingerprints and root keys need.

use serde::{Deserialize, Serialize};

/// A value in canonical text; `None` is NULL.
pub type Text = Option<String>;

/// The types that parameters, columns and root keys can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are PostgreSQL's.
pub enum Type {
    Boolean,
    Smallint,
    Integer,
    Bigint,
    Real,
    Double,
    Numeric,
    Text,
    Varchar,
    Uuid,
    Timestamptz,
    Timestamp,
    Date,
    Json,
    Jsonb,
    Bytea,
    /// Any other type, by PostgreSQL's name; its values are passed on as they are.
    Other(String),
}

/// Why a text is no value of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {article} {type_name}")]
pub struct BadValue {
    text: String,
    article: &'static str,
    type_name: String,
}

impl Type {
    /// The type of PostgreSQL's name for it, as `format_type` prints it or as people write it.
    pub fn from_name(name: &str) -> Type {
        let base = name.split('(').next().unwrap_or(name).trim();
        match base {
            "boolean" | "bool" => Type::Boolean,
            "smallint" | "int2" => Type::Smallint,
            "integer" | "int" | "int4" => Type::Integer,
            "bigint" | "int8" => Type::Bigint,
            "real" | "float4" => Type::Real,
            "double precision" | "double" | "float8" => Type::Double,
            "numeric" | "decimal" => Type::Numeric,
            "text" => Type::Text,
            "character varying" | "varchar" => Type::Varchar,
            "uuid" => Type::Uuid,
            "timestamp with time zone" | "timestamptz" => Type::Timestamptz,
            "timestamp without time zone" | "timestamp" => Type::Timestamp,
            "date" => Type::Date,
            "json" => Type::Json,
            "jsonb" => Type::Jsonb,
            "bytea" => Type::Bytea,
            _ => Type::Other(name.to_owned()),
        }
    }

    /// PostgreSQL's name for the type.
    pub fn name(&self) -> &str {
        match self {
            Type::Boolean => "boolean",
            Type::Smallint => "smallint",
            Type::Integer => "integer",
            Type::Bigint => "bigint",
            Type::Real => "real",
            Type::Double => "double precision",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Varchar => "varchar",
            Type::Uuid => "uuid",
            Type::Timestamptz => "timestamptz",
            Type::Timestamp => "timestamp",
            Type::Date => "date",
            Type::Json => "json",
            Type::Jsonb => "jsonb",
            Type::Bytea => "bytea",
            Type::Other(name) => name,
        }
    }

    /// Whether a root key can have this type: PostgreSQL has a portable extended hash for it.
    pub fn is_key_type(&self) -> bool {
        matches!(self, Type::Smallint | Type::Integer | Type::Bigint | Type::Text | Type::Varchar | Type::Uuid)
    }

    /// The canonical text of `text` as a value of this type.
    ///
    /// Integers lose signs and zeros that carry nothing, UUIDs are lower case with hyphens. A numeric keeps its
    /// scale, which PostgreSQL stores; [`Type::comparable`] drops it. Types that only PostgreSQL can judge are
    /// returned unchanged.
    ///
    /// # Errors
    /// [`BadValue`] if the text is no value of the type.
    pub fn canonical(&self, text: &str) -> Result<String, BadValue> {
        let bad = || BadValue {
            text: if text.chars().count() > 60 { text.chars().take(60).chain("…".chars()).collect() } else { text.to_owned() },
            article: if matches!(self, Type::Integer | Type::Other(_)) { "an" } else { "a" },
            type_name: self.name().to_owned(),
        };
        let trimmed = text.trim();
        match self {
            Type::Smallint => trimmed.parse::<i16>().map(|n| n.to_string()).map_err(|_| bad()),
            Type::Integer => trimmed.parse::<i32>().map(|n| n.to_string()).map_err(|_| bad()),
            Type::Bigint => trimmed.parse::<i64>().map(|n| n.to_string()).map_err(|_| bad()),
            Type::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "on" | "1" => Ok("true".to_owned()),
                "false" | "f" | "no" | "off" | "0" => Ok("false".to_owned()),
                _ => Err(bad()),
            },
            Type::Real | Type::Double => trimmed.parse::<f64>().map(|_| trimmed.to_owned()).map_err(|_| bad()),
            Type::Numeric => plain_numeric(trimmed).map(|_| trimmed.to_owned()).ok_or_else(bad),
            Type::Uuid => uuid::Uuid::parse_str(trimmed).map(|id| id.hyphenated().to_string()).map_err(|_| bad()),
            Type::Json | Type::Jsonb => {
                let value: serde_json::Value = serde_json::from_str(text).map_err(|_| bad())?;
                Ok(value.to_string())
            }
            // PostgreSQL's text has no zero character, and refuses it in the middle of a batch with an error of its own.
            Type::Text | Type::Varchar | Type::Timestamptz | Type::Timestamp | Type::Date | Type::Bytea | Type::Other(_) => {
                if text.contains('\0') { Err(bad()) } else { Ok(text.to_owned()) }
            }
        }
    }
}

impl Type {
    /// The text that equal values share: `canonical`, and for a numeric without the zeros that carry no value.
    pub fn comparable(&self, canonical: &str) -> String {
        match self {
            Type::Numeric => plain_numeric(canonical).unwrap_or_else(|| canonical.to_owned()),
            _ => canonical.to_owned(),
        }
    }
}

/// A numeric without leading zeros, trailing zeros of the fraction, plus sign or exponent; none if it is no numeric.
fn plain_numeric(text: &str) -> Option<String> {
    const MAX_DIGITS: usize = 1000;
    match text.to_ascii_lowercase().as_str() {
        "nan" => return Some("NaN".to_owned()),
        "infinity" | "inf" | "+infinity" => return Some("Infinity".to_owned()),
        "-infinity" | "-inf" => return Some("-Infinity".to_owned()),
        _ => {}
    }
    let (is_negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], unsigned[at + 1..].parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let limit = i32::try_from(MAX_DIGITS).unwrap_or(i32::MAX);
    if whole.len() + fraction.len() > MAX_DIGITS || exponent.abs() > limit {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    let mut point = i32::try_from(whole.len()).ok()? + exponent;
    if point < 0 {
        digits = format!("{}{digits}", "0".repeat(usize::try_from(-point).ok()?));
        point = 0;
    }
    let point = usize::try_from(point).ok()?;
    if digits.len() < point {
        digits.push_str(&"0".repeat(point - digits.len()));
    }
    let whole = digits[..point].trim_start_matches('0');
    let fraction = digits[point..].trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if is_negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_numeric_are_one_text() {
        for (text, canonical) in [
            ("250", "250"),
            ("250.00", "250"),
            ("+0250.10", "250.1"),
            (".5", "0.5"),
            ("-0.0", "0"),
            ("1e3", "1000"),
            ("12.5E-3", "0.0125"),
            ("-00.50", "-0.5"),
            ("nan", "NaN"),
        ] {
            assert_eq!(Type::Numeric.canonical(text).as_deref(), Ok(text));
            assert_eq!(Type::Numeric.comparable(text), canonical, "{text}");
        }
        for text in ["", ".", "-", "1.2.3", "1e", "abc", "1e9999", "0x10"] {
            assert!(Type::Numeric.canonical(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_refused_by_name() {
        let error = Type::Bigint.canonical("12x").expect_err("12x is no number");
        assert_eq!(error.to_string(), "`12x` is not a bigint");
        assert!(Type::Smallint.canonical("40000").is_err());
        assert_eq!(Type::Bigint.canonical("+007").as_deref(), Ok("7"));
        assert_eq!(Type::Uuid.canonical("0198F3A0-0000-7000-8000-000000000001").as_deref(), Ok("0198f3a0-0000-7000-8000-000000000001"));
        assert!(Type::Text.canonical("a\0b").is_err());
    }
}
