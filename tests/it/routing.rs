//! Rows land where SQL's own hash says, for each type that a root key can have.

use rootward_client::{Arguments, v1::ExplainRequest};
use rootward_schema::sql_partition_expression;
use tests::{Shape, check_everything};
use uuid::Uuid;

use crate::shared::own_cluster;

const TYPES: [(&str, &str); 6] =
    [("big", "bigint"), ("whole", "integer"), ("small", "smallint"), ("words", "text"), ("short", "varchar(80)"), ("unique_id", "uuid")];

fn files() -> (String, String, String) {
    let mut manifest = "name = \"types\"\nversion = 1\npartitions = 256\n".to_owned();
    let (mut tables, mut transactions) = (String::new(), String::new());
    for (name, key_type) in TYPES {
        manifest += &format!("[root.{name}]\ntable = \"{name}\"\n");
        tables += &format!("create table {name} (key {key_type} primary key);\n");
        tables += &format!(
            "create table {name}_part (key {key_type} not null references {name}, part integer not null, primary key (key, part));\n"
        );
        transactions += &format!("-- name: add_{name}\n-- root: {name} = :key\ninsert into {name} (key) values (:key);\n");
        transactions += &format!("insert into {name}_part (key, part) values (:key, 1);\n");
        transactions += &format!("-- name: parts_of_{name}\n-- root: {name} = :key\nselect key, part from {name}_part where key = :key;\n");
    }
    (manifest, tables, transactions)
}

/// Keys with their other spellings, which mean the same root.
fn keys(name: &str) -> Vec<(String, Option<&'static str>)> {
    let plain = |texts: &[&str]| texts.iter().map(|text| ((*text).to_owned(), None)).collect::<Vec<_>>();
    match name {
        "unique_id" => {
            let mut all: Vec<_> = (0..12).map(|_| (Uuid::new_v4().to_string(), None)).collect();
            all.push(("0198f3a0-0000-7000-8000-00000000000a".to_owned(), Some("0198F3A0-0000-7000-8000-00000000000A")));
            all
        }
        "words" | "short" => {
            plain(&["", "a", "Zürich", "東京都 🌳", "it's", "a b", "%_\\", "null", "-1", "twelve bytes", "thirteen byte", "A"])
        }
        _ => {
            let mut all = plain(&["0", "-1", "2", "3", "32767", "-32768", "100", "101", "102", "103"]);
            all.push(("1007".to_owned(), Some("+01007")));
            if name == "big" {
                all.extend(plain(&["9223372036854775807", "-9223372036854775808", "4294967296"]));
            }
            all
        }
    }
}

