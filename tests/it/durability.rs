//! What is answered is durable, and what was not begun in time is never begun.

mod ledger;
pub(crate) mod mount;
pub(crate) mod small_disk;

use std::time::Duration;

use ledger::Ledger;
use mount::Mount;
use tests::{Cluster, Pause, Shape, check_bank, compile_example, until};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

/// How many acknowledgements there are to be before something is broken.
const ENOUGH: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_missing_after_kills_of_postgresql_under_load() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 8, 100).await.expect("opened");
    let ledger = Ledger::new();
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    let kills = async {
        for kill in 1..=3 {
            until("there is load", async || (ledger.acknowledged().len() >= kill * ENOUGH).then_some(())).await.expect("load");
            bank.embedded.kill_postgres("p1").await.expect("killed");
            bank.embedded.start_postgres("p1").await.expect("started");
        }
        ledger.stop();
    };
    tokio::join!(kills, ledger.load(&client, &accounts, 0));
    // Clients may not have noticed anything: the router asks again for them.
    bank.wait_until_serving("p1", term + 2).await.expect("each kill ended a term");
    assert_eq!(ledger.missing(&bank.reader()).await, [].into(), "of {}", ledger.acknowledged().len());
    check_bank(&bank).await.expect("every promise is kept");
}

/// How many were acknowledged before a power cut under load, and how many of them are missing after it; none of the latter
/// if the databases don't come up again.
///
/// The power is cut by ending the file system in which the databases lie: nothing that PostgreSQL wrote and did not flush,
/// nor what the file system had not written of its own journal, reaches the device after that. It shows that PostgreSQL
/// had everything flushed that was acknowledged. What a disk does that says it has written and hasn't, it does not show.
async fn cut_power(fsync: bool) -> Option<(usize, Option<usize>)> {
    let mount = Mount::new(700)?;
    let shape = || Shape { peers: 1, data: Some(mount.data()), fsync, ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape()).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 8, 100).await.expect("opened");
    mount.sync();
    let ledger = Ledger::new();
    let cut = async {
        until("there is load", async || (ledger.acknowledged().len() >= ENOUGH).then_some(())).await.expect("load");
        mount.cut_power();
        ledger.stop();
    };
    tokio::join!(cut, ledger.load(&client, &accounts, 0));
    drop((client, bank));
    mount.restart().await;
    let acknowledged = ledger.acknowledged().len();
    let compiled = compile_example(exe(), "bank").await.expect("it compiles");
    let again = match Cluster::start(exe(), &compiled, shape()).await {
        Ok(again) => again,
        Err(why) => {
            eprintln!("the databases don't come up: {why:#}");
            return Some((acknowledged, None));
        }
    };
    let missing = ledger.missing(&again.reader()).await.len();
    if fsync {
        let client = again.client().expect("a client");
        client.settle("deposit", &[("account_id", &accounts[0].to_string()), ("amount", "1")], Uuid::now_v7()).await.expect("it serves");
        check_bank(&again).await.expect("every promise is kept");
    }
    Some((acknowledged, Some(missing)))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_missing_after_a_power_cut() {
    let Some((acknowledged, missing)) = cut_power(true).await else { return };
    assert!(acknowledged >= ENOUGH);
    assert_eq!(missing, Some(0), "of {acknowledged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fsync_a_power_cut_loses_what_was_acknowledged() {
    let Some((acknowledged, missing)) = cut_power(false).await else { return };
    eprintln!("{missing:?} of {acknowledged} are missing");
    assert!(missing != Some(0), "the test would not notice a loss");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_the_peer_serves_again_when_there_is_room() {
    let Some(mount) = Mount::new(400) else { return };
    let shape = Shape { peers: 1, data: Some(mount.data()), fsync: true, ..Shape::shared() };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 8, 100).await.expect("opened");
    let ledger = Ledger::new();
    mount.fill(3 << 20);
    let room = async {
        let failed = || ledger.failures.load(std::sync::atomic::Ordering::Relaxed);
        until("the disk is full", async || (failed() > 0).then_some(())).await.expect("full");
        // Every client meets it, several times.
        until("nothing is done for want of room", async || (failed() > 5 * accounts.len()).then_some(())).await.expect("still full");
        let before = ledger.acknowledged().len();
        mount.make_room();
        if !bank.embedded.server("p1").is_some_and(rootward_cluster::Server::is_running) {
            bank.embedded.start_postgres("all").await.expect("it starts where there is room");
        }
        let goes_on = async || (ledger.acknowledged().len() >= before + 20).then_some(());
        until("transactions are done again", goes_on).await.expect("it serves again");
        ledger.stop();
    };
    tokio::join!(room, ledger.load(&client, &accounts, 100_000));
    eprintln!("with a full disk: {:?}", ledger.faults.lock().expect("not poisoned"));
    assert_eq!(ledger.missing(&bank.reader()).await, [].into(), "of {}", ledger.acknowledged().len());
    tests::check_money(&bank.reader()).await.expect("the money is there");
}

#[tokio::test]
async fn nothing_is_answered_before_the_standby_that_must_confirm_has_confirmed() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let (id, given) = (Uuid::now_v7(), [("account_id", key.as_str()), ("amount", "1")]);
    let reader = bank.reader();
    reader.run("p1", "alter system set synchronous_standby_names = 'nobody'").await.expect("set");
    reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
    let limit = Duration::from_secs(1);
    let waits = client.call_within(limit, "deposit", &given, id).await.expect_err("nobody confirms");
    assert_eq!(waits.retry_class(), rootward_proto::v1::RetryClass::OutcomeUnknown, "{waits}");
    // A reader doesn't see it either, nor does a new worker say what the old one didn't.
    client.call_within(limit, "balance", &[("account_id", &key)], Uuid::now_v7()).await.expect_err("it waits behind");
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.start_worker("p1", &[]).await.expect("a worker again");
    client.call_within(limit, "deposit", &given, id).await.expect_err("the new worker has confirmed nothing yet");
    let state = client.peers().await.expect("listed").into_iter().find(|peer| peer.id == "p1").and_then(|peer| peer.status);
    assert_ne!(state.map(|status| status.state).as_deref(), Some("serving"));
    reader.run("p1", "alter system reset synchronous_standby_names").await.expect("reset");
    reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
    client.settle("deposit", &given, id).await.expect("confirmed");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_100), "once");
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_call_whose_deadline_passed_in_the_queue_never_takes_effect() {
    let bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.roots_on("account", "p1", Some(0), 2);
    for account in &accounts {
        bank.open_account(&client, *account, 100).await.expect("opened");
    }
    let (slow, late) = (accounts[0].to_string(), accounts[1].to_string());
    let given = [("account_id", late.as_str()), ("amount", "1")];
    let hold = client.query("account", &slow, "select count(*) from generate_series(1, 6000000)", Uuid::now_v7());
    let reader = bank.reader();
    let ids: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    let hurry = async {
        let busy = "select 1 from pg_stat_activity where application_name = 'rootward lane' and state = 'active' and query like '%generate_series%'";
        until("the lane is busy", async || reader.rows("p1", busy, &[]).await.ok().filter(|rows| !rows.is_empty())).await.expect("busy");
        for id in &ids {
            client.call_within(Duration::from_millis(60), "deposit", &given, *id).await.expect_err("there is no time for it");
        }
    };
    let (held, ()) = tokio::join!(hold, hurry);
    held.expect("the slow one is done");
    // It stands behind them in the same queue.
    client.settle("deposit", &given, Uuid::now_v7()).await.expect("done");
    for id in ids {
        assert!(reader.outcomes(id).await.expect("read").is_empty(), "{id}");
    }
    assert_eq!(reader.balance(accounts[1]).await.expect("read"), Some(10_100));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cancel_its_transaction() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let (id, given) = (Uuid::now_v7(), [("account_id", key.as_str()), ("amount", "1")]);
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at("after_effect", "deposit"))]).await.expect("armed");
    // Whichever comes first: the transaction is in the middle of its work, and its client is gone.
    tokio::select! {
        ended = client.call("deposit", &given, id) => panic!("it can't have ended: {ended:?}"),
        reached = pause.reached() => reached.expect("under way"),
    }
    pause.release().expect("released");
    let reader = bank.reader();
    let done = until("it takes effect", async || reader.outcomes(id).await.ok().filter(|rows| !rows.is_empty())).await.expect("done");
    assert_eq!((done.len(), done[0].kind.as_str()), (1, "done"));
    assert!(client.settle("deposit", &given, id).await.expect("stored").from_stored_outcome);
    assert_eq!(reader.balance(account).await.expect("read"), Some(10_100));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_batch_that_waits_too_long_for_a_change_of_owner_is_sent_again_and_its_lane_goes_on() {
    let shape = Shape { peers: 1, worker_settings: "statement_timeout_ms = 300\n", ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let given = [("account_id", key.as_str()), ("amount", "1")];
    let (mover, connection) = tokio_postgres::connect(&bank.embedded.database("p1"), tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    mover.batch_execute("begin; select pg_advisory_xact_lock(20825, 0)").await.expect("locked");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    for _ in 0..2 {
        let fault = client.call_within(Duration::from_secs(1), "deposit", &given, Uuid::now_v7()).await.expect_err("it is held");
        assert_ne!(fault.retry_class(), rootward_proto::v1::RetryClass::Refused, "{fault}");
    }
    mover.batch_execute("rollback").await.expect("unlocked");
    let before = bank.reader().balance(account).await.expect("read").expect("it is there");
    client.settle("deposit", &given, Uuid::now_v7()).await.expect("done");
    let after = bank.reader().balance(account).await.expect("read").expect("it is there");
    assert!(after > before);
    assert_eq!(bank.wait_until_serving("p1", 0).await.expect("it serves").term, term, "the term goes on");
    check_bank(&bank).await.expect("every promise is kept");
}
