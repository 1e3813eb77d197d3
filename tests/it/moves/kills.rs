//! Workers and databases killed at every stage of a move, at its source, its target and the hub: it comes to its end, each partition has one
//! owner, and everything is there once.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use rootward_client::Client;
use tests::{Cluster, Pause, Shape, Victim, check_bank, eventually, while_killing};
use uuid::Uuid;

use super::{
    begin, client,
    load::{Load, paid_in},
    nothing_is_left, partitions_of, wait_for,
};
use crate::shared::{exe, own_bank};

/// At each of these points of one process, the worker and then PostgreSQL is killed in the middle of a move from p1 to p2.
async fn kill_at_each(peer: &str, label: &str, points: &[&str]) {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let stays = bank.open_accounts(&plain, "p2", 2, 1_000).await.expect("opened");
    let mut all = stays.clone();
    let client = client(&bank);
    let mut deposits = 0;
    let mut gone = BTreeSet::new();
    for point in points {
        for victim in [Victim::Worker, Victim::Postgres] {
            let case = format!("{victim:?} of {peer} killed at {point}");
            let moved = fresh_accounts(&bank, &plain, &mut gone).await;
            all.extend(&moved);
            let partitions = partitions_of(&bank, &moved);
            let busy: Vec<i64> = moved.iter().chain(&stays).copied().collect();
            let load = Load::start(&bank, &busy, 4, true);
            // `point#2`: the second time that it comes there.
            let (name, time) = point.split_once('#').unwrap_or((point, "1"));
            let armed = (name, &*format!("{label}#{time}"));
            let one = while_killing(&mut bank, (peer, victim), armed, carried_out(client.clone(), partitions)).await;
            one.unwrap_or_else(|error| panic!("{case}: {error:#}"));
            let counted = load.deposits.clone();
            let failures = load.stop().await;
            assert!(failures.is_empty(), "{case}: {failures:?}");
            deposits += i64::try_from(counted.load(std::sync::atomic::Ordering::Relaxed)).expect("few");
            let opened = i64::try_from(all.len()).expect("few") * 1_000;
            assert_eq!(paid_in(&bank, &all).await, opened + deposits, "{case}: each acknowledged deposit is there once");
            nothing_is_left(&bank).await;
        }
    }
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}

/// Two accounts at p1, in partitions that no case before has moved away.
async fn fresh_accounts(bank: &Cluster, plain: &tests::Client, gone: &mut BTreeSet<i32>) -> Vec<i64> {
    let mut accounts = Vec::new();
    while accounts.len() < 2 {
        let account = bank.roots_on("account", "p1", None, 1)[0];
        if gone.insert(bank.partition_of("account", account)) {
            bank.open_account(plain, account, 1_000).await.expect("opened");
            accounts.push(account);
        }
    }
    accounts
}

async fn carried_out(client: Client, partitions: Vec<i32>) {
    let id = begin(&client, &partitions, "p2").await;
    let one = wait_for(&client, &id, &["done"]).await;
    assert!(one.is_verified, "{one:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_ends_whoever_is_killed_at_its_source() {
    let points = [
        "move_published",
        "move_given_up",
        "move_digested",
        "move_given_up#2",
        "move_released#2",
        "move_settle",
        "move_unpublished",
        "move_cleaned",
    ];
    kill_at_each("p1", "move", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_ends_whoever_is_killed_at_its_target() {
    let points =
        ["move_arrived", "move_subscribed", "move_fixed", "move_fixed#2", "move_own", "move_owned", "move_unsubscribed", "move_digested#2"];
    kill_at_each("p2", "move", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_ends_whoever_is_killed_at_the_hub() {
    let points = [
        "mover_publishing",
        "mover_copying",
        "mover_fixed",
        "mover_compared",
        "mover_released",
        "mover_decided",
        "mover_owned",
        "mover_confirming",
        "mover_cleaning",
    ];
    kill_at_each("hub", "mover", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_without_the_router_that_began_it() {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let moved = bank.open_accounts(&plain, "p1", 2, 1_000).await.expect("opened");
    let client = client(&bank);
    let id = begin(&client, &partitions_of(&bank, &moved), "p2").await;
    bank.embedded.restart_router().await.expect("another router");
    wait_for(&client, &id, &["done"]).await;
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}

/// The source's worker has given the partitions up and sleeps; its successor goes on with the move. When it wakes, it does nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_wakes_when_the_move_is_over_changes_nothing() {
    let mut bank = Cluster::bank(exe(), Shape::own(2)).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let moved = bank.open_accounts(&plain, "p1", 2, 1_000).await.expect("opened");
    let key = moved[0].to_string();
    let client = client(&bank);
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at("move_given_up", "move"))]).await.expect("armed");
    let zombie = bank.embedded.worker_address("p1").expect("it listens").to_owned();
    bank.embedded.start_standby("p1").await.expect("a standby");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    let id = begin(&client, &partitions_of(&bank, &moved), "p2").await;
    pause.reached().await.expect("the partitions are given up");
    bank.embedded.signal_worker("p1", Signal::SIGSTOP).expect("stopped");
    bank.cut_off_worker("p1").await.expect("cut off");
    bank.wait_until_serving("p1", term).await.expect("the standby serves");
    wait_for(&client, &id, &["done"]).await;
    pause.release().expect("released");
    let asleep = tokio::spawn(async move { tests::send_to_worker(&zombie, tests::deposit(moved[0], Uuid::now_v7())).await });
    bank.embedded.signal_worker("p1", Signal::SIGCONT).expect("awake");
    let fault = asleep.await.expect("no panic").expect("answered").expect_err("it serves nothing");
    assert!(["RW2005", "RW5002", "RW5005"].contains(&fault.code()), "{fault}");
    plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("the new owner serves");
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
