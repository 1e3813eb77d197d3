//! A script for pgbench as a declared transaction: `\set` lines draw the arguments, the statements between BEGIN and END are the
//! transaction. pgbench runs the same file.
//!
//! What is not understood is refused: a comparison in which the two sides do something else would be none.

mod expression;

use std::path::Path;

use rand::Rng;
use rootward_client::Arguments;
use rootward_schema::Source;

use expression::{Expression, Variables};

use crate::edge::Wrong;

/// The transaction that a script becomes.
pub(crate) const TRANSACTION: &str = "pgbench_script";
/// What stands for a script that can't be run.
const CODE: &str = "RW1108";
/// pgbench sends what stands between them at once, as one transaction.
const PIPELINE: [&str; 2] = ["\\startpipeline", "\\endpipeline"];

/// A script that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileScript {
    /// As the user named it.
    pub file: String,
    /// The unchanged file.
    pub text: String,
    /// pgbench's `-s`, and the variable `scale`.
    pub scale: u32,
    /// Whether several statements are one transaction.
    is_together: bool,
    sets: Vec<(String, Expression)>,
    /// The file with everything blanked that is no statement, each line in its place, and with the annotations of a transaction.
    declared: String,
    /// The variables that the transaction takes.
    parameters: Vec<String>,
}

impl FileScript {
    /// Reads a file. `root` is `ENTITY=VARIABLE`; none if the file says it by a comment `-- root: ENTITY = :VARIABLE`.
    ///
    /// # Errors
    /// [`Wrong`], with file and line.
    pub(crate) fn read(path: &Path, root: Option<&str>, scale: u32) -> Result<FileScript, Wrong> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Wrong::new(CODE, format!("the script {file} can't be read: {error}"), "name a script for pgbench with -f FILE")
        })?;
        FileScript::parse(&file, &text, root, scale)
    }

    fn parse(file: &str, text: &str, root: Option<&str>, scale: u32) -> Result<FileScript, Wrong> {
        let mut reader = Reader { file, root: root.map(|root| root.replacen('=', " = :", 1)), ..Reader::default() };
        for (number, line) in text.lines().enumerate() {
            let kept = reader.line(number + 1, line)?;
            reader.lines.push(kept);
        }
        reader.finish(text, scale)
    }

    /// These files, and the transaction that the script declares.
    pub(crate) fn declare_in(&mut self, source: Source) -> Result<Source, Wrong> {
        let source = source.with_transactions(&self.file, &self.declared);
        let own = source.transactions.iter().filter(|transaction| transaction.name.place.file == self.file);
        let statements: Vec<_> = own.flat_map(|transaction| &transaction.statements).collect();
        if let [_, second, ..] = statements.as_slice()
            && !self.is_together
        {
            let line = usize::try_from(second.line).unwrap_or_default();
            let help = "put BEGIN; before the statements and END; behind them";
            return Err(wrong(&self.file, line, "this statement is a transaction of its own", help));
        }
        let mut parameters = Vec::new();
        for parameter in statements.iter().flat_map(|statement| &statement.parameters) {
            let name = &parameter.value;
            if name != "scale" && !self.sets.iter().any(|(set, _)| set == name) {
                let line = rootward_schema::line_and_column(&self.declared, parameter.place.span.offset).0;
                return Err(wrong(
                    &self.file,
                    line,
                    format!("`:{name}` is never set"),
                    "set it by a line such as `\\set name random(1, 100)`",
                ));
            }
            if !parameters.contains(name) {
                parameters.push(name.clone());
            }
        }
        self.parameters = parameters;
        Ok(source)
    }

    /// Arguments of one call.
    ///
    /// # Errors
    /// Where pgbench would end the client.
    pub(crate) fn arguments(&self, random: &mut impl Rng) -> anyhow::Result<Arguments> {
        let mut variables: Variables = [("scale".to_owned(), i64::from(self.scale))].into();
        for (name, expression) in &self.sets {
            let value = expression.value(&variables, random).map_err(|why| anyhow::anyhow!("\\set {name} in {}: {why}", self.file))?;
            variables.insert(name.clone(), value);
        }
        Ok(self
            .parameters
            .iter()
            .fold(Arguments::new(), |arguments, name| arguments.with(name, variables.get(name).copied().unwrap_or_default())))
    }
}

fn wrong(file: &str, line: usize, message: impl std::fmt::Display, help: &str) -> Wrong {
    Wrong::new(CODE, format!("{file}:{line}: {message}"), help)
}

