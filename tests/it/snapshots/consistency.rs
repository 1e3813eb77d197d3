//! Totals and causality at snapshots while load runs; and without the drain, or without the hold, they go wrong.

use tests::{Cluster, Pause, Shape, check_bank, until};
use uuid::Uuid;

use super::{BOOKS, Load, accounts, client, has_taken, sums, take, wrong_books};
use crate::shared::exe;

const ROUNDS: usize = 60;

async fn bank() -> Cluster {
    Cluster::bank(exe(), Shape::shared()).await.expect("a bank starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_total_is_exact_at_every_snapshot_while_transfers_and_deposits_run() {
    let bank = bank().await;
    let accounts = accounts(&bank, &["p1", "p2", "p3"], 10).await;
    let client = client(&bank);
    let load = Load::start(&bank, &accounts, 12);
    for round in 0..ROUNDS {
        let snapshot = take(&client).await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        assert_eq!(snapshot.facts().in_flight_total, 0, "round {round}: transfers end by themselves, so none is half done");
        assert_eq!(snapshot.facts().peers.len(), 4, "the hub and three peers");
        let wrong = wrong_books(&snapshot).await.expect("counted");
        assert_eq!(wrong, None, "round {round}");
        assert_eq!(wrong_books(&snapshot).await.expect("counted again"), None, "round {round}: and again while load runs");
        snapshot.release().await.expect("released");
    }
    for round in 0..3 {
        let counted = client.verify().await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        assert!(counted.is_ok, "round {round}: `verify` counts at a snapshot too: {:?}", counted.checks);
    }
    assert!(load.transfers() > 100, "there was load: {}", load.transfers());
    load.stop().await;
    check_bank(&bank).await.expect("every promise is kept");
}

/// Each router has half of the load and takes snapshots; neither knows of the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_take_snapshots_at_once_and_each_is_exact() {
    let mut bank = bank().await;
    let accounts = accounts(&bank, &["p1", "p2", "p3"], 6).await;
    let workers = ["p1", "p2"].map(|peer| bank.embedded.worker_address(peer).expect("it listens").to_owned());
    let (address, _) = bank.embedded.start_another_router(&workers).await.expect("another router");
    let other = rootward_client::Client::new([address.as_str()]).expect("an address").with_deadline(std::time::Duration::from_secs(30));
    let load = Load::start(&bank, &accounts, 8);
    let rounds = async |client: rootward_client::Client| {
        for round in 0..ROUNDS / 4 {
            let snapshot = take(&client).await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
            assert_eq!(wrong_books(&snapshot).await.expect("counted"), None, "round {round}");
            snapshot.release().await.expect("released");
        }
    };
    tokio::join!(rounds(client(&bank)), rounds(other));
    assert!(load.transfers() > 20, "there was load: {}", load.transfers());
    load.stop().await;
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_drain_totals_go_wrong() {
    let mut bank = bank().await;
    let accounts = accounts(&bank, &["p1", "p2", "p3"], 10).await;
    for peer in ["hub", "p1", "p2", "p3"] {
        bank.restart_worker(peer, &[("ROOTWARD_FAIL_POINT", "without_drain/snapshot=skip")]).await.expect("armed");
    }
    let client = client(&bank);
    let load = Load::start(&bank, &accounts, 12);
    let wrong = until("a wrong total is seen", async || {
        let snapshot = take(&client).await.ok()?;
        let moved = sums(&snapshot, BOOKS).await.ok()?[2];
        assert_eq!(wrong_books(&snapshot).await.ok()?, None, "even then what is listed accounts for it");
        snapshot.release().await.ok()?;
        (moved != 0).then_some(())
    });
    wrong.await.expect("half transfers are in snapshots that wait for nobody");
    load.stop().await;
}

/// An account of each of two peers. The snapshot of the second one's is held up, and meanwhile money comes to the first, and then,
/// when that is acknowledged, to the second. Returns what a snapshot shows of both.
async fn cause_and_effect(env: &str) -> Option<Vec<i64>> {
    let shape = Shape { worker_settings: "snapshot_hold_ms = 2000\n", ..Shape::own(2) };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let cause = bank.open_accounts(&plain, "p1", 1, 0).await.expect("opened")[0];
    let effect = bank.open_accounts(&plain, "p2", 1, 0).await.expect("opened")[0];
    if !env.is_empty() {
        bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", env)]).await.expect("armed");
    }
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at("snapshot_take", "snapshot"))]).await.expect("armed");
    let client = client(&bank);
    let taking = tokio::spawn({
        let client = client.clone();
        async move { take(&client).await }
    });
    pause.reached().await.expect("the second peer is about to take it");
    has_taken(&bank, "p1").await;
    for account in [cause, effect] {
        let key = account.to_string();
        plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("acknowledged");
    }
    pause.release().expect("released");
    let snapshot = taking.await.expect("no panic").ok()?;
    let sql = format!(
        "select (select coalesce(sum(balance), 0)::bigint from account where account_id = {cause}), \
         (select coalesce(sum(balance), 0)::bigint from account where account_id = {effect})"
    );
    Some(sums(&snapshot, &sql).await.expect("read"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snapshot_shows_an_effect_without_its_cause() {
    let seen = cause_and_effect("").await.expect("the next try is whole");
    assert_eq!(seen, [1, 1], "the torn one was given up, and the next one has both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_hold_a_snapshot_shows_an_effect_without_its_cause() {
    let seen = cause_and_effect("without_hold/snapshot=skip").await.expect("nobody notices");
    assert_eq!(seen, [0, 1]);
}
