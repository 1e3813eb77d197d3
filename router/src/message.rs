//! From what a client asks to what a worker takes: arguments checked and in canonical text, the root found.

use std::collections::{BTreeMap, HashMap};

use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::{Expression, Target, Text, Transaction};
use uuid::Uuid;

use crate::{
    Catalog,
    request::{canonical_arguments, canonical_root, find_transaction, resolve_root},
};

/// How many labels a chain may have, and how long each part of one.
const MAX_LABELS: usize = 16;
const MAX_LABEL_BYTES: usize = 256;

/// One SQL statement inside a root.
///
/// # Errors
/// RW2003 if there is no such entity, or the text is no key of it.
pub(crate) fn query_message(catalog: &Catalog, request: v1::QueryRequest) -> FaultResult<v1::Execute> {
    let root_key = canonical_root(catalog, &request.entity, &request.root_key)?;
    Ok(v1::Execute {
        staleness: request.staleness,
        sql: request.sql,
        entity: request.entity,
        root_key,
        request_id: id_or_new("request", &request.request_id)?,
        direction: v1::Direction::Do.into(),
        issued_at_ms: issued_at(request.issued_at_ms),
        ..v1::Execute::default()
    })
}

/// A declared transaction with its arguments, checked, as what its owner's worker takes.
///
/// # Errors
/// RW2001 to RW2003 with the name of what is wrong.
pub fn call_message(catalog: &Catalog, request: v1::CallRequest) -> FaultResult<v1::Execute> {
    let transaction = find_transaction(&catalog.schema, &request.transaction)?;
    let arguments = canonical_arguments(&transaction.name, &transaction.parameters, &request.arguments)?;
    let (entity, root_key) = resolve_root(transaction, &arguments)?;
    if request.reference_wait == i32::from(v1::ReferenceWait::All) && transaction.target != Target::Reference {
        return Err(Fault::refused(
            "RW2009",
            format!("`{}` writes no reference data, so there is nothing that all peers will show", transaction.name),
            "leave `wait` out; to read what was written before, give `min_reference_version`",
        ));
    }
    if request.staleness.is_some() {
        check_read(transaction, &entity, request.min_reference_version)?;
    }
    Ok(v1::Execute {
        staleness: request.staleness,
        min_reference_version: request.min_reference_version,
        transaction: request.transaction,
        entity,
        root_key,
        arguments: text_arguments(arguments),
        request_id: id_or_new("request", &request.request_id)?,
        direction: v1::Direction::Do.into(),
        issued_at_ms: issued_at(request.issued_at_ms),
        ..v1::Execute::default()
    })
}

/// Whether a transaction may run at a standby.
fn check_read(transaction: &Transaction, entity: &str, min_reference_version: Option<i64>) -> FaultResult<()> {
    if transaction.writes || entity.is_empty() {
        return Err(Fault::refused(
            "RW2040",
            format!("`{}` may change rows, and a read with a staleness only reads", transaction.name),
            "leave the staleness out: what changes rows runs at the owner of its root",
        ));
    }
    if min_reference_version.is_some_and(|version| version > 0) {
        return Err(Fault::refused(
            "RW2041",
            format!("`{}` asks for a version of the reference data and for a staleness", transaction.name),
            "leave one of them out: what a standby shows of the reference data is as old as the rest of what it shows",
        ));
    }
    Ok(())
}

