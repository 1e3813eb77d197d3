//! A target that lags, and negative controls: with one guard of the switch left out, acknowledged work is lost, and the tests see it.

use tests::{Cluster, Pause, Shape, check_bank, eventually, send_to_worker};
use uuid::Uuid;

use super::{begin, client, nothing_is_left, partitions_of, wait_for};
use crate::shared::exe;

/// While this is open, the target applies nothing to accounts.
const LOCK: &str = "begin; lock table account in share mode";

async fn blocked(bank: &Cluster, peer: &str) -> tokio_postgres::Client {
    let (session, connection) = tokio_postgres::connect(&bank.embedded.database(peer), tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    session.batch_execute(LOCK).await.expect("locked");
    session
}

async fn bank() -> (Cluster, i64, Vec<i32>) {
    let shape = Shape { peers: 2, worker_settings: "move_hold_ms = 500\n", ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let account = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let partitions = partitions_of(&bank, &[account]);
    (bank, account, partitions)
}

async fn deposit(bank: &Cluster, account: i64) -> String {
    let given = [("account_id", &*account.to_string()), ("amount", "1")];
    bank.client().expect("a client").settle("deposit", &given, Uuid::now_v7()).await.expect("acknowledged").peer
}

/// The balance that lies at a peer, in cents, whoever owns it.
async fn at(bank: &Cluster, peer: &str, account: i64) -> Option<i64> {
    let sql = "select (balance * 100)::bigint from account where account_id = $1";
    bank.reader().rows(peer, sql, &[&account]).await.expect("read").first().map(|row| row.get(0))
}

/// The move stands at this point, everything is copied, and then the target comes to a halt and a deposit is acknowledged.
async fn lagging(bank: &mut Cluster, account: i64, partitions: &[i32], point: &str, armed: &str) -> (String, tokio_postgres::Client) {
    let client = client(bank);
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at(point, "mover"))]).await.expect("armed");
    if !armed.is_empty() {
        bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", armed)]).await.expect("armed");
    }
    let id = begin(&client, partitions, "p2").await;
    pause.reached().await.expect("it comes there");
    let session = blocked(bank, "p2").await;
    assert_eq!(deposit(bank, account).await, "p1");
    pause.release().expect("released");
    (id, session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_lags_gets_nothing_until_it_has_everything() {
    let (mut bank, account, partitions) = bank().await;
    let (id, session) = lagging(&mut bank, account, &partitions, "mover_switching", "").await;
    let client = client(&bank);
    let tried = async || super::look(&client, &id).await.filter(|one| one.switches >= 1 && one.error.contains("move_hold_ms"));
    tests::until("the switch was tried and taken back", tried).await.expect("tried");
    assert_eq!(deposit(&bank, account).await, "p1", "the source serves in between");
    drop(session);
    wait_for(&client, &id, &["done"]).await;
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_200));
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_for_the_target_the_comparison_refuses_the_move() {
    let (mut bank, account, partitions) = bank().await;
    let (id, session) = lagging(&mut bank, account, &partitions, "mover_comparing", "without_flush/move=control").await;
    let client = client(&bank);
    let reached =
        tests::until("it is given up", async || super::look(&client, &id).await.filter(|one| one.stage.starts_with("cancel"))).await;
    drop(session);
    assert!(reached.expect("given up").error.contains("differs"));
    let one = wait_for(&client, &id, &["cancelled"]).await;
    assert!(one.error.contains("differs"), "{one:?}");
    assert_eq!(deposit(&bank, account).await, "p1");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_200), "nothing is lost");
    nothing_is_left(&bank).await;
}

