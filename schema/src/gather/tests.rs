//! The judgement by examples. That what is put together is what one database would answer is shown on real servers.

use super::{Aggregate, Gather, OutputColumn, SortKey, Total, gather};
use crate::definition::{Column, ReferenceTable, RootEntity, Schema, SqlFile, TreeTable};
use crate::value::Type;

fn columns(names: &[(&str, Type)]) -> Vec<Column> {
    names.iter().map(|(name, r#type)| Column { name: (*name).to_owned(), r#type: r#type.clone() }).collect()
}

fn table(name: &str, key: &str, columns: Vec<Column>) -> TreeTable {
    TreeTable { name: name.to_owned(), key_column: key.to_owned(), parent: None, columns, primary_key: vec![key.to_owned()] }
}

fn root(name: &str, key: &str, tables: Vec<TreeTable>) -> RootEntity {
    RootEntity {
        name: name.to_owned(),
        table: name.to_owned(),
        key_column: key.to_owned(),
        key_type: Type::Bigint,
        tables,
        has_journal: false,
        is_placed_by_region: false,
    }
}

/// Accounts with entries and notes, safes as another tree, currencies as reference data, and some code.
fn schema() -> Schema {
    let account = columns(&[("id", Type::Bigint), ("owner", Type::Text), ("currency", Type::Text), ("balance", Type::Numeric)]);
    let entry = columns(&[("account_id", Type::Bigint), ("entry_id", Type::Uuid), ("amount", Type::Numeric)]);
    let note = columns(&[("account_id", Type::Bigint), ("note_id", Type::Bigint), ("words", Type::Text)]);
    let safe = columns(&[("id", Type::Bigint), ("content", Type::Text)]);
    let currency = columns(&[("code", Type::Text), ("name", Type::Text), ("digits", Type::Integer)]);
    let tables = vec![table("account", "id", account), table("entry", "account_id", entry), table("note", "account_id", note)];
    let text = "create table account (id bigint);\n\
        create function interest(a bigint) returns bigint language sql as $$ select 1 from account $$;\n\
        create or replace view public.rich as select * from account;";
    Schema {
        name: "gather".to_owned(),
        version: 1,
        partitions: 16,
        regions: Vec::new(),
        roots: [root("account", "id", tables), root("safe", "id", vec![table("safe", "id", safe)])]
            .map(|root| (root.name.clone(), root))
            .into(),
        reference: vec![ReferenceTable {
            name: "currency".to_owned(),
            columns: currency,
            primary_key: vec!["code".to_owned()],
            is_referred_to: true,
            referred_columns: vec!["code".to_owned()],
        }],
        transactions: [].into(),
        chains: [].into(),
        invariants: Vec::new(),
        deferrable: Vec::new(),
        insert_only: vec![],
        content_keys: vec![],
        stages: vec![],
        table_files: vec![SqlFile { path: "tables.sql".to_owned(), text: text.to_owned() }],
    }
}

fn judged(sql: &str) -> Gather {
    gather(&schema(), sql).unwrap_or_else(|why| panic!("{sql}: {} {why}", why.code))
}

fn refused(sql: &str) -> (&'static str, String) {
    match gather(&schema(), sql) {
        Ok(gathered) => panic!("{sql}: {gathered:?}"),
        Err(why) => {
            assert!(why.help.len() > 10 && why.message.len() > 10 && !why.message.ends_with('.'), "{why:?}");
            (why.code, why.message)
        }
    }
}

fn rows(limit: Option<u64>) -> Gather {
    Gather::Rows { order: Vec::new(), limit }
}

#[test]
fn rows_of_one_root_each_are_those_of_all_peers_together() {
    for sql in [
        "select * from account",
        "select id, upper(owner) as o, balance + 1 from public.account as a where a.balance > 10 or owner like 'A%'",
        "select a.id, e.amount from account a join entry e on e.account_id = a.id and e.amount > 0",
        "select a.id, e.amount from account a, entry e where (a.id = e.account_id) and e.amount > 0",
        "select a.id, e.amount from account a left join entry e on a.id = e.account_id left join note n on n.account_id = e.account_id",
        "select 1 as one from entry join note using (account_id)",
        "select a.id, c.name from account a join currency c on c.code = a.currency",
        "select a.id, c.name from account a left join currency c on c.code = a.currency",
        "select a.id, c.name from currency c join account a on c.code = a.currency",
        "select a.id, c.n from account a join (select code, count(*) as n from currency group by code) c on c.code = a.currency",
        "select id from account where balance <> (select coalesce(sum(amount), 0) from entry where entry.account_id = account.id)",
        "select id, (select max(e.amount) from entry e where e.account_id = id) as most from account",
        "select id from account a where exists (select from entry e join note n on n.account_id = e.account_id where e.account_id = a.id)",
        "select id from account a where exists (select 1 from entry e where e.account_id = a.id and exists (select 1 from note n where n.account_id = a.id))",
        "select id from account where id in (select account_id from entry where amount > 5)",
        "select id from account where not id in (select entry.account_id from entry join note using (account_id))",
        "select id from account where currency in (select code from currency order by name limit 2)",
        "select id from account where balance > (select avg(digits) from currency)",
        "select case when balance > 0 then 'rich' else 'poor' end as c, current_date, extract(year from now()) from account",
        "select \"id\" from \"account\"",
    ] {
        assert_eq!(judged(sql), rows(None), "{sql}");
    }
    assert_eq!(judged("select * from account limit 7"), rows(Some(7)));
    assert_eq!(judged("select * from account fetch first 3 rows only"), rows(Some(3)));
    assert_eq!(judged("select * from account limit all"), rows(None));
}

#[test]
fn what_reads_no_tree_is_one_peers_affair() {
    for sql in [
        "select 1",
        "values (1), (2)",
        "select count(distinct name) from currency group by digits having count(*) > 1 order by 1 offset 2",
        "with c as (select * from currency) select * from c union select * from currency",
        "select n from generate_series(1, 3) as n",
    ] {
        assert_eq!(judged(sql), Gather::OnePeer, "{sql}");
    }
}

#[test]
fn totals_are_put_together_if_they_stand_alone() {
    let of = |aggregate| Total { aggregate, is_bytewise: false };
    let sql = "select count(*), count(balance) as n, sum(balance), min(balance), max(balance + 1) from account where balance > 0";
    let wanted = [Aggregate::Count, Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max].map(of);
    assert_eq!(judged(sql), Gather::Totals(wanted.into()));
    assert_eq!(
        judged("select sum(amount) filter (where amount > 0) from account join entry on account_id = id"),
        Gather::Totals(vec![of(Aggregate::Sum)])
    );
    let least = Total { aggregate: Aggregate::Min, is_bytewise: true };
    assert_eq!(judged("select min(owner collate \"C\") from account"), Gather::Totals(vec![least]));
}

#[test]
fn an_order_is_found_in_the_result() {
    let key = |column| SortKey { column, is_descending: false, nulls_first: false, is_bytewise: false };
    let at = |at| key(OutputColumn::At(at));
    let named = |name: &str| key(OutputColumn::Named(name.to_owned()));
    for (sql, wanted) in [
        ("select owner, id from account order by id", at(1)),
        ("select owner, id from account a order by a.id", at(1)),
        ("select owner, a.id as key from account a order by id", at(1)),
        ("select owner as id, id as o from account order by id", at(0)),
        ("select owner as id, id as o from account order by account.id", at(1)),
        ("select owner, id from account order by 2", at(1)),
        ("select balance + 1 as more from account order by balance + 1", at(0)),
        ("select * from account order by id", named("id")),
        ("select *, balance as b from account order by account.balance", named("b")),
        ("select a.*, e.amount from account a join entry e on e.account_id = a.id order by a.owner", named("owner")),
        ("select owner from account order by owner collate \"C\"", SortKey { is_bytewise: true, ..at(0) }),
        ("select owner collate \"C\" as o from account order by o", SortKey { is_bytewise: true, ..at(0) }),
        // The peers order by the column's own collation here.
        ("select owner collate \"C\" as o from account order by owner", at(0)),
        ("select id from account order by id desc", SortKey { is_descending: true, nulls_first: true, ..at(0) }),
        ("select id from account order by id desc nulls last", SortKey { is_descending: true, ..at(0) }),
        ("select id from account order by id nulls first", SortKey { nulls_first: true, ..at(0) }),
    ] {
        assert_eq!(judged(&format!("{sql} limit 5")), Gather::Rows { order: vec![wanted.clone()], limit: Some(5) }, "{sql}");
        assert_eq!(judged(sql), Gather::Rows { order: vec![wanted], limit: None }, "{sql}");
    }
}

#[test]
fn what_needs_rows_of_several_peers_is_refused_by_name() {
    let mut wrong = Vec::new();
    for (code, sql) in [
        ("RW2020", "select (1"),
        ("RW2020", "update account set balance = 0"),
        ("RW2020", "select 1; select 2"),
        ("RW2020", ""),
        ("RW2020", "table account"),
        ("RW2020", "select * from currency union table account"),
        ("RW2020", "select id into x from account"),
        ("RW2020", "select * from account for update"),
        ("RW2021", "select * from account a join entry e on e.amount = a.balance"),
        ("RW2021", "select * from account a join entry e on e.account_id = a.id or true"),
        ("RW2021", "select * from account a join entry e on not e.account_id = a.id"),
        ("RW2021", "select * from account a, entry e"),
        ("RW2021", "select * from account a cross join account b"),
        ("RW2021", "select * from account a join account b on a.balance = b.id"),
        ("RW2021", "select * from account a left join entry e on e.amount > a.balance where e.account_id = a.id"),
        ("RW2021", "select * from account a join entry e on true left join note n on n.account_id = e.account_id and e.account_id = a.id"),
        ("RW2021", "select * from account join safe on safe.id = account.id"),
        ("RW2021", "select * from account where balance > (select avg(balance) from account)"),
        ("RW2021", "select * from account where exists (select 1 from entry where amount > 1)"),
        ("RW2021", "select * from account where exists (select 1 from entry where account_id = account_id)"),
        ("RW2021", "select * from account where id in (select account_id from entry limit 3)"),
        ("RW2021", "select * from account where id in (select max(account_id) from entry)"),
        ("RW2021", "select * from account where balance in (select account_id from entry)"),
        (
            "RW2021",
            "select e.account_id from account a left join entry e on e.account_id = a.id where e.account_id not in (select account_id from note)",
        ),
        ("RW2021", "select * from account where id in (select entry_id from entry)"),
        ("RW2021", "select * from currency where exists (select 1 from account where currency = code)"),
        ("RW2021", "select (select sum(account.balance)) from account"),
        ("RW2021", "select (select sum(balance) from currency) from account"),
        ("RW2022", "select * from currency c left join account a on a.currency = c.code"),
        ("RW2022", "select * from account a right join currency c on a.currency = c.code"),
        ("RW2022", "select * from account a full join entry e on e.account_id = a.id"),
        ("RW2022", "select * from account natural join entry"),
        ("RW2022", "select distinct owner from account"),
        ("RW2022", "select distinct on (owner) * from account"),
        ("RW2022", "select owner, count(*) from account group by owner"),
        ("RW2022", "select count(*) from account group by ()"),
        ("RW2022", "select count(*) from account having count(*) > 1"),
        ("RW2022", "select avg(balance) from account"),
        ("RW2022", "select sum(balance) + 1 from account"),
        ("RW2022", "select coalesce(sum(balance), 0) from account"),
        ("RW2022", "select sum(balance), owner from account"),
        ("RW2022", "select count(distinct owner) from account"),
        ("RW2022", "select count(*) over () from account"),
        ("RW2022", "select row_number() over (order by id) from account"),
        ("RW2022", "select string_agg(owner, ',') from account"),
        ("RW2022", "select unheard_of(owner) from account"),
        ("RW2022", "select id from account where sum(balance) > 1"),
        ("RW2022", "select id from account union select account_id from entry"),
        ("RW2022", "select id from account except select id from account"),
        ("RW2022", "with a as (select * from account) select * from a"),
        ("RW2022", "select * from (select * from account) a"),
        ("RW2022", "select * from account a, lateral (select * from currency) c"),
        ("RW2022", "select * from account tablesample system (10)"),
        ("RW2022", "select * from account as a (x, y)"),
        ("RW2022", "select * from account a, generate_series(1, 3) n"),
        ("RW2022", "select * from account offset 3"),
        ("RW2022", "select * from account limit 3 offset 3"),
        ("RW2022", "select * from account limit 1 + 1"),
        ("RW2022", "select * from account fetch first 3 rows with ties"),
        ("RW2022", "select count(*) from account limit 0"),
        ("RW2022", "(select id from account order by id limit 1)"),
        ("RW2022", "with account as (select 1 as id) select * from account"),
        ("RW2023", "select owner from account order by id"),
        ("RW2023", "select owner, id as o from account order by lower(owner)"),
        ("RW2023", "select abs(balance), id from account order by abs"),
        ("RW2023", "select owner from account order by owner collate \"de_DE\""),
        ("RW2023", "select a.*, 1 as one from account a join currency c on c.code = a.currency order by c.name"),
        ("RW2023", "select id as x, balance as x from account order by x"),
        ("RW2024", "select * from pg_class"),
        ("RW2024", "select * from other.account"),
        ("RW2024", "select * from rich"),
        ("RW2024", "select interest(id) from account"),
        ("RW2024", "select query_to_xml('select 1', true, true, '')"),
        ("RW2024", "select 1 where exists (select from nowhere)"),
    ] {
        let (found, why) = refused(sql);
        if found != code {
            wrong.push(format!("{sql}: {found}, {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn operators_of_the_schemas_own_leave_nothing_to_be_seen() {
    let mut schema = schema();
    schema.table_files[0].text += "create operator = (function = interest);";
    assert_eq!(gather(&schema, "select * from account").expect_err("an operator").code, "RW2024");
    assert_eq!(gather(&schema, "select * from currency"), Ok(Gather::OnePeer));
}

#[test]
fn a_refusal_says_what_to_write() {
    let why = gather(&schema(), "select * from account a join entry e on e.amount = a.balance").expect_err("refused");
    assert_eq!(why.message, "`a` and `e` are joined, but not on the root key, so rows of different peers would meet");
    assert_eq!(why.help, "join on `a.id = e.account_id`; or read the rows of each peer with --per-peer");
}

/// What a router's thread has is far less than a main thread: the deepest statement that is read must fit.
#[test]
fn the_deepest_statement_fits_on_a_small_stack() {
    let schema = schema();
    let judge = move || {
        let long = format!("select id from account where id = 1{}", " + 1".repeat(480));
        let calls = format!("select id from account where {} id = 1", "not ".repeat(30));
        let longer = format!("select id from account where id = 1{}", " + 1".repeat(5_000));
        let list = format!("select id from account where id in ({})", vec!["1"; 5_000].join(", "));
        (
            gather(&schema, &long).is_ok(),
            gather(&schema, &calls).is_ok(),
            gather(&schema, &longer).map_err(|why| why.code),
            gather(&schema, &list).is_ok(),
        )
    };
    let small = std::thread::Builder::new().stack_size(1 << 20).spawn(judge).expect("a thread");
    assert_eq!(small.join().expect("no overflow"), (true, true, Err("RW2020"), true));
}
