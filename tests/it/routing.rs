//! Rows land where SQL's own hash says, for each type that a root key can have.

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
