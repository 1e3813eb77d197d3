//! Annotated SQL: the transactions of one file.

mod annotation;
mod rewrite;

use crate::codes;
use crate::definition::{BUILT_IN_PARAMETERS, Expect};
use crate::finding::{Finding, Located, Place, Span, line_and_column};
use crate::names;
use crate::source::unterminated;
use crate::sql::{self, Kind, Token};
use annotation::{Annotation, is_typo_of, parse_expect};
use rewrite::rewrite;

const ANNOTATIONS: &[&str] = &["name", "root", "reference", "expect"];

/// One transaction as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct TransactionSource {
    /// Its name.
    pub name: Located<String>,
    /// Where it runs; none if the file doesn't say, or not rightly.
    pub target: Option<TargetSource>,
    /// Its statements.
    pub statements: Vec<StatementSource>,
    /// The line of `-- name:`, from 1.
    pub line: u32,
}

/// Where a transaction runs, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetSource {
    /// `-- root: entity = :parameter`
    Root {
        /// The root entity.
        entity: Located<String>,
        /// The parameter, without its colon.
        parameter: Located<String>,
    },
    /// `-- reference: write`
    Reference(Place),
}

/// One statement as it was written, and as it goes to the server.
#[derive(Debug, Clone, PartialEq)]
pub struct StatementSource {
    /// The text with `$1`, `$2`, … and without comments.
    pub sql: String,
    /// The name behind each placeholder, in order, and where it first stands.
    pub parameters: Vec<Located<String>>,
    /// What its row count must be.
    pub expect: Option<Expect>,
    /// Where the statement stands.
    pub place: Place,
    /// The line where it begins, from 1.
    pub line: u32,
    /// For pieces of `sql`: where they begin there, and where they begin in the file.
    pieces: Vec<(usize, Span)>,
}

impl StatementSource {
    /// The place in the file of a token at that byte of `sql`.
    pub fn place_of(&self, offset: usize) -> Place {
        let at = self.pieces.partition_point(|(start, _)| *start <= offset);
        let span = match at.checked_sub(1).and_then(|at| self.pieces.get(at)) {
            Some((_, span)) => *span,
            None => self.place.span,
        };
        Place { file: self.place.file.clone(), span }
    }

    /// The place of the first identifier of that name, or of the whole statement's first word.
    pub fn place_of_name(&self, name: &str) -> Place {
        let tokens = sql::code(&self.sql);
        let found = tokens.iter().find(|token| token.identifier(&self.sql).as_deref() == Some(name));
        self.place_of(found.map_or(0, |token| token.start))
    }
}

/// Reads one file; what is wrong becomes findings.
pub(crate) fn parse(file: &str, text: &str, findings: &mut Vec<Finding>) -> Vec<TransactionSource> {
    let tokens = sql::tokens(text);
    if let Some(finding) = unterminated(file, text, &tokens) {
        findings.push(finding);
        return Vec::new();
    }
    let mut parser = Parser { file, text, findings, transactions: Vec::new(), pending: Vec::new(), last_end: None, has_orphan: false };
    for token in tokens {
        parser.take(token);
    }
    parser.finish();
    parser.transactions
}

struct Parser<'a> {
    file: &'a str,
    text: &'a str,
    findings: &'a mut Vec<Finding>,
    transactions: Vec<TransactionSource>,
    /// The tokens of the statement that is under way.
    pending: Vec<Token>,
    /// The line where the last statement ended, as long as an `-- expect:` may still belong to it.
    last_end: Option<usize>,
    has_orphan: bool,
}

