//! The compiled schema as a text.

use std::fmt::Write;

use rootward_schema::{
    Chain, Column, Expression, Invariant, OnExhausted, OnFailure, ReferenceTable, Retry, RootEntity, Schema, Step, Target, Transaction,
    TreeTable, Wait, duration_text,
};
use serde_json::{Value, json};

/// The trees, the reference tables, the transactions, the chains and the invariants.
pub fn show_text(schema: &Schema) -> String {
    let mut out = format!("schema {}, version {}, {} partitions\n", schema.name, schema.version, schema.all_partitions());
    if !schema.regions.is_empty() {
        let _ = writeln!(out, "regions {}, with {} partitions of each one's own", schema.regions.join(", "), schema.partitions);
    }
    for root in schema.roots.values() {
        show_root(&mut out, root);
    }
    show_section(&mut out, "reference", &schema.reference, show_reference);
    show_section(&mut out, "transactions", schema.transactions.values(), show_transaction);
    show_section(&mut out, "chains", schema.chains.values(), show_chain);
    show_section(&mut out, "invariants", &schema.invariants, show_invariant);
    out
}

/// The compiled schema for programs, without the text of its table files.
pub fn show_json(schema: &Schema) -> Value {
    let mut value = json!(schema);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("table_files".to_owned(), json!(schema.table_files.iter().map(|file| &file.path).collect::<Vec<_>>()));
    }
    value
}

fn show_section<'a, T: 'a>(out: &mut String, title: &str, items: impl IntoIterator<Item = &'a T>, show: impl Fn(&T) -> String) {
    let lines: Vec<String> = items.into_iter().map(show).collect();
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{title}\n{}", lines.join("\n"));
    }
}

fn show_root(out: &mut String, root: &RootEntity) {
    let placed = if root.is_placed_by_region { ", on peers of the region that the key begins with" } else { "" };
    let _ = writeln!(out, "\nroot {}, key {}.{} {}{placed}", root.name, root.table, root.key_column, root.key_type.name());
    for table in root.tables.iter().filter(|table| table.parent.is_none()) {
        show_table(out, root, table, 1);
    }
}

/// A table and those under it. A tree of foreign keys has no circle, since each parent stands before its children.
fn show_table(out: &mut String, root: &RootEntity, table: &TreeTable, depth: usize) {
    let key: Vec<String> =
        table.primary_key.iter().map(|column| if *column == table.key_column { format!("*{column}") } else { column.clone() }).collect();
    let rest: Vec<&str> =
        table.columns.iter().filter(|column| !table.primary_key.contains(&column.name)).map(|column| column.name.as_str()).collect();
    let rest = if rest.is_empty() { String::new() } else { format!("  {}", rest.join(", ")) };
    let _ = writeln!(out, "{}{} ({}){rest}", "  ".repeat(depth), table.name, key.join(", "));
    for child in root.tables.iter().filter(|child| child.parent.as_ref() == Some(&table.name) && child.name != table.name) {
        show_table(out, root, child, depth + 1);
    }
}

fn show_reference(table: &ReferenceTable) -> String {
    let note = if table.is_referred_to { "  trees refer to it: rows are retired, never deleted" } else { "" };
    format!("  {} ({}){note}", table.name, table.primary_key.join(", "))
}

