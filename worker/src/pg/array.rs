//! Arrays as parameters: one call gets the values of many units.

use bytes::BytesMut;
use postgres_protocol::{
    IsNull,
    types::{ArrayDimension, array_to_sql, bool_to_sql, int2_to_sql, int4_to_sql, int8_to_sql, text_to_sql, uuid_to_sql},
};
use rootward_schema::Type;
use tokio_postgres::types::Type as PgType;

use super::pipeline::{Parameter, oid_of};

/// An array in PostgreSQL's binary form, which costs the server a third of what reading text does.
pub(crate) fn binary_array<T>(
    element: &PgType,
    values: impl ExactSizeIterator<Item = T>,
    mut write: impl FnMut(T, &mut BytesMut),
) -> Parameter {
    let written = binary(element.oid(), values, |value, buffer| {
        write(value, buffer);
        Ok(IsNull::No)
    });
    written.unwrap_or_else(unsendable)
}

/// What is sent in place of an array that the wire has no form for, of 2^31 elements or with one of 2 GB: text that no array type takes, so that
/// PostgreSQL refuses the batch. NULL would mean something else to our functions, such as that no outcome is to be stored.
pub(super) fn unsendable() -> Parameter {
    Parameter::Text("an array that is too large to be sent".to_owned())
}

pub(super) fn binary<T>(
    element: u32,
    values: impl ExactSizeIterator<Item = T>,
    write: impl FnMut(T, &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>>,
) -> Option<Parameter> {
    let dimension = ArrayDimension { len: i32::try_from(values.len()).ok()?, lower_bound: 1 };
    let mut buffer = BytesMut::with_capacity(32 + values.len() * 16);
    array_to_sql([dimension], element, values, write, &mut buffer).ok()?;
    Some(Parameter::Binary(buffer.freeze()))
}

/// An array of canonical values: binary where the type makes that simple, else text.
pub(crate) fn values_array<'v>(r#type: &Type, values: impl ExactSizeIterator<Item = Option<&'v str>> + Clone) -> Parameter {
    let written = binary(oid_of(r#type), values.clone(), |value, buffer| {
        let Some(value) = value else { return Ok(IsNull::Yes) };
        match r#type {
            Type::Smallint => int2_to_sql(value.parse()?, buffer),
            Type::Integer => int4_to_sql(value.parse()?, buffer),
            Type::Bigint => int8_to_sql(value.parse()?, buffer),
            Type::Uuid => uuid_to_sql(uuid::Uuid::try_parse(value)?.into_bytes(), buffer),
            Type::Text | Type::Varchar => text_to_sql(value, buffer),
            Type::Boolean if value == "t" || value == "true" => bool_to_sql(true, buffer),
            Type::Boolean if value == "f" || value == "false" => bool_to_sql(false, buffer),
            _ => return Err("only PostgreSQL reads this".into()),
        }
        Ok(IsNull::No)
    });
    written.unwrap_or_else(|| Parameter::Text(array(values)))
}

/// An array in PostgreSQL's text form.
pub(crate) fn array<S: AsRef<str>>(values: impl Iterator<Item = Option<S>>) -> String {
    let mut text = String::with_capacity(2 + values.size_hint().0 * 16);
    text.push('{');
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        match value {
            None => text.push_str("NULL"),
            Some(value) => push_element(&mut text, value.as_ref()),
        }
    }
    text.push('}');
    text
}

fn push_element(text: &mut String, value: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b':' | b'_');
    if !value.is_empty() && value.bytes().all(is_plain) && !value.eq_ignore_ascii_case("null") {
        return text.push_str(value);
    }
    text.push('"');
    let mut rest = value;
    while let Some(at) = rest.find(['"', '\\']) {
        let (before, after) = rest.split_at(at);
        text.push_str(before);
        text.push('\\');
        text.push_str(&after[..1]);
        rest = &after[1..];
    }
    text.push_str(rest);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_quote_what_would_break_them() {
        let of = |values: &[Option<&str>]| array(values.iter().copied());
        assert_eq!(of(&[Some("a\"b"), Some("c\\d"), Some("e,f"), Some("\\\"")]), r#"{"a\"b","c\\d","e,f","\\\""}"#);
        assert_eq!(of(&[Some("1"), None, Some("null"), Some(""), Some("a b")]), r#"{1,NULL,"null","","a b"}"#);
        assert_eq!(of(&[]), "{}");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_and_never_null() {
        let too_many = 0..usize::try_from(i32::MAX).expect("64 bits") + 1;
        assert_eq!(binary_array(&PgType::INT4, too_many, |_, _| {}), unsendable());
        assert_ne!(unsendable(), Parameter::Null);
    }

    #[test]
    fn values_are_binary_where_that_is_simple() {
        let of = |r#type: Type, values: &[Option<&str>]| values_array(&r#type, values.iter().copied());
        let bigint = of(Type::Bigint, &[Some("-1"), None]);
        let expected = [
            &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 1][..],
            &[0, 0, 0, 8, 255, 255, 255, 255, 255, 255, 255, 255],
            &[255, 255, 255, 255],
        ];
        assert_eq!(bigint, Parameter::Binary(expected.concat().into()));
        assert_eq!(of(Type::Numeric, &[Some("1.50"), None]), Parameter::Text("{1.50,NULL}".to_owned()));
        // What is not of its type is the server's to refuse.
        assert_eq!(of(Type::Integer, &[Some("1"), Some("one")]), Parameter::Text("{1,one}".to_owned()));
        assert_eq!(of(Type::Boolean, &[Some("maybe")]), Parameter::Text("{maybe}".to_owned()));
    }
}
