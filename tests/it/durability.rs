//! What is answered is durable, and what was not begun in time is never begun.

use std::time::Duration;

use tests::{Cluster, Pause, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

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
