//! Signals, timers, scheduled starts and deadlines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use rootward_proto::v1::{self, ChainVerb};
use tests::{Shape, check_workflow, command, start};
use uuid::Uuid;

use crate::shared::{exe, workflow};

/// Milliseconds since 1970, some time from now.
pub fn in_ms(ms: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_millis()).expect("a moment of our days") + ms
}

#[tokio::test]
async fn a_signal_in_time_hands_what_it_carries_to_later_steps_and_the_first_one_counts() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    let begun = client.begin("long_wait", &input, id).await.expect("begun");
    assert_eq!(begun.id, id.to_string());
    let waiting = client.wait_for(id, &["waiting"]).await.expect("it waits");
    assert_eq!(waiting.verbs.first().map(String::as_str), Some("signal"), "{:?}", waiting.verbs);
    let open = waiting.steps.iter().find(|step| step.name == "go").expect("it is shown");
    assert_eq!((open.outcome.as_str(), open.waits_for.as_str()), ("open", "signal"));
    assert!(!waiting.next_attempt_at.is_empty(), "it says until when");

    for (payload, code) in [(vec![], "RW2002"), (vec![("note", "x"), ("other", "y")], "RW2002")] {
        let fault = client.signal(id, "go", &payload).await.expect_err("another payload");
        assert_eq!((fault.code(), fault.retry_class()), (code, v1::RetryClass::Refused), "{fault}");
    }
    let fault = client.signal(id, "gone", &[("note", "x")]).await.expect_err("no such signal");
    assert_eq!(fault.code(), "RW4004", "{fault}");
    assert!(fault.help().contains("`go`"), "{}", fault.help());
    let fault = client.signal(id, "first", &[("note", "x")]).await.expect_err("that step waits for nobody");
    assert_eq!(fault.code(), "RW4004", "{fault}");
    let fault = client.signal(Uuid::now_v7(), "go", &[("note", "x")]).await.expect_err("no such chain");
    assert_eq!(fault.code(), "RW4001", "{fault}");

    // Paused, it takes the signal and doesn't go on; the second signal is answered from the first.
    client.command(command(ChainVerb::Pause, id)).await.expect("paused");
    assert!(!client.signal(id, "go", &[("note", "first")]).await.expect("taken").from_stored_outcome);
    assert!(client.signal(id, "go", &[("note", "second")]).await.expect("answered").from_stored_outcome);
    assert_eq!(client.chain(id).await.expect("shown").status, "paused");
    client.command(command(ChainVerb::Resume, id)).await.expect("resumed");
    client.wait_for(id, &["completed"]).await.expect("it ends");
    let notes = workflow.reader().all("select note from mark where chain_id = $1 and step = 'last'", &[&id]).await.expect("read");
    assert_eq!(notes.iter().map(|(_, row)| row.get::<_, String>(0)).collect::<Vec<_>>(), ["first"]);
    let fault = client.signal(id, "go", &[("note", "third")]).await.expect_err("it has ended");
    assert_eq!(fault.code(), "RW4003", "{fault}");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn an_approval_is_the_chains_result() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    client.begin("approval", &input, id).await.expect("begun");
    client.wait_for(id, &["waiting", "running"]).await.expect("it is there");
    let fault = client.signal(id, "approval", &[("approved_by", "Ada"), ("amount", "much")]).await.expect_err("no number");
    assert_eq!(fault.code(), "RW2002", "{fault}");
    client.signal(id, "approval", &[("approved_by", "Ada"), ("amount", "5")]).await.expect("approved");
    let completed = client.wait_for(id, &["completed"]).await.expect("it ends");
    let result: serde_json::Value = serde_json::from_str(&completed.result).expect("JSON");
    assert_eq!(result, serde_json::json!({ "approved_by": "Ada", "amount": "5" }));
    // The start that asks again is told the same.
    let again = client.run_chain("approval", &input, id).await.expect("the same chain");
    assert_eq!((again.status.as_str(), again.result.as_str()), ("completed", completed.result.as_str()));
}