fn columns(columns: &[Column]) -> String {
    let shown: Vec<String> = columns.iter().map(|column| format!("{} {}", column.name, column.r#type.name())).collect();
    shown.join(", ")
}

fn show_transaction(transaction: &Transaction) -> String {
    let target = match &transaction.target {
        Target::Root { entity, parameter } => format!("at {entity} :{parameter}"),
        Target::Reference => "writes reference data".to_owned(),
    };
    let answer = if transaction.columns.is_empty() { String::new() } else { format!(" -> {}", columns(&transaction.columns)) };
    let refusal = if transaction.can_refuse { "" } else { ", cannot be refused" };
    let Transaction { name, file, line, .. } = transaction;
    format!("  {name}({}){answer}\n      {target}{refusal}  {file}:{line}", columns(&transaction.parameters))
}

fn show_chain(chain: &Chain) -> String {
    let deadline = chain.deadline_ms.map(|deadline| format!(", within {}", duration_text(deadline))).unwrap_or_default();
    let result = if chain.result.is_empty() { String::new() } else { format!(" -> {}", arguments(&chain.result)) };
    let steps = (0..chain.steps.len()).map(|at| show_step(chain, at)).collect::<Vec<String>>();
    format!("  {}({}){deadline}{result}\n{}", chain.name, columns(&chain.parameters), steps.join("\n"))
}

fn show_step(chain: &Chain, at: usize) -> String {
    let step = &chain.steps[at];
    let mut line = format!("    {} {}", at + 1, step.name);
    if let Some(list) = &step.for_each {
        let _ = write!(line, " for each of {}", expression(list));
    }
    if let Some(after) = &step.after {
        let names = after.iter().filter_map(|place| chain.steps.get(usize::try_from(*place).ok()?)).map(|step| step.name.as_str());
        let _ = write!(line, " after {}", names.collect::<Vec<_>>().join(", "));
    }
    match &step.wait {
        Some(wait) => line.push_str(&show_wait(wait)),
        None => {
            let _ = write!(line, ": {}({}) at {} {}", step.call, arguments(&step.args), step.entity, expression(&step.root_key));
        }
    }
    if let Some(compensation) = &step.compensate {
        let _ = write!(line, ", undone by {}({})", compensation.call, arguments(&compensation.args));
    }
    if step.is_pivot {
        line.push_str(", the pivot");
    }
    line.push_str(match (step.on_failure, &step.wait) {
        (OnFailure::Compensate, _) => "",
        (OnFailure::Park, None) => ", parks when refused",
        (OnFailure::Park, Some(_)) => ", parks then",
        (OnFailure::Keep, None) => ", keeps what is done when refused",
        (OnFailure::Keep, Some(_)) => ", keeps what is done then",
    });
    line.push_str(&show_retry(step));
    line
}

fn show_wait(wait: &Wait) -> String {
    match wait {
        Wait::Timer { after_ms } => format!(": waits {}", duration_text(*after_ms)),
        Wait::Signal { payload, timeout_ms } => {
            let timeout = timeout_ms.map(|timeout| format!(", {} at most", duration_text(timeout))).unwrap_or_default();
            format!(": waits for a signal({}){timeout}", columns(payload))
        }
    }
}

/// The part of a step's retries that is not the default.
fn show_retry(step: &Step) -> String {
    let mut line = String::new();
    let Retry { initial_ms, factor, max_ms, attempts, jitter, non_retryable } = &step.retry;
    if step.retry != Retry::default() {
        let (initial, max) = (duration_text(*initial_ms), duration_text(*max_ms));
        let _ = write!(line, ", {attempts} attempts from {initial} to {max} times {factor}, jitter {jitter}");
        if !non_retryable.is_empty() {
            let _ = write!(line, ", none after {}", non_retryable.join(", "));
        }
    }
    if step.on_exhausted == OnExhausted::Fail {
        line.push_str(", goes back when they are used up");
    }
    line
}

fn arguments<'a>(args: impl IntoIterator<Item = (&'a String, &'a Expression)>) -> String {
    let shown: Vec<String> = args.into_iter().map(|(name, value)| format!("{name} = {}", expression(value))).collect();
    shown.join(", ")
}

fn expression(expression: &Expression) -> String {
    match expression {
        Expression::Literal(text) => format!("'{text}'"),
        Expression::Parameter(name) => format!("${name}"),
        Expression::Element(None) => "$element".to_owned(),
        Expression::Element(Some(field)) => format!("$element.{field}"),
        Expression::StepResult { step, column } => format!("$steps.{step}.{column}"),
    }
}

fn show_invariant(invariant: &Invariant) -> String {
    let what = match (&invariant.sum, &invariant.equals, &invariant.none) {
        (_, _, Some(_)) => "no row on any peer",
        (_, Some(_), _) => "two sums over all peers are equal",
        _ => "the sum over all peers is 0",
    };
    format!("  {}: {what}", invariant.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn step(name: &str) -> Step {
        Step {
            name: name.to_owned(),
            call: name.to_owned(),
            entity: "item".to_owned(),
            root_key: Expression::Parameter("item".to_owned()),
            args: BTreeMap::new(),
            for_each: None,
            compensate: None,
            is_pivot: false,
            on_failure: OnFailure::Compensate,
            after: None,
            retry: Retry::default(),
            on_exhausted: OnExhausted::Park,
            wait: None,
        }
    }

    fn lines(steps: Vec<Step>) -> Vec<String> {
        let result = BTreeMap::from([("item".to_owned(), Expression::Parameter("item".to_owned()))]);
        let parameters = vec![Column { name: "item".to_owned(), r#type: rootward_schema::Type::Bigint }];
        let chain = Chain { name: "c".to_owned(), parameters, steps, deadline_ms: Some(600_000), result };
        show_chain(&chain).lines().map(|line| line.trim_start().to_owned()).collect()
    }

    #[test]
    fn a_chain_is_shown_with_everything_that_is_not_the_default() {
        let signal = Wait::Signal {
            payload: vec![Column { name: "by".to_owned(), r#type: rootward_schema::Type::Text }],
            timeout_ms: Some(259_200_000),
        };
        let retry = Retry { attempts: 2, max_ms: 1_000, non_retryable: vec!["55P03".to_owned()], ..Retry::default() };
        let steps = vec![
            step("a"),
            Step { after: Some(vec![0]), on_failure: OnFailure::Keep, ..step("b") },
            Step { after: Some(vec![0, 1]), wait: Some(Wait::Timer { after_ms: 90_000 }), ..step("c") },
            Step { wait: Some(signal), on_failure: OnFailure::Park, ..step("d") },
            Step { retry, on_exhausted: OnExhausted::Fail, is_pivot: true, ..step("e") },
            Step { on_failure: OnFailure::Park, ..step("f") },
        ];
        let wanted = [
            "c(item bigint), within 10m -> item = $item",
            "1 a: a() at item $item",
            "2 b after a: b() at item $item, keeps what is done when refused",
            "3 c after a, b: waits 1m 30s",
            "4 d: waits for a signal(by text), 3days at most, parks then",
            "5 e: e() at item $item, the pivot, 2 attempts from 50ms to 1s times 2, jitter 0.2, none after 55P03, goes back when they are used up",
            "6 f: f() at item $item, parks when refused",
        ];
        assert_eq!(lines(steps), wanted);
    }
}
