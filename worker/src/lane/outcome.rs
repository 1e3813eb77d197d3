//! Outcomes as they are stored: the key, the fingerprint, the reply.

use std::collections::BTreeMap;

use prost::Message as _;
use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::{Column, Text, Type};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::unit::{Answer, Done};
use crate::pg::StatementResult;

/// Under which key an outcome is stored, beside the partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OutcomeKey {
    pub entity: String,
    pub root_key: String,
    /// The client's request id, or the chain's id.
    pub request_id: Uuid,
    pub step: u32,
    pub element: u32,
    pub is_undo: bool,
}

impl OutcomeKey {
    pub(crate) fn direction(&self) -> &'static str {
        if self.is_undo { "undo" } else { "do" }
    }
}

/// What a request asks for, as a hash: equal requests have equal ones, however they were encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// The transaction's name, for the message when the hashes differ.
    pub transaction: String,
    pub hash: Vec<u8>,
}

impl Fingerprint {
    /// Over the name and the sorted typed arguments; a part is preceded by its length, so that no two lists run together.
    pub(crate) fn new(transaction: &str, declared: &[Column], arguments: &BTreeMap<String, Text>) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(transaction);
        for (name, value) in arguments {
            let Some(column) = declared.iter().find(|column| column.name == *name) else { continue };
            part(name);
            part(column.r#type.name());
            match value {
                Some(text) => part(&column.r#type.comparable(text)),
                None => part("\u{0}null"),
            }
        }
        Fingerprint { transaction: transaction.to_owned(), hash: hash.finalize().to_vec() }
    }

    /// Inside a chain a step's fingerprint is the chain's.
    pub(crate) fn of_chain(transaction: &str, chain: &[u8]) -> Fingerprint {
        Fingerprint { transaction: transaction.to_owned(), hash: chain.to_vec() }
    }
}

/// What kind of outcome is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredKind {
    Done,
    Failed,
    Tombstone,
}

impl StoredKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            StoredKind::Done => "done",
            StoredKind::Failed => "failed",
            StoredKind::Tombstone => "tombstone",
        }
    }
}

/// A row to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewOutcome<'a> {
    pub partition: i32,
    pub key: &'a OutcomeKey,
    pub fingerprint: &'a Fingerprint,
    pub kind: StoredKind,
    pub reply: Vec<u8>,
    pub in_chain: bool,
    pub issued_at_ms: i64,
}

/// The reply of an answer as it is stored.
pub(crate) fn encode_reply(answer: &Answer) -> (StoredKind, Vec<u8>) {
    match answer {
        Ok(done) => (StoredKind::Done, done.response.encode_to_vec()),
        Err(fault) => (StoredKind::Failed, fault.as_wire().encode_to_vec()),
    }
}

