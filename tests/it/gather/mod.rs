//! Results over all peers are those of one database that holds all rows: random data and random queries of the class.

mod sentences;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rootward_client::{Arguments, Client, Rows, Snapshot, SnapshotOptions};
use rootward_proto::{to_wire, v1};
use rootward_schema::Type;
use tests::{Cluster, Shape, text_of};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::shared::own_cluster;
use sentences::{Kind, Sentence};

const FILES: &[(&str, &str)] = &[
    (
        "rootward.toml",
        "name = \"gather\"\nversion = 1\npartitions = 64\n\n[root.item]\ntable = \"item\"\n\n[reference]\ntables = [\"kind\"]\n",
    ),
    ("tables.sql", TABLES),
    (
        "transactions/fill.sql",
        "-- name: add_kind
-- reference: write
insert into kind (code, name) values (:code, :name);

-- name: add_item
-- root: item = :item_id
insert into item (item_id, kind, small, amount, label, day, moment, flag, ratio, raw)
values (:item_id, :kind, :small, :amount, :label, :day, :moment, :flag, :ratio, :raw);

-- name: add_part
-- root: item = :item_id
insert into part (item_id, part_id, amount, code) values (:item_id, :part_id, :amount, :code);
",
    ),
];

const TABLES: &str = "
create table kind (code text primary key, name text not null);
create table item (
  item_id bigint primary key,
  kind    text references kind,
  small   integer,
  amount  numeric,
  label   text,
  day     date,
  moment  timestamptz,
  flag    boolean,
  ratio   double precision,
  raw     bytea
);
create table part (
  item_id bigint not null references item,
  part_id bigint not null,
  amount  numeric(12, 3),
  code    uuid,
  primary key (item_id, part_id)
);";

/// A value or NULL, as an argument.
fn given(arguments: Arguments, name: &str, value: Option<String>) -> Arguments {
    match value {
        Some(text) => arguments.with(name, text),
        None => arguments.with_null(name),
    }
}

fn maybe(random: &mut StdRng, text: impl FnOnce(&mut StdRng) -> String) -> Option<String> {
    random.random_bool(0.8).then(|| text(random))
}

fn one_of(random: &mut StdRng, of: &[&str]) -> String {
    of[random.random_range(0..of.len())].to_owned()
}

/// Values that come near each other and to the ends of their types.
async fn fill(client: &Client, random: &mut StdRng, items: u64) {
    let kinds = ["a", "B", "ä", "z"];
    for code in kinds {
        let kind = Arguments::new().with("code", code).with("name", format!("kind {code}"));
        client.call("add_kind", kind).send().await.expect("a kind");
    }
    tests::until("every peer has the kinds", async || {
        let peers = client.peers().await.ok()?.peers;
        let mut versions = peers.iter().filter_map(|peer| peer.status.as_ref()).map(|status| status.reference_version);
        let first = versions.next()?;
        (first == 4 && versions.all(|version| version == first)).then_some(())
    })
    .await
    .expect("copied");
    for item in 1..=items {
        let mut item_of = Arguments::new().with("item_id", item);
        for (name, value) in [
            ("kind", maybe(random, |random| one_of(random, &kinds))),
            ("small", maybe(random, |random| random.random_range(-5..5).to_string())),
            (
                "amount",
                maybe(random, |random| one_of(random, &["0", "-0.5", "1.10", "99999999999999999999.9", "-3e5", "NaN", "Infinity", "7"])),
            ),
            ("label", maybe(random, |random| one_of(random, &["", "A", "a", "B", "ä", "Ä", "zz", "z", "a b", "'"]))),
            (
                "day",
                maybe(random, |random| {
                    one_of(random, &["2026-11-21", "2024-02-29", "0044-03-15 BC", "infinity", "-infinity", "12026-01-01", "1969-12-31"])
                }),
            ),
            (
                "moment",
                maybe(random, |random| {
                    one_of(
                        random,
                        &[
                            "2026-11-21 10:00:00+02",
                            "2026-11-21 09:00:00.5+00",
                            "1969-12-31 23:59:59-08",
                            "infinity",
                            "0044-03-15 10:00:00+00 BC",
                        ],
                    )
                }),
            ),
            ("flag", maybe(random, |random| random.random_bool(0.5).to_string())),
            ("ratio", maybe(random, |random| one_of(random, &["0", "1e-7", "0.1", "-2.5", "NaN", "Infinity", "-Infinity", "1e300"]))),
            ("raw", maybe(random, |random| one_of(random, &["\\x", "\\x00", "\\xff", "\\x0001"]))),
        ] {
            item_of = given(item_of, name, value);
        }
        client.call("add_item", item_of).send().await.expect("an item");
        for part in 0..random.random_range(0..4) {
            let amount = maybe(random, |random| one_of(random, &["0.001", "-12.5", "100", "100.000"]));
            let code = maybe(random, |random| uuid::Uuid::from_u128(random.random_range(0..20)).to_string());
            let of = Arguments::new().with("item_id", item).with("part_id", part);
            client.call("add_part", given(given(of, "amount", amount), "code", code)).send().await.expect("a part");
        }
    }
}

/// All rows in one database.
struct Whole(tokio_postgres::Client);