/// A chain's first step with its input, checked.
///
/// # Errors
/// RW4004 with the name of what is wrong.
pub fn chain_message(catalog: &Catalog, request: v1::StartChainRequest) -> FaultResult<v1::Execute> {
    let schema = &catalog.schema;
    let chain = schema.chains.get(&request.chain).ok_or_else(|| {
        let known = schema.chains.keys().cloned().collect::<Vec<_>>().join(", ");
        Fault::refused("RW4004", format!("there is no chain `{}` in schema `{}`", request.chain, schema.name), format!("it has: {known}"))
    })?;
    let input = canonical_arguments(&chain.name, &chain.parameters, &request.input)?;
    let step = chain.steps.first().ok_or_else(|| Fault::internal("a chain without steps"))?;
    let element = match &step.for_each {
        Some(Expression::Parameter(list)) => first_element(&chain.name, list, &input)?,
        _ => None,
    };
    let value = |expression: &Expression| -> FaultResult<Text> {
        match expression {
            Expression::Literal(text) => Ok(Some(text.clone())),
            Expression::Parameter(name) => Ok(input.get(name).cloned().flatten()),
            Expression::Element(field) => Ok(element_text(element.as_ref(), field.as_deref())),
            Expression::StepResult { .. } => Err(Fault::internal("the first step can't use an earlier one's result")),
        }
    };
    let transaction = find_transaction(schema, &step.call)?;
    let mut arguments = BTreeMap::new();
    for column in &transaction.parameters {
        let is_root = matches!(&transaction.target, rootward_schema::Target::Root { parameter, .. } if *parameter == column.name);
        let expression = if is_root { Some(&step.root_key) } else { step.args.get(&column.name) };
        let text = expression.map(&value).transpose()?.flatten();
        let text = text.map(|text| column.r#type.canonical(&text)).transpose().map_err(|error| {
            Fault::refused(
                "RW4004",
                format!("`{}`, step `{}`: argument `{}`: {error}", chain.name, step.name, column.name),
                "see the chain in rootward.toml",
            )
        })?;
        arguments.insert(column.name.clone(), text);
    }
    let (entity, root_key) = resolve_root(transaction, &arguments)?;
    Ok(v1::Execute {
        transaction: step.call.clone(),
        entity,
        root_key,
        arguments: text_arguments(arguments),
        request_id: id_or_new("chain", &request.chain_id)?,
        direction: v1::Direction::Do.into(),
        issued_at_ms: issued_at(request.issued_at_ms),
        open_chain: Some(v1::OpenChain {
            definition: chain.name.clone(),
            input: serde_json::to_string(&input).map_err(|error| Fault::internal(error.to_string()))?,
            wait: if request.wait == i32::from(v1::ChainWait::Accepted) { v1::ChainWait::Accepted } else { v1::ChainWait::Done }.into(),
            labels: labels(request.labels)?,
            start_at_ms: request.start_at_ms,
            deadline_ms: request.deadline_ms,
        }),
        min_reference_version: request.min_reference_version,
        ..v1::Execute::default()
    })
}

/// Labels are for lists: a few short ones.
fn labels(labels: HashMap<String, String>) -> FaultResult<HashMap<String, String>> {
    let too_long = |(name, text): &(&String, &String)| name.is_empty() || name.len() > MAX_LABEL_BYTES || text.len() > MAX_LABEL_BYTES;
    if labels.len() > MAX_LABELS || labels.iter().any(|label| too_long(&label)) {
        return Err(Fault::refused(
            "RW4004",
            "the labels do not fit",
            format!("a chain has at most {MAX_LABELS} labels, each with a name and a text of up to {MAX_LABEL_BYTES} bytes"),
        ));
    }
    Ok(labels)
}

fn first_element(chain: &str, list: &str, input: &BTreeMap<String, Text>) -> FaultResult<Option<serde_json::Value>> {
    let text = input.get(list).cloned().flatten().unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Array(elements)) if !elements.is_empty() => Ok(elements.into_iter().next()),
        _ => Err(Fault::refused(
            "RW4004",
            format!("`{chain}`: `{list}` is not a list with at least one element"),
            "give it as JSON, such as '[{\"…\": …}]'",
        )),
    }
}

fn element_text(element: Option<&serde_json::Value>, field: Option<&str>) -> Text {
    let value = match field {
        Some(field) => element?.get(field)?,
        None => element?,
    };
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn text_arguments(arguments: BTreeMap<String, Text>) -> Vec<v1::TextArgument> {
    arguments.into_iter().map(|(name, text)| v1::TextArgument { name, text }).collect()
}

fn id_or_new(of: &str, text: &str) -> FaultResult<Vec<u8>> {
    if text.is_empty() {
        return Ok(Uuid::now_v7().as_bytes().to_vec());
    }
    let id = Uuid::parse_str(text).map_err(|_| {
        Fault::refused("RW2002", format!("`{text}` is no {of} id"), "an id is a UUID, such as 0198f3a0-0000-7000-8000-000000000001")
    })?;
    Ok(id.as_bytes().to_vec())
}

fn issued_at(given_ms: i64) -> i64 {
    if given_ms > 0 {
        return given_ms;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
