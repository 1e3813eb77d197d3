//! The one conversion of values each way: canonical text inside, a oneof on the wire.

use rootward_schema::{BadValue, Text, Type};

use crate::v1::{Value, value::Kind};

/// Why a value of the wire is no value of the declared type.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadWireValue(#[from] BadValue);

/// The canonical text of a value, as the declared type has it.
///
/// # Errors
/// [`BadWireValue`] if it is no value of that type.
pub fn from_wire(value: &Value, declared: &Type) -> Result<Text, BadWireValue> {
    let text = match &value.kind {
        None | Some(Kind::Null(_)) => return Ok(None),
        Some(Kind::Boolean(flag)) => flag.to_string(),
        Some(Kind::Int64(number)) => number.to_string(),
        Some(Kind::Double(number)) => number.to_string(),
        Some(Kind::Bytes(bytes)) => bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        Some(Kind::Text(text) | Kind::Decimal(text) | Kind::Timestamp(text) | Kind::Uuid(text) | Kind::Json(text)) => text.clone(),
    };
    Ok(Some(declared.canonical(&text)?))
}

/// The value of the wire for PostgreSQL's text of a column.
pub fn to_wire(text: Option<&str>, column_type: &Type) -> Value {
    let Some(text) = text else {
        return Value { kind: Some(Kind::Null(true)) };
    };
    let plain = || Kind::Text(text.to_owned());
    let kind = match column_type {
        Type::Boolean => Kind::Boolean(text == "t" || text == "true"),
        Type::Smallint | Type::Integer | Type::Bigint => text.parse().map_or_else(|_| plain(), Kind::Int64),
        Type::Real | Type::Double => text.parse().map_or_else(|_| plain(), Kind::Double),
        Type::Numeric => Kind::Decimal(text.to_owned()),
        Type::Uuid => Kind::Uuid(text.to_owned()),
        Type::Timestamptz | Type::Timestamp => Kind::Timestamp(text.to_owned()),
        Type::Json | Type::Jsonb => Kind::Json(text.to_owned()),
        Type::Bytea => bytes_of_hex(text).map_or_else(plain, Kind::Bytes),
        Type::Text | Type::Varchar | Type::Date | Type::Other(_) => plain(),
    };
    Value { kind: Some(kind) }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire() {
        for (text, declared) in [
            ("-7", Type::Bigint),
            ("250.00", Type::Numeric),
            ("\\x00ff", Type::Bytea),
            ("true", Type::Boolean),
            ("zwölf", Type::Text),
            ("{\"a\":1.10}", Type::Jsonb),
        ] {
            let wire = to_wire(Some(text), &declared);
            assert_eq!(from_wire(&wire, &declared).expect("a good value").as_deref(), Some(text));
        }
        assert_eq!(from_wire(&to_wire(None, &Type::Text), &Type::Text).expect("NULL"), None);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let text = Value { kind: Some(Kind::Text("abc".to_owned())) };
        assert_eq!(from_wire(&text, &Type::Bigint).expect_err("no number").to_string(), "`abc` is not a bigint");
    }
}