impl Whole {
    async fn of(cluster: &Cluster) -> Whole {
        let server = cluster.embedded.server("hub").expect("a server");
        let connect = async |database: &str| {
            let (client, connection) =
                tokio_postgres::connect(&server.conninfo(server.superuser(), database), NoTls).await.expect("connected");
            tokio::spawn(connection);
            client
        };
        connect("hub").await.batch_execute("create database whole").await.expect("made");
        let whole = connect("whole").await;
        whole.batch_execute(TABLES).await.expect("tables");
        let reader = cluster.reader();
        for (node, table) in [("hub", "kind")]
            .into_iter()
            .chain(["item", "part"].into_iter().flat_map(|table| reader.peers().map(move |peer| (peer, table))))
        {
            for row in reader.rows(node, &format!("select t::text from {table} t"), &[]).await.expect("rows") {
                let text: String = row.get(0);
                whole
                    .execute(&format!("insert into {table} select (r.t).* from (select $1::text::{table} as t) r"), &[&text])
                    .await
                    .expect("copied");
            }
        }
        Whole(whole)
    }

    /// The rows as our own answer has them.
    async fn rows(&self, sql: &str, columns: &[v1::Column]) -> Vec<v1::Row> {
        let answers = self.0.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let types: Vec<Type> = columns.iter().map(|column| Type::from_name(&column.r#type)).collect();
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some(v1::Row { values: types.iter().enumerate().map(|(at, declared)| to_wire(row.get(at), declared)).collect() })
            }
            _ => None,
        };
        answers.iter().filter_map(row).collect()
    }
}

fn shown(row: &v1::Row) -> String {
    row.values.iter().map(|value| format!("{:?}", value.kind)).collect::<Vec<_>>().join("|")
}

fn sorted(rows: &[v1::Row]) -> Vec<String> {
    let mut all: Vec<String> = rows.iter().map(shown).collect();
    all.sort_unstable();
    all
}

/// Whether what came over all peers is what one database says.
fn compare(sentence: &Sentence, found: &Rows, whole: &[v1::Row], all: &[v1::Row]) {
    let ours: Vec<v1::Row> = found.all().cloned().collect();
    let sql = &sentence.sql;
    match sentence.kind {
        Kind::InOrder => {
            let (ours, theirs): (Vec<String>, Vec<String>) = (ours.iter().map(shown).collect(), whole.iter().map(shown).collect());
            assert_eq!(ours, theirs, "{sql}");
        }
        Kind::Rows | Kind::Totals => assert_eq!(sorted(&ours), sorted(whole), "{sql}"),
        Kind::SomeRows => {
            assert_eq!(ours.len(), whole.len(), "{sql}");
            let mut left = sorted(all);
            for row in &ours {
                let row = shown(row);
                let at = left.iter().position(|other| *other == row).unwrap_or_else(|| panic!("{sql}: {row} is no row of it"));
                left.remove(at);
            }
        }
    }
    let names: Vec<&str> = found.peers.iter().map(|(peer, _)| peer.as_str()).collect();
    assert_eq!(names, [""], "{sql}: the rows are combined");
}

async fn snapshot(client: &Client) -> Snapshot {
    client.take_snapshot(SnapshotOptions::default()).await.expect("taken")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_over_all_peers_is_what_one_database_would_answer() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = own_cluster(FILES, Shape::shared()).await;
    let client = Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(std::time::Duration::from_secs(30));
    fill(&client, &mut random, 60).await;
    let whole = Whole::of(&cluster).await;
    let snapshot = snapshot(&client).await;
    let mut kinds = [0; 4];
    for _ in 0..150 {
        let sentence = sentences::any(&mut random);
        let found = snapshot.rows(&sentence.sql).await.unwrap_or_else(|fault| panic!("seed {seed}: {}: {fault}", sentence.sql));
        let theirs = whole.rows(&sentence.sql, &found.columns).await;
        let all = whole.rows(&sentence.without_limit, &found.columns).await;
        compare(&sentence, &found, &theirs, &all);
        kinds[sentence.kind as usize] += 1;
    }
    assert!(kinds.iter().all(|count| *count > 5), "some kinds of queries were hardly tried: {kinds:?}");
    // Without the combination the same totals come once from each peer.
    let by_peer = snapshot.rows_by_peer("select count(*) from item").await.expect("rows");
    let counts: Vec<String> = by_peer.all().map(|row| text_of(&row.values[0])).collect();
    assert_eq!((by_peer.peers.len(), counts.iter().map(|count| count.parse::<u64>().expect("a number")).sum::<u64>()), (4, 60));
    snapshot.release().await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_combined_is_refused_with_a_code_and_a_way() {
    let cluster = own_cluster(FILES, Shape::shared()).await;
    let client = Client::new([cluster.embedded.router_address()]).expect("an address");
    let snapshot = snapshot(&client).await;
    for (sql, code) in [
        ("select item_id from item group by item_id", "RW2022"),
        ("select i.item_id from item i join part p on p.part_id = i.item_id", "RW2021"),
        ("select label from item order by label", "RW2023"),
        ("select max(label) from item", "RW2023"),
        ("select sum(ratio) from item", "RW2025"),
        ("select item_id as a, small as a from item order by a", "RW2023"),
        ("select * from pg_class", "RW2024"),
        ("delete from item", "RW2020"),
    ] {
        let fault = snapshot.rows(sql).await.expect_err(sql);
        assert_eq!(fault.code(), code, "{sql}: {fault}");
        assert!(!fault.help().is_empty(), "{sql}");
    }
    let nothing = snapshot.rows("select count(*), sum(small), min(label collate \"C\") from item").await.expect("totals of nothing");
    assert_eq!(nothing.all().map(|row| row.values.iter().map(text_of).collect()).collect::<Vec<Vec<String>>>(), [["0", "NULL", "NULL"]]);
    let one = snapshot.rows("select count(*) from kind").await.expect("one peer's");
    assert_eq!(one.all().count(), 1, "reference tables are read once");
    snapshot.release().await.expect("released");
}
