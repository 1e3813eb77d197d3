//! Failure points that are no kill around one commit: late originals, lost progress, scans over restarts, races.

use std::time::Duration;

use futures_util::future::join_all;
use rootward_proto::v1::{self, ChainVerb};
use tests::{Cluster, Pause, Shape, check_bank, check_workflow, command};
use uuid::Uuid;

use crate::shared::{exe, own_bank, workflow};

const FAIL_POINT: &str = "ROOTWARD_FAIL_POINT";

async fn small_workflow() -> Cluster {
    Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts")
}

/// Makes what undoes anything at an item fail.
async fn spoil(workflow: &Cluster, peer: &str, item: &str) {
    let sql = format!(
        "create or replace function public.spoil() returns trigger language plpgsql as $$ begin raise exception 'spoilt'; end $$;
         create trigger spoil before insert on mark for each row when (new.kind = 'undone' and new.item_id = {item}) execute function public.spoil()"
    );
    workflow.reader().run(peer, &sql).await.expect("spoilt");
}

#[tokio::test]
async fn a_step_that_comes_after_its_chain_went_back_is_refused() {
    // The second step waits in its worker, which sleeps in the middle of it; the chain's deadline passes and calls it off there.
    let mut workflow = small_workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let id = Uuid::now_v7();
    let pause = Pause::new().expect("a folder");
    workflow.restart_worker("p2", &[(FAIL_POINT, &pause.at("before_begin", "mark_brittle"))]).await.expect("armed");
    let input = [("item", items[0].as_str()), ("other", items[1].as_str())];
    let message = v1::StartChainRequest { deadline_ms: super::waits::in_ms(800), ..tests::start("eager", &input, id) };
    client.start(message).await.expect("begun");
    pause.reached().await.expect("under way");
    let reader = workflow.reader();
    // It says `compensating` as soon as the deadline is over, and undoes nothing while nobody knows what the sleeper did.
    let turned = tests::until("it turns back", async || (reader.chain_statuses(id).await.ok()? == ["compensating"]).then_some(()));
    turned.await.expect("it turns back");
    assert_eq!(reader.marks_text(id).await.expect("read"), "first done");
    pause.release().expect("released");
    client.wait_for(id, &["compensated"]).await.expect("it goes back");
    // Whichever came first at the root decided; the other one had no effect.
    let marks = reader.marks_text(id).await.expect("read");
    assert!(["first done, first undone", "first done, first undone, second done, second undone"].contains(&marks.as_str()), "{marks}");
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_home_that_dies_before_its_progress_is_durable_comes_to_the_same_end() {
    let mut workflow = small_workflow().await;
    let client = workflow.client().expect("a client");
    for (point, closed) in [("before_begin", false), ("commit_sent", true), ("before_begin", true), ("after_commit", false)] {
        let items = workflow.add_items(&client, &["p1", "p2", "p2"]).await.expect("added");
        if closed {
            client.close_item(&items[2]).await.expect("closed");
        }
        let id = Uuid::now_v7();
        let armed = format!("{point}/chain progress=kill");
        let term = workflow.restart_worker("p1", &[(FAIL_POINT, &armed)]).await.expect("armed");
        let input = [("item", items[0].as_str()), ("other", &items[1]), ("end", &items[2])];
        let play = client.run_chain("by_hand", &input, id);
        let kill = async {
            workflow.embedded.wait_for_worker_end("p1").await;
            workflow.embedded.start_worker("p1", &[]).await.expect("a worker again");
        };
        let (ended, ()) = tokio::join!(play, kill);
        workflow.wait_until_serving("p1", term).await.expect("it serves");
        let ended = ended.unwrap_or_else(|fault| panic!("{point}: {fault}"));
        let (status, marks) = match closed {
            true => ("compensated", "after done, after undone, count done, count undone, first done, first undone"),
            false => ("completed", "after done, count done, end done, first done"),
        };
        assert_eq!(ended.status, status, "{point}");
        client.wait_for(id, &[status]).await.expect("home knows it");
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), marks, "{point}");
    }
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_completed_chain_is_not_cancelled_though_its_home_has_not_heard_of_its_end() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let (to_key, id) = (to.to_string(), Uuid::now_v7());
    bank.restart_worker("p1", &[(FAIL_POINT, "before_begin/chain progress=kill")]).await.expect("armed");
    let input = [("from", from.as_str()), ("to", to_key.as_str()), ("amount", "1")];
    let answered = client.start_chain("transfer", &input, id).await;
    if let Ok(answered) = &answered {
        assert_eq!(answered.chain.as_ref().map(|chain| chain.status.as_str()), Some("completed"));
    }
    bank.embedded.wait_for_worker_end("p1").await;
    assert_eq!(bank.reader().chain_statuses(id).await.expect("read"), ["running"], "home has not heard of it");
    bank.embedded.start_worker("p1", &[]).await.expect("a worker again");
    let refused = tests::until("the cancel is answered", async || match client.command(command(ChainVerb::Cancel, id)).await {
        Err(fault) if fault.code() == "RW4003" => Some(fault),
        Err(_) => None,
        Ok(chain) => panic!("it was cancelled: {chain:?}"),
    });
    let refused = refused.await.expect("answered");
    assert!(refused.message().contains("is completed since"), "{refused}");
    client.wait_for(id, &["completed"]).await.expect("it stays so");
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(100));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_cancel_and_a_last_step_that_race_leave_no_half_chain() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let mut ends = std::collections::BTreeMap::new();
    // Each round comes nearer to the moment at which it is open who is first, wherever that lies on this machine. It may be
    // before whoever began the chain is told of it. There, cancels that ask by turns whether it is there yet miss it less easily than one.
    let mut pause = Duration::from_millis(4);
    for round in 0..240 {
        if round >= 80 && ends.len() == 2 {
            break;
        }
        let id = Uuid::now_v7();
        let (client, cancels) = (&client, if pause < Duration::from_micros(500) { 6 } else { 1 });
        let cancel = async |late: u32| {
            tokio::time::sleep(pause + Duration::from_micros(400) * late).await;
            loop {
                match client.command(command(ChainVerb::Cancel, id)).await {
                    Err(fault) if fault.code() == "RW4001" => {}
                    cancelled => return cancelled,
                }
            }
        };
        let (begun, cancelled) = tokio::join!(client.begin("kept", &input, id), join_all((0..cancels).map(cancel)));
        begun.expect("begun");
        let end = client.wait_for(id, &["completed", "compensated"]).await.expect("it ends").status;
        for cancelled in &cancelled {
            match cancelled {
                Err(fault) if fault.code() == "RW4003" => {}
                Err(fault) => panic!("{fault}"),
                Ok(_) => assert_eq!(end, "compensated", "whoever was told `cancelled` can rely on it"),
            }
        }
        let marks = workflow.reader().marks_text(id).await.expect("read");
        let wanted = if end == "completed" { "first done, second done" } else { "first done, first undone" };
        assert_eq!(marks, wanted, "{end}");
        pause = if end == "completed" { pause.mul_f64(0.8) } else { pause.mul_f64(1.2) + Duration::from_micros(50) };
        *ends.entry(end).or_insert(0) += 1;
    }
    assert_eq!(ends.len(), 2, "both ends were met: {ends:?}");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_cancel_that_finds_the_row_of_a_chain_before_its_driver_leaves_no_half_chain() {
    let mut workflow = small_workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (id, start, look) = (Uuid::now_v7(), Pause::new().expect("a folder"), Pause::new().expect("a folder"));
    workflow.restart_worker("p1", &[(FAIL_POINT, &start.at("before_driver", "kept"))]).await.expect("armed");
    workflow.restart_worker("p2", &[(FAIL_POINT, &look.at("before_begin", "mark"))]).await.expect("armed");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let cancel = async {
        start.reached().await.expect("its row is there, its driver not yet");
        assert_eq!(workflow.reader().chain_statuses(id).await.expect("read"), ["running"]);
        let release = async {
            // A cancel that doesn't wait for the driver asks the second root meanwhile, and hears that nothing was done there.
            let _ = tokio::time::timeout(Duration::from_millis(500), look.reached()).await;
            start.release().expect("released");
            look.reached().await.expect("the driver sends its step, or the cancel asks");
            look.release().expect("released");
        };
        tokio::join!(client.command(command(ChainVerb::Cancel, id)), release).0
    };
    let (begun, cancelled) = tokio::join!(client.begin("kept", &input, id), cancel);
    begun.expect("begun");
    let end = client.wait_for(id, &["completed", "compensated"]).await.expect("it ends").status;
    match cancelled {
        Err(fault) => assert_eq!((fault.code(), end.as_str()), ("RW4003", "completed"), "{fault}"),
        Ok(_) => assert_eq!(end, "compensated"),
    }
    let marks = workflow.reader().marks_text(id).await.expect("read");
    assert_eq!(marks, if end == "completed" { "first done, second done" } else { "first done, first undone" }, "{end}");
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_that_ended_is_not_undone_because_a_root_is_out_of_reach_when_it_is_recovered() {
    // `second` fails the chain when its attempts are used up. It is done and its end told, but home has not heard of that.
    let shape = Shape { peers: 2, worker_settings: "statement_timeout_ms = 300\n", ..Shape::shared() };
    let mut workflow = Cluster::workflow(exe(), shape).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let id = Uuid::now_v7();
    workflow.restart_worker("p1", &[(FAIL_POINT, "before_begin/chain progress=kill")]).await.expect("armed");
    let started = client.start_chain("brittle", &[("item", &items[0]), ("other", &items[1])], id).await;
    if let Ok(started) = &started {
        assert_eq!(started.chain.as_ref().map(|chain| chain.status.as_str()), Some("completed"));
    }
    workflow.embedded.wait_for_worker_end("p1").await;
    let reader = workflow.reader();
    let marks = "first done, last done, second done";
    assert_eq!(reader.marks_text(id).await.expect("read"), marks);
    assert_eq!(reader.chain_statuses(id).await.expect("read"), ["running"], "home has not heard of it");

    // Whatever is asked of `second` at its root now fails, and not because the peer is away: that would be no attempt.
    let (holder, connection) = tokio_postgres::connect(&workflow.embedded.database("p2"), tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    holder.batch_execute("begin; select pg_advisory_xact_lock(20825, 0)").await.expect("locked");
    workflow.embedded.start_worker("p1", &[]).await.expect("a worker again");
    let stands = "select 1 from rootward.chain where id = $1 and attempts > 0 and error is not null";
    let used_up = tests::until("its attempts are used up", async || {
        let statuses = reader.chain_statuses(id).await.ok()?;
        assert_eq!(statuses, ["running"], "it turned back though it had ended");
        reader.all(stands, &[&id]).await.ok().filter(|rows| !rows.is_empty())
    });
    used_up.await.expect("it notes that it could not go on");
    holder.batch_execute("rollback").await.expect("unlocked");
    client.wait_for(id, &["completed"]).await.expect("it is found completed");
    assert_eq!(reader.marks_text(id).await.expect("read"), marks);
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn open_chains_are_found_though_postgres_restarts_during_the_scan() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 2, 1000).await.expect("opened");
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let to_key = to.to_string();
    bank.embedded.kill_worker("p2").await.expect("away");
    let mut ids = Vec::new();
    for at in 0..40 {
        let (id, from_key) = (Uuid::now_v7(), from[at % 2].to_string());
        client.begin("transfer", &[("from", &from_key), ("to", &to_key), ("amount", "1")], id).await.expect("begun");
        ids.push(id);
    }
    bank.embedded.kill_worker("p1").await.expect("killed");
    for _ in 0..2 {
        bank.embedded.kill_postgres("p1").await.expect("killed");
        let (worker, postgres) = (bank.embedded.start_worker("p1", &[]).await, bank.embedded.start_postgres("p1").await);
        worker.expect("a worker");
        postgres.expect("PostgreSQL again");
        bank.wait_until_serving("p1", 0).await.expect("it serves");
        bank.embedded.kill_worker("p1").await.expect("killed");
    }
    bank.embedded.start_worker("p1", &[]).await.expect("a worker");
    bank.wait_until_serving("p1", 0).await.expect("it serves");
    bank.embedded.kill_postgres("p1").await.expect("killed");
    bank.embedded.start_postgres("p1").await.expect("PostgreSQL again");
    bank.embedded.start_worker("p2", &[]).await.expect("back again");
    for id in ids {
        client.wait_for(id, &["completed"]).await.expect("it ends");
    }
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(4_000));
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_compensation_that_never_works_gets_stuck_and_outlives_its_worker() {
    let mut workflow = small_workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p1", "p2"]).await.expect("added");
    spoil(&workflow, "p1", &items[0]).await;
    client.close_item(&items[2]).await.expect("closed");
    let id = Uuid::now_v7();
    // The refusal is recorded at the root, and home dies before its first compensation.
    workflow.restart_worker("p1", &[(FAIL_POINT, "before_begin/unmark=kill")]).await.expect("armed");
    let input = [("item", items[0].as_str()), ("other", &items[1]), ("end", &items[2])];
    let _ = client.begin("by_hand", &input, id).await;
    workflow.embedded.wait_for_worker_end("p1").await;
    let failed = workflow.reader().outcomes(id).await.expect("read").into_iter().filter(|row| row.kind == "failed").count();
    assert_eq!(failed, 1, "the refusal is durable before anything is undone");
    // With the cause of the refusal gone it is still refused: nobody goes forward after somebody went back.
    client.open_item(&items[2]).await.expect("opened");
    workflow.embedded.start_worker("p1", &[]).await.expect("a worker again");
    let stuck = client.wait_for(id, &["stuck"]).await.expect("it can't");
    assert!(stuck.failure.is_some_and(|failure| failure.message.contains("spoilt")));
    let marks = "after done, count done, count undone, first done";
    let reader = workflow.reader();
    let seen = reader.marks_text(id).await.expect("read");
    assert!(seen == marks || seen == "after done, count done, first done", "{seen}");
    workflow.restart_worker("p1", &[]).await.expect("a worker again");
    assert_eq!(client.chain(id).await.expect("shown").status, "stuck");
    reader.run("p1", "drop trigger spoil on mark").await.expect("healed");
    client.replay(id).await.expect("replayed");
    client.wait_for(id, &["compensated"]).await.expect("it goes back");
    let wanted = "after done, after undone, count done, count undone, first done, first undone";
    assert_eq!(reader.marks_text(id).await.expect("read"), wanted);
    check_workflow(&workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_chain_that_is_replayed_twice_and_while_it_runs_goes_on_once() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3"]).await.expect("added");
    for _ in 0..5 {
        client.close_item(&items[1]).await.expect("closed");
        let id = Uuid::now_v7();
        client.begin("by_hand", &[("item", &items[0]), ("other", &items[1]), ("end", &items[2])], id).await.expect("begun");
        client.wait_for(id, &["parked"]).await.expect("it parks");
        client.open_item(&items[1]).await.expect("opened");
        let replays = futures_util::future::join_all((0..6).map(|_| client.replay(id))).await;
        assert!(replays.iter().any(Result::is_ok));
        for fault in replays.into_iter().filter_map(Result::err) {
            assert_eq!(fault.code(), "RW4003", "{fault}");
        }
        client.wait_for(id, &["completed"]).await.expect("it ends");
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "after done, count done, end done, first done");
        let events = client.chain(id).await.expect("shown").events.len();
        assert_eq!(events, 1, "one of them did it");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}