#[tokio::test]
async fn a_signal_that_does_not_come_in_time_is_called_off_and_the_chain_goes_back() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    let ended = client.begin("approval", &input, id).await.expect("begun");
    assert_eq!(ended.definition, "approval");
    let ended = client.wait_for(id, &["compensated"]).await.expect("it goes back");
    assert_eq!(ended.failure.map(|failure| failure.code).as_deref(), Some("RW4010"));
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "ask done, ask undone");
    let kinds: Vec<_> = workflow.reader().outcomes(id).await.expect("read").into_iter().map(|row| (row.place.0, row.kind)).collect();
    assert!(kinds.contains(&(1, "tombstone".to_owned())), "{kinds:?}");
    let fault = client.signal(id, "approval", &[("approved_by", "Ada"), ("amount", "5")]).await.expect_err("too late");
    assert_eq!(fault.code(), "RW4003", "{fault}");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_signal_that_comes_before_its_step_is_kept_and_a_scheduled_chain_starts_by_itself() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    let message = v1::StartChainRequest { start_at_ms: in_ms(1_500), ..start("long_wait", &input, id) };
    let first = client.start(message.clone()).await.expect("scheduled");
    let shown = first.chain.expect("the chain");
    assert_eq!((shown.status.as_str(), first.from_stored_outcome), ("scheduled", false));
    assert!(!shown.next_attempt_at.is_empty(), "it says when");
    let listed = client.ids(v1::ChainFilter { statuses: vec!["scheduled".to_owned()], id: id.to_string(), ..Default::default() }).await;
    assert_eq!(listed.expect("listed"), [id]);
    let again = client.start(message.clone()).await.expect("the same chain");
    assert!(again.from_stored_outcome);
    assert_eq!(again.chain.map(|chain| chain.status).as_deref(), Some("scheduled"));
    // Without a moment it asks for the same chain, too, and begins nothing.
    let again = client.start(v1::StartChainRequest { start_at_ms: 0, ..message.clone() }).await.expect("the same chain");
    assert!(again.from_stored_outcome);
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "");
    assert!(!client.signal(id, "go", &[("note", "early")]).await.expect("kept").from_stored_outcome);
    client.wait_for(id, &["completed"]).await.expect("it starts and finds its signal");
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, last done");
    for start_at_ms in [message.start_at_ms, 0] {
        let again = client.start(v1::StartChainRequest { start_at_ms, ..message.clone() }).await.expect("the same chain");
        assert!(again.from_stored_outcome);
        assert_eq!(again.chain.map(|chain| chain.status).as_deref(), Some("completed"));
    }
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, last done");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_scheduled_chain_that_is_cancelled_never_starts() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p2", "p1"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    let message = v1::StartChainRequest { start_at_ms: in_ms(1_000), ..start("kept", &input, id) };
    client.start(message.clone()).await.expect("scheduled");
    let cancelled = client.command(command(ChainVerb::Cancel, id)).await.expect("cancelled");
    assert!(["cancelled", "compensating"].contains(&cancelled.status.as_str()), "{cancelled:?}");
    let cancelled = client.wait_for(id, &["cancelled"]).await.expect("it ends");
    assert_eq!(cancelled.events.len(), 1);
    // Its moment passes, and it is asked for again.
    let due = tokio::time::Instant::now() + Duration::from_millis(1_200);
    let again = client.start(message.clone()).await.expect("the same chain");
    assert_eq!(again.chain.map(|chain| chain.status).as_deref(), Some("cancelled"));
    tokio::time::sleep_until(due).await;
    let again = client.start(v1::StartChainRequest { start_at_ms: 0, ..message }).await;
    let status = again.map(|answer| answer.chain.map(|chain| chain.status));
    assert!(matches!(&status, Ok(Some(status)) if status == "cancelled"), "{status:?}");
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "");
    assert_eq!(client.chain(id).await.expect("shown").status, "cancelled");
    // One whose first step is refused when its moment has come has failed, whoever asks again.
    let (refused, input) = (Uuid::now_v7(), [("item", items[1].as_str()), ("other", &items[1])]);
    client.close_item(&items[1]).await.expect("closed");
    let message = v1::StartChainRequest { start_at_ms: in_ms(300), ..start("kept", &input, refused) };
    client.start(message.clone()).await.expect("scheduled");
    client.wait_for(refused, &["failed"]).await.expect("it ends");
    let again = client.start(v1::StartChainRequest { start_at_ms: 0, ..message }).await.expect("the same chain");
    assert_eq!(again.chain.map(|chain| chain.status).as_deref(), Some("failed"));
    check_workflow(workflow).await.expect("every promise is kept");
}

