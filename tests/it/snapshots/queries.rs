//! What may be asked of a snapshot, and what may not.

use rootward_client::v1;
use tests::text_of;

use super::{Load, accounts, client, take};
use crate::shared::{bank, own_bank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_sees_the_same_rows_again_while_load_runs() {
    let bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 5).await;
    let client = client(&bank);
    let load = Load::start(&bank, &accounts, 6);
    let snapshot = take(&client).await.expect("taken");
    let sql = "select account_id, balance, (select count(*) from entry e where e.account_id = a.account_id) from account a order by 1";
    let before = snapshot.rows_by_peer(sql).await.expect("read");
    let transfers = load.transfers();
    tests::until("more transfers are through", async || (load.transfers() > transfers + 20).then_some(())).await.expect("they are");
    let mut after = snapshot.rows_by_peer(sql).await.expect("read");
    after.peers.sort_by_key(|(peer, _)| before.peers.iter().position(|(other, _)| other == peer));
    assert_eq!(before, after);
    assert_eq!(before.all().count(), 10);
    let later = take(&client).await.expect("taken").rows_by_peer(sql).await.expect("read");
    assert_ne!(before.peers, later.peers, "a later one shows what has happened since");
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_have_types_and_come_by_peer_in_any_number() {
    let bank = bank().await;
    let client = client(bank);
    let snapshot = take(&client).await.expect("taken");
    let sql = "select n, 'n' || n as text, n / 10.0 as tenth, null::date as nothing from generate_series(1, 10000) n order by n desc";
    let rows = snapshot.rows_by_peer(sql).await.expect("read");
    let columns: Vec<(&str, &str)> = rows.columns.iter().map(|column| (column.name.as_str(), column.r#type.as_str())).collect();
    assert_eq!(columns, [("n", "integer"), ("text", "text"), ("tenth", "numeric"), ("nothing", "date")]);
    assert_eq!(rows.peers.len(), 4, "every peer, and the hub");
    for (peer, rows) in &rows.peers {
        assert_eq!(rows.len(), 10_000, "{peer}");
        let first: Vec<String> = rows[0].values.iter().map(text_of).collect();
        assert_eq!(first, ["10000", "n10000", "1000.0000000000000000", "NULL"], "{peer}: in the order of the query");
    }
    let one = v1::QuerySnapshotRequest {
        snapshot_id: snapshot.id().to_owned(),
        sql: "values (1), (2)".to_owned(),
        peer: "p2".to_owned(),
        ..Default::default()
    };
    let mut pages = client.query_snapshot(one.clone()).await.expect("read");
    let page = pages.next().await.expect("a page").expect("a page");
    assert_eq!((page.peer.as_str(), page.rows.len()), ("p2", 2));
    assert_eq!(pages.next().await.expect("the end"), None);
    let nobody = v1::QuerySnapshotRequest { peer: "p9".to_owned(), ..one };
    assert_eq!(client.query_snapshot(nobody).await.expect_err("no such peer").code(), "RW5007");
    let empty = snapshot.rows_by_peer("select 1 as one where false").await.expect("read");
    assert_eq!((empty.columns.len(), empty.all().count()), (1, 0), "no rows have columns too");
    let big = snapshot.rows_by_peer("select repeat('x', 9 * 1024 * 1024)").await.expect_err("too large a row");
    assert_eq!(big.code(), "RW5027", "{big}");
    snapshot.release().await.expect("released");
}

/// Whoever waits for a long query is told how far it is, before its first row and between rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_says_how_far_it_is() {
    let bank = own_bank(2).await;
    accounts(&bank, &["p1", "p2"], 2).await;
    let client = client(&bank);
    let snapshot = take(&client).await.expect("taken");
    let request = |sql: &str| v1::QuerySnapshotRequest {
        snapshot_id: snapshot.id().to_owned(),
        sql: sql.to_owned(),
        progress_ms: 20,
        ..v1::QuerySnapshotRequest::default()
    };
    // One peer can't read its table until it is let.
    let lock = bank.reader().connect("p2").await.expect("connected");
    lock.batch_execute("begin; lock table entry in access exclusive mode").await.expect("locked");
    let mut answers = client.query_snapshot(request("select count(*) as entries from entry")).await.expect("it begins");
    let progress = loop {
        let answer = answers.next().await.expect("no failure").expect("an answer");
        let progress = answer.progress.expect("nothing else while a peer is held up");
        if progress.peers_begun >= 2 {
            break progress;
        }
    };
    assert_eq!((progress.peers, progress.peers_begun, progress.rows_read), (3, 2, 2), "the hub and the peer that may read");
    lock.batch_execute("rollback").await.expect("let go");
    let mut pages = Vec::new();
    while let Some(answer) = answers.next().await.expect("no failure") {
        pages.extend(answer.progress.is_none().then_some(answer));
    }
    assert_eq!(pages.len(), 1);
    assert_eq!(text_of(&pages[0].rows[0].values[0]), "4", "each account was opened with an entry");
    // What is wrong is said at the end of such answers.
    let mut answers = client.query_snapshot(request("select nothing from account")).await.expect("it begins");
    let fault = loop {
        match answers.next().await {
            Ok(answer) => assert!(answer.is_some_and(|answer| answer.progress.is_some()), "only progress comes before the failure"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.code(), "RW5025", "{fault}");
    snapshot.release().await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_more_than_read_the_schemas_tables_is_refused() {
    let bank = bank().await;
    let client = client(bank);
    let snapshot = take(&client).await.expect("taken");
    for (sql, sqlstate) in [
        ("insert into currency values ('X', 'x', 2)", "42601"),
        ("update account set balance = 0", "42601"),
        ("delete from entry", "42601"),
        ("with gone as (delete from entry returning 1) select * from gone", "0A000"),
        ("select 1; select 2", "42601"),
        ("select 1; delete from entry", "42601"),
        ("select 1 into stolen", "42601"),
        ("select * from account for update", "25006"),
        ("create table stolen (a integer)", "42601"),
        ("copy account to '/tmp/stolen'", "42601"),
        ("commit", "42601"),
        ("set role rootward_system", "42601"),
        ("select * from rootward.outcome", "42501"),
        ("select * from rootward.peer_state", "42501"),
        ("select set_config('role', 'rootward_system', false)", "42501"),
        ("select pg_advisory_lock(20826::bigint << 32)", "42501"),
        ("select pg_export_snapshot()", "42501"),
        ("select pg_sleep(1)", "42501"),
        ("select pg_terminate_backend(pid) from pg_stat_activity", "42501"),
        ("select lo_create(0)", "42501"),
        ("select pg_read_file('/etc/passwd')", "42501"),
        ("select nextval('rootward.chain_event_number_seq')", "42501"),
        ("selct 1", "42601"),
        ("select nothing from account", "42703"),
        ("select 1 / 0", "22012"),
        ("", "42601"),
    ] {
        let fault = snapshot.rows_by_peer(sql).await.expect_err(sql);
        assert_eq!(fault.code(), "RW5025", "{sql}: {fault}");
        assert_eq!(fault.as_wire().sqlstate, sqlstate, "{sql}: {fault}");
    }
    snapshot.rows_by_peer("select 1").await.expect("the snapshot is still there");
    snapshot.release().await.expect("released");
}
