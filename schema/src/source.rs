//! A folder of schema files as it was written: everything read, nothing compiled.
//!
//! Reading never fails: what is wrong becomes a finding, so that one run tells all of it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::codes;
use crate::definition::SqlFile;
use crate::finding::{Finding, Place, Span};
use crate::manifest::{self, Manifest};
use crate::sql::{self, Kind, Token};
use crate::table_source;
use crate::transaction_file::{self, TransactionSource};

/// The file of settings.
pub const MANIFEST_FILE: &str = "rootward.toml";
/// The file, or folder, of table definitions.
const TABLES_FILE: &str = "tables.sql";
const TABLES_FOLDER: &str = "tables";
const TRANSACTIONS_FOLDER: &str = "transactions";
/// A schema file of more bytes than this is not a schema file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What a folder of schema files says.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `rootward.toml`.
    pub manifest: Manifest,
    /// The table files in the order in which they are applied.
    pub table_files: Vec<SqlFile>,
    /// The statements of the table files, in order.
    pub table_statements: Vec<TableStatement>,
    /// The transactions, in order of file name and line.
    pub transactions: Vec<TransactionSource>,
    /// What was wrong with the files themselves.
    pub findings: Vec<Finding>,
    texts: BTreeMap<String, String>,
}

/// One statement of a table file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatement {
    /// The statement's text, without its semicolon.
    pub sql: String,
    /// Where it stands; an error position counts from here.
    pub place: Place,
    /// Whether a table file may hold such a statement. One that is not allowed is never run.
    pub is_allowed: bool,
}

impl Source {
    /// Reads a folder.
    pub fn read(folder: &Path) -> Source {
        let mut reader = Reader::default();
        let manifest = reader.read(folder, MANIFEST_FILE);
        let mut table_paths = Vec::new();
        if folder.join(TABLES_FILE).is_file() {
            table_paths.push(TABLES_FILE.to_owned());
        }
        table_paths.extend(reader.list(folder, TABLES_FOLDER));
        let transaction_paths = reader.list(folder, TRANSACTIONS_FOLDER);
        for path in table_paths.iter().chain(&transaction_paths) {
            reader.read(folder, path);
        }
        if manifest.is_some() && table_paths.is_empty() {
            let place = Place { file: MANIFEST_FILE.to_owned(), span: Span::default() };
            reader.findings.push(
                Finding::error(codes::UNREADABLE, &place, format!("there is neither `{TABLES_FILE}` nor a file in `{TABLES_FOLDER}/`"))
                    .help(format!("write the CREATE TABLE statements into `{TABLES_FILE}` beside `{MANIFEST_FILE}`")),
            );
        }
        Source::assemble(reader, &table_paths, &transaction_paths)
    }

    /// Makes a source of texts in memory: relative paths with their contents.
    pub fn from_texts<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Source {
        let texts: BTreeMap<String, String> = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        let in_folder = |folder: &str| -> Vec<String> {
            let prefix = format!("{folder}/");
            texts.keys().filter(|path| path.starts_with(&prefix) && path.ends_with(".sql")).cloned().collect()
        };
        let mut table_paths = Vec::new();
        if texts.contains_key(TABLES_FILE) {
            table_paths.push(TABLES_FILE.to_owned());
        }
        table_paths.extend(in_folder(TABLES_FOLDER));
        let transaction_paths = in_folder(TRANSACTIONS_FOLDER);
        Source::assemble(Reader { texts, findings: Vec::new() }, &table_paths, &transaction_paths)
    }

    /// The same with one more file of transactions, wherever it lies.
    #[must_use]
    pub fn with_transactions(mut self, path: &str, text: &str) -> Source {
        self.transactions.extend(transaction_file::parse(path, text, &mut self.findings));
        self.texts.insert(path.to_owned(), text.to_owned());
        self
    }

    /// The text of a file that was read.
    pub fn text(&self, file: &str) -> Option<&str> {
        self.texts.get(file).map(String::as_str)
    }

    fn assemble(reader: Reader, table_paths: &[String], transaction_paths: &[String]) -> Source {
        let Reader { texts, mut findings } = reader;
        let text_of = |path: &str| texts.get(path).map_or("", String::as_str);
        let manifest = match texts.get(MANIFEST_FILE) {
            Some(text) => manifest::parse(text, &mut findings),
            None => Manifest::default(),
        };
        let table_files: Vec<SqlFile> =
            table_paths.iter().map(|path| SqlFile { path: path.clone(), text: text_of(path).to_owned() }).collect();
        let mut table_statements: Vec<TableStatement> = table_files.iter().flat_map(|file| table_statements(file, &mut findings)).collect();
        table_statements.extend(manifest.tables.iter().filter_map(table_source::key_statement));
        let transactions = transaction_paths.iter().flat_map(|path| transaction_file::parse(path, text_of(path), &mut findings)).collect();
        Source { manifest, table_files, table_statements, transactions, findings, texts }
    }
}

#[derive(Default)]
struct Reader {
    texts: BTreeMap<String, String>,
    findings: Vec<Finding>,
}

