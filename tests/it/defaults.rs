//! A database whose administrator gave it other defaults is served like any other.

use futures_util::future::join_all;
use rootward_client::SnapshotOptions;
use rootward_cluster::deploy;
use tests::{check_bank, check_logs, eventually, until};
use uuid::Uuid;

use crate::{
    catalog::{changed_bank, version},
    moves::{carry_out, client, partitions_of},
    shared::own_bank,
};

/// Each would change what statements mean, how values are written, or when a session ends.
const DEFAULTS: &[(&str, &str)] = &[
    ("idle_session_timeout", "1500"),
    ("exit_on_error", "on"),
    ("lock_timeout", "1"),
    ("synchronous_commit", "off"),
    ("default_transaction_isolation", "serializable"),
    ("row_security", "off"),
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "off"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("datestyle", "SQL, DMY"),
    ("intervalstyle", "iso_8601"),
    ("timezone", "Asia/Kolkata"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
];

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_roles_change_nothing() {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let accounts = bank.open_accounts(&plain, "p1", 24, 100).await.expect("opened");
    let other = bank.open_accounts(&plain, "p2", 1, 100).await.expect("opened")[0].to_string();
    let account = accounts[0].to_string();
    let (given, before) = ([("account_id", account.as_str()), ("amount", "5")], Uuid::now_v7());
    let first = plain.settle("deposit", &given, before).await.expect("done");
    let reader = bank.reader();
    for role in ["rootward_lane", "rootward_system", "rootward_reader"] {
        for (name, value) in DEFAULTS {
            reader.run("p1", &format!("alter role {role} in database p1 set {name} = '{value}'")).await.expect("set");
        }
        // PostgreSQL's own replication, which logs in as the system's role, would give up a copy that takes longer.
        if role != "rootward_system" {
            reader.run("p1", &format!("alter role {role} in database p1 set statement_timeout = 30")).await.expect("set");
        }
    }
    let term = bank.restart_worker("p1", &[]).await.expect("it serves");

    let again = plain.settle("deposit", &given, before).await.expect("stored");
    assert!(again.from_stored_outcome && again.rows == first.rows, "{again:?}");
    let refused = plain.settle("withdraw", &[("account_id", &account), ("amount", "1000000")], Uuid::now_v7()).await;
    assert!(refused.is_err(), "{refused:?}");
    let deposits = accounts
        .iter()
        .map(async |account| plain.settle("deposit", &[("account_id", &account.to_string()), ("amount", "0.1")], Uuid::now_v7()).await);
    assert!(join_all(deposits).await.iter().all(Result::is_ok));
    let input = [("from", account.as_str()), ("to", &other), ("amount", "7")];
    assert_eq!(plain.run_chain("transfer", &input, Uuid::now_v7()).await.expect("it ends").status, "completed");
    let idle = "select count(*) from pg_stat_activity where usename = 'rootward_lane' and state = 'idle' and state_change < clock_timestamp() - interval '2 s'";
    until("both sessions of the lane have done nothing for longer than the default lets them", async || {
        (reader.rows("p1", idle, &[]).await.ok()?[0].get::<_, i64>(0) == 2).then_some(())
    })
    .await
    .expect("they outlive it");
    assert_eq!(bank.wait_until_serving("p1", 0).await.expect("it serves").term, term, "nothing ended the term");

    let client = client(&bank);
    let snapshot = client.take_snapshot(SnapshotOptions::default()).await.expect("taken");
    let rows = snapshot.rows("select count(*), sum(balance) from account").await.expect("rows");
    let seen: Vec<String> = rows.all().next().expect("a row").values.iter().map(tests::text_of).collect();
    snapshot.release().await.expect("released");
    assert_eq!(seen, ["25", "2507.40"]);
    // Both sides of a move write their rows in one way, though only one of the databases has such defaults.
    let moved = carry_out(&client, &partitions_of(&bank, &accounts[..4]), "p2").await;
    assert!(moved.is_verified && moved.error.is_empty(), "{moved:?}");
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
    assert_eq!(bank.wait_until_serving("p1", 0).await.expect("it serves").term, term, "nothing ended the term");
    check_logs(&bank).expect("nothing in the logs");
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_do_not_reach_whoever_applies_a_schema() {
    let bank = own_bank(1).await;
    let (client, reader) = (bank.client().expect("a client"), bank.reader());
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    for (name, value) in DEFAULTS.iter().chain(&[("statement_timeout", "3")]) {
        reader.run("p1", &format!("alter database p1 set {name} = '{value}'")).await.expect("set");
    }
    let second = changed_bank(|name, text| if name == "rootward.toml" { version(text, 2) } else { text }).await;
    let deployed = deploy(bank.embedded.topology(), &second.source, &second.schema).await.expect("applied");
    assert_eq!((deployed.from_version, deployed.version), (Some(1), 2));
    reader.run("p1", "alter database p1 reset all").await.expect("reset");
    client.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("it serves");
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