#[derive(Default)]
struct Reader<'a> {
    file: &'a str,
    /// `ENTITY = :VARIABLE`
    root: Option<String>,
    sets: Vec<(String, Expression)>,
    lines: Vec<String>,
    begun: Option<usize>,
    is_pipeline: bool,
    /// Whether the transaction was ended.
    is_over: bool,
}

impl Reader<'_> {
    /// What is left of a line for the transaction.
    fn line(&mut self, number: usize, line: &str) -> Result<String, Wrong> {
        let trimmed = line.trim();
        if let Some(command) = trimmed.strip_prefix('\\') {
            self.command(number, trimmed, command)?;
            return Ok(String::new());
        }
        if let Some(comment) = trimmed.strip_prefix("--") {
            if let Some(("root", root)) = comment.split_once(':').map(|(word, value)| (word.trim(), value.trim())) {
                self.root.get_or_insert_with(|| root.to_owned());
                return Ok(String::new());
            }
            let is_expectation = comment.trim_start().starts_with("expect:");
            return Ok(if is_expectation { line.to_owned() } else { String::new() });
        }
        let words: Vec<String> = trimmed.trim_end_matches(';').split_whitespace().map(str::to_ascii_lowercase).collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["begin"] | ["begin", "transaction" | "work"] | ["start", "transaction"] => {
                if self.begun.replace(number).is_some() {
                    return Err(self.wrong(
                        number,
                        "a second transaction begins",
                        "a script is one transaction: measure one file after the other",
                    ));
                }
                Ok(String::new())
            }
            ["end" | "commit"] | ["end" | "commit", "transaction" | "work"] => {
                self.is_over = true;
                Ok(String::new())
            }
            ["begin", ..] | ["start", "transaction", ..] => {
                Err(self.wrong(number, "the transaction asks for modes of its own", "write BEGIN alone: every side runs READ COMMITTED"))
            }
            ["rollback" | "abort", ..] => {
                Err(self.wrong(number, "the transaction rolls back", "only what is committed is measured: end it by END or COMMIT"))
            }
            [] => Ok(line.to_owned()),
            _ if self.is_over => {
                Err(self.wrong(number, "a statement stands behind the transaction's end", "put it before END: a script is one transaction"))
            }
            _ => Ok(line.to_owned()),
        }
    }

    fn command(&mut self, number: usize, line: &str, command: &str) -> Result<(), Wrong> {
        if PIPELINE.contains(&line) {
            self.is_pipeline = true;
            return Ok(());
        }
        let Some((name, expression)) = command.strip_prefix("set ").and_then(|rest| rest.trim_start().split_once(char::is_whitespace))
        else {
            let word = line.split_whitespace().next().unwrap_or(line);
            return Err(self.wrong(
                number,
                format!("`{word}` is not understood"),
                "there are `\\set NAME EXPRESSION` on one line, `\\startpipeline` and `\\endpipeline`",
            ));
        };
        if self.sets.iter().any(|(set, _)| set == name) || name == "scale" {
            return Err(self.wrong(number, format!("`{name}` is set twice"), "give each variable a name of its own"));
        }
        let expression = Expression::parse(expression).map_err(|why| {
            let help = "expressions are whole numbers, :variables, + - * / %, random(a, b) and random_zipfian(a, b, exponent)";
            self.wrong(number, why, help)
        })?;
        self.sets.push((name.to_owned(), expression));
        Ok(())
    }

    fn finish(mut self, text: &str, scale: u32) -> Result<FileScript, Wrong> {
        let first = self.lines.iter().position(|line| !line.trim().is_empty());
        let Some(first) = first else {
            return Err(self.wrong(1, "the script has no statement", "write the transaction's statements between BEGIN; and END;"));
        };
        let help = "write the comment `-- root: account = :aid` into the script, or give --root account=aid";
        let Some(root) = self.root.clone() else {
            return Err(self.wrong(first + 1, "which variable is the root's key is not said", help));
        };
        let variable = root.split_once('=').and_then(|(_, variable)| variable.trim().strip_prefix(':'));
        if !variable.is_some_and(|variable| self.sets.iter().any(|(name, _)| name == variable)) {
            return Err(self.wrong(first + 1, format!("the root `{root}` names no variable that is set"), help));
        }
        if first == 0 {
            return Err(self.wrong(1, "a statement stands before the `\\set` lines", "begin the script with its `\\set` lines"));
        }
        if self.begun.is_some() && !self.is_over {
            return Err(self.wrong(self.begun.unwrap_or(1), "the transaction has no end", "write END; behind its last statement"));
        }
        self.lines[0] = format!("-- name: {TRANSACTION}");
        // With one line before the first statement there is no room; then findings about it are told one line further down.
        if first == 1 {
            self.lines.insert(1, String::new());
        }
        self.lines[1] = format!("-- root: {root}");
        self.lines.push(String::new());
        Ok(FileScript {
            file: self.file.to_owned(),
            text: text.to_owned(),
            scale,
            is_together: self.begun.is_some() || self.is_pipeline,
            sets: self.sets,
            declared: self.lines.join("\n"),
            parameters: Vec::new(),
        })
    }

    fn wrong(&self, line: usize, message: impl std::fmt::Display, help: &str) -> Wrong {
        wrong(self.file, line, message, help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\\set aid random(1, 10 * :scale)\n\\set delta -5\n-- a remark\n-- root: account = :aid\nBEGIN;\n\
                          update account set balance = balance + :delta\nwhere id = :aid; -- expect: one\nselect ':x' from t where id = :aid;\nEND;\n";

    fn parse(text: &str) -> Result<FileScript, Wrong> {
        FileScript::parse("s.sql", text, None, 2)
    }

    #[test]
    fn a_script_is_a_transaction_whose_lines_stay_where_they_are() {
        let mut script = parse(SCRIPT).expect("understood");
        let source = script.declare_in(Source::default()).expect("all variables are set");
        assert!(source.findings.is_empty(), "{:?}", source.findings);
        let [transaction] = source.transactions.as_slice() else { panic!("one transaction: {source:?}") };
        assert_eq!((transaction.name.value.as_str(), transaction.statements.len()), (TRANSACTION, 2));
        assert_eq!(transaction.statements[0].line, 6);
        assert!(transaction.statements[0].expect.is_some() && transaction.target.is_some());
        assert_eq!(script.parameters, ["delta", "aid"]);
        assert_eq!(script.text, SCRIPT);
        let possible: Vec<Arguments> = (1..=20).map(|aid| Arguments::new().with("aid", aid).with("delta", -5)).collect();
        for _ in 0..50 {
            assert!(possible.contains(&script.arguments(&mut rand::rng()).expect("drawn")));
        }
    }

    #[test]
    fn one_statement_and_a_pipeline_need_no_begin_and_the_command_line_may_name_the_root() {
        for text in ["\\set a 1\nselect 1 from t where id = :a;\n", "\\set a 1\n\\startpipeline\nselect :a;\nselect 2;\n\\endpipeline\n"] {
            let mut script = FileScript::parse("s.sql", text, Some("account=a"), 1).expect("understood");
            let source = script.declare_in(Source::default()).expect("right");
            assert!(source.transactions[0].target.is_some(), "{source:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_line() {
        let root = "-- root: account = :a\n\\set a 1\n";
        for (text, said) in [
            ("\\sleep 1\n".to_owned(), "s.sql:1: `\\sleep` is not understood"),
            ("\\set a abs(1)\n".to_owned(), "s.sql:1: `abs` is no function"),
            (format!("{root}\\set a 2\n"), "s.sql:3: `a` is set twice"),
            (format!("{root}begin;\nselect 1;\nend;\nbegin;\n"), "s.sql:6: a second transaction"),
            (format!("{root}begin isolation level serializable;\n"), "s.sql:3: the transaction asks for modes"),
            (format!("{root}begin;\nselect 1;\nrollback;\n"), "s.sql:5: the transaction rolls back"),
            (format!("{root}begin;\nselect 1;\n"), "s.sql:3: the transaction has no end"),
            (format!("{root}begin;\nselect 1;\nend;\nselect 2;\n"), "s.sql:6: a statement stands behind"),
            ("\\set a 1\nselect :a;\n".to_owned(), "s.sql:2: which variable is the root's key"),
            ("-- root: account = :b\n\\set a 1\nselect :a;\n".to_owned(), "names no variable that is set"),
            ("select 1\n\\set a 1\n-- root: account = :a\n;\n".to_owned(), "s.sql:1: a statement stands before"),
            (root.to_owned(), "s.sql:1: the script has no statement"),
        ] {
            let told = parse(&text).expect_err(said).to_string();
            assert!(told.contains(said), "{text}: {told}");
        }
        for (text, said) in [
            (format!("{root}begin;\nselect :a;\nselect :b;\nend;\n"), "s.sql:5: `:b` is never set"),
            (format!("{root}select ';';\nselect 2;\n"), "s.sql:4: this statement is a transaction of its own"),
        ] {
            let mut script = parse(&text).expect("well formed");
            let told = script.declare_in(Source::default()).expect_err(said).to_string();
            assert!(told.contains(said), "{told}");
        }
    }
}
