//! Transfers of the bank and orders of the shop: chains of steps one after the other.

use futures_util::future::join_all;
use rootward_proto::v1::{self, reply};
use tests::{Cluster, Ended, KILL_POINTS, Victim, check_bank, check_everything, order_lines, until, while_killing};
use uuid::Uuid;

use crate::shared::{bank, exe, own_bank, shop};

fn transfer<'a>(from: &'a str, to: &'a str, amount: &'a str) -> [(&'a str, &'a str); 3] {
    [("from", from), ("to", to), ("amount", amount)]
}

#[tokio::test]
async fn a_transfer_completes_once_whichever_worker_is_killed_wherever() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 1000).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let mut moved = 0;
    for (peer, transaction) in [("p1", "transfer_out"), ("p2", "transfer_in")] {
        for point in KILL_POINTS {
            let id = Uuid::now_v7();
            let (from_key, to_key) = (from.to_string(), to.to_string());
            let input = transfer(&from_key, &to_key, "1");
            let ended =
                while_killing(&mut bank, (peer, Victim::Worker), (point, transaction), client.run_chain("transfer", &input, id)).await;
            assert_completed(&format!("{point}/{transaction}"), ended);
            moved += 100;
            let reader = bank.reader();
            assert_eq!(reader.balance(from).await.expect("read"), Some(100_000 - moved), "{point}/{transaction}");
            assert_eq!(reader.balance(to).await.expect("read"), Some(moved), "{point}/{transaction}");
            let kinds: Vec<String> = reader.outcomes(id).await.expect("read").into_iter().map(|row| row.kind).collect();
            assert_eq!(kinds, ["done", "done"], "{point}/{transaction}");
        }
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// In one trip the chains' rows are written behind the first steps: of those alone whose first step was done.
#[tokio::test]
async fn a_start_that_is_refused_in_one_trip_leaves_no_chain() {
    let bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let mut from = bank.open_accounts(&client, "p1", 20, 1000).await.expect("opened");
    let poor = bank.open_accounts(&client, "p1", 4, 0).await.expect("opened");
    from.extend(&poor);
    let to = bank.open_accounts(&client, "p2", from.len(), 0).await.expect("opened");
    let run = async |(from, to): (&i64, &i64)| {
        let id = Uuid::now_v7();
        (*from, id, client.run_chain("transfer", &transfer(&from.to_string(), &to.to_string(), "1"), id).await)
    };
    let mut refused = Vec::new();
    for _ in 0..6 {
        // After a refusal, a while passes until batches run in one trip again.
        for _ in 0..20 {
            assert_eq!(run((&from[0], &to[0])).await.2.expect("it has enough").status, "completed");
        }
        for (from, id, ended) in join_all(from.iter().zip(&to).map(run)).await {
            if poor.contains(&from) {
                assert_eq!(ended.expect_err("it has nothing").code(), "RW3101");
                refused.push(id);
            } else {
                assert_eq!(ended.expect("it has enough").status, "completed");
            }
        }
    }
    assert_eq!(refused.len(), 24);
    for id in refused {
        assert!(bank.reader().chain_statuses(id).await.expect("read").is_empty(), "{id}");
    }
    check_bank(&bank).await.expect("every promise is kept");
}

fn assert_completed(case: &str, ended: anyhow::Result<Ended<v1::Chain>>) {
    let ended = ended.unwrap_or_else(|error| panic!("{case}: {error:#}")).unwrap_or_else(|fault| panic!("{case}: {fault}"));
    assert_eq!(ended.status, "completed", "{case}: {ended:?}");
}

#[tokio::test]
async fn an_order_of_three_lines_completes_once_wherever_its_home_is_killed() {
    let mut shop = Cluster::shop(exe(), tests::Shape::own(2)).await.expect("a shop starts");
    let client = shop.client().expect("a client");
    let (products, customer) = shop.stock(&client, ["p1", "p2"], 10).await.expect("stocked");
    let (customer_key, lines) = (customer.to_string(), order_lines(&products, &[1, 1, 1]));
    let input = [("customer_id", customer_key.as_str()), ("lines", lines.as_str())];
    let mut orders = 0;
    for point in KILL_POINTS {
        for (peer, transaction) in [("p1", "reserve"), ("p2", "create_order"), ("p1", "confirm")] {
            // Each point meets each step over the points, not every pair: the battery has the whole matrix.
            let is_chosen =
                KILL_POINTS.iter().position(|other| *other == point).is_some_and(|at| at % 2 == 0) == (transaction != "create_order");
            if !is_chosen {
                continue;
            }
            let id = Uuid::now_v7();
            let ended =
                while_killing(&mut shop, (peer, Victim::Worker), (point, transaction), client.run_chain("place_order", &input, id)).await;
            assert_completed(&format!("{point}/{transaction}"), ended);
            orders += 1;
            assert_eq!(shop.reader().shelves(&products).await.expect("read"), vec![(10 - orders, 0); 3], "{point}/{transaction}");
            let made = shop.reader().all("select count(*) from order_line where order_id = $1", &[&id]).await.expect("read");
            assert_eq!(made.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>(), 3, "{point}/{transaction}");
        }
    }
    check_everything(&shop).await.expect("every promise is kept");
}

#[tokio::test]
async fn an_order_that_cannot_be_filled_releases_what_it_reserved() {
    let shop = shop().await;
    let client = shop.client().expect("a client");
    let (products, customer) = shop.stock(&client, ["p1", "p2"], 10).await.expect("stocked");
    let customer = customer.to_string();
    // The second line, then the third one, is out of stock; the first one was reserved by then.
    for quantities in [[2, 11, 2], [2, 2, 11]] {
        let id = Uuid::now_v7();
        let lines = order_lines(&products, &quantities);
        let input = [("customer_id", customer.as_str()), ("lines", lines.as_str())];
        let ended = client.run_chain("place_order", &input, id).await.expect("it ends");
        assert_eq!(ended.status, "compensated", "{ended:?}");
        assert!(ended.failure.as_ref().is_some_and(|failure| failure.message.contains("out of stock")), "the buyer is told: {ended:?}");
        assert_eq!(shop.reader().shelves(&products).await.expect("read"), vec![(10, 0); 3]);
        let again = client.run_chain("place_order", &input, id).await.expect("the same end");
        assert_eq!(again.status, "compensated");
        let outcomes = shop.reader().outcomes(id).await.expect("read");
        let count = |kind: &str, direction: &str| outcomes.iter().filter(|row| row.kind == kind && row.direction == direction).count();
        assert_eq!((count("failed", "do"), count("done", "do"), count("done", "undo")), (1, 2, 2), "{outcomes:?}");
    }
    let unknown = format!(r#"[{{"product_id": {}, "quantity": 1, "unit_price": 5.00}}]"#, 990_000_001_i64);
    let input = [("customer_id", customer.as_str()), ("lines", unknown.as_str())];
    let fault = client.run_chain("place_order", &input, Uuid::now_v7()).await.expect_err("refused at its first step");
    assert!(fault.message().contains("unknown product"), "{fault}");
    check_everything(shop).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_first_step_that_refuses_leaves_its_refusal_and_no_chain() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 2, 1).await.expect("opened");
    let (from, to, id) = (accounts[0].to_string(), accounts[1].to_string(), Uuid::now_v7());
    for stored in [false, true] {
        let fault = client.start_chain("transfer", &transfer(&from, &to, "5"), id).await.expect_err("one euro is there");
        assert_eq!((fault.code(), fault.as_wire().from_stored_outcome), ("RW3101", stored), "{fault}");
    }
    assert!(bank.reader().chain_statuses(id).await.expect("read").is_empty());
    assert_eq!(bank.reader().balance(accounts[0]).await.expect("read"), Some(100));
}

#[tokio::test]
async fn a_chains_id_with_other_input_is_refused_and_with_the_same_answered() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p3", 1, 0).await.expect("opened")[0];
    let (from_key, to_key, id) = (from.to_string(), to.to_string(), Uuid::now_v7());
    let first = client.run_chain("transfer", &transfer(&from_key, &to_key, "5"), id).await.expect("done");
    assert_eq!(first.status, "completed");
    let again = client.start_chain("transfer", &transfer(&from_key, &to_key, "5.00"), id).await.expect("the same chain");
    assert!(again.from_stored_outcome);
    assert_eq!(again.chain.map(|chain| chain.status).as_deref(), Some("completed"));
    let fault = client.start_chain("transfer", &transfer(&from_key, &to_key, "6"), id).await.expect_err("another chain");
    assert_eq!(fault.code(), "RW3106", "{fault}");
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(500));
    // Copies at the same moment converge as well.
    let id = Uuid::now_v7();
    let input = transfer(&from_key, &to_key, "1");
    let copies = join_all((0..10).map(|_| client.run_chain("transfer", &input, id)));
    assert!(copies.await.into_iter().all(|ended| ended.expect("done").status == "completed"));
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(600));
}