impl Parser<'_> {
    fn take(&mut self, token: Token) {
        match token.kind {
            Kind::LineComment => self.comment(token),
            Kind::Semicolon => self.end_statement(token),
            _ if token.is_trivia() && self.pending.is_empty() => {}
            _ => {
                if !token.is_trivia() {
                    self.last_end = None;
                }
                self.pending.push(token);
            }
        }
    }

    fn finish(&mut self) {
        self.refuse_pending();
        self.close_transaction();
        if self.transactions.is_empty() && !self.has_orphan {
            let place = self.place(0, 0);
            self.findings.push(
                Finding::error(codes::NO_NAME, &place, format!("`{}` declares no transaction", self.file))
                    .help("begin it with `-- name: withdraw`, then `-- root: account = :account_id`"),
            );
        }
    }

    fn place(&self, start: usize, end: usize) -> Place {
        Place { file: self.file.to_owned(), span: Span::between(start, end) }
    }

    fn line(&self, offset: usize) -> usize {
        line_and_column(self.text, offset).0
    }

    fn comment(&mut self, token: Token) {
        let Some(annotation) = Annotation::of(self.text, token) else {
            self.pending.push(token);
            return self.forget_leading_trivia();
        };
        match annotation.word.value.as_str() {
            "name" => self.name(&annotation),
            "root" => self.root(&annotation),
            "reference" => self.reference(&annotation),
            "expect" => self.expect(&annotation),
            word => {
                let near = ANNOTATIONS.iter().find(|known| is_typo_of(word, known));
                match near {
                    Some(near) => self.findings.push(
                        Finding::error(codes::ANNOTATION, &annotation.word_place(self.file), format!("`-- {word}:` is no annotation"))
                            .help(format!("did you mean `-- {near}:`?")),
                    ),
                    None => {
                        self.pending.push(token);
                        self.forget_leading_trivia();
                    }
                }
            }
        }
    }

    fn forget_leading_trivia(&mut self) {
        if self.pending.iter().all(|token| token.is_trivia()) {
            self.pending.clear();
        }
    }

    fn name(&mut self, annotation: &Annotation) {
        self.refuse_pending();
        self.close_transaction();
        let place = annotation.value_place(self.file);
        names::check("transaction", &annotation.value.value, &place, self.findings);
        self.transactions.push(TransactionSource {
            name: Located { value: annotation.value.value.clone(), place },
            target: None,
            statements: Vec::new(),
            line: u32::try_from(self.line(annotation.word.span.offset)).unwrap_or(u32::MAX),
        });
        self.last_end = None;
    }

    fn root(&mut self, annotation: &Annotation) {
        let place = annotation.value_place(self.file);
        let target = annotation.value.value.split_once('=').and_then(|(entity, parameter)| {
            let parameter = parameter.trim();
            let name = parameter.strip_prefix(':')?;
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let entity = entity.trim();
            let parameter_start = place.span.end() - parameter.len();
            (is_name && !entity.is_empty()).then(|| TargetSource::Root {
                entity: Located { value: entity.to_owned(), place: self.place(place.span.offset, place.span.offset + entity.len()) },
                parameter: Located { value: name.to_owned(), place: self.place(parameter_start, place.span.end()) },
            })
        });
        match target {
            Some(target) => {
                self.refuse_built_in_key(&target);
                self.set_target(target, annotation);
            }
            None => self.findings.push(
                Finding::error(codes::NO_ROOT, &place, format!("`-- root: {}` names no root key", annotation.value.value))
                    .help("write `-- root: entity = :parameter`"),
            ),
        }
    }

    fn refuse_built_in_key(&mut self, target: &TargetSource) {
        let TargetSource::Root { parameter, .. } = target else { return };
        if BUILT_IN_PARAMETERS.iter().any(|(name, _)| *name == parameter.value) {
            self.findings.push(
                Finding::error(
                    codes::ROOT_PARAMETER,
                    &parameter.place,
                    format!("`:{}` is a built-in parameter and cannot be a root key", parameter.value),
                )
                .help("name the root key's parameter after its column"),
            );
        }
    }

    fn reference(&mut self, annotation: &Annotation) {
        let place = annotation.value_place(self.file);
        if annotation.value.value == "write" {
            self.set_target(TargetSource::Reference(place), annotation);
        } else {
            self.findings.push(
                Finding::error(codes::ANNOTATION, &place, format!("`-- reference: {}` is unknown", annotation.value.value))
                    .help("the only form is `-- reference: write`; a transaction of a root reads reference tables without being asked"),
            );
        }
    }

    fn set_target(&mut self, target: TargetSource, annotation: &Annotation) {
        let place = annotation.word_place(self.file);
        let trouble = match self.transactions.last_mut() {
            None => Some("stands before any `-- name:`"),
            Some(transaction) if transaction.target.is_some() => Some("is the second one of its transaction"),
            Some(transaction) if !transaction.statements.is_empty() || !self.pending.is_empty() => Some("stands after a statement"),
            Some(transaction) => {
                transaction.target = Some(target);
                None
            }
        };
        if let Some(trouble) = trouble {
            self.findings.push(
                Finding::error(codes::ANNOTATION, &place, format!("`-- {}:` {trouble}", annotation.word.value))
                    .help("a transaction begins with `-- name:` and one `-- root:` or `-- reference:`, then its statements"),
            );
        }
    }

    fn expect(&mut self, annotation: &Annotation) {
        let place = annotation.value_place(self.file);
        let line = self.line(annotation.word.span.offset);
        let belongs = self.pending.is_empty() && self.last_end.is_some_and(|end| line == end || line == end + 1);
        let statement = self.transactions.last_mut().and_then(|transaction| transaction.statements.last_mut());
        let (Some(statement), true) = (statement, belongs) else {
            let place = annotation.word_place(self.file);
            self.findings.push(
                Finding::error(codes::EXPECT, &place, "`-- expect:` belongs to no statement")
                    .help("put it after the statement's `;`, on the same line or the one below"),
            );
            return;
        };
        if statement.expect.is_some() {
            self.findings.push(Finding::error(codes::EXPECT, &place, "the statement has an `-- expect:` already").help("keep one of them"));
            return;
        }
        match parse_expect(&annotation.value.value) {
            Ok(expect) => statement.expect = Some(expect),
            Err(reason) => self.findings.push(
                Finding::error(codes::EXPECT, &place, format!("`-- expect: {}` {reason}", annotation.value.value))
                    .help("write `one`, `some`, `none` or a number, then perhaps `, else \"reason\"`"),
            ),
        }
    }

    fn end_statement(&mut self, semicolon: Token) {
        let pending = std::mem::take(&mut self.pending);
        self.last_end = Some(self.line(semicolon.start));
        if pending.iter().all(|token| token.is_trivia()) {
            return;
        }
        let Some(statement) = self.statement(&pending) else { return };
        match self.transactions.last_mut() {
            Some(transaction) => transaction.statements.push(statement),
            None => self.orphan(&statement.place),
        }
    }

    fn orphan(&mut self, place: &Place) {
        if !std::mem::replace(&mut self.has_orphan, true) {
            self.findings.push(
                Finding::error(codes::NO_NAME, place, format!("a statement of `{}` stands before any `-- name:`", self.file))
                    .help("begin the transaction with `-- name: withdraw`, then `-- root: account = :account_id`"),
            );
        }
    }

    fn refuse_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let Some(last) = pending.iter().rfind(|token| !token.is_trivia()) else { return };
        let place = self.place(last.start, last.end);
        if self.transactions.is_empty() {
            return self.orphan(&place);
        }
        self.findings.push(
            Finding::error(codes::UNTERMINATED, &place, "the statement has no end")
                .label("`;` is missing after this")
                .help("end every statement with `;`"),
        );
        // It is kept all the same, so that its other errors are found in the same run.
        if let (Some(statement), Some(transaction)) = (self.statement(&pending), self.transactions.last_mut()) {
            transaction.statements.push(statement);
        }
    }

    fn close_transaction(&mut self) {
        let Some(transaction) = self.transactions.last() else { return };
        if transaction.statements.is_empty() {
            self.findings.push(
                Finding::error(codes::EMPTY, &transaction.name.place, format!("transaction `{}` has no statement", transaction.name.value))
                    .help("write at least one statement, ended by `;`"),
            );
        }
    }

    fn statement(&mut self, tokens: &[Token]) -> Option<StatementSource> {
        let code: Vec<Token> = tokens.iter().copied().filter(|token| !token.is_trivia()).collect();
        let (first, last) = (code.first()?, code.last()?);
        let body: Vec<Token> = tokens.iter().copied().filter(|token| token.start >= first.start && token.end <= last.end).collect();
        let place = self.place(first.start, last.end);
        let rewritten = rewrite(self.file, self.text, &body, self.findings);
        Some(StatementSource {
            sql: rewritten.sql,
            parameters: rewritten.parameters,
            expect: None,
            line: u32::try_from(self.line(first.start)).unwrap_or(u32::MAX),
            place,
            pieces: rewritten.pieces,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::definition::ExpectedRows;

    fn parsed(text: &str) -> (Vec<TransactionSource>, Vec<Finding>) {
        let mut findings = Vec::new();
        let transactions = parse("t.sql", text, &mut findings);
        (transactions, findings)
    }

    fn only_sql(body: &str) -> String {
        let (transactions, _) = parsed(&format!("-- name: t\n-- root: a = :id\n{body};"));
        transactions[0].statements[0].sql.clone()
    }

    #[test]
    fn names_become_numbers_and_everything_else_stays() {
        assert_eq!(only_sql("select :id, :v, :id"), "select $1, $2, $1");
        assert_eq!(only_sql("select :id::text, ':v', $$:w$$, \":x\""), "select $1::text, ':v', $$:w$$, \":x\"");
        assert_eq!(only_sql("select -:v -- :w\n/* :x */ + 1"), "select -$1  \n  + 1");
        assert_eq!(only_sql("select 1 limit:id"), "select 1 limit $1");
        assert_eq!(only_sql("select 'it''s; :v', e'\\'; :w'"), "select 'it''s; :v', e'\\'; :w'");
    }

    #[test]
    fn a_place_in_the_rewritten_text_is_found_in_the_file() {
        let text = "-- name: t\n-- root: a = :id\nselect :a_long_name, /* : */ wrong;";
        let (transactions, _) = parsed(text);
        let statement = &transactions[0].statements[0];
        let place = statement.place_of(statement.sql.find("wrong").expect("it is there"));
        assert_eq!(text.get(place.span.offset..place.span.end()), Some("wrong"));
    }

    #[test]
    fn several_transactions_of_a_file_keep_their_expectations() {
        let (transactions, findings) = parsed(
            "-- name: a\n-- root: x = :id\nselect :id; -- expect: one\nselect 2;\n-- expect: 3, else \"no, not three\"\n\n-- name: b\n-- reference: write\nselect 1; -- a remark: none\n",
        );
        assert_eq!(findings, []);
        let expects: Vec<_> =
            transactions[0].statements.iter().map(|statement| statement.expect.clone().map(|e| (e.rows, e.reason))).collect();
        assert_eq!(expects[0].as_ref().map(|(rows, _)| *rows), Some(ExpectedRows::Exactly(1)));
        assert_eq!(expects[1], Some((ExpectedRows::Exactly(3), "no, not three".to_owned())));
        assert!(matches!(transactions[1].target, Some(TargetSource::Reference(_))));
        assert_eq!(transactions[1].line, 7);
        assert_eq!(transactions[1].statements[0].expect, None);
    }

    #[test]
    fn a_remark_is_no_misspelt_annotation() {
        let (_, findings) = parsed("-- name: t\n-- root: x = :id\n-- note: fine\n-- returns: one row\nselect :id;\n");
        assert_eq!(findings, []);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(-- (name|root|expect|expct|reference):? ?|[a-z:;'\"$=,/* \n-]|ä|\\$\\$|:x|\\PC)*") {
            let (transactions, findings) = parsed(&text);
            for statement in transactions.iter().flat_map(|transaction| &transaction.statements) {
                for offset in 0..=statement.sql.len() {
                    let place = statement.place_of(offset);
                    prop_assert!(text.get(place.span.offset..place.span.end()).is_some());
                }
            }
            for finding in findings {
                prop_assert!(text.get(finding.span.offset..finding.span.end()).is_some(), "{finding:?}");
            }
        }
    }
}
