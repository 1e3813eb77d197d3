//! A row of the journal and its hash: pure, so that whoever writes and whoever verifies agree.

use std::borrow::Cow;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A hash of a row.
pub(crate) type Hash = [u8; 32];

/// What stands in place of the row before the first one.
pub(crate) const FIRST: Hash = [0; 32];

/// One transaction that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<'r> {
    pub partition: i32,
    /// Its place in the partition's journal, from 1, without a gap.
    pub sequence: i64,
    pub entity: Cow<'r, str>,
    pub root_key: Cow<'r, str>,
    /// The client's request id, or the chain's id.
    pub request_id: Uuid,
    pub step: i32,
    pub element: i32,
    /// `do` or `undo`.
    pub direction: Cow<'r, str>,
    pub is_in_chain: bool,
    pub transaction: Cow<'r, str>,
    /// The arguments by name, as JSON of canonical texts.
    pub arguments: Cow<'r, str>,
    /// When the client issued the request, in microseconds since 1970.
    pub issued_at_us: i64,
    /// When its batch was closed, by the worker's clock.
    pub at_us: i64,
}

impl Row<'_> {
    /// `sha256(hash before || text)`. The text is that of each field, one behind the other, each with its length in bytes and a colon in front:
    /// no two rows are written alike. `rootward.journal_text` is the same in SQL.
    pub(crate) fn hash(&self, before: &Hash) -> Hash {
        let mut hash = Sha256::new();
        hash.update(before);
        hash.update(self.text().as_bytes());
        hash.finalize().into()
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.arguments.len() + 192);
        let number = |value: i64, text: &mut String| {
            let value = value.to_string();
            part(text, &value);
        };
        number(self.partition.into(), &mut text);
        number(self.sequence, &mut text);
        part(&mut text, &self.entity);
        part(&mut text, &self.root_key);
        part(&mut text, self.request_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        number(self.step.into(), &mut text);
        number(self.element.into(), &mut text);
        part(&mut text, &self.direction);
        part(&mut text, if self.is_in_chain { "t" } else { "f" });
        part(&mut text, &self.transaction);
        part(&mut text, &self.arguments);
        number(self.issued_at_us, &mut text);
        number(self.at_us, &mut text);
        text
    }
}

fn part(text: &mut String, value: &str) {
    let _ = write!(text, "{}:{value}", value.len()); // writing to a string doesn't fail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row<'static> {
        Row {
            partition: 7,
            sequence: 1,
            entity: "account".into(),
            root_key: "1007".into(),
            request_id: Uuid::from_u128(5),
            step: 0,
            element: 0,
            direction: "do".into(),
            is_in_chain: false,
            transaction: "withdraw".into(),
            arguments: r#"{"amount":"250"}"#.into(),
            issued_at_us: 1_000,
            at_us: 2_000,
        }
    }

    /// The form is a promise: heads that were exported are compared with it years later.
    #[test]
    fn the_form_never_changes() {
        let text = "1:71:17:account4:100736:00000000-0000-0000-0000-0000000000051:01:02:do1:f8:withdraw16:{\"amount\":\"250\"}4:10004:2000";
        assert_eq!(row().text(), text);
        assert_eq!(hex::encode(row().hash(&FIRST)), "88b3051638b51f1d1f8f2b1e4aad8a890ab1e92d879f2937dac43dfb0b4702fa");
    }

    #[test]
    fn every_field_and_the_row_before_are_in_the_hash() {
        let first = row().hash(&FIRST);
        let changed = [
            Row { partition: 8, ..row() },
            Row { sequence: 2, ..row() },
            Row { entity: "safe".into(), ..row() },
            Row { root_key: "1008".into(), ..row() },
            Row { request_id: Uuid::from_u128(6), ..row() },
            Row { step: 1, ..row() },
            Row { element: 1, ..row() },
            Row { direction: "undo".into(), ..row() },
            Row { is_in_chain: true, ..row() },
            Row { transaction: "deposit".into(), ..row() },
            Row { arguments: r#"{"amount":"251"}"#.into(), ..row() },
            Row { issued_at_us: 1_001, ..row() },
            Row { at_us: 2_001, ..row() },
        ];
        assert!(changed.iter().all(|row| row.hash(&FIRST) != first));
        assert_ne!(row().hash(&[1; 32]), first);
    }
}
