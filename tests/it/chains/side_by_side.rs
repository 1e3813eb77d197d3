//! Steps that need nothing of each other run side by side, and are undone together.

use rootward_proto::v1::ChainVerb;
use tests::{Cluster, Pause, Shape, check_workflow, command};
use uuid::Uuid;

use crate::shared::{exe, workflow};

const STEPS: [&str; 5] = ["first", "left", "right", "decide", "last"];

fn input(items: &[String]) -> Vec<(&'static str, &str)> {
    STEPS.into_iter().zip(items.iter().map(String::as_str)).collect()
}

#[tokio::test]
async fn two_steps_are_under_way_at_the_same_time_and_either_may_be_done_first() {
    let mut workflow = Cluster::workflow(exe(), Shape::shared()).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3", "p1", "p1"]).await.expect("added");
    for first in ["p2", "p3"] {
        let pauses = [("p2", Pause::new().expect("a folder")), ("p3", Pause::new().expect("a folder"))];
        for (peer, pause) in &pauses {
            workflow.restart_worker(peer, &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "mark"))]).await.expect("armed");
        }
        let id = Uuid::now_v7();
        client.begin("side_by_side", &input(&items), id).await.expect("begun");
        for (_, pause) in &pauses {
            pause.reached().await.expect("both are under way");
        }
        let [one, other] = if first == "p2" {
            pauses
        } else {
            let [a, b] = pauses;
            [b, a]
        };
        one.1.release().expect("released");
        let done = if first == "p2" { "first done, left done" } else { "first done, right done" };
        let reader = workflow.reader();
        tests::until(done, async || (reader.marks_text(id).await.ok()? == done).then_some(())).await.expect("done alone");
        assert_eq!(client.chain(id).await.map(|chain| chain.status).unwrap_or_else(|_| "running".to_owned()), "running");
        other.1.release().expect("released");
        client.wait_for(id, &["completed"]).await.expect("it ends");
    }
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn whichever_step_is_refused_the_others_are_undone() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    for (refused, peers) in
        [("left", ["p1", "p2", "p3", "p2", "p3"]), ("right", ["p2", "p1", "p3", "p1", "p2"]), ("decide", ["p3", "p1", "p2", "p3", "p3"])]
    {
        let items = workflow.add_items(&client, &peers).await.expect("added");
        let at = STEPS.iter().position(|step| *step == refused).expect("a step");
        client.close_item(&items[at]).await.expect("closed");
        let id = Uuid::now_v7();
        let ended = client.run_chain("side_by_side", &input(&items), id).await.expect("it ends");
        assert_eq!(ended.status, "compensated", "{refused}");
        assert!(ended.failure.is_some_and(|failure| failure.message.contains("item is closed")));
        // Beside a refused one the other may have been done, or called off before it came.
        let marks = workflow.reader().marks_text(id).await.expect("read");
        let both = "first done, first undone, left done, left undone, right done, right undone";
        let possible = match refused {
            "left" => vec!["first done, first undone", "first done, first undone, right done, right undone"],
            "right" => vec!["first done, first undone", "first done, first undone, left done, left undone"],
            _ => vec![both],
        };
        assert!(possible.contains(&marks.as_str()), "{refused}: {marks}");
        // Undone in the reverse order, on one server with one clock: the first one last.
        let sql =
            "select step, extract(epoch from at)::double precision from rootward.outcome where request_id = $1 and direction = 'undo'";
        let rows = workflow.reader().all(sql, &[&id]).await.expect("read");
        let ats: Vec<(i32, f64)> = rows.iter().map(|(_, row)| (row.get(0), row.get(1))).collect();
        let first = ats.iter().find(|(step, _)| *step == 0).expect("undone").1;
        assert!(ats.iter().all(|(_, at)| *at <= first), "{ats:?}");
    }
    let items = workflow.add_items(&client, &["p1", "p2", "p3", "p1", "p2"]).await.expect("added");
    let id = Uuid::now_v7();
    let ended = client.run_chain("side_by_side", &input(&items), id).await.expect("it ends");
    assert_eq!(ended.status, "completed");
    let result: serde_json::Value = serde_json::from_str(&ended.result).expect("JSON");
    assert_eq!(result, serde_json::json!({ "left": "1", "right": "1", "last": items[4] }));
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_that_waits_for_a_peer_is_stopped_only_when_its_roots_can_say_how_far_it_is() {
    let workflow = Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let (goes_on, paused) = (Uuid::now_v7(), Uuid::now_v7());
    workflow.embedded.signal_worker("p2", nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    for id in [goes_on, paused] {
        client.begin("kept", &input, id).await.expect("begun");
    }
    // Whether its second step has taken effect nobody knows now.
    let fault = client.command(command(ChainVerb::Cancel, goes_on)).await.expect_err("nobody knows");
    assert_eq!(fault.code(), "RW5002", "{fault}");
    client.command(command(ChainVerb::Pause, paused)).await.expect("paused");
    workflow.embedded.signal_worker("p2", nix::sys::signal::Signal::SIGCONT).expect("awake");
    client.wait_for(goes_on, &["completed"]).await.expect("it goes on as if nothing had been");
    assert_eq!(client.chain(paused).await.expect("shown").status, "paused");
    client.command(command(ChainVerb::Cancel, paused)).await.map(|_| ()).unwrap_or_else(|fault| {
        // What was sent to the sleeping worker was done when it woke: that is the chain's end.
        assert_eq!(fault.code(), "RW4003", "{fault}");
    });
    let reader = workflow.reader();
    let marks = reader.marks_text(paused).await.expect("read");
    if marks == "first done, second done" {
        client.command(command(ChainVerb::Resume, paused)).await.expect("resumed");
        client.wait_for(paused, &["completed"]).await.expect("it was done");
    } else {
        client.wait_for(paused, &["compensated"]).await.expect("it goes back");
        assert_eq!(reader.marks_text(paused).await.expect("read"), "first done, first undone");
    }
    check_workflow(&workflow).await.expect("every promise is kept");
}

/// What the outcomes of a batch have in common is sent once: steps that differ, and calls beside them, must differ in their rows too.
#[tokio::test]
async fn steps_of_many_chains_in_one_batch_have_each_an_outcome_of_their_own() {
    let workflow = Cluster::workflow(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1"; 40 * 6]).await.expect("added");
    let ids: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    // `left` and `right` are undone at the same time, by a transaction that runs set-wise.
    let runs = ids.iter().zip(items.chunks(6)).map(async |(id, items)| {
        client.close_item(&items[3]).await.expect("closed");
        let (called, input) = (Uuid::now_v7(), input(&items[..5]));
        let given = [("item_id", items[5].as_str()), ("step", "call"), ("note", "")];
        let (ended, call) = tokio::join!(client.run_chain("side_by_side", &input, *id), client.settle("unmark", &given, called));
        assert_eq!(ended.expect("it ends").status, "compensated");
        call.expect("called");
        called
    });
    let calls = futures_util::future::join_all(runs).await;
    let sql = "select string_agg(concat_ws(' ', step, element, direction, in_chain), ', ' order by step) \
               from rootward.outcome where request_id = $1 and transaction = 'unmark'";
    for (id, called) in ids.iter().zip(&calls) {
        let of = async |id: &Uuid| workflow.reader().rows("p1", sql, &[id]).await.expect("read")[0].get::<_, Option<String>>(0);
        assert_eq!(of(id).await.as_deref(), Some("0 0 undo t, 1 0 undo t, 2 0 undo t"));
        assert_eq!(of(called).await.as_deref(), Some("0 0 do f"));
    }
}