/// A stored reply, with its row if that was stored beside it: by the function that ran the transaction, as a list of texts in JSON.
fn stored_response(reply: &[u8], answer: Option<&str>) -> FaultResult<v1::CallResponse> {
    let unreadable = |error: &dyn std::fmt::Display| Fault::internal(format!("a stored reply can't be read: {error}"));
    let mut response = v1::CallResponse::decode(reply).map_err(|error| unreadable(&error))?;
    if let Some(answer) = answer {
        let values: Vec<Text> = serde_json::from_str(answer).map_err(|error| unreadable(&error))?;
        let column = |column: &v1::Column| Column { name: column.name.clone(), r#type: Type::from_name(&column.r#type) };
        let columns: Vec<Column> = response.columns.iter().map(column).collect();
        response.rows.extend((!columns.is_empty()).then(|| wire_row(&values, &columns)));
        response.row_count = 1;
    }
    Ok(response)
}

/// The answer from a stored row: kind, transaction, fingerprint, reply, the moment in milliseconds, the answer's row.
pub(crate) fn stored_answer(asked: &Fingerprint, key: &OutcomeKey, row: &[Text]) -> Answer {
    let column = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    let bytes = |at: usize| hex::decode(column(at).trim_start_matches("\\x")).unwrap_or_default();
    let (kind, transaction) = (column(0), column(1));
    if bytes(2) != asked.hash {
        return Err(Fault::refused(
            "RW3106",
            format!(
                "request id {} was used before at {} {} for another request (`{transaction}`)",
                key.request_id, key.entity, key.root_key
            ),
            "nothing was executed; send another request with an id of its own",
        ));
    }
    match kind {
        "done" => {
            let mut response = stored_response(&bytes(3), row.get(5).and_then(Option::as_deref))?;
            response.from_stored_outcome = true;
            response.recorded_at_ms = column(4).parse().unwrap_or_default();
            Ok(Done { response, after: None })
        }
        "failed" => {
            let failure = v1::Failure::decode(bytes(3).as_slice())
                .map_err(|error| Fault::internal(format!("a stored refusal can't be read: {error}")))?;
            Err(Fault::from(failure).from_stored_outcome())
        }
        _ => Err(Fault::refused(
            "RW4005",
            format!("step {} of chain {} at {} {} was called off before it came", key.step + 1, key.request_id, key.entity, key.root_key),
            format!("its chain went another way; see `rootward chain show {}`", key.request_id),
        )
        .from_stored_outcome()),
    }
}

/// Columns as a message has them.
pub(crate) fn wire_columns(columns: &[Column]) -> Vec<v1::Column> {
    columns.iter().map(|column| v1::Column { name: column.name.clone(), r#type: column.r#type.name().to_owned() }).collect()
}

/// A row as a message has it.
pub(crate) fn wire_row(row: &[Text], columns: &[Column]) -> v1::Row {
    let values = row.iter().zip(columns).map(|(value, column)| rootward_proto::to_wire(value.as_deref(), &column.r#type));
    v1::Row { values: values.collect() }
}

/// What PostgreSQL returned as a message.
pub(crate) fn response_of(result: &StatementResult) -> v1::CallResponse {
    v1::CallResponse {
        columns: wire_columns(&result.columns),
        rows: result.rows.iter().map(|row| wire_row(row, &result.columns)).collect(),
        row_count: result.row_count,
        ..v1::CallResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(amount: &str) -> BTreeMap<String, Text> {
        BTreeMap::from([("amount".to_owned(), Some(amount.to_owned())), ("account_id".to_owned(), Some("7".to_owned()))])
    }

    #[test]
    fn a_fingerprint_is_of_values_not_of_spellings() {
        let declared =
            [Column { name: "amount".to_owned(), r#type: Type::Numeric }, Column { name: "account_id".to_owned(), r#type: Type::Bigint }];
        let of = |name: &str, amount: &str| Fingerprint::new(name, &declared, &arguments(amount));
        assert_eq!(of("withdraw", "250"), of("withdraw", "250.00"));
        assert_ne!(of("withdraw", "250"), of("withdraw", "251"));
        assert_ne!(of("withdraw", "250").hash, of("deposit", "250").hash);
    }

    #[test]
    fn a_row_that_was_stored_beside_its_reply_is_put_into_it() {
        let columns = [
            Column { name: "balance".to_owned(), r#type: Type::Numeric },
            Column { name: "is_frozen".to_owned(), r#type: Type::Boolean },
            Column { name: "note".to_owned(), r#type: Type::Text },
        ];
        let row = [Some("250.00".to_owned()), Some("t".to_owned()), None];
        let whole = v1::CallResponse {
            columns: wire_columns(&columns),
            rows: vec![wire_row(&row, &columns)],
            row_count: 1,
            ..v1::CallResponse::default()
        };
        let without = v1::CallResponse { columns: wire_columns(&columns), ..v1::CallResponse::default() };
        // As PostgreSQL casts them to text, which for boolean is another one than it sends.
        let stored = stored_response(&without.encode_to_vec(), Some(r#"["250.00","true",null]"#)).expect("readable");
        assert_eq!(stored, whole);
        assert_eq!(stored_response(&without.encode_to_vec(), None).expect("readable"), without);
        let empty = v1::CallResponse::default().encode_to_vec();
        assert_eq!(
            stored_response(&empty, Some("[]")).expect("readable"),
            v1::CallResponse { row_count: 1, ..v1::CallResponse::default() }
        );
    }

    #[test]
    fn another_body_under_the_same_id_is_refused_not_answered() {
        let key =
            OutcomeKey { entity: "account".into(), root_key: "7".into(), request_id: Uuid::nil(), step: 0, element: 0, is_undo: false };
        let stored = Fingerprint { transaction: "withdraw".into(), hash: vec![1] };
        let row = [Some("done".to_owned()), Some("withdraw".to_owned()), Some("\\x01".to_owned()), Some("\\x".to_owned())];
        assert!(stored_answer(&stored, &key, &row).is_ok());
        let other = Fingerprint { transaction: "withdraw".into(), hash: vec![2] };
        assert_eq!(stored_answer(&other, &key, &row).expect_err("refused").code(), "RW3106");
    }
}
