//! Workers and servers that are killed, or stopped and replaced, while a snapshot is taken: it is refused by name, or whole.

use nix::sys::signal::Signal;
use rootward_client::{Fault, Snapshot};
use tests::{Cluster, Pause, Shape, Victim, check_bank, while_killing};
use uuid::Uuid;

use super::{Load, accounts, client, has_taken, sums, take, wrong_books};
use crate::shared::{exe, own_bank};

const POINTS: [&str; 4] = ["snapshot_drained", "snapshot_take", "snapshot_taken", "snapshot_confirmed"];

/// Refused by name, or exact.
async fn check(taken: Result<Snapshot, Fault>, case: &str) {
    match taken {
        Err(fault) => {
            assert!(["RW5020", "RW5021", "RW5022"].contains(&fault.code()), "{case}: {fault}");
            assert!(fault.code() == "RW5021" || fault.message().contains("p1"), "{case}: {fault}");
        }
        Ok(snapshot) => match wrong_books(&snapshot).await {
            Ok(wrong) => assert_eq!(wrong, None, "{case}"),
            // The term that kept it is over, and says so.
            Err(fault) => assert!(["RW5024", "RW5002"].contains(&fault.code()), "{case}: {fault}"),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_refused_by_name_or_exact_whoever_is_killed_in_the_middle() {
    let mut bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 6).await;
    let client = client(&bank);
    let load = Load::start(&bank, &accounts, 6);
    for point in POINTS {
        for victim in Victim::ALL {
            let case = format!("{victim:?} killed at {point}");
            let taken = while_killing(&mut bank, ("p1", victim), (point, "snapshot"), take(&client)).await;
            check(taken.unwrap_or_else(|error| panic!("{case}: {error:#}")), &case).await;
        }
    }
    let snapshot = take(&client).await.expect("afterwards it works");
    assert_eq!(wrong_books(&snapshot).await.expect("counted"), None);
    load.stop().await;
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_has_begun_a_new_term_has_lost_its_part_and_is_named() {
    let mut bank = own_bank(2).await;
    accounts(&bank, &["p1", "p2"], 2).await;
    let client = client(&bank);
    let snapshot = take(&client).await.expect("taken");
    assert_eq!(wrong_books(&snapshot).await.expect("counted"), None);
    bank.restart_worker("p2", &[]).await.expect("a new term");
    let fault = wrong_books(&snapshot).await.expect_err("its part is gone");
    assert!(fault.code() == "RW5024" && fault.message().contains("p2"), "{fault}");
    snapshot.release().await.expect("what is left is let go of");
    assert_eq!(wrong_books(&take(&client).await.expect("taken")).await.expect("counted"), None);
}

/// The first peer's worker has its part and sleeps; its successor does what nobody's hold keeps it from. The sleeper must find
/// itself out when it wakes, however long it may hold lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_replaced_while_it_slept_confirms_nothing() {
    let shape = Shape { worker_settings: "snapshot_hold_ms = 60000\n", ..Shape::own(2) };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let cause = bank.open_accounts(&plain, "p1", 1, 0).await.expect("opened")[0];
    let effect = bank.open_accounts(&plain, "p2", 1, 0).await.expect("opened")[0];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at("snapshot_take", "snapshot"))]).await.expect("armed");
    bank.embedded.start_standby("p1").await.expect("a standby");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    let client = client(&bank);
    let taking = tokio::spawn({
        let client = client.clone();
        async move { take(&client).await }
    });
    pause.reached().await.expect("the second peer is about to take it");
    has_taken(&bank, "p1").await;
    bank.embedded.signal_worker("p1", Signal::SIGSTOP).expect("stopped");
    bank.cut_off_worker("p1").await.expect("cut off");
    assert_eq!(bank.wait_until_serving("p1", term).await.expect("the standby serves").term, term + 1);
    for account in [cause, effect] {
        let key = account.to_string();
        plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("acknowledged");
    }
    pause.release().expect("released");
    bank.embedded.signal_worker("p1", Signal::SIGCONT).expect("awake");
    // Given up by name, or by a later try whole.
    if let Ok(snapshot) = taking.await.expect("no panic") {
        let sql = format!(
            "select (select coalesce(sum(balance), 0)::bigint from account where account_id = {cause}), \
             (select coalesce(sum(balance), 0)::bigint from account where account_id = {effect})"
        );
        assert_eq!(sums(&snapshot, &sql).await.expect("read"), [1, 1]);
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// A successor has begun its term, and this worker has not lost a connection yet: what the successor commits is not in the cut, so there
/// must be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_term_is_over_confirms_nothing_before_it_notices() {
    let shape = Shape { worker_settings: "snapshot_hold_ms = 60000\n", ..Shape::own(2) };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let cause = bank.open_accounts(&plain, "p1", 1, 0).await.expect("opened")[0];
    let effect = bank.open_accounts(&plain, "p2", 1, 0).await.expect("opened")[0];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at("snapshot_take", "snapshot"))]).await.expect("armed");
    let client = client(&bank);
    let taking = tokio::spawn(async move { take(&client).await });
    pause.reached().await.expect("the second peer is about to take it");
    has_taken(&bank, "p1").await;
    // What a successor does, but for ending this worker's sessions.
    let (reader, write) = (bank.reader(), |account: i64| format!("update account set balance = balance + 1 where account_id = {account}"));
    reader.run("p1", &format!("update rootward.peer_state set term = term + 1; {}", write(cause))).await.expect("the cause");
    reader.run("p2", &write(effect)).await.expect("its effect");
    pause.release().expect("released");
    if let Ok(snapshot) = taking.await.expect("no panic") {
        let sql = format!(
            "select (select coalesce(sum(balance), 0)::bigint from account where account_id = {cause}), \
             (select coalesce(sum(balance), 0)::bigint from account where account_id = {effect})"
        );
        assert_eq!(sums(&snapshot, &sql).await.expect("read"), [1, 1]);
    }
}