/// What went wrong behind the first comparison is found by the second one, and what the source had is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_target_lacks_after_the_switch_is_kept_at_the_source_until_a_person_has_looked() {
    let (mut bank, account, partitions) = bank().await;
    let (id, session) = lagging(&mut bank, account, &partitions, "mover_switching", "without_flush/move=control").await;
    let client = client(&bank);
    let one = wait_for(&client, &id, &["differing"]).await;
    assert!(one.error.contains("differs"), "{one:?}");
    drop(session);
    assert_eq!((at(&bank, "p1", account).await, at(&bank, "p2", account).await), (Some(10_100), Some(10_000)));
    assert_eq!(deposit(&bank, account).await, "p2", "the new owner serves");
    // It stays so whoever restarts, and can't be cancelled any more.
    bank.restart_worker("hub", &[]).await.expect("restarted");
    assert_eq!(client.cancel_move(&id).await.expect_err("too late").code(), "RW5043");
    assert_eq!(super::look(&client, &id).await.expect("listed").stage, "differing");
    client.accept_move(&id).await.expect("accepted");
    wait_for(&client, &id, &["done"]).await;
    assert_eq!(client.accept_move(&id).await.expect_err("nothing waits").code(), "RW5046");
    assert_eq!(at(&bank, "p1", account).await, None);
    nothing_is_left(&bank).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_takes_long_holds_nobody() {
    let (mut bank, account, partitions) = bank().await;
    let client = client(&bank);
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at("mover_fixed", "mover"))]).await.expect("armed");
    let id = begin(&client, &partitions, "p2").await;
    pause.reached().await.expect("both sides are fixed");
    let session = blocked(&bank, "p2").await;
    session.batch_execute("lock table account in access exclusive mode").await.expect("nobody reads it");
    pause.release().expect("released");
    for _ in 0..20 {
        assert_eq!(deposit(&bank, account).await, "p1", "the source serves");
    }
    assert_eq!(super::look(&client, &id).await.expect("listed").stage, "comparing");
    drop(session);
    wait_for(&client, &id, &["done"]).await;
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(12_000));
    nothing_is_left(&bank).await;
}

/// What the source acknowledges between its release and the new owner's first batch would be lost: the database refuses it, and the
/// hold keeps it until the new owner is known. With both left out, it is acknowledged and gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hold_and_guard_what_comes_during_the_switch_is_lost() {
    const BEGIN_CHECKS_NOTHING: &str = "create or replace function rootward.begin_batch(secret bytea, term bigint, version bigint, \
        partitions integer[], epochs bigint[]) returns void language plpgsql as $$ begin end $$";
    for is_sound in [true, false] {
        let shape = Shape { peers: 2, worker_settings: "move_hold_ms = 20000\n", ..Shape::shared() };
        let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
        let plain = bank.client().expect("a client");
        let account = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
        let client = client(&bank);
        let pause = Pause::new().expect("a folder");
        bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at("mover_released", "mover"))]).await.expect("armed");
        if !is_sound {
            bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", "without_hold/move=control")]).await.expect("armed");
            bank.reader().run("p1", BEGIN_CHECKS_NOTHING).await.expect("switched off");
        }
        let id = begin(&client, &partitions_of(&bank, &[account]), "p2").await;
        pause.reached().await.expect("the source has given up");
        let source = bank.embedded.worker_address("p1").expect("it listens").to_owned();
        // What still comes by the subscription is there all the same, so that one is made to lag.
        let session = if is_sound { None } else { Some(blocked(&bank, "p2").await) };
        let sent = tokio::spawn(async move { send_to_worker(&source, tests::deposit(account, Uuid::now_v7())).await });
        if is_sound {
            // It waits in its lane; nothing else of the peer does.
            let moved = bank.partition_of("account", account);
            let mut others = bank.roots_on("account", "p1", None, 9).into_iter();
            let other = others.find(|other| bank.partition_of("account", *other) != moved).expect("nine are not all in one partition");
            bank.open_account(&plain, other, 0).await.expect("other partitions go on");
            assert_eq!(deposit(&bank, other).await, "p1");
            assert!(!sent.is_finished(), "it is held");
        }
        let mut answer = None;
        if !is_sound {
            answer = Some(sent.await.expect("no panic").expect("answered"));
            pause.release().expect("released");
        } else {
            pause.release().expect("released");
            let held = sent.await.expect("no panic").expect("answered");
            assert_eq!(held.expect_err("sent on").code(), "RW2005");
        }
        wait_for(&client, &id, &["done"]).await;
        drop(session);
        let balance = bank.reader().balance(account).await.expect("read");
        match answer {
            None => assert_eq!(balance, Some(10_000), "nothing was acknowledged"),
            Some(answer) => {
                answer.expect("the source acknowledged it");
                assert_eq!(balance, Some(10_000), "and it is gone");
            }
        }
    }
}
