//! Root key -> partition: PostgreSQL's own extended hash of the key's type, seed 0, cut to the number of partitions.
//!
//! The database computes the same number ([`sql_partition_expression`]), so row filters, `verify` and psql agree
//! with the router without asking it.

use crate::pg_hash::{hash_bytes_extended, hash_int8_extended};
use crate::value::{BadValue, Type};

/// Why a root key has no partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The text is no value of the key's type.
    #[error(transparent)]
    Value(#[from] BadValue),
    /// PostgreSQL has no portable extended hash for the type.
    #[error("a root key can't be of type `{0}`")]
    KeyType(String),
    /// The number of partitions is no power of two.
    #[error("`partitions` must be a power of two, not {0}")]
    Partitions(u32),
    /// The key says no region of the schema.
    #[error("a key begins with its region and a colon, and `{0}` is none of {1}")]
    Region(String, String),
}

/// The partition of a root key, from 0 to `partitions - 1`.
///
/// `canonical_key` is the key in [`Type::canonical`] text. Integers of all widths agree where their values do. Texts
/// are hashed by their UTF-8 bytes, as PostgreSQL does under every deterministic collation.
///
/// # Errors
/// [`BadKey`] if the text is no value of the type, the type can't be a root key's, or `partitions` is no power of two.
pub fn partition_of(key_type: &Type, canonical_key: &str, partitions: u32) -> Result<u32, BadKey> {
    if !partitions.is_power_of_two() {
        return Err(BadKey::Partitions(partitions));
    }
    let hash = hash_of(key_type, canonical_key)?;
    // The mask is below 2^32, so nothing is cut off.
    Ok((hash & u64::from(partitions - 1)) as u32)
}

/// A SQL expression that PostgreSQL evaluates to [`partition_of`] of `column_sql`, as an `integer`.
///
/// `column_sql` is any expression of the key's type, quoted where it needs to be. The expression uses built-in
/// immutable functions only, which is all that row filters of publications allow. The collation is fixed, so that the
/// column's own can't change the result.
pub fn sql_partition_expression(key_type: &Type, column_sql: &str, partitions: u32) -> String {
    let hash = match key_type {
        Type::Uuid => format!("pg_catalog.uuid_hash_extended(({column_sql})::uuid, 0)"),
        Type::Smallint | Type::Integer | Type::Bigint => format!("pg_catalog.hashint8extended(({column_sql})::bigint, 0)"),
        _ => format!("pg_catalog.hashtextextended(({column_sql})::text collate pg_catalog.\"C\", 0)"),
    };
    format!("({hash} & {})::integer", partitions.saturating_sub(1))
}

fn hash_of(key_type: &Type, canonical_key: &str) -> Result<u64, BadKey> {
    match key_type {
        Type::Smallint | Type::Integer | Type::Bigint => {
            let canonical = key_type.canonical(canonical_key)?;
            let value = canonical.parse::<i64>().map_err(|_| BadKey::KeyType(key_type.name().to_owned()))?;
            Ok(hash_int8_extended(value, 0))
        }
        Type::Uuid => {
            let canonical = key_type.canonical(canonical_key)?;
            let id = uuid::Uuid::parse_str(&canonical).map_err(|_| BadKey::KeyType(key_type.name().to_owned()))?;
            Ok(hash_bytes_extended(id.as_bytes(), 0))
        }
        Type::Text | Type::Varchar => Ok(hash_bytes_extended(key_type.canonical(canonical_key)?.as_bytes(), 0)),
        other => Err(BadKey::KeyType(other.name().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_hash_as_in_postgresql() {
        // What PostgreSQL 15.18 answers to `select uuid_hash_extended('…', 0)`. These never change.
        for (text, hash) in [
            ("00000000-0000-0000-0000-000000000000", -6859010066814654381_i64),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", 293445543803463785),
            ("0198f3a0-0000-7000-8000-000000000001", -761515012256430476),
            ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", -7660212938568749411),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 7543054272012930821),
        ] {
            assert_eq!(hash_of(&Type::Uuid, text).map(|hash| hash as i64), Ok(hash), "{text}");
        }
    }

    #[test]
    fn equal_integers_share_a_partition_whatever_their_width() {
        for key_type in [Type::Smallint, Type::Integer, Type::Bigint] {
            assert_eq!(partition_of(&key_type, "1007", 1024), Ok((-7690314776253928062_i64 & 1023) as u32));
            assert_eq!(partition_of(&key_type, "-2", 1024), Ok((495194309054116481_i64 & 1023) as u32));
        }
        assert_eq!(partition_of(&Type::Text, "1007", 1024), partition_of(&Type::Varchar, "1007", 1024));
        assert_eq!(partition_of(&Type::Bigint, "1007", 1), Ok(0));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(partition_of(&Type::Bigint, "x", 1024), Err(BadKey::Value(_))));
        assert_eq!(partition_of(&Type::Date, "2026-01-01", 1024), Err(BadKey::KeyType("date".to_owned())));
        assert_eq!(partition_of(&Type::Bigint, "1", 1000), Err(BadKey::Partitions(1000)));
        assert_eq!(partition_of(&Type::Bigint, "1", 0), Err(BadKey::Partitions(0)));
    }

    #[test]
    fn the_expression_names_the_hash_of_the_type() {
        assert_eq!(
            sql_partition_expression(&Type::Integer, "account_id", 1024),
            "(pg_catalog.hashint8extended((account_id)::bigint, 0) & 1023)::integer"
        );
    }
}
