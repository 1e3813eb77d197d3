//! Rows of composite types as parameters: one call gets everything that it needs to know of many units in one array.
//!
//! An array for each column would cost the server more: it reads each by a function scan of its own, with a store of its own. Storing one
//! outcome took 33 us that way, and takes 24.

use bytes::{BufMut as _, BytesMut};
use postgres_protocol::IsNull;
use tokio_postgres::{Client, types::Type as PgType};

use super::{
    array::{binary, unsendable},
    pipeline::Parameter,
};

/// A composite type of ours, in `worker/src/system/peer.sql` and `journal.sql`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowType {
    /// What an outcome keeps of its request.
    Request,
    /// A chain that starts.
    ChainStart,
    /// How far a chain is.
    ChainNote,
    /// A row of the journal.
    Journal,
    /// What the journal keeps beside what an outcome does.
    JournalEntry,
}

/// The numbers that a database has given them: the binary form of an array names its elements' type.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowTypes {
    request: u32,
    chain_start: u32,
    chain_note: u32,
    journal: u32,
    journal_entry: u32,
}

impl RowTypes {
    /// # Errors
    /// PostgreSQL's; also if a type is not there.
    pub(crate) async fn read(client: &Client) -> Result<RowTypes, tokio_postgres::Error> {
        let sql = "/* read_row_types */ select 'rootward.request'::regtype::oid, 'rootward.chain_start'::regtype::oid, \
                   'rootward.chain_note'::regtype::oid, 'rootward.journal'::regtype::oid, 'rootward.journal_entry'::regtype::oid";
        let row = client.query_one(sql, &[]).await?;
        Ok(RowTypes {
            request: row.try_get(0)?,
            chain_start: row.try_get(1)?,
            chain_note: row.try_get(2)?,
            journal: row.try_get(3)?,
            journal_entry: row.try_get(4)?,
        })
    }

    fn number_of(self, r#type: RowType) -> u32 {
        match r#type {
            RowType::Request => self.request,
            RowType::ChainStart => self.chain_start,
            RowType::ChainNote => self.chain_note,
            RowType::Journal => self.journal,
            RowType::JournalEntry => self.journal_entry,
        }
    }

    /// An array of rows, in PostgreSQL's binary form. `write` gives the columns in the order of the type.
    pub(crate) fn array<T>(
        self,
        r#type: RowType,
        rows: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(T, &mut RowWriter<'_>),
    ) -> Parameter {
        let written = binary(self.number_of(r#type), rows, |row, buffer| {
            let mut writer = RowWriter { start: buffer.len(), buffer, columns: 0 };
            writer.buffer.put_i32(0);
            write(row, &mut writer);
            let RowWriter { start, columns, .. } = writer;
            buffer[start..start + 4].copy_from_slice(&columns.to_be_bytes());
            Ok(IsNull::No)
        });
        written.unwrap_or_else(unsendable)
    }
}

/// Writes one row, column by column.
pub(crate) struct RowWriter<'b> {
    buffer: &'b mut BytesMut,
    start: usize,
    columns: i32,
}

impl RowWriter<'_> {
    /// The next column: its type's number, the value's length, the value.
    pub(crate) fn column(&mut self, r#type: &PgType, write: impl FnOnce(&mut BytesMut) -> IsNull) {
        const NULL: i32 = -1;
        self.columns += 1;
        self.buffer.put_u32(r#type.oid());
        let at = self.buffer.len();
        self.buffer.put_i32(NULL);
        if let IsNull::No = write(self.buffer) {
            let length = i32::try_from(self.buffer.len() - at - 4).unwrap_or(i32::MAX);
            self.buffer[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// The next column, which is not NULL.
    pub(crate) fn value(&mut self, r#type: &PgType, write: impl FnOnce(&mut BytesMut)) {
        self.column(r#type, |buffer| {
            write(buffer);
            IsNull::No
        });
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::types::{int4_to_sql, text_to_sql};

    use super::*;

    #[test]
    fn a_row_says_how_many_columns_it_has_and_of_which_types() {
        let types = RowTypes { request: 7, ..RowTypes::default() };
        let rows = types.array(RowType::Request, [(1, Some("a")), (2, None)].into_iter(), |(number, text), row| {
            row.value(&PgType::INT4, |buffer| int4_to_sql(number, buffer));
            row.column(&PgType::TEXT, |buffer| match text {
                Some(text) => {
                    text_to_sql(text, buffer);
                    IsNull::No
                }
                None => IsNull::Yes,
            });
        });
        let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 1];
        let number = |number| [0, 0, 0, 23, 0, 0, 0, 4, 0, 0, 0, number];
        let (first, second) = ([&[0, 0, 0, 25, 0, 0, 0, 1, b'a'][..]], [&[0, 0, 0, 25, 255, 255, 255, 255][..]]);
        let bytes =
            [&head[..], &[0, 0, 0, 25, 0, 0, 0, 2], &number(1), &first.concat(), &[0, 0, 0, 24, 0, 0, 0, 2], &number(2), &second.concat()]
                .concat();
        assert_eq!(rows, Parameter::Binary(bytes.into()));
    }
}
