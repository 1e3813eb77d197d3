//! Rows that are only ever inserted, and keys that follow from their content.

use rootward_proto::v1;
use tests::{Client, Cluster, Shape, until};
use uuid::Uuid;

use crate::shared::exe;

const PLACES: [(&str, &str, &str); 2] = [("Evanston IL", "42.052158", "-87.687866"), ("Chicago IL", "41.897217", "-87.6210423")];

async fn locations(shape: Shape) -> (Cluster, Client) {
    let compiled = tests::compile_example(exe(), "locations").await.expect("it compiles");
    let cluster = Cluster::start(exe(), &compiled, shape).await.expect("it starts");
    let client = cluster.client().expect("a client");
    for (name, latitude, longitude) in PLACES {
        let place = [("name", name), ("latitude", latitude), ("longitude", longitude)];
        client.settle("add_location", &place, Uuid::now_v7()).await.expect("added");
    }
    cluster.wait_for_reference("select count(*) from location", 2).await.expect("copied");
    (cluster, client)
}

async fn check(client: &Client, name: &str) -> v1::Check {
    let counted = client.verify().await.expect("it counts");
    counted.checks.into_iter().find(|check| check.name == name).expect("it is checked")
}

#[tokio::test]
async fn rows_that_are_only_inserted_are_refused_every_change_whoever_asks() {
    let (cluster, client) = locations(Shape { peers: 1, ..Shape::shared() }).await;
    let root = cluster.roots_on("visitor", "p1", None, 1)[0];
    let visitor = root.to_string();
    client.settle("add_visitor", &[("visitor_id", &visitor), ("name", "a")], Uuid::now_v7()).await.expect("added");
    let place: String =
        cluster.reader().rows("hub", "select location_id from location where name = 'Chicago IL'", &[]).await.expect("read")[0].get(0);
    client.settle("visit", &[("visitor_id", &visitor), ("location_id", &place)], Uuid::now_v7()).await.expect("it is inserted");
    let owner = "set role rootward_owner; set row_security = off; ";
    for (node, table) in [("hub", "location"), ("p1", "location"), ("p1", "visit")] {
        for role in ["", owner] {
            for harm in [
                format!("update {table} set location_id = location_id"),
                format!("delete from {table}"),
                format!("truncate {table} cascade"),
            ] {
                // FORCE row security already refuses the owner to switch it off.
                let refused = cluster.reader().run(node, &format!("{role}{harm}")).await;
                assert!(refused.is_err(), "{node}: `{role}{harm}` was let through");
            }
        }
        let refused = cluster.reader().run(node, &format!("delete from {table}")).await.expect_err("refused");
        assert!(format!("{refused:?}").contains("only ever inserted"), "{refused:?}");
    }
    // Ad-hoc SQL runs as the lane, which has no right at all.
    for harm in ["update visit set at = now()", "delete from visit"] {
        let fault = client.query("visitor", &visitor, harm, Uuid::now_v7()).await.expect_err("refused");
        assert_eq!((fault.code(), fault.as_wire().sqlstate.as_str()), ("RW2004", "42501"), "{fault}");
    }
    assert!(check(&client, "content_keys").await.is_ok);
}

#[tokio::test]
async fn a_trees_row_refers_to_reference_data_on_every_peer_and_to_nothing_else() {
    let (cluster, client) = locations(Shape { peers: 2, ..Shape::shared() }).await;
    let place: String =
        cluster.reader().rows("hub", "select location_id from location where name = 'Chicago IL'", &[]).await.expect("read")[0].get(0);
    for peer in ["p1", "p2"] {
        let visitor = cluster.roots_on("visitor", peer, None, 1)[0].to_string();
        client.settle("add_visitor", &[("visitor_id", &visitor), ("name", "a")], Uuid::now_v7()).await.expect("added");
        client.settle("visit", &[("visitor_id", &visitor), ("location_id", &place)], Uuid::now_v7()).await.expect("there is such a place");
        // The transaction says by itself that there is none; so does the foreign key, whoever writes.
        let wrong = format!("insert into visit (visitor_id, visit_no, location_id, at) values ({visitor}, 99, 'nowhere', now())");
        let refused = cluster.reader().run(peer, &wrong).await.expect_err("there is no such place");
        assert!(format!("{refused:?}").contains("visit_location_id_fkey"), "{peer}: {refused:?}");
    }
}

#[tokio::test]
async fn a_key_that_does_not_follow_from_its_content_is_refused_and_found_behind_the_systems_back() {
    let (cluster, client) = locations(Shape { peers: 2, ..Shape::shared() }).await;
    let wrong = "insert into location (location_id, name, latitude, longitude) values (location_key('Brooklyn NY', 40.692532, 73.990997), 'Brooklyn NY', 40.692532, -73.990997)";
    let refused = cluster.reader().run("hub", wrong).await.expect_err("the key is another content's");
    assert!(format!("{refused:?}").contains("location_location_id_is_content"), "{refused:?}");
    let found = check(&client, "content_keys").await;
    assert!(found.is_ok && found.finding.starts_with("location: 0 rows"), "{found:?}");
    // The longitude has the wrong sign, as one row of the original had.
    let harm = "set session_replication_role = replica; alter table location drop constraint location_location_id_is_content; \
                update location set longitude = -longitude where name = 'Chicago IL'";
    cluster.reader().run("p2", harm).await.expect("a superuser may");
    let key: String =
        cluster.reader().rows("hub", "select location_id from location where name = 'Chicago IL'", &[]).await.expect("read")[0].get(0);
    let found = check(&client, "content_keys").await;
    let named = format!("peer p2: `location` location_id = {key}");
    assert!(!found.is_ok && found.examples.len() == 1 && found.examples[0].starts_with(&named), "{found:?}");
    until("the copy differs too", async || (!check(&client, "reference").await.is_ok).then_some(())).await.expect("found");
}

#[tokio::test]
async fn the_short_form_of_a_key_tells_contents_apart_that_are_written_alike() {
    let files = [
        (
            "rootward.toml",
            "name = \"notes\"\nversion = 1\npartitions = 16\n[root.owner]\ntable = \"owner\"\n[reference]\ntables = [\"note\"]\n\
          [table.note]\nkey = { note_id = \"sha256(subject, body)\" }\n",
        ),
        (
            "tables.sql",
            "create table owner (owner_id bigint primary key);\ncreate table note (note_id text primary key, subject text, body text);",
        ),
        ("transactions/t.sql", "-- name: add\n-- root: owner = :owner_id\ninsert into owner values (:owner_id);\n"),
    ];
    let cluster = crate::shared::own_cluster(&files, Shape { peers: 1, ..Shape::shared() }).await;
    let insert = async |subject: &str, body: &str, content: &str| {
        let sql = format!("insert into note values (encode(sha256(convert_to('{content}', 'UTF8')), 'hex'), {subject}, {body})");
        cluster.reader().run("hub", &sql).await
    };
    insert("'ab'", "'c'", "2:ab1:c").await.expect("as documented");
    insert("'a'", "'bc'", "1:a2:bc").await.expect("another content has another key");
    insert("'ä'", "null", "2:ä-").await.expect("bytes are counted; NULL is a minus");
    insert("'a'", "'b'", "a|b").await.expect_err("not that way");
    insert("null", "null", "").await.expect_err("nor without anything");
}