/// A row that is there already is one chain's affair: starts that share its batch begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_known_already_refuses_no_other_one_beside_it() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let peers = ["p1"; 24];
    let items = workflow.add_items(&client, &peers).await.expect("added");
    for _ in 0..5 {
        let scheduled = Uuid::now_v7();
        let known =
            v1::StartChainRequest { start_at_ms: in_ms(600_000), ..start("kept", &[("item", &items[0]), ("other", &items[0])], scheduled) };
        client.start(known.clone()).await.expect("scheduled");
        // Without a moment it is the same chain, and would run its first step if its row were not there.
        let known = v1::StartChainRequest { start_at_ms: 0, ..known };
        let fresh: Vec<_> = items[1..].iter().map(|item| start("kept", &[("item", item), ("other", item)], Uuid::now_v7())).collect();
        let (fresh, again) = tokio::join!(
            join_all(fresh.into_iter().map(|message| client.start(message))),
            join_all((0..3).map(|_| client.start(known.clone())))
        );
        let refused: Vec<String> = fresh.into_iter().filter_map(|answer| answer.err().map(|fault| fault.to_string())).collect();
        assert!(refused.is_empty(), "{refused:?}");
        for answer in again {
            assert!(answer.expect("the same chain").from_stored_outcome);
        }
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_deadline_turns_a_chain_back_that_has_not_passed_its_pivot() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    // The definition's own deadline, and one that the start gives.
    let (own, given) = (Uuid::now_v7(), Uuid::now_v7());
    client.begin("impatient", &input, own).await.expect("begun");
    let message = v1::StartChainRequest { deadline_ms: in_ms(700), ..start("long_wait", &input, given) };
    let begun = client.start(message).await.expect("begun").chain.expect("the chain");
    assert_eq!(begun.id, given.to_string());
    for id in [given, own] {
        let ended = client.wait_for(id, &["compensated"]).await.expect("it goes back");
        assert_eq!(ended.failure.map(|failure| failure.code).as_deref(), Some("RW4007"));
        assert!(!ended.deadline.is_empty());
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, first undone");
    }
    let before = v1::StartChainRequest { deadline_ms: in_ms(-1_000), ..start("long_wait", &input, Uuid::now_v7()) };
    assert_eq!(client.start(before).await.expect_err("it has passed").code(), "RW4004");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_that_ended_before_its_home_died_is_not_turned_back_by_its_deadline() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let id = Uuid::now_v7();
    let ended = client.run_chain("kept", &[("item", items[0].as_str()), ("other", &items[1])], id).await.expect("told of its end");
    assert_eq!(ended.status, "completed");
    client.wait_for(id, &["completed"]).await.expect("its row says so");
    // As a home leaves it that dies before the lazy note, and comes back when the deadline is over.
    let lost = "update rootward.chain set status = 'running', ended_at = null, deadline = clock_timestamp() - interval '1 second', \
                next_attempt_at = clock_timestamp() - interval '5 seconds'";
    workflow.reader().run("p1", &format!("{lost} where id = '{id}'")).await.expect("as if it had died");
    client.wait_for(id, &["completed", "compensated", "parked", "stuck"]).await.expect("it is found again");
    assert_eq!(client.chain(id).await.expect("shown").status, "completed");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_person_lifts_a_deadline_that_has_passed() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1]), ("end", &items[2])];
    let id = Uuid::now_v7();
    client.close_item(&items[1]).await.expect("closed");
    let deadline_ms = in_ms(1_200);
    client.start(v1::StartChainRequest { deadline_ms, ..start("by_hand", &input, id) }).await.expect("begun");
    client.wait_for(id, &["parked"]).await.expect("it parks");
    client.open_item(&items[1]).await.expect("opened");
    tests::until("the deadline passes", async || (in_ms(0) > deadline_ms + 50).then_some(())).await.expect("it passes");
    assert_eq!(client.chain(id).await.expect("shown").status, "parked", "nobody looks at a parked chain's deadline");
    client.replay(id).await.expect("replayed");
    client.wait_for(id, &["completed"]).await.expect("it goes on");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_timer_and_a_pause_outlive_their_worker() {
    let shape = Shape { peers: 2, ..Shape::shared() };
    let mut workflow = tests::Cluster::workflow(exe(), shape).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let (timer, paused, resting, signal) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    for (id, chain) in [(resting, "long_timer"), (paused, "long_wait"), (signal, "long_wait"), (timer, "delayed")] {
        client.begin(chain, &input, id).await.expect("begun");
    }
    client.wait_for(paused, &["waiting"]).await.expect("it waits");
    client.command(command(ChainVerb::Pause, paused)).await.expect("paused");
    client.wait_for(resting, &["waiting"]).await.expect("it waits");
    let due = "select waits::text from rootward.chain where id = $1";
    let reader = workflow.reader();
    let before: String = reader.rows("p1", due, &[&resting]).await.expect("read")[0].get(0);
    workflow.restart_worker("p1", &[]).await.expect("a worker again");
    client.wait_for(timer, &["completed"]).await.expect("the timer goes on");
    let after: String = reader.rows("p1", due, &[&resting]).await.expect("read")[0].get(0);
    assert_eq!(before, after, "a restart begins no timer anew");
    assert_eq!(client.chain(resting).await.expect("shown").status, "waiting");
    assert_eq!(client.chain(paused).await.expect("shown").status, "paused");
    client.signal(signal, "go", &[("note", "now")]).await.expect("taken");
    client.wait_for(signal, &["completed"]).await.expect("the signal wakes it");
    client.signal(paused, "go", &[("note", "now")]).await.expect("taken");
    assert_eq!(client.chain(paused).await.expect("shown").status, "paused");
    client.command(command(ChainVerb::Resume, paused)).await.expect("resumed");
    client.wait_for(paused, &["completed"]).await.expect("it goes on");
    client.command(command(ChainVerb::Cancel, resting)).await.expect("cancelled");
    client.wait_for(resting, &["compensated"]).await.expect("it goes back");
    check_workflow(&workflow).await.expect("every promise is kept");
}
