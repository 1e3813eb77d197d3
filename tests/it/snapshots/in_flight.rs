//! Chains that don't end: those that wait are listed with what they hold, those that run keep the snapshot waiting.

use std::time::Duration;

use rootward_client::{SnapshotOptions, v1};
use tests::{Cluster, Pause, Shape, check_bank};
use uuid::Uuid;

use super::{accounts, client, sums, take, wrong_books};
use crate::shared::{exe, own_bank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_and_waiting_chains_are_listed_with_what_they_hold() {
    let workflow = Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts");
    let plain = workflow.client().expect("a client");
    let items = workflow.add_items(&plain, &["p1", "p2"]).await.expect("added");
    plain.close_item(&items[1]).await.expect("closed");
    let input = [("item", items[0].as_str()), ("other", items[1].as_str()), ("end", items[0].as_str())];
    let (parked, waiting) = (Uuid::now_v7(), Uuid::now_v7());
    plain.begin("by_hand", &input, parked).await.expect("begun");
    plain.wait_for(parked, &["parked"]).await.expect("it parks");
    plain.begin("long_wait", &input[..2], waiting).await.expect("begun");
    plain.wait_for(waiting, &["waiting"]).await.expect("it waits");
    let snapshot = take(&client(&workflow)).await.expect("taken");
    let facts = snapshot.facts();
    assert_eq!(facts.in_flight_total, 2);
    let seen: Vec<(String, &str)> = facts.in_flight.iter().map(|chain| (chain.id.clone(), chain.status.as_str())).collect();
    assert_eq!(seen, [(parked.to_string(), "parked"), (waiting.to_string(), "waiting")], "oldest first");
    for chain in &facts.in_flight {
        let shown = plain.chain(chain.id.parse().expect("a UUID")).await.expect("shown");
        let done: Vec<(u32, &str, &str, &str)> = shown
            .steps
            .iter()
            .filter(|step| step.outcome == "done")
            .map(|step| (step.step, step.name.as_str(), step.root_key.as_str(), step.peer.as_str()))
            .collect();
        let holds: Vec<(u32, &str, &str, &str)> = chain
            .steps
            .iter()
            .filter(|step| step.outcome == "done")
            .map(|step| (step.step, step.name.as_str(), step.root_key.as_str(), step.peer.as_str()))
            .collect();
        assert!(!holds.is_empty(), "it has done something");
        assert_eq!(holds, done, "what its roots say");
        assert!(chain.input.contains(&items[0]) && chain.age_s >= 0.0, "{chain:?}");
    }
    // What they hold is in the same snapshot.
    let marks = sums(&snapshot, "select count(*) from mark").await.expect("counted");
    let holds = facts.in_flight.iter().flat_map(|chain| &chain.steps).filter(|step| step.outcome == "done" && !step.transaction.is_empty());
    assert_eq!(marks, [i64::try_from(holds.count()).expect("few")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_does_not_end_is_named_and_others_go_on_meanwhile() {
    let mut bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 2).await;
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "transfer_in"))]).await.expect("armed");
    let (plain, client) = (bank.client().expect("a client"), client(&bank));
    let [from, near, to] = [accounts[0], accounts[1], accounts[2]].map(|key| key.to_string());
    let stuck = Uuid::now_v7();
    plain.begin("transfer", &[("from", &from), ("to", &to), ("amount", "5")], stuck).await.expect("begun");
    pause.reached().await.expect("its second step is under way");
    let other = tokio::spawn({
        let plain = plain.clone();
        async move { plain.start_chain("transfer", &[("from", &from), ("to", &near), ("amount", "1")], Uuid::now_v7()).await }
    });
    let options = SnapshotOptions { wait: Some(Duration::from_millis(2_500)), ..SnapshotOptions::default() };
    let fault = client.take_snapshot(options).await.expect_err("it does not end");
    assert_eq!((fault.code(), fault.retry_class()), ("RW5021", v1::RetryClass::Retry), "{fault}");
    assert!(fault.message().contains(&stuck.to_string()) && fault.message().contains("transfer"), "{fault}");
    assert_eq!(other.await.expect("no panic").expect("held, not refused").chain.expect("a chain").status, "completed");
    pause.release().expect("released");
    let snapshot = take(&client).await.expect("the next chance is taken");
    assert_eq!((snapshot.facts().in_flight_total, wrong_books(&snapshot).await.expect("counted")), (0, None));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_named_and_a_partial_snapshot_says_what_is_missing() {
    let mut bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 1).await;
    let (plain, client) = (bank.client().expect("a client"), client(&bank));
    bank.embedded.kill_worker("p2").await.expect("killed");
    let fault = take(&client).await.expect_err("a peer is missing");
    assert_eq!(fault.code(), "RW5020", "{fault}");
    assert!(fault.message().contains("p2"), "{fault}");
    // A chain that waits for it is no reason to do without the others.
    let [from, to] = [accounts[0], accounts[1]].map(|key| key.to_string());
    let id = Uuid::now_v7();
    plain.begin("transfer", &[("from", &from), ("to", &to), ("amount", "5")], id).await.expect("begun");
    let partial = SnapshotOptions { partial: true, ..SnapshotOptions::default() };
    let snapshot = client.take_snapshot(partial).await.expect("without it");
    let facts = snapshot.facts();
    assert_eq!(facts.missing_peers, ["p2"]);
    let held: Vec<(String, &str)> = facts.in_flight.iter().map(|chain| (chain.id.clone(), chain.steps[0].name.as_str())).collect();
    assert_eq!(held, [(id.to_string(), "withdraw")]);
    let rows = snapshot.rows_by_peer("select balance::bigint from account").await.expect("read");
    assert_eq!(rows.missing_peers, ["p2"]);
    assert_eq!(rows.all().map(|row| tests::text_of(&row.values[0])).collect::<Vec<_>>(), ["995"]);
    bank.embedded.start_worker("p2", &[]).await.expect("back again");
    // Still not in it, though it answers now.
    assert_eq!(snapshot.rows_by_peer("select count(*) from account").await.expect("read").missing_peers, ["p2"]);
    plain.wait_for(id, &["completed"]).await.expect("it goes on");
    check_bank(&bank).await.expect("every promise is kept");
}
