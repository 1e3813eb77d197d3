//! The text of a generated function.
//!
//! It is given the secret, the units' places in their batch, and for each parameter an array with one value a unit. It
//! returns one row for each unit: its place, the statement (from 0) whose expectation it missed or NULL, and the columns of
//! the answer. A unit that missed takes no part in the statements behind; one without a row met none and was not to.
//!
//! If it is given the columns of outcomes too, it stores the outcome of each unit that took effect, so that its caller
//! can send COMMIT along with the call. Then whatever would have to be taken back is an error (RW005). If it is given the units' entries of
//! the journal too, it writes them, and every miss is an error: the entries are numbered.
//!
//! A unit that comes alone has statements of its own ([`super::alone`]).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::statement::{Action, Single, parameter_name};
use super::{Step, alone};
use crate::containment::quoted;
use crate::definition::{Column, ExpectedRows};

const QUOTE: &str = "$rootward$";

/// How many parameters follow the transaction's own: what the outcomes keep of the units' requests, NULL if the caller stores the
/// outcomes; what all replies have in common; and what the journal keeps beside that, NULL if there is none.
pub(crate) const OUTCOME_PARAMETERS: usize = 3;

/// The columns of `rootward.journal_entry`.
const ENTRY: &str = "sequence, arguments, at, hash";

/// The columns of `rootward.request`.
pub(super) const REQUEST: &str =
    "partition, entity, root_key, request_id, step, element, direction, transaction, fingerprint, in_chain, issued_at";

/// Those that the journal keeps too.
const JOURNALED: &str = "partition, entity, root_key, request_id, step, element, direction, transaction, in_chain, issued_at";

/// Columns of `rootward.request` that most units of a batch have in common: where one is NULL, it is what the first request has.
const SHARED: &[&str] = &["entity", "step", "element", "direction", "transaction", "in_chain"];

/// Larger answers are not stored in the commit of their effect: whether they can be given is known only afterwards.
pub(super) const MAX_ANSWER_BYTES: usize = 2 << 20;

/// The units with the values of these parameters, as a table `rw_s`.
fn source(uses: &BTreeSet<usize>) -> String {
    let arrays: String = uses.iter().map(|place| format!(", rw_a{}", place + 1)).collect();
    let names: String = uses.iter().map(|place| format!(", rw_v{}", place + 1)).collect();
    format!("unnest(rw_units{arrays}) as rw_s (rw_u{names})")
}

fn outputs(columns: &[Column]) -> Vec<usize> {
    (1..=columns.len()).collect()
}

