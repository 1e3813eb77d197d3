//! The class by examples: what is in it, and what is not. That both ways give the same results is shown on real servers.

mod escapes;

use super::compile;
use crate::definition::{Column, DeferrableConstraint, RootEntity, Schema, SetWise, Statement, Target, Transaction, TreeTable};
use crate::facts::{Action, ColumnFact, Facts, ForeignKeyFact, RuleFact, TableFact, TableKind, TriggerFact};
use crate::source::Source;
use crate::value::Type;

/// What the parameters of these tests are.
fn type_of(parameter: &str) -> Type {
    match parameter {
        "a" | "b" | "k" => Type::Bigint,
        "f" => Type::Double,
        "t" | "s" => Type::Text,
        "at" | "now" => Type::Timestamptz,
        "mood" => Type::Other("mood".to_owned()),
        _ => Type::Numeric,
    }
}

fn fact(name: &str, primary_key: &[&str]) -> TableFact {
    let columns = [
        ("a", Type::Bigint),
        ("k", Type::Bigint),
        ("f", Type::Double),
        ("t", Type::Text),
        ("n", Type::Numeric),
        ("at", Type::Timestamptz),
        ("Odd", Type::Text),
        ("default", Type::Text),
        ("current_role", Type::Text),
    ];
    let column = |(name, r#type): (&str, Type)| ColumnFact {
        name: name.to_owned(),
        is_not_null: primary_key.contains(&name),
        default: (name == "at").then(|| "now()".to_owned()),
        is_identity: false,
        is_generated: false,
        r#type,
    };
    TableFact {
        name: name.to_owned(),
        columns: columns.map(column).into(),
        primary_key: primary_key.iter().map(|&name| name.to_owned()).collect(),
        ..TableFact::default()
    }
}

/// Account `a` with entries, entries by float, and a safe that is another root.
fn facts() -> Facts {
    let tables = vec![fact("account", &["a"]), fact("entry", &["a", "k"]), fact("floating", &["a", "f"]), fact("safe", &["a"])];
    Facts { tables, ..Facts::default() }
}

fn root(facts: &Facts, name: &str, tables: &[&str]) -> RootEntity {
    let tree_table = |table: &TableFact| TreeTable {
        name: table.name.clone(),
        key_column: "a".to_owned(),
        parent: None,
        columns: table.plain_columns(),
        primary_key: table.primary_key.clone(),
    };
    RootEntity {
        name: name.to_owned(),
        table: name.to_owned(),
        key_column: "a".to_owned(),
        key_type: Type::Bigint,
        tables: facts.tables.iter().filter(|table| tables.contains(&table.name.as_str())).map(tree_table).collect(),
        has_journal: false,
        is_placed_by_region: false,
    }
}

