//! Rows that any client of SQL stages: each takes effect at its owner once, whatever is down meanwhile, and says what became of it.

use std::process::Command;

use tests::{Client, Cluster, Shape, until};

use crate::shared::exe;

const VANCOUVER: &str = "insert into stage.location (name, latitude, longitude) values ('Vancouver BC CA', 49.24966, -123.11934)";

async fn locations(shape: Shape) -> (Cluster, Client) {
    let compiled = tests::compile_example(exe(), "locations").await.expect("it compiles");
    let cluster = Cluster::start(exe(), &compiled, shape).await.expect("it starts");
    let client = cluster.client().expect("a client");
    (cluster, client)
}

/// How many rows of a stage are in a state on a node.
async fn count(cluster: &Cluster, node: &str, table: &str, state: &str) -> Option<i64> {
    let sql = format!("select count(*) from {table} where stage_state = '{state}'");
    Some(cluster.reader().rows(node, &sql, &[]).await.ok()?.first()?.get(0))
}

async fn wait_until(cluster: &Cluster, node: &str, table: &str, state: &str, wanted: i64) {
    let what = format!("{wanted} rows of {table} on {node} are {state}");
    until(&what, async || (count(cluster, node, table, state).await? == wanted).then_some(())).await.expect("settled");
}

fn type_in(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(exe()).args(args).env("ROOTWARD_ROUTER", cluster.embedded.router_address()).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_staged_by_plain_sql_is_on_every_peer_and_whoever_stages_can_do_nothing_else() {
    let (cluster, _) = locations(Shape { peers: 3, ..Shape::shared() }).await;
    let reader = cluster.reader();
    reader.run("p2", "create role clerk; grant rootward_stager to clerk").await.expect("a superuser may");
    reader.run("p2", &format!("set role clerk; {VANCOUVER}")).await.expect("staged");
    cluster.wait_for_reference("select count(*) from location where name = 'Vancouver BC CA'", 1).await.expect("on every peer");
    wait_until(&cluster, "p2", "stage.location", "done", 1).await;
    for refused in [
        "update stage.location set name = 'x'",
        "delete from stage.location",
        "truncate stage.location",
        "insert into stage.location (name, stage_state) values ('x', 'done')",
        "insert into location values ('x', 'x', 1, 1)",
        "select * from rootward.outcome",
    ] {
        let error = reader.run("p2", &format!("set role clerk; {refused}")).await.expect_err(refused);
        assert!(format!("{error:?}").contains("permission denied"), "{refused}: {error:?}");
    }
    // A row is as long as it likes: it is no payload of a notification, which ends at 8,000 bytes.
    reader.run("p2", "insert into stage.location (name, latitude, longitude) values (repeat('x', 100000), 1, 1)").await.expect("staged");
    cluster.wait_for_reference("select max(length(name))::bigint from location", 100_000).await.expect("on every peer, whole");
    wait_until(&cluster, "p2", "stage.location", "done", 2).await;
    // The same place staged twice, on two peers, is one place; each row is done.
    reader.run("p1", VANCOUVER).await.expect("staged");
    wait_until(&cluster, "p1", "stage.location", "done", 1).await;
    assert_eq!(reader.rows("hub", "select count(*) from location", &[]).await.expect("read")[0].get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_staged_while_nothing_ran_are_found_and_a_worker_killed_in_the_middle_doubles_none() {
    let (mut cluster, _) = locations(Shape::own(2)).await;
    let visit = "select count(*) from rootward.outcome where transaction = 'add_location'";
    // The hub is away: what is staged meanwhile waits, and so does what is staged while the peer's worker is away too.
    cluster.embedded.kill_postgres("hub").await.expect("killed");
    let stage = |from: usize| {
        format!(
            "insert into stage.location (name, latitude, longitude) select 'place ' || n, n / 10.0, 0 from generate_series({from}, {}) n",
            from + 49
        )
    };
    cluster.reader().run("p1", &stage(1)).await.expect("staged");
    cluster.embedded.kill_worker("p1").await.expect("killed");
    cluster.reader().run("p1", &stage(51)).await.expect("staged");
    cluster.embedded.start_postgres("hub").await.expect("up again");
    // It dies once between the answers and the marks, and once anywhere.
    cluster.embedded.start_worker("p1", &[("ROOTWARD_FAIL_POINT", "stage_answered/add_location=kill")]).await.expect("started");
    cluster.embedded.wait_for_worker_end("p1").await;
    cluster.embedded.start_worker("p1", &[]).await.expect("started");
    until("some are done", async || (count(&cluster, "p1", "stage.location", "done").await? > 0).then_some(())).await.expect("done");
    cluster.embedded.kill_worker("p1").await.expect("killed");
    cluster.embedded.start_worker("p1", &[]).await.expect("started");
    wait_until(&cluster, "p1", "stage.location", "done", 100).await;
    cluster.wait_for_reference("select count(*) from location", 100).await.expect("on every peer");
    let outcomes: i64 = cluster.reader().rows("hub", visit, &[]).await.expect("read")[0].get(0);
    assert_eq!(outcomes, 100, "each row was one request");
    // The connection that listens is cut, and another one goes on.
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'rootward stage' and datname = current_database()";
    assert_eq!(cluster.reader().rows("p1", cut, &[]).await.expect("cut")[0].get::<_, i64>(0), 1);
    cluster.reader().run("p1", VANCOUVER).await.expect("staged");
    wait_until(&cluster, "p1", "stage.location", "done", 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_keeps_its_reason_and_can_be_sent_anew_and_a_row_can_become_a_chain() {
    let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => text + "\n[stage.deposits]\ncall = \"deposit\"\n\n[stage.transfers]\ncall = \"transfer\"\n",
        _ => text,
    });
    let cluster =
        Cluster::start(exe(), &changed.await.expect("it compiles"), Shape { peers: 2, ..Shape::shared() }).await.expect("it starts");
    let client = cluster.client().expect("a client");
    client.settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], uuid::Uuid::now_v7()).await.expect("added");
    cluster.wait_for_reference("select count(*) from currency", 1).await.expect("copied");
    let reader = cluster.reader();
    let account = cluster.roots_on("account", "p1", None, 1)[0];
    // Staged on another peer than its owner.
    reader.run("p2", &format!("insert into stage.deposits (account_id, amount) values ({account}, 5)")).await.expect("staged");
    wait_until(&cluster, "p2", "stage.deposits", "refused", 1).await;
    let (code, said) = type_in(&cluster, &["stage", "list"]);
    assert!(code == Some(0) && said.contains("RW3101") && said.contains("no such account") && said.contains("1 of 1 rows"), "{said}");
    cluster.open_account(&client, account, 10).await.expect("opened");
    let (code, said) = type_in(&cluster, &["stage", "replay", "deposits"]);
    assert!(code == Some(0) && said.contains("1 rows are sent anew"), "{said}");
    wait_until(&cluster, "p2", "stage.deposits", "done", 1).await;
    assert_eq!(reader.balance(account).await.expect("read"), Some(1500), "once");
    assert_eq!(type_in(&cluster, &["stage", "replay", "deposits"]).0, Some(3), "nothing is left to send anew");
    let (code, said) = type_in(&cluster, &["stage", "list", "deposit"]);
    assert!(code == Some(4) && said.contains("RW2010") && said.contains("did you mean `deposits`?"), "{said}");
    let other = cluster.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let transfers = r#"insert into stage.transfers ("from", "to", amount) values "#;
    reader.run("p1", &format!("{transfers} ({account}, {other}, 3), ({account}, {other}, 1000000)")).await.expect("staged");
    wait_until(&cluster, "p1", "stage.transfers", "done", 1).await;
    wait_until(&cluster, "p1", "stage.transfers", "refused", 1).await;
    until("the chain ends", async || (reader.balance(other).await.ok()? == Some(300)).then_some(())).await.expect("transferred");
    assert_eq!(reader.balance(account).await.expect("read"), Some(1200));
}

/// Rows that are done go after their time, refused ones only by a person's word; what still waits stays whatever its age.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_done_go_after_a_time_and_refused_ones_stay_until_they_are_dropped() {
    let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => text + "\n[stage.deposits]\ncall = \"deposit\"\n",
        _ => text,
    });
    let settings = "collection_pause_ms = 50\nstage_retention_hours = 2\n";
    let shape = Shape { peers: 1, worker_settings: settings, ..Shape::shared() };
    let cluster = Cluster::start(exe(), &changed.await.expect("it compiles"), shape).await.expect("it starts");
    let client = cluster.client().expect("a client");
    client.settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], uuid::Uuid::now_v7()).await.expect("added");
    cluster.wait_for_reference("select count(*) from currency", 1).await.expect("copied");
    let account = cluster.open_accounts(&client, "p1", 1, 0).await.expect("opened")[0];
    let (reader, table) = (cluster.reader(), "stage.deposits");
    let stage =
        |account: i64, rows: u32| format!("insert into {table} (account_id, amount) select {account}, 1 from generate_series(1, {rows})");
    reader.run("p1", &stage(account, 300)).await.expect("staged");
    reader.run("p1", &stage(-1, 3)).await.expect("staged");
    wait_until(&cluster, "p1", table, "done", 300).await;
    wait_until(&cluster, "p1", table, "refused", 3).await;
    let waits = format!(
        "insert into {table} (account_id, amount, stage_at, stage_next_attempt_at) values ({account}, 1, '2000-01-01', 'infinity')"
    );
    reader.run("p1", &waits).await.expect("a superuser may");
    // Three hours pass for all but some that were done, and for all that were refused.
    let age = format!(
        "update {table} set stage_settled_at = stage_settled_at - interval '3 hours' where stage_state = 'refused' \
         or stage_id in (select stage_id from {table} where stage_state = 'done' order by stage_id limit 290)"
    );
    reader.run("p1", &age).await.expect("aged");
    wait_until(&cluster, "p1", table, "done", 10).await;
    assert_eq!(count(&cluster, "p1", table, "refused").await, Some(3), "whatever its age");
    assert_eq!(count(&cluster, "p1", table, "staged").await, Some(1), "whatever its age");
    let (code, said) = type_in(&cluster, &["stage", "drop", "deposits"]);
    assert!(code == Some(2) && said.contains("3 refused rows of `deposits`") && said.contains("--yes"), "{said}");
    let id: uuid::Uuid =
        reader.rows("p1", &format!("select stage_id from {table} where stage_state = 'refused' limit 1"), &[]).await.expect("read")[0]
            .get(0);
    let (code, said) = type_in(&cluster, &["stage", "drop", "deposits", "--id", &id.to_string()]);
    assert!(code == Some(0) && said.contains("1 rows are dropped"), "{said}");
    assert_eq!(count(&cluster, "p1", table, "refused").await, Some(2));
    let (code, said) = type_in(&cluster, &["stage", "drop", "deposits", "--yes", "-o", "json"]);
    assert!(code == Some(0) && said.contains("\"dropped\":2"), "{said}");
    assert_eq!(type_in(&cluster, &["stage", "drop", "deposits", "--yes"]).0, Some(3), "nothing is left to drop");
    assert_eq!(count(&cluster, "p1", table, "done").await, Some(10), "only refused ones were dropped");
}

