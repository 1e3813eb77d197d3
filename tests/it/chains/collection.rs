//! The collection of ended chains while people replay and compensate others.

use rootward_proto::v1::ChainVerb;
use tests::{Cluster, Pause, Shape, TestClock, check_marks, command, until};
use uuid::Uuid;

use crate::shared::exe;

const DAY: i64 = 24 * 3_600;

async fn count(workflow: &Cluster, peer: &str, sql: &str) -> i64 {
    workflow.reader().rows(peer, sql, &[]).await.expect("read")[0].get(0)
}

#[tokio::test]
async fn a_collection_takes_nothing_of_chains_that_are_replayed_meanwhile_and_nobody_opens_what_it_takes() {
    let shape = Shape { worker_settings: "collection_pause_ms = 50\n", ..Shape::shared() };
    let mut workflow = Cluster::workflow(exe(), shape).await.expect("a workflow starts");
    let clock = TestClock::new().expect("a clock");
    workflow.restart_all_at(&clock, 0).await.expect("they serve");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3"]).await.expect("added");
    let [home, closed, refusing] = [&*items[0], &*items[1], &*items[2]];
    for item in [closed, refusing] {
        client.close_item(item).await.expect("closed");
    }
    // One has failed, which may be compensated still; the others are parked.
    let failed = Uuid::now_v7();
    client.begin("kept", &[("item", home), ("other", closed)], failed).await.expect("begun");
    client.wait_for(failed, &["failed"]).await.expect("it fails");
    let parked: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    for id in &parked {
        client.begin("by_hand", &[("item", home), ("other", refusing), ("end", home)], *id).await.expect("begun");
        client.wait_for(*id, &["parked"]).await.expect("it parks");
    }
    // First only the requests are old, so that the next collection at `p2` is that of the chain.
    workflow.restart_all_at(&clock, 3 * DAY).await.expect("they serve");
    let requests = "select count(*) from rootward.outcome where not in_chain";
    until("the requests are collected", async || (workflow.reader().sum(requests).await.ok()? == 0).then_some(()))
        .await
        .expect("collected");

    let pause = Pause::new().expect("a folder");
    clock.set(9 * DAY).expect("set");
    let armed = pause.at("before_begin", "collection");
    for (peer, point) in [("p2", armed.as_str()), ("p3", ""), ("p1", "")] {
        let env = [("ROOTWARD_CLOCK_FILE", clock.path()), ("ROOTWARD_FAIL_POINT", point.to_owned())];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        workflow.restart_worker(peer, &env).await.expect("it serves");
    }
    pause.reached().await.expect("home asks the other root to forget the chain");
    // In the middle of it: home has marked the chain, and nothing has gone yet.
    let marked = format!("select count(*) from rootward.chain where id = '{failed}' and is_collected");
    assert_eq!(count(&workflow, "p1", &marked).await, 1);
    let fault = client.command(command(ChainVerb::Compensate, failed)).await.expect_err("it is being forgotten");
    assert_eq!(fault.code(), "RW4001", "{fault}");
    // The parked ones are as old. They are tried, park again, and go on when their cause is gone.
    for id in &parked {
        client.replay(*id).await.expect("replayed");
        client.wait_for(*id, &["parked"]).await.expect("its cause is still there");
    }
    workflow.reader().run("p3", &format!("update item set is_closed = false where item_id = {refusing}")).await.expect("opened");
    for id in &parked[..2] {
        client.replay(*id).await.expect("replayed");
        client.wait_for(*id, &["completed"]).await.expect("it goes on");
    }
    pause.release().expect("released");
    let reader = workflow.reader();
    until("the failed one is forgotten", async || reader.outcomes(failed).await.ok()?.is_empty().then_some(())).await.expect("collected");
    until("its row goes last", async || reader.chain_statuses(failed).await.ok()?.is_empty().then_some(())).await.expect("collected");
    assert_eq!(reader.marks_text(failed).await.expect("read"), "first done", "nothing of it was undone");
    client.replay(parked[2]).await.expect("replayed");
    for id in &parked[..3] {
        client.wait_for(*id, &["completed"]).await.expect("it goes on");
        assert_eq!(reader.marks_text(*id).await.expect("read"), "after done, count done, end done, first done");
        assert_eq!(reader.outcomes(*id).await.expect("read").len(), 4);
    }
    assert_eq!(reader.outcomes(parked[3]).await.expect("read").len(), 1, "an open chain keeps what it did");
    check_marks(&reader).await.expect("each step once");
    tests::check_everything(&workflow).await.expect("every promise is kept");

    // The control: had the collection taken the outcome of an open chain, its replay would run that step once more.
    reader.run("p1", &format!("delete from rootward.outcome where request_id = '{}'", parked[3])).await.expect("taken");
    client.replay(parked[3]).await.expect("replayed");
    let other = client.wait_for(parked[3], &["failed", "parked", "completed", "compensated"]).await.expect("it comes to a stand");
    assert_ne!(other.status, "completed", "the first step's mark stands already");
}