#[tokio::test]
async fn a_parked_chain_waits_for_a_person_who_replays_or_compensates_it() {
    let bank = Cluster::bank(exe(), tests::Shape { peers: 2, ..tests::Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let (from_key, to_key) = (from.to_string(), to.to_string());
    client.settle("freeze", &[("account_id", &to_key)], Uuid::now_v7()).await.expect("frozen");
    let (replayed, undone) = (Uuid::now_v7(), Uuid::now_v7());
    for id in [replayed, undone] {
        let parked = client.run_chain("transfer", &transfer(&from_key, &to_key, "10"), id).await.expect("it stops");
        assert_eq!((parked.status.as_str(), parked.step.as_str()), ("parked", "2/2 deposit"), "{parked:?}");
        assert!(parked.failure.is_some_and(|failure| failure.message.contains("account is frozen")));
        // A refusal that parks is no outcome: the cause can be repaired.
        assert_eq!(bank.reader().outcomes(id).await.expect("read").len(), 1);
    }
    assert_eq!(bank.reader().balance(from).await.expect("read"), Some(8_000));

    let compensated = client.compensate(undone).await.expect("it goes back");
    assert_eq!(compensated.status, "compensated", "{compensated:?}");
    let kinds: Vec<_> =
        bank.reader().outcomes(undone).await.expect("read").into_iter().map(|row| (row.place.0, row.direction, row.kind)).collect();
    let expected = [(0, "do", "done"), (0, "undo", "done"), (1, "do", "tombstone")];
    assert_eq!(kinds, expected.map(|(step, direction, kind)| (step, direction.to_owned(), kind.to_owned())));

    client.settle("unfreeze", &[("account_id", &to_key)], Uuid::now_v7()).await.expect("unfrozen");
    client.replay(replayed).await.expect("it goes on");
    let completed = until("the replayed chain completes", async || {
        let chain: v1::Chain = client.chain(replayed).await.ok()?;
        (chain.status == "completed").then_some(chain)
    });
    assert_eq!(completed.await.expect("it completes").events.len(), 1, "what the person did is written down");
    assert_eq!(client.replay(replayed).await.expect_err("nothing to replay").code(), "RW4003");
    assert_eq!(client.compensate(replayed).await.expect_err("too late").code(), "RW4003");
    let reader = bank.reader();
    assert_eq!((reader.balance(from).await.expect("read"), reader.balance(to).await.expect("read")), (Some(9_000), Some(1_000)));
    check_bank(&bank).await.expect("every promise is kept");

    called_off_steps_stay_so(&bank, to).await;
}

/// A step that was called off before it came is refused when it comes; one that came before stays done.
async fn called_off_steps_stay_so(bank: &Cluster, account: i64) {
    let before = bank.reader().balance(account).await.expect("read").expect("it is there");
    let address = bank.embedded.worker_address("p2").expect("it listens");
    let step = |id: Uuid, is_tombstone: bool| v1::Execute {
        step: 1,
        chain_fingerprint: vec![7; 32],
        expires_at_ms: i64::MAX,
        is_tombstone,
        transaction: "transfer_in".to_owned(),
        ..tests::deposit(account, id)
    };
    let called_off = Uuid::now_v7();
    let tombstone = tests::send_to_worker(address, step(called_off, true)).await.expect("answered");
    assert!(matches!(tombstone, Ok(reply::Result::Executed(response)) if !response.from_stored_outcome));
    for _ in 0..2 {
        let late = tests::send_to_worker(address, step(called_off, false)).await.expect("answered").expect_err("it comes too late");
        assert_eq!((late.code(), late.retry_class()), ("RW4005", v1::RetryClass::Refused), "{late}");
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(before));
    let done = Uuid::now_v7();
    tests::send_to_worker(address, step(done, false)).await.expect("answered").expect("done");
    let tombstone = tests::send_to_worker(address, step(done, true)).await.expect("answered");
    assert!(
        matches!(tombstone, Ok(reply::Result::Executed(response)) if response.from_stored_outcome),
        "the driver learns that it is done"
    );
    let other = v1::Execute { chain_fingerprint: vec![8; 32], ..step(done, false) };
    let fault = tests::send_to_worker(address, other).await.expect("answered").expect_err("another chain under this id");
    assert_eq!(fault.code(), "RW3106", "{fault}");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(before + 100));
}

/// The design's bound on recoveries, and some room for a death before the first of them.
const MOST_DEATHS: usize = 25;

#[tokio::test]
async fn a_step_that_kills_its_worker_each_time_parks_and_the_lane_goes_on() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 2, 100).await.expect("opened");
    let (from, to, id) = (accounts[0].to_string(), accounts[1].to_string(), Uuid::now_v7());
    let poison = [("ROOTWARD_FAIL_POINT", "before_begin/transfer_in=kill")];
    bank.embedded.kill_worker("p1").await.expect("it runs");
    bank.embedded.start_worker("p1", &poison).await.expect("it starts");
    bank.wait_until_serving("p1", 1).await.expect("it serves");
    // Its answer dies with the worker.
    let _ = client.start_chain("transfer", &transfer(&from, &to, "1"), id).await;
    let reader = bank.reader();
    let mut deaths = 0;
    loop {
        let pid = bank.embedded.worker_pid("p1").expect("it was started");
        let end = until("the worker dies or the chain parks", async || {
            let statuses = reader.chain_statuses(id).await.ok()?;
            let is_dead = !std::path::Path::new(&format!("/proc/{pid}")).exists();
            (is_dead || statuses == ["parked"]).then_some(is_dead)
        });
        if !end.await.expect("one or the other") {
            break;
        }
        deaths += 1;
        assert!(deaths <= MOST_DEATHS, "a poisonous chain is recovered for ever");
        bank.embedded.wait_for_worker_end("p1").await;
        bank.embedded.start_worker("p1", &poison).await.expect("it starts");
    }
    assert!(deaths > 1, "the step did kill its worker");
    // The worker that parked it lives on, and its lanes with it.
    client.settle("deposit", &[("account_id", &to), ("amount", "1")], Uuid::now_v7()).await.expect("the lane goes on");
    bank.embedded.kill_worker("p1").await.expect("it runs");
    bank.embedded.start_worker("p1", &[]).await.expect("it starts, healed");
    until("the chain is replayed", async || client.replay(id).await.ok()).await.expect("it is parked");
    let completed = async || reader.chain_statuses(id).await.ok().filter(|statuses| statuses == &["completed"]);
    until("it completes", completed).await.expect("its step is well now");
    check_bank(&bank).await.expect("every promise is kept");
}