#[tokio::test]
async fn a_root_of_each_key_type_lies_where_its_hash_says() {
    let (manifest, tables, transactions) = files();
    let files = [("rootward.toml", &*manifest), ("tables.sql", &*tables), ("transactions/all.sql", &*transactions)];
    let cluster = own_cluster(&files, Shape::shared()).await;
    let client = cluster.client().expect("a client");
    let reader = cluster.reader();
    let map = reader.rows("hub", "select partition, peer from rootward_catalog.partition", &[]).await.expect("the map");
    let owners: std::collections::BTreeMap<i32, String> = map.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, key_type) in TYPES {
        let all = keys(name);
        for (key, spelling) in &all {
            let given = spelling.unwrap_or(key.as_str());
            let added = client.call(&format!("add_{name}"), &[("key", given)], Uuid::now_v7()).await;
            let added = added.unwrap_or_else(|fault| panic!("{name} {key:?}: {fault}"));
            assert_eq!(&added.root_key, key, "{name}");
            let parts = client.call(&format!("parts_of_{name}"), &[("key", key)], Uuid::now_v7()).await.expect("read");
            assert_eq!((parts.rows.len(), &parts.peer, parts.partition), (1, &added.peer, added.partition), "{name} {key:?}");
            let again = client.call(&format!("add_{name}"), &[("key", key)], Uuid::now_v7()).await.expect_err("it exists");
            assert_eq!(again.as_wire().sqlstate, "23505", "{name} {key:?}");
        }
        let base_type = rootward_schema::Type::from_name(key_type);
        let partition = sql_partition_expression(&base_type, "key", cluster.schema.partitions);
        let mut found = 0;
        for table in [name.to_owned(), format!("{name}_part")] {
            for (peer, row) in reader.all(&format!("select key::text, {partition} from {table}"), &[]).await.expect("read") {
                let (key, partition): (String, i32) = (row.get(0), row.get(1));
                assert_eq!(owners.get(&partition), Some(&peer), "{table} {key:?} of partition {partition}");
                found += 1;
            }
        }
        assert_eq!(found, all.len() * 2, "{name}: each root once, with its part");
    }
    let fault = client.call("add_small", &[("key", "40000")], Uuid::now_v7()).await.expect_err("no smallint");
    assert_eq!(fault.retry_class(), rootward_proto::v1::RetryClass::Refused, "{fault}");
    check_everything(&cluster).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_finds_the_root_of_a_statement_and_says_why_not() {
    let bank = crate::shared::bank().await;
    let client = rootward_client::Client::new([bank.embedded.router_address()]).expect("an address");
    let explain = async |sql: &str, key: &str| {
        let entity = if key.is_empty() { "" } else { "account" };
        let request =
            ExplainRequest { sql: sql.to_owned(), entity: entity.to_owned(), root_key: key.to_owned(), ..ExplainRequest::default() };
        client.explain(request).await
    };
    let joined = "select * from entry join account using (account_id) join currency on code = currency where account_id = 1007";
    let found = explain(joined, "").await.expect("its conditions fix the root");
    assert_eq!((found.entity.as_str(), found.root_key.as_str()), ("account", "1007"));
    assert_eq!((found.partition, found.peer.as_str()), (bank.partition_of("account", 1007), bank.owner_of("account", 1007)));
    assert!(found.reasons.iter().any(|reason| reason.contains("`currency`, reference data")), "{:?}", found.reasons);
    let written = explain("update account set balance = 0", "7").await.expect("the root is given");
    assert!(written.reasons.iter().any(|reason| reason.contains("writes `account`")), "{:?}", written.reasons);
    for (sql, code, word) in [
        ("select * from account", "RW2003", "fix no root key"),
        ("select * from currency", "RW2003", "touches no tree"),
        ("select 1; drop table account", "RW2008", "multiple commands"),
        ("drop table account", "RW2008", "syntax error"),
        ("select * from nowhere", "RW2008", "nowhere"),
    ] {
        let fault = explain(sql, "").await.expect_err(sql);
        assert!(fault.code() == code && fault.message().contains(word), "{sql}: {fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_by_name_before_anything_is_sent() {
    let bank = crate::shared::bank().await;
    let client = rootward_client::Client::new([bank.embedded.router_address()]).expect("an address");
    let call = async |name: &str, given: Arguments| client.call(name, given).send().await.expect_err("it is refused");
    let whole = || Arguments::new().with("account_id", 1).with("amount", 1);
    let unknown = call("withdrow", whole()).await;
    assert!(unknown.code() == "RW2001" && unknown.help().contains("`withdraw`"), "{unknown} {}", unknown.help());
    for (given, code, word) in [
        (Arguments::new().with("account_id", 1), "RW2002", "argument `amount` is missing"),
        (whole().with("ammount", 1), "RW2002", "no argument `ammount`"),
        (whole().with("amount", "much"), "RW2002", "`much` is not a numeric"),
        (whole().with("account_id", "1.5"), "RW2002", "`1.5` is not a bigint"),
        (whole().with_null("account_id"), "RW2003", "`account_id` is NULL"),
        (Arguments::new().with("amount", 1), "RW2002", "argument `account_id` is missing"),
    ] {
        let fault = call("withdraw", given).await;
        assert!(fault.code() == code && fault.message().contains(word), "{fault}");
    }
}