/// A row's request id follows from the row. With a new one for each attempt, what was answered and not yet marked takes effect again.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_id_that_follows_from_the_row_a_killed_worker_doubles_rows() {
    for (armed, doubles) in [(&[][..], false), (&[("ROOTWARD_FAIL_POINT", "fresh_stage_id/deposit=control")][..], true)] {
        let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
            "rootward.toml" => text + "\n[stage.deposits]\ncall = \"deposit\"\n",
            _ => text,
        });
        let shape = Shape { peers: 1, ..Shape::shared() };
        let mut cluster = Cluster::start(exe(), &changed.await.expect("it compiles"), shape).await.expect("it starts");
        let client = cluster.client().expect("a client");
        client
            .settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], uuid::Uuid::now_v7())
            .await
            .expect("added");
        cluster.wait_for_reference("select count(*) from currency", 1).await.expect("copied");
        let account = cluster.open_accounts(&client, "p1", 1, 0).await.expect("opened")[0];
        cluster.embedded.kill_worker("p1").await.expect("killed");
        let sql = format!("insert into stage.deposits (account_id, amount) select {account}, 1 from generate_series(1, 20)");
        cluster.reader().run("p1", &sql).await.expect("staged");
        cluster.embedded.start_worker("p1", &[("ROOTWARD_FAIL_POINT", "stage_answered/deposit=kill")]).await.expect("started");
        cluster.embedded.wait_for_worker_end("p1").await;
        cluster.embedded.start_worker("p1", armed).await.expect("started");
        wait_until(&cluster, "p1", "stage.deposits", "done", 20).await;
        let balance = cluster.reader().balance(account).await.expect("read").expect("there");
        assert_eq!(balance > 2_000, doubles, "{balance}");
    }
}
