//! The schema of these tests, and random programs of calls on it.

use std::collections::HashMap;

use rand::{RngExt as _, rngs::StdRng};
use rootward_proto::v1::{self, value::Kind};
use uuid::Uuid;

pub const MANIFEST: &str = r#"
name = "boxes"
version = 1
partitions = 64
[root.box]
table = "box"
[root.label]
table = "label"
"#;

pub const TABLES: &str = r#"
create table box (
  box_id bigint primary key, name text not null default 'un"na\med', n numeric(12, 2) not null default 0 check (n > -1000), small smallint,
  doc jsonb default '{"a": [1, "}"]}', raw bytea default '\x00ff', at timestamptz not null default '2024-01-01 00:00:00+00', tag uuid,
  note varchar(12), half numeric generated always as (n / 2) stored
);
create table item (
  box_id bigint not null references box, kind text not null, item_no integer not null, code text, amount numeric, f double precision,
  i integer, day date, flag boolean default true, at timestamptz, raw bytea, doc jsonb, made timestamptz not null default now(),
  primary key (box_id, kind, item_no), unique (box_id, code), constraint unlucky check (amount is null or amount <> 13)
);
create table label (label_id text primary key, count bigint not null default 0, words text);
create table mark (label_id text not null references label, mark_id uuid not null, words text, primary key (label_id, mark_id));
"#;

/// Those named `row_…` are outside of the class.
pub const TRANSACTIONS: &str = r#"
-- name: open_box
-- root: box = :box_id
insert into box (box_id, name, n, small, tag) values (:box_id, :name, :n, :small, :tag) on conflict do nothing; -- expect: one, else "it is open"
-- name: fill_box
-- root: box = :box_id
select name from box where box_id = :box_id; -- expect: one, else "no box"
update box set name = :name, note = :note::text, doc = :doc, raw = :raw, tag = :tag, at = :at where box_id = :box_id and name is distinct from :name
returning name, note, doc, raw, tag, at, half, small, :note::text as asked; -- expect: some, else "nothing new"
-- name: add
-- root: box = :box_id
update box set n = n + :d::numeric, small = small + 1 where box_id = :box_id returning n, half, name, small; -- expect: one, else "no box"
-- name: small
-- root: box = :box_id
update box set small = :i::integer where box_id = :box_id;
-- name: put
-- root: box = :box_id
insert into item (box_id, kind, item_no, code, amount, f, i, day, at, raw, doc)
values (:box_id, :kind, :item_no, :code, :amount, :f, :i, :day, :at, :raw, :doc)
returning box_id, kind, item_no, code, amount, f, i, day, flag, at, raw, doc;
-- name: put_or_not
-- root: box = :box_id
insert into item (item_no, kind, box_id, code) values (:item_no, :kind, :box_id, :code) on conflict do nothing returning item_no, code, flag;
-- name: put_if
-- root: box = :box_id
select 1 from box where box_id = :box_id; -- expect: one, else "no box"
insert into item (box_id, kind, item_no, amount) select :box_id, :kind, :item_no, -:amount::numeric where :amount >= 0; -- expect: one, else "negative"
update box set n = n + :amount where box_id = :box_id; -- expect: one
-- name: put_new
-- root: box = :box_id
select kind from item where box_id = :box_id and kind = :kind and item_no = :item_no; -- expect: none, else "it is there"
insert into item (box_id, kind, item_no, code) values (:box_id, :kind, :item_no, :code);
-- name: look
-- root: box = :box_id
select item_no, case when i is null then 'none' when i > 0 then 'more' else 'less' end as word, coalesce(code, 'no''code') as code,
  f, amount * 2 as twice, at, flag and i > 0 as both