impl Reader {
    fn read(&mut self, folder: &Path, path: &str) -> Option<()> {
        let full = folder.join(path);
        let read = match std::fs::metadata(&full) {
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => Err(format!("it has more than {} MiB", MAX_FILE_BYTES >> 20)),
            Ok(_) => std::fs::read_to_string(&full).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(text) => {
                // A byte order mark is no part of the text, and PostgreSQL would stumble over it.
                self.texts.insert(path.to_owned(), text.trim_start_matches('\u{feff}').to_owned());
                Some(())
            }
            Err(reason) => {
                let place = Place { file: path.to_owned(), span: Span::default() };
                self.findings.push(
                    Finding::error(codes::UNREADABLE, &place, format!("`{path}` cannot be read: {reason}"))
                        .help(format!("a schema is a folder with `{MANIFEST_FILE}`, `{TABLES_FILE}` and `{TRANSACTIONS_FOLDER}/*.sql`")),
                );
                None
            }
        }
    }

    /// The SQL files of a folder in name order; nothing if there is no such folder.
    fn list(&mut self, folder: &Path, name: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder.join(name)) else { return Vec::new() };
        let mut paths: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|file| file.ends_with(".sql") && !file.starts_with('.'))
            .map(|file| format!("{name}/{file}"))
            .collect();
        paths.sort();
        paths
    }
}

fn table_statements(file: &SqlFile, findings: &mut Vec<Finding>) -> Vec<TableStatement> {
    let tokens = sql::tokens(&file.text);
    if let Some(finding) = unterminated(&file.path, &file.text, &tokens) {
        findings.push(finding);
        return Vec::new();
    }
    sql::split(&file.text, &tokens).into_iter().filter_map(|statement| table_statement(file, &statement, findings)).collect()
}

fn table_statement(file: &SqlFile, tokens: &[Token], findings: &mut Vec<Finding>) -> Option<TableStatement> {
    let code: Vec<Token> = tokens.iter().copied().filter(|token| !token.is_trivia() && token.kind != Kind::Semicolon).collect();
    let (first, last) = (code.first()?, code.last()?);
    let place = Place { file: file.path.clone(), span: Span::between(first.start, last.end) };
    let is_allowed = is_definition(&file.text, &code);
    if !is_allowed {
        let first_words = Place { file: file.path.clone(), span: Span::between(first.start, code.get(1).unwrap_or(first).end) };
        findings.push(
            Finding::error(codes::NOT_A_DEFINITION, &first_words, format!("`{}` has no place in a table file", opening_words(&file.text, &code)))
                .label("only definitions are applied")
                .help("table files hold CREATE TABLE, INDEX, FUNCTION, TRIGGER, TYPE, DOMAIN and VIEW, and ALTER and COMMENT; write data with a declared transaction"),
        );
    }
    Some(TableStatement { sql: file.text.get(first.start..last.end)?.to_owned(), place, is_allowed })
}

fn opening_words(text: &str, code: &[Token]) -> String {
    let words: Vec<&str> = code.iter().take(2).filter(|token| token.kind == Kind::Word).map(|token| token.text(text)).collect();
    if words.is_empty() { code.first().map_or(String::new(), |token| token.text(text).chars().take(20).collect()) } else { words.join(" ") }
}

/// Whether a statement defines something. Everything else must not run while the schema is tried out: a COMMIT would
/// make the trial real, a GRANT or a CREATE ROLE would weaken containment.
fn is_definition(text: &str, code: &[Token]) -> bool {
    const DEFINABLE: &[&str] = &[
        "table",
        "unlogged",
        "foreign",
        "index",
        "unique",
        "function",
        "trigger",
        "constraint",
        "type",
        "domain",
        "view",
        "materialized",
        "sequence",
        "rule",
        "aggregate",
        "operator",
        "collation",
        "statistics",
        "recursive",
    ];
    const ALTERABLE: &[&str] = &["table", "function", "trigger", "type", "domain", "view", "sequence", "index", "materialized"];
    const PASSED_OVER: &[&str] = &["or", "replace"];
    let words: Vec<String> = code.iter().take(5).map(|token| token.text(text).to_ascii_lowercase()).collect();
    let Some((verb, rest)) = words.split_first() else { return false };
    let object = rest.iter().find(|word| !PASSED_OVER.contains(&word.as_str())).map_or("", String::as_str);
    match verb.as_str() {
        "create" => DEFINABLE.contains(&object),
        "alter" => ALTERABLE.contains(&object),
        "comment" => true,
        _ => false,
    }
}

/// The finding for a string, a quoted name or a comment that never ends.
pub(crate) fn unterminated(file: &str, text: &str, tokens: &[Token]) -> Option<Finding> {
    let last = tokens.last().filter(|token| token.kind == Kind::Unterminated)?;
    let place = Place { file: file.to_owned(), span: Span { offset: last.start, len: 1 } };
    let what = if last.text(text).starts_with('"') {
        "quoted name"
    } else if last.text(text).starts_with("/*") {
        "comment"
    } else {
        "string"
    };
    Some(
        Finding::error(codes::UNTERMINATED, &place, format!("a {what} in `{file}` never ends"))
            .label(format!("the {what} begins here"))
            .help("close it; nothing after it could be read"),
    )
}
