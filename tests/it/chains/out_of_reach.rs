//! A person cancels while a root does not answer: what was asked for is kept, and carried out when it does.

use rootward_proto::v1::{self, ChainVerb};
use tests::{Client, Cluster, Shape, check_workflow, command};
use uuid::Uuid;

use crate::shared::exe;

/// Two peers, and items on them.
async fn workflow_with(peers: &[&str]) -> (Cluster, Client, Vec<String>) {
    let workflow = Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, peers).await.expect("added");
    (workflow, client, items)
}

/// Cancels a chain some of whose roots don't answer.
async fn ask(client: &Client, id: Uuid) {
    let asked = tests::until("the cancel is taken", async || match client.command(command(ChainVerb::Cancel, id)).await {
        Ok(chain) => Some(chain),
        // The router may ask a worker that has just begun.
        Err(fault) if fault.retry_class() == v1::RetryClass::Retry && fault.code() != "RW4003" => None,
        Err(fault) => panic!("{fault}"),
    });
    let asked = asked.await.expect("taken");
    assert_eq!(asked.status, "compensating");
    assert_eq!(asked.events.last().map(|event| event.event.as_str()), Some("cancel asked"));
}

#[tokio::test]
async fn a_cancel_is_kept_until_the_root_that_does_not_answer_is_back() {
    let (mut workflow, client, items) = workflow_with(&["p1", "p2"]).await;
    workflow.embedded.kill_worker("p2").await.expect("away");
    let id = Uuid::now_v7();
    client.begin("kept", &[("item", &items[0]), ("other", &items[1])], id).await.expect("begun");
    ask(&client, id).await;
    let again = client.command(command(ChainVerb::Cancel, id)).await.expect_err("once is enough");
    assert_eq!(again.code(), "RW4003", "{again}");
    // It outlives its home's worker, and nothing is undone before the second step is called off.
    workflow.restart_worker("p1", &[]).await.expect("a worker again");
    let reader = workflow.reader();
    assert_eq!(reader.chain_statuses(id).await.expect("read"), ["compensating"]);
    assert_eq!(reader.marks_text(id).await.expect("read"), "first done");
    workflow.embedded.start_worker("p2", &[]).await.expect("back again");
    client.wait_for(id, &["compensated"]).await.expect("it goes back");
    assert_eq!(reader.marks_text(id).await.expect("read"), "first done, first undone");
    let late: Vec<String> = reader.outcomes(id).await.expect("read").into_iter().map(|row| row.kind).collect();
    assert_eq!(late, ["done", "done", "tombstone"], "the second step can't come late");
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_fork_starts_nothing_while_nobody_knows_what_it_would_repeat() {
    let (mut workflow, client, items) = workflow_with(&["p1", "p2"]).await;
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    let input = [("item", items[0].as_str()), ("other", items[1].as_str())];
    assert_eq!(client.run_chain("kept", &input, old).await.expect("done").status, "completed");
    client.wait_for(old, &["completed"]).await.expect("home knows it");
    workflow.embedded.kill_worker("p2").await.expect("away");
    let fork = v1::ForkChainRequest { id: old.to_string(), new_id: new.to_string(), reason: "again".to_owned(), ..Default::default() };
    for dry_run in [true, false] {
        let fault = client.fork(v1::ForkChainRequest { dry_run, ..fork.clone() }).await.expect_err("it can't be listed");
        assert_eq!((fault.code(), fault.retry_class()), ("RW5002", v1::RetryClass::Retry), "{fault}");
        assert!(fault.message().contains("`second`"), "{fault}");
    }
    assert!(workflow.reader().chain_statuses(new).await.expect("read").is_empty(), "nothing was started");
    workflow.embedded.start_worker("p2", &[]).await.expect("back again");
    let listed = tests::until("it is listed", async || client.fork(v1::ForkChainRequest { dry_run: true, ..fork.clone() }).await.ok());
    let names: Vec<String> = listed.await.expect("listed").repeated_effects.into_iter().map(|step| step.name).collect();
    assert_eq!(names, ["first", "second"]);
}

#[tokio::test]
async fn a_chain_that_was_through_is_completed_though_a_cancel_was_taken_meanwhile() {
    let (mut workflow, client, items) = workflow_with(&["p1", "p2"]).await;
    let id = Uuid::now_v7();
    let armed = "before_begin/chain progress=kill";
    workflow.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", armed)]).await.expect("armed");
    let started = client.start_chain("kept", &[("item", &items[0]), ("other", &items[1])], id).await;
    if let Ok(started) = &started {
        assert_eq!(started.chain.as_ref().map(|chain| chain.status.as_str()), Some("completed"));
    }
    workflow.embedded.wait_for_worker_end("p1").await;
    let reader = workflow.reader();
    assert_eq!(reader.marks_text(id).await.expect("read"), "first done, second done");
    assert_eq!(reader.chain_statuses(id).await.expect("read"), ["running"], "home has not heard of its end");
    workflow.embedded.kill_worker("p2").await.expect("away");
    workflow.embedded.start_worker("p1", &[]).await.expect("a worker again");
    ask(&client, id).await;
    workflow.embedded.start_worker("p2", &[]).await.expect("back again");
    client.wait_for(id, &["completed"]).await.expect("what was told stays");
    assert_eq!(reader.marks_text(id).await.expect("read"), "first done, second done");
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_that_had_passed_its_pivot_goes_on_though_a_cancel_was_taken_meanwhile() {
    let (mut workflow, client, items) = workflow_with(&["p1", "p1", "p1", "p2", "p1"]).await;
    let names = ["first", "left", "right", "decide", "last"];
    let input: Vec<(&str, &str)> = names.into_iter().zip(items.iter().map(String::as_str)).collect();
    client.close_item(&items[4]).await.expect("closed");
    let id = Uuid::now_v7();
    client.begin("side_by_side", &input, id).await.expect("begun");
    client.wait_for(id, &["parked"]).await.expect("it parks behind its pivot");
    workflow.embedded.kill_worker("p2").await.expect("away");
    ask(&client, id).await;
    workflow.embedded.start_worker("p2", &[]).await.expect("back again");
    let parked = client.wait_for(id, &["parked"]).await.expect("it stands where it stood");
    assert!(parked.failure.is_some_and(|failure| failure.message.contains("item is closed")));
    client.open_item(&items[4]).await.expect("opened");
    client.replay(id).await.expect("replayed");
    client.wait_for(id, &["completed"]).await.expect("it ends");
    let marks = "decide done, first done, last done, left done, right done";
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), marks);
    check_workflow(&workflow).await.expect("every promise is kept");
}
