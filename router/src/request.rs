//! Checks of what a client asks for, before anything is sent.

use std::collections::{BTreeMap, HashMap};

use crate::Catalog;
use rootward_proto::{Fault, FaultResult, from_wire, v1};
use rootward_schema::{Column, Schema, Target, Text, Transaction, nearest};

/// The arguments in canonical text, by the declared types.
///
/// # Errors
/// RW2002 with the name of the argument that is missing, unknown or badly typed.
pub fn canonical_arguments(of: &str, declared: &[Column], given: &HashMap<String, v1::Value>) -> FaultResult<BTreeMap<String, Text>> {
    let signature = || declared.iter().map(|column| format!("{} {}", column.name, column.r#type.name())).collect::<Vec<_>>().join(", ");
    let bad = |what: String| Fault::refused("RW2002", format!("`{of}`: {what}"), format!("it takes ({})", signature()));
    if let Some(unknown) = given.keys().find(|name| !declared.iter().any(|column| column.name == **name)) {
        return Err(bad(format!("there is no argument `{unknown}`")));
    }
    declared
        .iter()
        .map(|column| {
            let value = given.get(&column.name).ok_or_else(|| bad(format!("argument `{}` is missing", column.name)))?;
            let text = from_wire(value, &column.r#type).map_err(|error| bad(format!("argument `{}`: {error}", column.name)))?;
            Ok((column.name.clone(), text))
        })
        .collect()
}

/// The same check for arguments that are canonical text already.
///
/// # Errors
/// RW2002 as [`canonical_arguments`].
pub fn check_arguments(of: &str, declared: &[Column], given: &BTreeMap<String, Text>) -> FaultResult<BTreeMap<String, Text>> {
    let wire = given
        .iter()
        .map(|(name, text)| {
            let kind = text.clone().map_or(v1::value::Kind::Null(true), v1::value::Kind::Text);
            (name.clone(), v1::Value { kind: Some(kind) })
        })
        .collect();
    canonical_arguments(of, declared, &wire)
}

/// A declared transaction by name.
///
/// # Errors
/// RW2001 with the nearest name.
pub fn find_transaction<'a>(schema: &'a Schema, name: &str) -> FaultResult<&'a Transaction> {
    schema.transactions.get(name).ok_or_else(|| {
        let help = match nearest(name, schema.transactions.keys().map(String::as_str)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("schema `{}` has: {}", schema.name, schema.transactions.keys().cloned().collect::<Vec<_>>().join(", ")),
        };
        Fault::refused("RW2001", format!("there is no transaction `{name}` in schema `{}` version {}", schema.name, schema.version), help)
    })
}

/// Entity and root key of a transaction with these arguments; both empty for reference data.
///
/// # Errors
/// RW2003 if the root key is NULL.
pub fn resolve_root(transaction: &Transaction, arguments: &BTreeMap<String, Text>) -> FaultResult<(String, String)> {
    let Target::Root { entity, parameter } = &transaction.target else {
        return Ok((String::new(), String::new()));
    };
    match arguments.get(parameter) {
        Some(Some(key)) => Ok((entity.clone(), key.clone())),
        _ => Err(Fault::refused(
            "RW2003",
            format!("`{}`: the root key `{parameter}` is NULL", transaction.name),
            format!("a transaction runs at one {entity}: give its {parameter}"),
        )),
    }
}

/// A root key in canonical text.
///
/// # Errors
/// RW2003 if there is no such entity, or the text is no key of it.
pub(crate) fn canonical_root(catalog: &Catalog, entity: &str, root_key: &str) -> FaultResult<String> {
    if entity.is_empty() {
        return Ok(String::new());
    }
    let key_type = catalog.key_type(entity).ok_or_else(|| {
        let known = catalog.schema.roots.keys().cloned().collect::<Vec<_>>().join(", ");
        Fault::refused("RW2003", format!("there is no root entity `{entity}`"), format!("schema `{}` has: {known}", catalog.schema.name))
    })?;
    let canonical = key_type.canonical(root_key).map_err(|error| {
        Fault::refused("RW2003", format!("root key of {entity}: {error}"), format!("give a {}: --root {entity}=KEY", key_type.name()))
    })?;
    if let Some(root) = catalog.schema.roots.get(entity).filter(|root| root.is_placed_by_region) {
        let help = format!(
            "`{entity}` is placed by region: its keys are such as {}:1007",
            catalog.schema.regions.first().map_or("", String::as_str)
        );
        catalog
            .schema
            .partition_of(root, &canonical)
            .map_err(|error| Fault::refused("RW2003", format!("root key of {entity}: {error}"), help))?;
    }
    Ok(canonical)
}
