//! A declared transaction in pgbench's language: the very statements that a lane runs, with the very arguments.

use rootward_schema::Transaction;

use super::workload::{Draw, Draws, Shape};

/// How pgbench sends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A statement a round trip, as most applications do.
    Statement,
    /// All of it in one round trip.
    Pipeline,
}

/// The script; the file itself if it is one.
///
/// A pipeline without BEGIN and COMMIT is one transaction too, committed by its Sync; leaving them out saves two messages.
/// What only a lane does is not here: row counts are not compared with what is expected.
pub(super) fn script(transaction: &Transaction, shape: &Shape, roots: u64, style: Style) -> String {
    let draws = match &shape.draws {
        Draws::Script(script) => return script.text.clone(),
        Draws::Each(draws) => *draws,
    };
    let mut text = String::new();
    for (name, draw) in draws {
        match draw {
            Draw::Root => text += &format!("\\set {name} random(1, {roots})\n"),
            Draw::Between(low, high) => text += &format!("\\set {name} random({low}, {high})\n"),
            Draw::Fixed(_) => {}
        }
    }
    let statements = transaction.statements.iter().map(|statement| {
        let names: Vec<String> = statement.parameters.iter().map(|parameter| argument(draws, &parameter.name)).collect();
        filled(statement.sql.trim().trim_end_matches(';'), &names) + ";\n"
    });
    let statements: String = statements.collect();
    text + &match style {
        Style::Statement if transaction.statements.len() == 1 => statements,
        Style::Statement => format!("BEGIN;\n{statements}COMMIT;\n"),
        Style::Pipeline => format!("\\startpipeline\n{statements}\\endpipeline\n"),
    }
}

/// What stands for a parameter: a variable of pgbench's, a literal, or what a lane would give.
fn argument(draws: &[(&str, Draw)], name: &str) -> String {
    match draws.iter().find(|(drawn, _)| *drawn == name) {
        Some((_, Draw::Fixed(text))) if text.parse::<f64>().is_ok() => (*text).to_owned(),
        Some((_, Draw::Fixed(text))) => format!("'{}'", text.replace('\'', "''")),
        Some((name, _)) => format!(":{name}"),
        None => match name {
            "request_id" => "gen_random_uuid()".to_owned(),
            "now" => "now()".to_owned(),
            "element" => "0".to_owned(),
            _ => "null".to_owned(),
        },
    }
}

/// The statement with `$1`, `$2`, … replaced. Schemas have no business with `$1` inside a literal.
fn filled(sql: &str, values: &[String]) -> String {
    let mut text = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        let digits = after.find(|character: char| !character.is_ascii_digit()).unwrap_or(after.len());
        let value = after[..digits].parse::<usize>().ok().and_then(|number| values.get(number.checked_sub(1)?));
        text += before;
        match value {
            Some(value) => text += value,
            None => text += &format!("${}", &after[..digits]),
        }
        rest = &after[digits..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use rootward_schema::{Column, Statement, Target, Type};

    use super::*;

    fn transaction(statements: &[(&str, &[&str])]) -> Transaction {
        let statement = |(sql, parameters): &(&str, &[&str])| Statement {
            sql: (*sql).to_owned(),
            parameters: parameters.iter().map(|name| Column { name: (*name).to_owned(), r#type: Type::Bigint }).collect(),
            returns_rows: false,
            expect: None,
            is_told_by_next: false,
            line: 1,
        };
        Transaction {
            name: "deposit".to_owned(),
            target: Target::Root { entity: "account".to_owned(), parameter: "id".to_owned() },
            parameters: Vec::new(),
            statements: statements.iter().map(statement).collect(),
            columns: Vec::new(),
            can_refuse: true,
            writes: true,
            may_change_settings: false,
            set_wise: None,
            file: String::new(),
            line: 1,
        }
    }

    const SHAPE: Shape = Shape {
        transaction: "deposit",
        draws: Draws::Each(&[("id", Draw::Root), ("amount", Draw::Fixed("1")), ("kind", Draw::Fixed("it's")), ("d", Draw::Between(-5, 5))]),
    };

    #[test]
    fn the_same_statements_are_sent_one_by_one_or_in_a_pipeline() {
        let deposit = transaction(&[
            ("update a set b = b + $2::numeric where id = $1", &["id", "amount"]),
            ("insert into e values ($1, $2, $3, $4, $5)", &["id", "request_id", "kind", "now", "d"]),
        ]);
        let sets = "\\set id random(1, 9)\n\\set d random(-5, 5)\n";
        let body = "update a set b = b + 1::numeric where id = :id;\ninsert into e values (:id, gen_random_uuid(), 'it''s', now(), :d);\n";
        assert_eq!(script(&deposit, &SHAPE, 9, Style::Statement), format!("{sets}BEGIN;\n{body}COMMIT;\n"));
        assert_eq!(script(&deposit, &SHAPE, 9, Style::Pipeline), format!("{sets}\\startpipeline\n{body}\\endpipeline\n"));
    }

    #[test]
    fn one_statement_alone_needs_no_begin() {
        let read = transaction(&[("select b from a where id = $1", &["id"])]);
        assert!(script(&read, &SHAPE, 9, Style::Statement).ends_with("\nselect b from a where id = :id;\n"));
        assert_eq!(filled("select $$a$$, $12, $1", &["x".to_owned()]), "select $$a$$, $12, x");
    }
}