/// The function's body; none if a text of the user's could end it.
pub(super) fn body(steps: &[Step<'_>], parameters: &[Column], root: usize, columns: &[Column], clean_statements: usize) -> Option<String> {
    let answering = steps.iter().rposition(|step| step.declared.returns_rows).unwrap_or(steps.len().checked_sub(1)?);
    let mut text = String::from(
        "#variable_conflict use_column\ndeclare\n  rw_in_force boolean := rootward.check_secret(rw_secret);\n  rw_records boolean := rw_requests is not null;\n  rw_first rootward.request := rw_requests[1];\n  rw_answered integer[];\n  rw_aligned boolean;\n  rw_hit integer[];\n  rw_found integer[];\n  rw_keys ",
    );
    let _ = write!(text, "{}[];\n  rw_root {}[];\n", parameters[root].r#type.name(), parameters[root].r#type.name());
    for (at, column) in columns.iter().enumerate() {
        let _ = writeln!(text, "  rw_r{} {}[];", at + 1, column.r#type.name());
    }
    text.push_str("  rw_is_there boolean;\n  rw_is_answered boolean := false;\nbegin\n");
    text += &alone::run(steps, answering, root, columns, clean_statements);
    text.push_str("  <<rw_work>>\n  begin\n");
    for (at, step) in steps.iter().enumerate() {
        let answers = at == answering;
        let returning: &[String] = if answers && step.declared.returns_rows { &step.single.returning } else { &[] };
        if !answers && !step.single.returns_plainly {
            return None;
        }
        if returning.len() != if answers && step.declared.returns_rows { columns.len() } else { 0 } {
            return None;
        }
        // Only those whom the next one doesn't meet are asked for, then: it has changed nothing of theirs.
        if step.declared.is_told_by_next {
            let _ = writeln!(text, "  -- statement {}: whoever meets the row of the next one meets this one's", at + 1);
            continue;
        }
        let told = at.checked_sub(1).filter(|before| steps[*before].declared.is_told_by_next);
        let _ = writeln!(text, "  -- statement {}", at + 1);
        let expected = step.declared.expect.as_ref().map(|expect| expect.rows);
        if answers || expected.is_some() || !step.single.writes() {
            text += &counted(&step.single, root, returning);
        } else {
            let _ = writeln!(text, "  {};", written(&step.single, root, None));
        }
        if let Some(expected) = expected {
            let told = told.map(|at| (at, written(&steps[at].single, root, Some(&[]))));
            text += &missed(at, told, expected, parameters, columns, at < clean_statements);
        }
        if answers {
            text += &answered(returning.len(), columns);
        }
    }
    text.push_str("  end;\n");
    text += &stored(columns);
    text.push_str("end ");
    (!text.contains(QUOTE)).then_some(text)
}

/// The statement that makes the function.
pub(super) fn definition(name: &str, parameters: &[Column], columns: &[Column], body: &str) -> String {
    let arrays: String = parameters.iter().enumerate().map(|(at, column)| format!(", rw_a{} {}[]", at + 1, column.r#type.name())).collect();
    let outputs: String = columns.iter().enumerate().map(|(at, column)| format!(", rw_o{} {}", at + 1, column.r#type.name())).collect();
    // Joins by hash or by merging would read the whole table for a few rows that are known by their places.
    format!(
        "create or replace function rootward_set.{}(rw_secret bytea, rw_units integer[]{arrays}, rw_requests rootward.request[], rw_reply bytea, rw_entries rootward.journal_entry[])\n\
         returns table (rw_unit integer, rw_missed integer{outputs})\n\
         language plpgsql volatile security definer\n\
         set search_path = pg_catalog, pg_temp set enable_hashjoin = off set enable_mergejoin = off\n\
         as {QUOTE}\n{body}{QUOTE}",
        quoted(name)
    )
}

/// Runs a statement and keeps which units met a row (`rw_hit`), and what it returned for them.
fn counted(single: &Single, root: usize, returning: &[String]) -> String {
    let outputs: Vec<usize> = (1..=returning.len()).collect();
    let gathered: String = outputs.iter().map(|at| format!(", array_agg(rw_x.rw_c{at})")).collect();
    let kept: String = outputs.iter().map(|at| format!(", rw_r{at}")).collect();
    let Action::Insert { or_nothing, .. } = &single.action else {
        return format!(
            "  with rw_x as ({})\n    select array_agg(rw_x.rw_u){gathered} into rw_hit{kept} from rw_x;\n",
            written(single, root, Some(returning))
        );
    };
    if single.condition.is_none() && !or_nothing && returning.is_empty() {
        return format!("  {};\n  rw_hit := rw_units;\n", written(single, root, None));
    }
    // INSERT returns nothing of its source: the root key tells whose row it is.
    let insert = written(single, root, Some(returning));
    let keys = format!("rw_a{}", root + 1);
    let mapped = "(select array_agg(rw_units[array_position(rw_root, rw_k.key)] order by rw_k.at) from unnest(rw_keys) with ordinality as rw_k (key, at))";
    let mapped = format!("rw_hit := {mapped};\n");
    // A choice of statements and no expression: one with a query in it is a statement of its own, whether or not it comes to that.
    let hit = if returning.is_empty() {
        format!("  if cardinality(rw_keys) = cardinality(rw_units) then\n    rw_hit := rw_units;\n  else\n    {mapped}  end if;\n")
    } else {
        format!("  {mapped}")
    };
    format!(
        "  rw_root := {keys};\n  with rw_x as ({insert})\n    select array_agg(rw_x.rw_k){gathered} into rw_keys{kept} from rw_x;\n{hit}"
    )
}

/// The statement for all units at once. If asked, it returns the unit, or for INSERT the root key, and these expressions.
fn written(single: &Single, root: usize, asked: Option<&[String]>) -> String {
    let returning = asked.unwrap_or_default();
    let table = format!("public.{}", quoted(&single.met.table));
    let alias = quoted(&single.met.alias);
    let pin = format!("{alias}.{} = {}", quoted(&single.key_column), parameter_name(root));
    let condition = single.condition.as_ref().map(|condition| format!("({condition}) and ")).unwrap_or_default();
    let source = source(&single.uses);
    let columns: String = returning.iter().enumerate().map(|(at, column)| format!(", {column} as rw_c{}", at + 1)).collect();
    let returns = |what: &str| asked.map(|_| format!(" returning {what}{columns}")).unwrap_or_default();
    // OFFSET 0 keeps the planner from turning the join around: a plan that was made while the table was empty would read the
    // whole of it for every call, long after.
    let row = |what: &str| format!("lateral (select {what} from {table} as {alias} where {condition}{pin} offset 0) as rw_t");
    let found = format!("(select rw_s.*, rw_t.rw_tid from {source} cross join {}) as rw_s", row(&format!("{alias}.ctid as rw_tid")));
    match &single.action {
        Action::Select => {
            let names: String = (1..=returning.len()).map(|at| format!(", rw_t.rw_c{at}")).collect();
            format!("select rw_s.rw_u{names} from {source} cross join {}", row(&format!("true as rw_is_there{columns}")))
        }
        Action::Update(changes) => {
            let returns = returns("rw_s.rw_u");
            format!("update {table} as {alias} set {} from {found} where {alias}.ctid = rw_s.rw_tid{returns}", changed(changes))
        }
        Action::Delete => {
            format!("delete from {table} as {alias} using {found} where {alias}.ctid = rw_s.rw_tid{}", returns("rw_s.rw_u"))
        }
        Action::Insert { values, or_nothing } => {
            inserted(single, (values, *or_nothing), &source, &returns(&format!("{alias}.{} as rw_k", quoted(&single.key_column))))
        }
    }
}

/// What an UPDATE sets.
pub(super) fn changed(changes: &[(String, String)]) -> String {
    changes.iter().map(|(column, value)| format!("{} = {value}", quoted(column))).collect::<Vec<_>>().join(", ")
}

/// An INSERT of what it makes of the rows of `source`, a table `rw_s`.
pub(super) fn inserted(single: &Single, (values, or_nothing): (&[(String, String)], bool), source: &str, returns: &str) -> String {
    let (table, alias) = (quoted(&single.met.table), quoted(&single.met.alias));
    let names: Vec<String> = values.iter().map(|(column, _)| quoted(column)).collect();
    let values: Vec<&str> = values.iter().map(|(_, value)| value.as_str()).collect();
    let condition = single.condition.as_ref().map(|condition| format!(" where {condition}")).unwrap_or_default();
    let on = if or_nothing { " on conflict do nothing" } else { "" };
    format!(
        "insert into public.{table} as {alias} ({}) select {} from {source}{condition}{on}{returns}",
        names.join(", "),
        values.join(", ")
    )
}

/// Tells which units missed and leaves them out from here on. `told`: the statement before, if it was not run, with what finds who meets it.
fn missed(
    at: usize,
    told: Option<(usize, String)>,
    expected: ExpectedRows,
    parameters: &[Column],
    columns: &[Column],
    is_clean: bool,
) -> String {
    let nulls: String = columns.iter().map(|column| format!(", null::{}", column.r#type.name())).collect();
    let of_each = |text: &dyn Fn(usize) -> String| (1..=parameters.len()).map(text).collect::<String>();
    let gathered = of_each(&|at| format!(", array_agg(rw_s.rw_v{at})"));
    let names = of_each(&|at| format!(", rw_v{at}"));
    let arrays = of_each(&|at| format!(", rw_a{at}"));
    let (is_any_missed, is_missed, is_met) = match expected {
        ExpectedRows::Exactly(0) => ("rw_hit is not null", "rw_x.u = any (rw_hit)", "rw_s.rw_u <> all (rw_hit)"),
        _ => (
            "coalesce(cardinality(rw_hit), 0) < cardinality(rw_units)",
            "(rw_hit is null or rw_x.u <> all (rw_hit))",
            "rw_s.rw_u = any (rw_hit)",
        ),
    };
    let taken_back = taken_back(is_clean);
    let (found, at) = match told {
        None => (String::new(), at.to_string()),
        Some((before, meeting)) => (
            format!("    with rw_x as ({meeting})\n      select array_agg(rw_x.rw_u) into rw_found from rw_x;\n"),
            format!("case when rw_x.u = any (rw_found) then {at} else {before} end"),
        ),
    };
    format!(
        "  if {is_any_missed} then\n    {taken_back}\n{found}    \
         return query select rw_x.u, {at}{nulls} from unnest(rw_units) as rw_x (u) where {is_missed};\n    \
         select array_agg(rw_s.rw_u){gathered}, array_agg(rw_requests[rw_s.rw_n]) into rw_units{arrays}, rw_requests\n      \
         from unnest(rw_units{arrays}) with ordinality as rw_s (rw_u{names}, rw_n) where {is_met};\n    \
         exit rw_work when rw_units is null;\n  end if;\n"
    )
}

/// A miss that means that the whole batch is taken back.
pub(super) fn taken_back(is_clean: bool) -> String {
    let (is_refused, why) =
        if is_clean { ("rw_entries is not null", "a unit was refused") } else { ("rw_records", "a unit missed after it had written") };
    format!("if {is_refused} then raise exception '{why}' using errcode = 'RW005'; end if;")
}

/// Gives the rows of the units that met one.
fn answered(returned: usize, columns: &[Column]) -> String {
    let outputs = outputs(columns);
    let arrays: String = (1..=returned).map(|at| format!(", rw_r{at}")).collect();
    let names: String = (1..=returned).map(|at| format!(", c{at}")).collect();
    let values: String = outputs.iter().map(|at| if *at <= returned { format!(", rw_x.c{at}") } else { ", null".to_owned() }).collect();
    format!(
        "  rw_answered := rw_hit;\n  if rw_hit is not null then\n    \
         return query select rw_x.u, null::integer{values} from unnest(rw_hit{arrays}) as rw_x (u{names});\n  end if;\n"
    )
}

/// Stores the outcomes of the units that are left, and their entries of the journal, if that is asked for.
fn stored(columns: &[Column]) -> String {
    let text_of = |at: usize| format!("(rw_r{}[%])::text", at + 1);
    let values: Vec<String> = (0..columns.len()).map(text_of).collect();
    let values = format!("array[{}]::text[]", values.join(", "));
    let aligned = values.replace('%', "rw_o.ordinality");
    // An expectation that was missed later, or none: the answers are fewer than the units, or in another order.
    let found = values.replace('%', "array_position(rw_answered, rw_units[rw_o.ordinality])");
    let sizes: String = (1..=columns.len()).map(|at| format!(" + coalesce(pg_column_size(rw_r{at}), 0)")).collect();
    let request = selected(REQUEST);
    let journaled = journaled();
    format!(
        "  if rw_records and rw_units is not null then\n    \
         rw_aligned := rw_answered = rw_units;\n    \
         if 0{sizes} > {MAX_ANSWER_BYTES} then raise exception 'the answers are large' using errcode = 'RW005'; end if;\n    \
         insert into rootward.outcome ({REQUEST}, kind, reply, answer)\n      \
         select {request}, 'done', rw_reply,\n        \
         case when rw_aligned then {aligned} when array_position(rw_answered, rw_units[rw_o.ordinality]) is not null then {found} end\n      \
         from unnest(rw_requests) with ordinality as rw_o;\n{journaled}  end if;\n"
    )
}

/// Writes the units' entries of the journal, if there are any.
pub(super) fn journaled() -> String {
    let selected = selected(JOURNALED);
    format!(
        "    if rw_entries is not null then\n      \
         insert into rootward.journal ({JOURNALED}, {ENTRY})\n        \
         select {selected}, {ENTRY}\n        \
         from rows from (unnest(rw_requests), unnest(rw_entries)) as rw_o ({REQUEST}, {ENTRY});\n    end if;\n"
    )
}

/// These columns of `rw_o`, a request, as they were before what requests have in common was left out.
fn selected(names: &str) -> String {
    let given =
        |name: &str| if SHARED.contains(&name) { format!("coalesce(rw_o.{name}, rw_first.{name})") } else { format!("rw_o.{name}") };
    names.split(", ").map(given).collect::<Vec<_>>().join(", ")
}
