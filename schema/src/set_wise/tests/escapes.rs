//! The escape list, each text as a declared transaction: it is outside of the class, or about the unit's own row.

use super::{Column, Facts, Source, TableFact, Transaction, Type, root, schema, transaction};
use crate::facts::ColumnFact;
use crate::set_wise::compile_one;

const LIST: &str = include_str!("../../../../tests/it/escapes/attempts.rs");

/// The second text of each call in the list: the SQL.
fn attempts() -> Vec<String> {
    let mut found = Vec::new();
    for call in ["ad_hoc(", "query(", "command("] {
        for (at, _) in LIST.match_indices(&format!("\n    {call}")) {
            found.extend(text_after(&LIST[at..]).and_then(|(_, rest)| text_after(rest)).map(|(sql, _)| sql));
        }
    }
    found
}

/// The first literal of a source text, and what stands behind it.
fn text_after(source: &str) -> Option<(String, &str)> {
    let begin = source.find('"')? + 1;
    let mut text = String::new();
    let mut characters = source[begin..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &source[begin + at + 1..])),
            '\\' => text.push(characters.next()?.1),
            _ => text.push(character),
        }
    }
    None
}

fn table(name: &str, columns: &[(&str, Type)], primary_key: &[&str]) -> TableFact {
    let column = |(name, r#type): &(&str, Type)| ColumnFact {
        name: (*name).to_owned(),
        r#type: r#type.clone(),
        is_not_null: true,
        default: None,
        is_identity: false,
        is_generated: false,
    };
    let primary_key = primary_key.iter().map(|name| (*name).to_owned()).collect();
    TableFact { name: name.to_owned(), columns: columns.iter().map(column).collect(), primary_key, ..TableFact::default() }
}

/// The tables that the list is about, with the root key by the name that the helpers here know.
fn vault() -> Facts {
    let account = [("a", Type::Bigint), ("owner", Type::Text), ("balance", Type::Numeric)];
    let entry = [("a", Type::Bigint), ("entry_id", Type::Bigint), ("note", Type::Text)];
    let wallet = [("a", Type::Bigint), ("wallet_id", Type::Bigint), ("code", Type::Text)];
    let tables = vec![
        table("account", &account, &["a"]),
        table("entry", &entry, &["a", "entry_id"]),
        table("wallet", &wallet, &["a", "wallet_id"]),
        table("safe", &[("a", Type::Bigint), ("content", Type::Text)], &["a"]),
        table("currency", &[("code", Type::Text), ("name", Type::Text)], &["code"]),
    ];
    Facts { tables, ..Facts::default() }
}

/// What the text becomes, whatever number of columns its answer has.
fn made(sql: &str) -> Option<String> {
    let text = format!("-- name: t\n-- root: account = :a\n{sql};\nselect :a::bigint as c;\n");
    let source = Source::from_texts([("rootward.toml", ""), ("transactions/t.sql", text.as_str())]);
    let facts = vault();
    let schema = schema([root(&facts, "account", &["account", "entry", "wallet"]), root(&facts, "safe", &["safe"])]);
    (0..5).find_map(|columns| {
        let mut declared: Transaction = transaction(&source, columns);
        // Only that the root's parameter is known; a statement of its own would be outside.
        let asks = declared.statements.pop()?;
        let first = declared.statements.first_mut()?;
        if !first.parameters.iter().any(|column| column.name == "a") {
            first.parameters.push(Column { name: "a".to_owned(), r#type: asks.parameters.first()?.r#type.clone() });
        }
        Some(compile_one(&facts, &schema, &declared)?.sql)
    })
}

#[test]
fn no_escape_is_in_the_class_without_a_pin() {
    let attempts = attempts();
    assert!(attempts.len() >= 140, "only {} texts were found", attempts.len());
    let mut inside = String::new();
    for attempt in &attempts {
        // The root's own key as the parameter, and as the constant that it is in the list.
        for me in [":a", "32"] {
            let sql =
                attempt.replace("{me}", me).replace("{you}", "7").replace("{safe}", "9").replace("account_id", "a").replace("safe_id", "a");
            let Some(made) = made(&sql) else { continue };
            let (alone, many) = made.split_once("<<rw_work>>").expect("statements for one unit, then for many");
            for (part, are_places) in [(alone, false), (many, true)] {
                let tables = part.matches("public.").count();
                let pins = part.matches("\"a\" = rw_s.rw_v").count();
                // A row that is changed is one that was found by the pin, by its place in the same table.
                let places = part.matches(".ctid = rw_s.rw_tid").count();
                assert!(places <= usize::from(are_places) && tables == 1 + places && pins >= 1, "{sql}\n{made}");
                let one_table = |table: &str| part.matches(&format!("public.\"{table}\"")).count() == tables;
                assert!(["account", "entry", "wallet"].iter().any(|table| one_table(table)), "{sql}\n{made}");
            }
            inside += &format!("{sql}\n");
        }
    }
    insta::assert_snapshot!(inside);
}
