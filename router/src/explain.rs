//! Where a transaction, a root or a statement goes, and why.

use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::{RootEntity, Schema};

use crate::{
    Catalog,
    catalog::REFERENCE_PARTITION,
    request::{canonical_arguments, canonical_root, find_transaction, resolve_root},
};

/// A root with what led to it.
pub(crate) struct Found {
    pub entity: String,
    pub root_key: String,
    pub reasons: Vec<String>,
}

/// The root of a declared transaction with its arguments.
pub(crate) fn of_transaction(catalog: &Catalog, request: &v1::ExplainRequest) -> FaultResult<Found> {
    let transaction = find_transaction(&catalog.schema, &request.transaction)?;
    let arguments = canonical_arguments(&transaction.name, &transaction.parameters, &request.arguments)?;
    let (entity, root_key) = resolve_root(transaction, &arguments)?;
    Ok(Found {
        entity,
        root_key,
        reasons: vec![format!("`{}` is declared in {}:{}", transaction.name, transaction.file, transaction.line)],
    })
}

/// The root of a statement, from the tables that it touches and, for a SELECT, its conditions.
pub(crate) fn of_sql(schema: &Schema, request: &v1::ExplainRequest, described: &v1::DescribeSqlResponse) -> FaultResult<Found> {
    let mut reasons = Vec::new();
    let mut entities: Vec<&RootEntity> = Vec::new();
    for table in &described.tables {
        let verb = if table.is_written { "writes" } else { "reads" };
        match schema.tree_table(&table.name) {
            Some((root, _)) => {
                reasons.push(format!("it {verb} `{}`, a table of the tree of {}", table.name, root.name));
                if entities.iter().all(|known| known.name != root.name) {
                    entities.push(root);
                }
            }
            None => reasons.push(format!("it {verb} `{}`, reference data that every peer has a copy of", table.name)),
        }
    }
    let entity = match entities.as_slice() {
        [] => return Err(no_root("it touches no tree", "reference data are read at any root; name one with --root ENTITY=KEY")),
        [one] => *one,
        [first, second, ..] => {
            let why = format!("it touches the trees of {} and {}, which may live in two databases", first.name, second.name);
            return Err(no_root(&why, "work over several roots is a chain of transactions, one for each"));
        }
    };
    if !request.root_key.is_empty() {
        return Ok(Found { entity: entity.name.clone(), root_key: request.root_key.clone(), reasons });
    }
    let keys: Vec<String> = entity
        .tables
        .iter()
        .flat_map(|table| described.conditions.iter().filter_map(|condition| literal_of(condition, &table.key_column)))
        .collect();
    match keys.split_first() {
        Some((key, others)) if others.iter().all(|other| other == key) => {
            reasons.push(format!("its conditions fix the root key to {key}"));
            Ok(Found { entity: entity.name.clone(), root_key: key.clone(), reasons })
        }
        Some(_) => Err(no_root("its conditions name several root keys", "one statement sees one root; see docs/many-to-many.md")),
        None => Err(no_root("its conditions fix no root key", &format!("name the root with --root {}=KEY", entity.name))),
    }
}

fn no_root(why: &str, help: &str) -> Fault {
    Fault::refused("RW2003", format!("the statement belongs to no one root: {why}"), help)
}

/// The constant in `(column = constant)` as PostgreSQL prints conditions: `1007`, `'1007'::bigint`, `'a''b'::text`.
fn literal_of(condition: &str, column: &str) -> Option<String> {
    let start = condition.find(&format!("({column} = ")).map(|at| at + column.len() + 4)?;
    let rest = &condition[start..];
    if let Some(quoted) = rest.strip_prefix('\'') {
        let mut text = String::new();
        let mut characters = quoted.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '\'' && characters.next_if_eq(&'\'').is_none() {
                return Some(text);
            }
            text.push(character);
        }
        return None;
    }
    let digits: String = rest.chars().take_while(|character| character.is_ascii_digit() || *character == '-').collect();
    (!digits.is_empty()).then_some(digits)
}

/// The answer: where the root lies.
pub(crate) fn answer(catalog: &Catalog, found: Found) -> FaultResult<v1::ExplainResponse> {
    let Found { entity, root_key, mut reasons } = found;
    let root_key = canonical_root(catalog, &entity, &root_key)?;
    let owner = catalog.owner_of(&entity, &root_key).ok_or_else(|| Fault::internal("the map has no such partition"))?;
    if owner.partition == REFERENCE_PARTITION {
        reasons.push("it writes reference data, whose source is the hub".to_owned());
    } else {
        let key_type = catalog.key_type(&entity).map(rootward_schema::Type::name).unwrap_or_default();
        reasons.push(format!("the root is {entity} {root_key}, a {key_type}"));
        let shared = catalog.schema.partitions;
        let first = u32::try_from(owner.partition).unwrap_or_default() / shared.max(1) * shared;
        let within = i64::from(owner.partition) - i64::from(first);
        reasons.push(format!("its extended hash, modulo {shared} partitions, is {within}"));
        if first > 0 {
            let region = catalog.schema.region_of(first);
            reasons.push(format!("its region is {region}, whose partitions begin at {first}: it is partition {}", owner.partition));
        }
        reasons.push(format!(
            "partition {} belongs to peer {} since epoch {} (map version {})",
            owner.partition, owner.peer.id, owner.epoch, catalog.version
        ));
    }
    Ok(v1::ExplainResponse {
        entity,
        root_key,
        partition: owner.partition,
        peer: owner.peer.id.clone(),
        worker_address: owner.peer.worker_address.clone(),
        epoch: owner.epoch,
        map_version: catalog.version,
        reasons,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_read_as_postgresql_prints_them() {
        assert_eq!(literal_of("(account_id = 1007)", "account_id").as_deref(), Some("1007"));
        assert_eq!(literal_of("((account_id = '-7'::bigint) AND (x = 1))", "account_id").as_deref(), Some("-7"));
        assert_eq!(literal_of("(name = 'a''b'::text)", "name").as_deref(), Some("a'b"));
        assert_eq!(literal_of("(account_id = x.y)", "account_id"), None);
        assert_eq!(literal_of("(other_account_id = 3)", "account_id"), None);
    }
}
