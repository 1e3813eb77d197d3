//! A large batch of what runs row by row is done on two connections at the same time; what has a journal is not.

use std::collections::HashMap;

use futures_util::future::join_all;
use tests::{Client, Cluster, Shape, check_logs, compile, text_of};
use uuid::Uuid;

use crate::shared::exe;

const TABLES: &str = "
create table box (box_id bigint primary key, n bigint not null default 0 check (n <> 3));
create table visit (box_id bigint not null references box, visit_id uuid, backend integer not null, primary key (box_id, visit_id));
";

const TRANSACTIONS: &str = r#"
-- name: open_box
-- root: box = :box_id
insert into box (box_id) values (:box_id);
-- name: visit
-- root: box = :box_id
insert into visit (box_id, visit_id, backend) values (:box_id, :request_id, pg_backend_pid());
update box set n = n + 1 where box_id = :box_id returning n; -- expect: one, else "no box"
"#;

const BOXES: i64 = 160;

/// All boxes are visited four times; the third visit of each is refused. Which backends did it, by the visits of each.
async fn visits(journal: bool) -> HashMap<i32, i64> {
    let manifest = format!("name = \"boxes\"\nversion = 1\npartitions = 64\n[root.box]\ntable = \"box\"\njournal = {journal}\n");
    let files = [("rootward.toml", manifest.as_str()), ("tables.sql", TABLES), ("transactions/boxes.sql", TRANSACTIONS)];
    let compiled = compile(exe(), rootward_schema::Source::from_texts(files)).await.unwrap_or_else(|findings| panic!("{findings:#}"));
    assert!(compiled.schema.transactions["visit"].set_wise.is_none(), "what a backend's number is, nobody can prove");
    let cluster = Cluster::start(exe(), &compiled, Shape { peers: 1, ..Shape::shared() }).await.expect("it starts");
    let client = cluster.client().expect("a client");
    let all = |transaction: &'static str| {
        let client = &client;
        join_all((1..=BOXES).map(move |root| call(client, transaction, root)))
    };
    assert!(all("open_box").await.iter().all(Result::is_ok));
    for (visit, expected) in [("1", Some("1")), ("2", Some("2")), ("3", None), ("3 again", None)] {
        for (root, answer) in (1..).zip(all("visit").await) {
            assert_eq!(answer.as_deref().ok(), expected, "visit {visit} of box {root}: {answer:?}");
        }
    }
    let rows = cluster.reader().rows("p1", "select backend, count(*) from visit group by 1", &[]).await.expect("read");
    let sum = cluster.reader().sum("select coalesce(sum(n), 0)::bigint from box").await.expect("read");
    assert_eq!(sum, 2 * BOXES, "each visit counts once");
    check_logs(&cluster).expect("nothing in the logs");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn call(client: &Client, transaction: &str, root: i64) -> Result<String, String> {
    let done = client.settle(transaction, &[("box_id", &root.to_string())], Uuid::now_v7()).await.map_err(|fault| fault.to_string())?;
    Ok(done.rows.first().map(|row| text_of(&row.values[0])).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_units_that_run_row_by_row_are_done_on_two_connections() {
    let by_backend = visits(false).await;
    assert_eq!(by_backend.len(), 2, "{by_backend:?}");
    assert_eq!(by_backend.values().sum::<i64>(), 2 * BOXES);
    assert!(by_backend.values().all(|visits| *visits >= BOXES / 8), "{by_backend:?}: both have much of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_journal_is_numbered_on_one_connection() {
    let by_backend = visits(true).await;
    assert_eq!(by_backend.values().copied().collect::<Vec<i64>>(), [2 * BOXES]);
}