/// The transaction as the check would hand it on, at the root `account = :a`.
fn transaction(source: &Source, columns: usize) -> Transaction {
    let [read] = source.transactions.as_slice() else { panic!("one transaction") };
    let statement = |statement: &crate::transaction_file::StatementSource| {
        let words = statement.sql.to_lowercase();
        let named = |name: &String| Column { name: name.clone(), r#type: type_of(name) };
        Statement {
            parameters: statement.parameters.iter().map(|name| named(&name.value)).collect(),
            returns_rows: words.starts_with("select") || words.starts_with("with") || words.contains("returning"),
            expect: statement.expect.clone(),
            is_told_by_next: false,
            line: statement.line,
            sql: statement.sql.clone(),
        }
    };
    Transaction {
        name: "t".to_owned(),
        target: Target::Root { entity: "account".to_owned(), parameter: "a".to_owned() },
        parameters: Vec::new(),
        statements: read.statements.iter().map(statement).collect(),
        columns: (1..=columns).map(|at| Column { name: format!("c{at}"), r#type: Type::Text }).collect(),
        can_refuse: true,
        writes: true,
        may_change_settings: false,
        set_wise: None,
        file: "transactions/t.sql".to_owned(),
        line: 1,
    }
}

fn schema<const N: usize>(roots: [RootEntity; N]) -> Schema {
    Schema {
        name: "class".to_owned(),
        version: 1,
        partitions: 16,
        regions: Vec::new(),
        roots: roots.into_iter().map(|root| (root.name.clone(), root)).collect(),
        reference: Vec::new(),
        transactions: [].into(),
        chains: [].into(),
        invariants: Vec::new(),
        deferrable: Vec::new(),
        insert_only: vec![],
        content_keys: vec![],
        stages: vec![],
        table_files: Vec::new(),
    }
}

/// What becomes of these statements where the tables are as `facts` say; `columns` is how many the answer has.
fn compiled(facts: &Facts, tables: &str, sql: &str, columns: usize) -> Option<SetWise> {
    let text = format!("-- name: t\n-- root: account = :a\n{sql};\n");
    let source = Source::from_texts([("rootward.toml", ""), ("tables.sql", tables), ("transactions/t.sql", text.as_str())]);
    let roots = [root(facts, "account", &["account", "entry", "floating"]), root(facts, "safe", &["safe"])];
    let mut schema = schema(roots);
    schema.transactions.insert("t".to_owned(), transaction(&source, columns));
    compile(&source, facts, &mut schema);
    schema.transactions.remove("t").and_then(|transaction| transaction.set_wise)
}

fn is_in(sql: &str, columns: usize) -> bool {
    compiled(&facts(), "", sql, columns).is_some()
}

#[test]
fn one_row_of_one_table_is_in_the_class() {
    for (columns, sql) in [
        (1, "select n from account where a = :a"),
        // Whatever it says, it is about the unit's own row.
        (1, "select n from account where a = :a or true"),
        (9, "select * from entry where k = :k and a = :a"),
        (2, "select e.n, e.\"Odd\" from entry as e where e.a = :a and (e.k = 7 and e.n > :n)"),
        (1, "select case when n > 0 then 'much' else 'little' end as c from account where a = :a"),
        (
            1,
            "select coalesce(t, :t, 'it''s') as c from account where a = :a and t is distinct from :s and n between 1 and 2 or false is null",
        ),
        (0, "update account set n = n + :n, t = nullif(:t, '') where a = :a"),
        (0, "update entry set t = 'x' where a = :a and k = :k::bigint"),
        (2, "update entry set f = :f where a = :a and k = cast(:k as bigint) returning n - :n as c, greatest(n, 0) as d"),
        (0, "delete from entry where a = :a and k = :k"),
        (1, "delete from public.entry where a = :a and k = :k returning t"),
        (0, "insert into entry (a, k, t) values (:a, :k, 'at has a default')"),
        (1, "insert into entry (a, k, n) select :a, :k, -:n::numeric where :n >= 0 on conflict do nothing returning n"),
        (0, "insert into entry (k, a) values (:k, :a) on conflict do nothing"),
        (0, "update entry set n = 1 /* k is not all */ where a = :a -- nor is this\n and k = :k"),
        (1, "select n from account where a = :a; update account set n = 0 where a = :a; delete from entry where a = :a and k = 1"),
        (0, "update account set n = 0 where a = :a; -- expect: some\ndelete from entry where a = :a and k = 1"),
    ] {
        assert!(is_in(sql, columns), "outside: {sql}");
    }
}

#[test]
fn whatever_else_a_statement_has_puts_it_outside() {
    let outside = [
        // More than one row, or more than one table.
        (1, "select n from entry where a = :a"),
        (1, "select n from account"),
        (1, "select n from entry where a = :a or k = :k"),
        (1, "select n from entry where a = :a and k > :k"),
        (1, "select n from entry where a = :a and k in (:k)"),
        (1, "select n from entry where a = :a and (k = :k or k = 1)"),
        (1, "select n from entry where a = :a and not (k = :k)"),
        (1, "select n from entry where a = :a and k = n"),
        (1, "select n from entry where a = :a and k = :k + 0"),
        (1, "select n from entry where a = :a and k = :k is true"),
        (1, "select n from entry where a = :a and k = :k and t is distinct from 'x' or true"),
        (1, "select account.n from account join entry using (a) where account.a = :a"),
        (1, "select account.n from account, entry where account.a = :a and entry.a = :a and k = 1"),
        (1, "select n from account where a = :a union all select n from account where a = :a"),
        (1, "update account set n = entry.n from entry where account.a = :a and entry.a = :a and entry.k = 1 returning account.n"),
        (0, "delete from entry using account where entry.a = :a and entry.k = :k and account.a = :a"),
        (0, "insert into entry (a, k) values (:a, :k), (:a, 2)"),
        (0, "insert into entry (a, k) select a, k from entry where a = :a and k = :k"),
        (1, "select n from only account where a = :a"),
        (1, "select n from account tablesample system (100) where a = :a"),
        // Other tables than those of the tree.
        (1, "select t from safe where a = :a"),
        (1, "select t from nowhere where a = :a"),
        (1, "select t from other.account where a = :a"),
        (1, "select rolname as c from pg_catalog.pg_roles where a = :a"),
        // A pin by what many values equal.
        (1, "select n from floating where a = :a and f = :f"),
        (1, "select n from floating where a = :a and f = 1"),
        (1, "select n from entry where a = :a and k = :f"),
        (1, "select n from entry where a = :a and k = :k::real"),
        (1, "select n from entry where a = :a and k = :f::bigint"),
        // Subqueries, functions, clauses.
        (1, "with x as (select n from account where a = :a) select n from x"),
        (1, "with x as (delete from entry where a = :a) select n from account where a = :a"),
        (1, "select (select 1) as c from account where a = :a"),
        (1, "select n from account where a = :a and exists (select from entry)"),
        (1, "select n from account where a = :a and n = any (select n from entry)"),
        (1, "select n from account where a = :a and n = (select 1)"),
        (1, "select upper(t) as c from account where a = :a"),
        (1, "select count(*) as c from account where a = :a"),
        (1, "select max(n) as c from account where a = :a"),
        (1, "select coalesce(n, 0) over () as c from account where a = :a"),
        (1, "select now() as c from account where a = :a"),
        (1, "select current_timestamp as c from account where a = :a"),
        (1, "select current_user as c from account where a = :a"),
        (1, "select current_role as c from account where a = :a"),
        (1, "select random() as c from account where a = :a"),
        (1, "select public.abs(n) as c from account where a = :a"),
        (1, "select n from account where a = :a limit 1"),
        (1, "select n from account where a = :a offset 0"),
        (1, "select n from account where a = :a order by n"),
        (1, "select n from account where a = :a for update"),
        (1, "select n from account where a = :a for key share"),
        (1, "select n from account where a = :a group by n"),
        (1, "select n from account where a = :a having true"),
        (1, "select distinct n from account where a = :a"),
        (1, "select distinct on (n) n from account where a = :a"),
        (1, "select array[n] as c from account where a = :a"),
        (1, "select row(n) as c from account where a = :a"),
        (1, "select ctid as c from account where a = :a"),
        (1, "select t like 'x' as c from account where a = :a"),
        (1, "select t collate \"C\" as c from account where a = :a"),
        (1, "select n operator(pg_catalog.+) 1 as c from account where a = :a"),
        (1, "select at at time zone 'UTC' as c from account where a = :a"),
        (1, "select t::regclass as c from account where a = :a"),
        (1, "select :mood as c from account where a = :a"),
        (1, "select e'\\047' as c from account where a = :a"),
        (1, "select U&'\\0047' as c from account where a = :a"),
        (1, "select 'a\\b' as c from account where a = :a"),
        (1, "select $$x$$ as c from account where a = :a"),
        (1, "select 'a'\n'b' from account where a = :a"),
        (1, "select n 'b' from account where a = :a"),
        // The row of INSERT is the unit's own, by the parameter itself.
        (0, "insert into entry (a, k) values (:b, :a)"),
        (0, "insert into entry (a, k) values (:a + 0, :k)"),
        (0, "insert into entry (a, k) values (:a::bigint, :k)"),
        (0, "insert into entry (a, k) values (7, :a)"),
        (0, "insert into entry values (:a, :k)"),
        (0, "insert into entry default values"),
        (0, "insert into entry (a, k, t) values (:a, :k, default)"),
        (0, "insert into entry (a, k) overriding system value values (:a, :k)"),
        (0, "insert into entry as e (a, k) values (:a, :k)"),
        (0, "insert into entry (a, k) values (:a, :k) on conflict (a, k) do nothing"),
        (0, "insert into entry (a, k) values (:a, :k) on conflict (a, k) do update set t = 'x'"),
        (0, "insert into entry (a, k) values (:a, :k) on conflict on constraint entry_pkey do nothing"),
        (1, "insert into entry (a, k) values (:a, :k) returning :k as c"),
        (1, "insert into entry (a, k) values (:a, :k) returning lower(t) as c"),
        // Keys stay.
        (0, "update account set a = :b where a = :a"),
        (0, "update entry set k = :b where a = :a and k = :k"),
        (0, "update entry set (t, n) = ('x', 1) where a = :a and k = :k"),
        (0, "update entry set t = default where a = :a and k = :k"),
        (0, "update entry set t = (select 'x') where a = :a and k = :k"),
        (1, "update entry set t = 'x' where a = :a and k = :k returning lower(t) as c"),
        (1, "update entry set t = 'x' where a = :a and k = :k returning entry as c"),
        (0, "merge into account using (values (1)) as v (a) on account.a = :a when matched then do nothing"),
        (0, "truncate entry"),
        // One statement of many is enough.
        (1, "update account set n = 0 where a = :a; select sum(n) as c from entry where a = :a"),
        (1, "select n from entry where a = :a and k = 1; -- expect: 2\n"),
        // Two of the names that the function makes up.
        (1, "select rw_s.n from entry as rw_s where rw_s.a = :a and rw_s.k = 1"),
    ];
    let wrong: Vec<&str> = outside.iter().filter(|(columns, sql)| is_in(sql, *columns)).map(|(_, sql)| *sql).collect();
    assert!(wrong.is_empty(), "inside:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_hidden_in_comments_and_strings_is_no_part_of_a_statement() {
    let hidden = "update entry set t = '-- or true' /* or true /* or true */ or true */ where a = :a and k = :k";
    let made = compiled(&facts(), "", hidden, 0).expect("it is in the class");
    assert!(made.sql.contains("set \"t\" = '-- or true' from"), "{}", made.sql);
    assert!(!made.sql.contains("/*"), "{}", made.sql);
    for sql in [
        "update entry set t = '' -- where a = :a and k = :k",
        "update entry set t = '''' where a = :a and t = ' and k = :k'",
        "update entry set t = 'where k = 1' where a = :a",
        "update entry set t = '$rootward$' where a = :a and k = :k",
    ] {
        assert!(!is_in(sql, 0), "{sql}");
    }
}

/// A transaction that reads, writes and removes, and one that adds.
const CHANGES: &str = "update account set n = 0 where a = :a; delete from account where a = :a";
const ADDS: &str = "insert into account (a) values (:a)";

/// Whether [`CHANGES`] and [`ADDS`] are in the class where account is another table than usual.
fn after(change: impl FnOnce(&mut Facts)) -> (bool, bool) {
    let mut changed = facts();
    change(&mut changed);
    (compiled(&changed, "", CHANGES, 0).is_some(), compiled(&changed, "", ADDS, 0).is_some())
}

#[test]
fn tables_where_something_else_happens_are_outside() {
    assert_eq!(after(|_| {}), (true, true));
    let trigger = TriggerFact { name: "g".to_owned(), function: "f".to_owned() };
    assert_eq!(after(|facts| facts.tables[0].triggers.push(trigger)), (false, false));
    assert_eq!(after(|facts| facts.rules.push(RuleFact { name: "r".to_owned(), table: "account".to_owned() })), (false, false));
    let deferrable = || DeferrableConstraint { name: "later".to_owned(), is_initially_deferred: true };
    assert_eq!(after(|facts| facts.tables[0].deferrable.push(deferrable())), (false, false));
    assert_eq!(after(|facts| facts.tables[0].calls_functions = true), (false, false));
    assert_eq!(after(|facts| facts.tables[0].kind = TableKind::Partitioned), (false, false));
    assert_eq!(after(|facts| facts.tables[1].is_inherited = true), (false, false), "perhaps from this one");
    assert_eq!(after(|facts| facts.tables[0].columns[4].r#type = Type::Other("mood".to_owned())), (false, false));
    assert_eq!(after(|facts| facts.tables[0].columns[4].name = "rw_n".to_owned()), (false, false));
    // Another tree's table may be what it wants.
    assert_eq!(after(|facts| facts.tables[3].calls_functions = true), (true, true));
    let makes = "create operator + (leftarg = text, rightarg = text, function = plus)";
    assert!(compiled(&facts(), makes, ADDS, 0).is_none(), "an operator of the schema's could be meant");
}

#[test]
fn what_a_row_refers_to_by_foreign_keys_counts() {
    let refers = |on_delete, on_update| {
        move |facts: &mut Facts| {
            facts.tables[1].foreign_keys.push(ForeignKeyFact {
                name: "later".to_owned(),
                columns: vec!["a".to_owned()],
                target: "account".to_owned(),
                target_columns: vec!["a".to_owned()],
                on_delete,
                on_update,
            });
        }
    };
    assert_eq!(after(refers(Action::NoAction, Action::Restrict)), (true, true));
    for writes in [Action::Cascade, Action::SetNull, Action::SetDefault] {
        assert_eq!(after(refers(writes, Action::NoAction)), (false, true), "rows of other tables go with it");
        assert_eq!(after(refers(Action::NoAction, writes)), (false, true), "rows of other tables change with it");
    }
    let deferred = |facts: &mut Facts| {
        refers(Action::NoAction, Action::NoAction)(facts);
        facts.tables[1].deferrable.push(DeferrableConstraint { name: "later".to_owned(), is_initially_deferred: true });
    };
    assert_eq!(after(deferred), (false, true), "the check that waits for COMMIT is the other table's constraint");
}

#[test]
fn columns_that_an_insert_leaves_out_are_given_plain_values_only() {
    let with = |default: &str| after(|facts| facts.tables[0].columns[3].default = Some(default.to_owned()));
    for plain in ["'x'::text", "now()", "CURRENT_TIMESTAMP", "7"] {
        assert_eq!(with(plain), (true, true), "{plain}");
    }
    for other in
        ["nextval('s'::regclass)", "gen_random_uuid()", "(now() + '1 day'::interval)", "CURRENT_USER", "SESSION_USER", "CURRENT_SCHEMA"]
    {
        assert_eq!(with(other), (true, false), "{other}");
    }
    assert_eq!(after(|facts| facts.tables[0].columns[3].is_identity = true), (true, false));
    assert_eq!(after(|facts| facts.tables[0].columns[3].is_generated = true), (true, true));
}

#[test]
fn transactions_that_are_no_roots_or_call_functions_are_outside() {
    let is_in = |change: &dyn Fn(&mut Transaction)| {
        let facts = facts();
        let source = Source::from_texts([
            ("rootward.toml", ""),
            ("transactions/t.sql", "-- name: t\n-- root: account = :a\nupdate account set n = 1 where a = :a;\n"),
        ]);
        let mut transaction = transaction(&source, 0);
        change(&mut transaction);
        super::compile_one(&facts, &schema([root(&facts, "account", &["account"])]), &transaction).is_some()
    };
    assert!(is_in(&|_| {}));
    assert!(!is_in(&|transaction| transaction.target = Target::Reference));
    assert!(!is_in(&|transaction| transaction.may_change_settings = true));
    assert!(!is_in(&|transaction| transaction.statements.clear()));
    assert!(!is_in(&|transaction| transaction.target = Target::Root { entity: "account".to_owned(), parameter: "b".to_owned() }));
}

/// How many statements may miss without anything to take back.
fn clean(sql: &str) -> u32 {
    compiled(&facts(), "", sql, usize::from(sql.starts_with("select"))).map_or(99, |made| made.clean_statements)
}

#[test]
fn a_miss_leaves_nothing_behind_up_to_the_first_write() {
    let reads = "select n from account where a = :a; -- expect: one\n";
    let writes = "update account set n = 0 where a = :a; -- expect: one\n";
    assert_eq!(clean(reads), 1);
    assert_eq!(clean(&format!("{reads}{writes}{writes}")), 2);
    assert_eq!(clean(&format!("{reads}{reads}{writes}")), 3);
    assert_eq!(clean("delete from entry where a = :a and k = 1; -- expect: none\n"), 0, "its miss is a row that is gone");
    assert_eq!(clean("insert into entry (a, k) values (:a, 1); update account set n = 0 where a = :a; -- expect: one\n"), 1);
}

/// Which statements needn't run, by their places; and what a set-wise function makes of them.
fn told(sql: &str) -> (Vec<usize>, Option<SetWise>) {
    let text = format!("-- name: t\n-- root: account = :a\n{sql}\n;\n");
    let source = Source::from_texts([("rootward.toml", ""), ("transactions/t.sql", text.as_str())]);
    let facts = facts();
    let mut schema = schema([root(&facts, "account", &["account", "entry"])]);
    schema.transactions.insert("t".to_owned(), transaction(&source, 1));
    compile(&source, &facts, &mut schema);
    let made = schema.transactions.remove("t").expect("it is there");
    let statements = made.statements.iter().enumerate();
    (statements.filter(|(_, statement)| statement.is_told_by_next).map(|(at, _)| at).collect(), made.set_wise)
}

#[test]
fn what_the_next_statement_tells_is_asked_for_those_alone_whom_it_missed() {
    let there = "select 1 from entry where a = :a and k = :k; -- expect: one, else \"none\"";
    let changed = "update entry set n = 0 where k = :k and (t = 'x' and a = :a) returning n; -- expect: some";
    for (first, second) in [
        (there, changed),
        (there, "delete from entry where a = :a and k = :k and n > 0 returning n; -- expect: one"),
        (there, "select n from entry where a = :a and k = :k and n > 0; -- expect: one"),
        ("select 1 from entry where t = 'x' and a = :a and k = :k; -- expect: some", changed),
    ] {
        let (places, made) = told(&format!("{first}\n{second}"));
        let made = made.expect("it is in the class").sql;
        assert_eq!(places, [0], "{second}");
        assert!(made.contains("  -- statement 1: whoever meets") && made.contains("when rw_x.u = any (rw_found) then 1 else 0"), "{made}");
    }
    // What the second one calls is its own affair, as long as it counts rows that it meets.
    for second in [
        "update entry set n = f(n) where a = :a and k = :k and g(n) returning n; -- expect: one",
        "delete from entry where a = :a and k = :k and exists (select 1) returning h(n) as n; -- expect: some",
    ] {
        let (places, made) = told(&format!("{there}\n{second}"));
        assert_eq!((places.as_slice(), made.is_some()), (&[0][..], false), "{second}");
    }
    for (first, second, why) in [
        (there, "update entry set n = 0 where a = :a and k = :b returning n; -- expect: one", "another row"),
        (there, "update entry set n = 0 where a = :a and (k = :k or n > 0) returning n; -- expect: one", "perhaps another row"),
        (there, "update account set n = 0 where a = :a returning n; -- expect: one", "another table"),
        (there, "update entry as k set n = 0 where k.a = :a and k.k = :k returning n; -- expect: one", "another name"),
        (there, "update entry set n = 0 from account where entry.a = :a and k = :k returning n; -- expect: one", "two tables"),
        (there, "update entry set n = 0 where a = :a and k = :k returning n; -- expect: none", "no row is wanted"),
        (there, "update entry set n = 0 where a = :a and k = :k returning n", "nobody looks whether it met one"),
        (there, "select count(*) as n from entry where a = :a and k = :k; -- expect: one", "it counts none, too"),
        (there, "insert into entry (a, k) values (:a, :k) returning n; -- expect: one", "it makes one"),
        ("select 1 from entry where a = :a and k = :k", changed, "nobody looks at the first one"),
        ("select 1 from entry where a = :a and k = :k; -- expect: none", changed, "a row is not wanted"),
        ("select 1 from entry where a = :a; -- expect: one", changed, "of many rows one is wanted"),
        ("select 1 / n from entry where a = :a and k = :k; -- expect: one", changed, "it can fail"),
        ("select f(n) from entry where a = :a and k = :k; -- expect: one", changed, "it does something"),
        ("select 1 from entry where a = :a and k = :k and n > 0; -- expect: one", changed, "more is asked of it"),
        ("select 1 from entry where a = :a and k = :k and (t = 'x' or n > 0); -- expect: one", changed, "it is asked otherwise"),
        ("update entry set n = 1 where a = :a and k = :k; -- expect: one", changed, "it changes rows"),
        (
            "select n from entry where a = :a and k = :k; -- expect: one",
            "update entry set n = 0 where a = :a and k = :k; -- expect: one",
            "it answers",
        ),
    ] {
        let (places, made) = told(&format!("{first}\n{second}"));
        assert!(places.is_empty() && !made.is_some_and(|made| made.sql.contains("rw_found)")), "{why}");
    }
    assert_eq!(told(&format!("{there}\n{there}\n{changed}")).0, [1], "the first one is asked: the second one doesn't run");
}

#[test]
fn a_function_pins_every_statement_by_a_condition_of_its_own() {
    let sql = "select n from account where a = :b; -- expect: one\n\
               update entry e set n = :n where e.k = :k and e.n > 0 or e.a is null and e.k = 1 and e.a = :a and e.k = :k";
    assert!(compiled(&facts(), "", sql, 1).is_none(), "an OR is no pin");
    let sql = "select n from account where a = :b; -- expect: one\n\
               update entry e set n = :n where e.k = :k and e.n > 0;\n\
               insert into entry (a, k, n) values (:a, :k, :n) on conflict do nothing; -- expect: one, else \"taken\"\n\
               delete from entry where k = 3 and t = :t";
    let made = compiled(&facts(), "", sql, 1).expect("it is in the class");
    let (alone, many) = made.sql.split_once("<<rw_work>>").expect("statements for one unit, then for many");
    for part in [alone, many] {
        let pins = part.matches("\"a\" = rw_s.rw_v").count() - part.matches("\"account\".\"a\" = rw_s.rw_v1)").count();
        assert_eq!(pins, 3, "{}", made.sql);
    }
    insta::assert_snapshot!(made.sql);
}
