//! Names that a statement must not hold, wherever they stand: the schema's own code, and functions that run SQL of their own.

use super::{Judged, NotGathered, UNKNOWN};
use crate::definition::Schema;
use crate::sql;

/// What is made by a statement `CREATE … NAME` and may read any table, unseen.
const MAKERS: &[&str] = &["function", "procedure", "aggregate", "view"];
/// Functions of PostgreSQL's own that run SQL given as text, or read a table whose name they are given.
const RUNNERS: &[&str] = &["ts_stat", "ts_rewrite"];

/// Names of the schema's own making.
pub(super) struct Words {
    made: Vec<String>,
    operator: Option<String>,
}

impl Words {
    /// By the words of the table files: a name too many only refuses more.
    pub fn of(schema: &Schema) -> Words {
        let mut words = Words { made: Vec::new(), operator: None };
        for file in &schema.table_files {
            let tokens = sql::code(&file.text);
            for (at, token) in tokens.iter().enumerate() {
                let Some(word) = token.identifier(&file.text) else { continue };
                let behind = tokens.iter().skip(at + 1).filter_map(|token| token.identifier(&file.text));
                if MAKERS.contains(&word.as_str()) {
                    let names = behind.filter(|name| !matches!(name.as_str(), "if" | "not" | "exists" | "public"));
                    words.made.extend(names.take(1));
                } else if word == "operator" {
                    words.operator.get_or_insert_with(|| file.path.clone());
                }
            }
        }
        words
    }

    /// The file that makes an operator, if one does.
    pub fn operators(&self) -> Option<&str> {
        self.operator.as_deref()
    }

    /// # Errors
    /// [`NotGathered`] if the statement names something that may read tables unseen.
    pub fn check(&self, text: &str) -> Judged<()> {
        for token in sql::code(text) {
            let Some(word) = token.identifier(text) else { continue };
            if self.made.contains(&word) {
                let message = format!("`{word}` is a function or view of the schema: what it reads can't be seen");
                return Err(NotGathered::new(UNKNOWN, message, "write out what it does"));
            }
            if RUNNERS.contains(&word.as_str()) || word.contains("_to_xml") {
                return Err(NotGathered::new(UNKNOWN, format!("`{word}` may read any table of a peer, unseen"), "write it without"));
            }
        }
        Ok(())
    }
}