from item as x where kind = :kind and item_no = :item_no and x.box_id = :box_id;
-- name: take
-- root: box = :box_id
select amount from item where box_id = :box_id and item_no = :item_no and kind = :kind; -- expect: one, else "not there"
delete from item where box_id = :box_id and kind = :kind and item_no = :item_no returning doc, raw, code;
-- name: keep
-- root: box = :box_id
update box set n = n + 1 where box_id = :box_id;
delete from item where box_id = :box_id and kind = :kind and item_no = :item_no; -- expect: none, else "it would be gone"
-- name: share
-- root: box = :box_id
update box set n = n + :d::numeric where box_id = :box_id;
update item set amount = amount / :by::numeric where box_id = :box_id and kind = :kind and item_no = :item_no; -- expect: one, else "nothing to share"
-- name: grow
-- root: box = :box_id
update item set i = i * :by::integer, f = f * 3.7 where box_id = :box_id and kind = :kind and item_no = :item_no returning i, f, kind;
update box set small = small - 1 where box_id = :box_id and n >= 0;
-- name: recode
-- root: box = :box_id
update item set code = :code, flag = not flag where box_id = :box_id and kind = :kind and item_no = :item_no returning code, flag; -- expect: some, else "not there"
-- name: spend
-- root: box = :box_id
select name from box where box_id = :box_id and n >= 0; -- expect: some, else "in debt, or no box"
update box set n = n - :d::numeric where n >= 0 and (small is distinct from 7 and box_id = :box_id) returning n, name; -- expect: one, else "seven"
-- name: clear
-- root: box = :box_id
update box set n = n + 1 where box_id = :box_id;
select code from item where box_id = :box_id and item_no = :item_no and kind = :kind; -- expect: one, else "not there"
delete from item where box_id = :box_id and kind = :kind and item_no = :item_no and flag and 1 / i <= 1 returning code; -- expect: one, else "flag"
-- name: write_label
-- root: label = :label_id
insert into label (label_id, words) values (:label_id, :words) on conflict do nothing;
update label set count = count + 1, words = words || :words::text where label_id = :label_id returning label_id, count, words;
-- name: mark_label
-- root: label = :label_id
insert into mark (label_id, mark_id, words) values (:label_id, :request_id, :words::text || '''}') returning label_id, mark_id, words;
-- name: row_spend
-- root: box = :box_id
select name from box where box_id = :box_id and n >= 0; -- expect: one, else "in debt, or no box"
update box set n = n - abs(round(:d::numeric)) where box_id = :box_id and n >= 0 and mod(small, 2) = 0 returning n; -- expect: one, else "odd"
insert into item (box_id, kind, item_no, i) values (:box_id, :kind, :item_no, :i);
-- name: row_clear
-- root: box = :box_id
select 1 from item where box_id = :box_id and item_no = :item_no and kind = :kind; -- expect: some, else "not there"
delete from item where box_id = :box_id and kind = :kind and item_no = :item_no and 6 / mod(i, 3) > 1 returning upper(code) as code; -- expect: one, else "kept"
-- name: row_sum
-- root: box = :box_id
select count(*) as count, sum(amount) as amount from item where box_id = :box_id;
-- name: row_flip
-- root: box = :box_id
update item set flag = not flag where box_id = :box_id and kind = :kind; -- expect: some, else "nothing to flip"
"#;

/// Texts that break whatever does not quote.
const WORDS: &[&str] = &[
    "",
    " ",
    "plain",
    "NULL",
    "null",
    "it's",
    "a\"b",
    "back\\slash\\",
    "{1,2}",
    "},{",
    "a,b",
    "çà ΩΩ 東京 🦀",
    "$1 $rootward$",
    "-- no",
    "tab\tline\nline",
    " both ends ",
    "%s",
    "\\x00",
    "(1)",
];
const NUMBERS: &[&str] = &["0", "1", "-1", "2.50", "13", "0.005", "-999.99", "1000000", "99999999999", "1e-7", "NaN"];
const FLOATS: &[&str] = &["0", "-0.1", "1e300", "3.14159265358979", "NaN", "Infinity"];
const INTEGERS: &[&str] = &["0", "1", "-7", "32767", "32768", "2147483647"];
const DOCUMENTS: &[&str] = &["null", "{\"b\": \"}\\\"\", \"a\": [1.0, {\"c\": null}]}", "[]", "\"\\\\ \\u00e9\""];
const BYTES: &[&str] = &["\\x", "\\x00ff5c22", "\\xdeadbeef"];
const MOMENTS: &[&str] = &["2026-11-21 10:02:11.5+00", "1999-12-31 23:59:59.999999-05", "infinity"];
const DAYS: &[&str] = &["2026-02-28", "0044-03-15 BC", "infinity"];
const IDS: &[&str] = &["00000000-0000-0000-0000-000000000000", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"];

/// The transactions at boxes; those at labels are their own theme.
const AT_BOXES: &[&str] = &[
    "open_box",
    "fill_box",
    "add",
    "small",
    "put",
    "put_or_not",
    "put_if",
    "put_new",
    "look",
    "take",
    "keep",
    "share",
    "grow",
    "recode",
    "spend",
    "clear",
    "row_spend",
    "row_clear",
    "row_sum",
    "row_flip",
];

/// What one root does in a round: calls that are sent at once, whose order does not matter.
pub type Turn = Vec<v1::CallRequest>;

/// A random choice of what all roots do, round by round.
pub struct Author<'a> {
    pub rng: &'a mut StdRng,
    /// What the ids of this program begin with.
    pub issued_at_ms: i64,
}

impl Author<'_> {
    /// One round: a turn for each of the roots. A few transactions only, so that a batch has many of one.
    pub fn round(&mut self, boxes: &[i64], labels: &[String]) -> Vec<Turn> {
        let themes: Vec<&str> = (0..3).map(|_| self.one_of(AT_BOXES)).collect();
        let mut turns: Vec<Turn> = boxes
            .iter()
            .map(|root| {
                let transaction = themes[self.rng.random_range(0..themes.len())];
                self.turn(transaction, "box_id", &root.to_string())
            })
            .collect();
        let label_theme = self.one_of(&["write_label", "mark_label"]);
        turns.extend(labels.iter().map(|label| self.turn(label_theme, "label_id", label)));
        turns
    }

    fn turn(&mut self, transaction: &str, key: &str, root: &str) -> Turn {
        let call = self.call(transaction, key, root);
        match self.rng.random_range(0..10) {
            // The same request twice at once.
            0 => vec![call.clone(), call],
            // The same root more than once in a batch, by calls of which each leaves the others alone.
            1 if matches!(transaction, "put" | "put_or_not" | "put_new") => {
                let apart = |at: usize| {
                    let mut call = self.call(transaction, key, root);
                    call.arguments.insert("item_no".to_owned(), text(&format!("{}", 100 + at)));
                    call.arguments.insert("code".to_owned(), null());
                    call
                };
                (0..3).map(apart).collect()
            }
            1 if transaction == "mark_label" => (0..3).map(|_| self.call(transaction, key, root)).collect(),
            _ => vec![call],
        }
    }

    pub fn call(&mut self, transaction: &str, key: &str, root: &str) -> v1::CallRequest {
        let text_of = format!("-- name: {transaction}\n");
        let body = TRANSACTIONS.split(&text_of).nth(1).and_then(|rest| rest.split("\n-- name:").next()).unwrap_or_default();
        let mut arguments: HashMap<String, v1::Value> = HashMap::new();
        arguments.insert(key.to_owned(), text(root));
        for (at, _) in body.match_indices(':') {
            let name: String = body[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let is_cast = body[..at].ends_with(':') || body[at + 1..].starts_with(':') || name.is_empty();
            if !is_cast && name != "request_id" && !arguments.contains_key(&name) {
                let value = self.value(&name);
                arguments.insert(name, value);
            }
        }
        let request_id = Uuid::from_u128(self.rng.random::<u128>()).to_string();
        v1::CallRequest {
            transaction: transaction.to_owned(),
            arguments,
            request_id,
            issued_at_ms: self.issued_at_ms,
            ..v1::CallRequest::default()
        }
    }

    fn value(&mut self, name: &str) -> v1::Value {
        let is_key = matches!(name, "kind" | "item_no");
        if self.rng.random_range(0..if is_key { 40 } else { 8 }) == 0 {
            return null();
        }
        let chosen = match name {
            "kind" => self.one_of(&["a", "it's {b}"]),
            "item_no" => self.one_of(&["1", "2", "3"]),
            "code" => self.one_of(&["one", "two", "çode,\"3\""]),
            "n" | "d" | "amount" => self.one_of(NUMBERS),
            "by" => self.one_of(&["0", "1", "2", "-3"]),
            "f" => self.one_of(FLOATS),
            "i" | "small" => self.one_of(INTEGERS),
            "doc" => self.one_of(DOCUMENTS),
            "raw" => self.one_of(BYTES),
            "at" => self.one_of(MOMENTS),
            "day" => self.one_of(DAYS),
            "tag" => self.one_of(IDS),
            _ => self.one_of(WORDS),
        };
        text(chosen)
    }

    fn one_of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.rng.random_range(0..choices.len())]
    }
}

fn text(text: &str) -> v1::Value {
    v1::Value { kind: Some(Kind::Text(text.to_owned())) }
}

fn null() -> v1::Value {
    v1::Value { kind: Some(Kind::Null(true)) }
}
