//! A generated function's statements for a unit that comes alone: those of the declaration, with its values in the places of the parameters.
//!
//! What makes statements fit for many units (arrays that become tables, rows that are looked up by them, answers that are gathered) costs
//! as much for one. With few clients most batches are one unit.

use std::fmt::Write as _;

use super::Step;
use super::function::{MAX_ANSWER_BYTES, REQUEST, changed, inserted, journaled, taken_back};
use super::statement::{Action, Single, parameter_name};
use crate::containment::quoted;
use crate::definition::{Column, ExpectedRows};

/// Runs the statements for the one unit, if there is one, and ends the function.
pub(super) fn run(steps: &[Step<'_>], answering: usize, root: usize, columns: &[Column], clean_statements: usize) -> String {
    let mut text = String::from("  if cardinality(rw_units) = 1 then\n    rw_unit := rw_units[1];\n");
    let outputs = |text: &dyn Fn(usize) -> String| (1..=columns.len()).map(text).collect::<Vec<_>>();
    for (at, step) in steps.iter().enumerate() {
        if step.declared.is_told_by_next {
            continue;
        }
        let _ = writeln!(text, "    -- statement {}", at + 1);
        let returning: &[String] = if at == answering && step.declared.returns_rows { &step.single.returning } else { &[] };
        let _ = writeln!(text, "    {};", written(&step.single, root, returning));
        if at == answering {
            text.push_str("    rw_is_answered := found;\n");
        }
        let Some(expected) = step.declared.expect.as_ref().map(|expect| expect.rows) else { continue };
        let is_missed = if expected == ExpectedRows::Exactly(0) { "found" } else { "not found" };
        let _ = write!(text, "    if {is_missed} then\n      {}\n", taken_back(at < clean_statements));
        // As for many units: whoever is met by the statement before, which was not run, missed this one.
        match at.checked_sub(1).filter(|before| steps[*before].declared.is_told_by_next) {
            None => {
                let _ = writeln!(text, "      rw_missed := {at};");
            }
            Some(before) => {
                let _ = writeln!(text, "      {};", written(&steps[before].single, root, &[]));
                let _ = writeln!(text, "      rw_missed := case when found then {at} else {before} end;");
            }
        }
        for output in outputs(&|at| format!("rw_o{at}")) {
            let _ = writeln!(text, "      {output} := null;");
        }
        text.push_str("      return next;\n      return;\n    end if;\n");
    }
    let sizes = outputs(&|at| format!(" + coalesce(pg_column_size(rw_o{at}), 0)")).concat();
    let answer = outputs(&|at| format!("rw_o{at}::text")).join(", ");
    let request: Vec<String> = REQUEST.split(", ").map(|name| format!("rw_first.{name}")).collect();
    let _ = write!(
        text,
        "    if rw_is_answered then\n      return next;\n    end if;\n    if not rw_records then\n      return;\n    end if;\n    \
         if 0{sizes} > {MAX_ANSWER_BYTES} then raise exception 'the answers are large' using errcode = 'RW005'; end if;\n    \
         insert into rootward.outcome ({REQUEST}, kind, reply, answer)\n      \
         values ({}, 'done', rw_reply, case when rw_is_answered then array[{answer}]::text[] end);\n{}    return;\n  end if;\n",
        request.join(", "),
        journaled()
    );
    text
}

/// The statement for the one unit. It returns these expressions, or tells by FOUND alone whether it met a row.
fn written(single: &Single, root: usize, returning: &[String]) -> String {
    let table = format!("public.{}", quoted(&single.met.table));
    let alias = quoted(&single.met.alias);
    // A row without a table, which PostgreSQL's planner replaces by its values.
    let values: Vec<String> = single.uses.iter().map(|place| format!("rw_a{0}[1] as rw_v{0}", place + 1)).collect();
    let source = format!("(select {}) as rw_s", values.join(", "));
    let condition = single.condition.as_ref().map(|condition| format!("({condition}) and ")).unwrap_or_default();
    let met = format!("{condition}{alias}.{} = {}", quoted(&single.key_column), parameter_name(root));
    let outputs: Vec<String> = (1..=returning.len()).map(|at| format!("rw_o{at}")).collect();
    let returns =
        if returning.is_empty() { String::new() } else { format!(" returning {} into {}", returning.join(", "), outputs.join(", ")) };
    match &single.action {
        Action::Select if returning.is_empty() => format!("select true from {table} as {alias}, {source} where {met} into rw_is_there"),
        Action::Select => {
            format!("select {} from {table} as {alias}, {source} where {met} into {}", returning.join(", "), outputs.join(", "))
        }
        Action::Update(changes) => format!("update {table} as {alias} set {} from {source} where {met}{returns}", changed(changes)),
        Action::Delete => format!("delete from {table} as {alias} using {source} where {met}{returns}"),
        Action::Insert { values, or_nothing } => inserted(single, (values, *or_nothing), &source, &returns),
    }
}
