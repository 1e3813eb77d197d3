//! Random queries of the class, over the tables of this test.

use rand::{RngExt as _, rngs::StdRng};

/// A query, and how its result is to be compared.
pub struct Sentence {
    pub sql: String,
    pub without_limit: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In any order.
    Rows,
    /// In the order that the query gives, which leaves none open.
    InOrder,
    /// Some of the rows, so many.
    SomeRows,
    Totals,
}

/// What is read, with names for the item and its part.
const FROM: &[(&str, bool)] = &[
    ("item i", false),
    ("item as i join part p on p.item_id = i.item_id", true),
    ("item i left join part p on i.item_id = p.item_id and p.amount > 0", true),
    ("part p join item i using (item_id)", true),
    ("item i, part p", true),
    ("item i left join kind k on k.code = i.kind", false),
    ("kind k join item i on k.code = i.kind left join part p on p.item_id = i.item_id", true),
];

const CONDITIONS: &[&str] = &[
    "i.small > 0",
    "i.flag",
    "i.flag is not true",
    "i.amount between -1 and 2",
    "i.label like '%a%'",
    "i.kind in (select code from kind where name <> 'kind z')",
    "exists (select 1 from part q where q.item_id = i.item_id and q.amount < 0)",
    "i.item_id not in (select item_id from part where amount is null)",
    "coalesce(i.small, 0) < (select count(*) from kind)",
    "(select count(*) from part q where q.item_id = i.item_id) between 1 and 2",
];

/// Columns with a plain order.
const COLUMNS: &[&str] = &[
    "i.small",
    "i.amount",
    "i.label collate \"C\"",
    "i.day",
    "i.moment",
    "i.flag",
    "i.ratio",
    "i.raw",
    "i.small * 2 - 1",
    "length(i.label)",
];

const TOTALS: &[&str] = &[
    "count(*)",
    "count(i.label)",
    "count(*) filter (where i.flag)",
    "sum(i.small)",
    "sum(i.item_id)",
    "sum(i.amount)",
    "min(i.amount)",
    "max(i.amount)",
    "min(i.label collate \"C\")",
    "max(i.label collate \"C\")",
    "min(i.day)",
    "max(i.moment)",
    "min(i.ratio)",
    "max(i.small)",
];

/// One query.
pub fn any(random: &mut StdRng) -> Sentence {
    let (from, has_part) = FROM[random.random_range(0..FROM.len())];
    let mut conditions: Vec<&str> = CONDITIONS.iter().copied().filter(|_| random.random_bool(0.12)).collect();
    if from == "item i, part p" {
        conditions.push("p.item_id = i.item_id");
    }
    let condition = if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
    if random.random_bool(0.35) {
        let mut totals: Vec<&str> = TOTALS.iter().copied().filter(|_| random.random_bool(0.3)).collect();
        if has_part && random.random_bool(0.5) {
            totals.push("sum(p.amount)");
        }
        if totals.is_empty() {
            totals.push("count(*)");
        }
        let sql = format!("select {} from {from}{condition}", totals.join(", "));
        return Sentence { without_limit: sql.clone(), sql, kind: Kind::Totals };
    }
    let mut columns: Vec<&str> = COLUMNS.iter().copied().filter(|_| random.random_bool(0.3)).collect();
    columns.push("i.item_id");
    if has_part {
        columns.extend(["p.part_id", "p.code", "p.amount"]);
    }
    let named: Vec<String> = columns.iter().enumerate().map(|(at, column)| format!("{column} as c{at}")).collect();
    let plain = format!("select {} from {from}{condition}", named.join(", "));
    let limit = if random.random_bool(0.5) { format!(" limit {}", random.random_range(0..40)) } else { String::new() };
    if random.random_bool(0.3) {
        let kind = if limit.is_empty() { Kind::Rows } else { Kind::SomeRows };
        return Sentence { sql: format!("{plain}{limit}"), without_limit: plain, kind };
    }
    // All columns are keys, in a random order: only equal rows could stand in either order.
    let mut keys = Vec::new();
    let mut left: Vec<usize> = (0..columns.len()).collect();
    while !left.is_empty() {
        let at = left.remove(random.random_range(0..left.len()));
        let key = match random.random_range(0..3) {
            0 => format!("c{at}"),
            1 => format!("{}", at + 1),
            _ => columns[at].to_owned(),
        };
        let direction = ["", " asc", " desc", " desc nulls last", " nulls first"][random.random_range(0..5)];
        keys.push(format!("{key}{direction}"));
    }
    let ordered = format!("{plain} order by {}", keys.join(", "));
    Sentence { sql: format!("{ordered}{limit}"), without_limit: ordered, kind: Kind::InOrder }
}
