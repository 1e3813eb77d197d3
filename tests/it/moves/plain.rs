//! What a move does when nothing goes wrong.

use rootward_client::{SnapshotOptions, v1};
use tests::{Cluster, Pause, Shape, check_bank, eventually, until};
use uuid::Uuid;

use super::{begin, carry_out, client, command, look, nothing_is_left, partitions_of, wait_for};
use crate::shared::{exe, own_bank};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_with_everything_that_belongs_to_it() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let moved = bank.open_accounts(&plain, "p1", 3, 100).await.expect("opened");
    let stays = bank.open_accounts(&plain, "p2", 1, 100).await.expect("opened")[0].to_string();
    let account = moved[0].to_string();
    let (deposit, transfer) = (Uuid::now_v7(), Uuid::now_v7());
    let given = [("account_id", account.as_str()), ("amount", "5")];
    let first = plain.settle("deposit", &given, deposit).await.expect("done");
    let input = [("from", account.as_str()), ("to", &stays), ("amount", "7")];
    assert_eq!(plain.run_chain("transfer", &input, transfer).await.expect("it ends").status, "completed");
    let partitions = partitions_of(&bank, &moved);

    let one = carry_out(&client(&bank), &partitions, "p2").await;
    assert!(one.is_verified && one.rows_total >= 8 && one.held_us > 0 && one.error.is_empty(), "{one:?}");
    assert!(one.rows_cleaned >= one.rows_total, "{one:?}");
    nothing_is_left(&bank).await;
    // Stored answers, chains and balances came along.
    let again = plain.settle("deposit", &given, deposit).await.expect("stored");
    assert!(again.from_stored_outcome && again.rows == first.rows && again.peer == "p2", "{again:?}");
    assert_eq!(plain.run_chain("transfer", &input, transfer).await.expect("it is known").status, "completed");
    let chain = plain.chain(transfer).await.expect("shown");
    assert_eq!((chain.peer.as_str(), chain.status.as_str()), ("p2", "completed"));
    assert_eq!(bank.reader().balance(moved[0]).await.expect("read"), Some(9_800));
    plain.settle("withdraw", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("it works on");
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");

    // And back again: what an epoch ago was released is owned again.
    let request = v1::MovePartitionsRequest {
        partitions: partitions.clone(),
        target: "p1".to_owned(),
        request_id: Uuid::now_v7().to_string(),
        ..v1::MovePartitionsRequest::default()
    };
    let client = client(&bank);
    let begun = client.move_partitions(request.clone()).await.expect("begun");
    let one = wait_for(&client, &begun.moves[0].id, &["done"]).await;
    assert!(one.is_verified, "{one:?}");
    // Whose answer was lost asks again, and hears of the same move, though everything is there by now.
    let again = client.move_partitions(request).await.expect("known");
    assert_eq!((again.moves.len(), &again.moves[0].id, again.already_there.len()), (1, &one.id, 0));
    plain.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("it works on");
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_decided_about_a_chain_comes_along_and_goes_on_being_counted() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let from = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let (from_key, missing) = (from.to_string(), bank.roots_on("account", "p2", None, 1)[0].to_string());
    let id = Uuid::now_v7();
    // A payment to an account that doesn't exist is undone or parks; either way a person may look at it.
    let input = [("from", from_key.as_str()), ("to", &missing), ("amount", "7")];
    let ended = plain.run_chain("transfer", &input, id).await.expect("it ends");
    let reader = bank.reader();
    let note = format!(
        "insert into rootward.chain_event (partition, id, event, reason, by, number) select partition, id, 'replay', 'test', 'test', 1 \
         from rootward.chain where id = '{id}'"
    );
    reader.run("p1", &note).await.expect("noted");
    carry_out(&client(&bank), &partitions_of(&bank, &[from]), "p2").await;
    let shown = plain.chain(id).await.expect("shown");
    assert_eq!((shown.status.as_str(), shown.peer.as_str(), shown.events.len()), (ended.status.as_str(), "p2", 1), "{shown:?}");
    // The next one has the next number.
    if shown.status == "parked" {
        plain.change_one(v1::ChainVerb::Abandon, id).await.expect("abandoned");
        assert_eq!(plain.chain(id).await.expect("shown").events.len(), 2);
    }
    nothing_is_left(&bank).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_cannot_be_is_refused_and_one_that_would_be_is_told() {
    let bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let accounts = bank.open_accounts(&plain, "p1", 2, 100).await.expect("opened");
    let partitions = partitions_of(&bank, &accounts);
    let client = client(&bank);
    let request = |partitions: &[i32], target: &str, dry_run| v1::MovePartitionsRequest {
        partitions: partitions.to_vec(),
        target: target.to_owned(),
        dry_run,
        ..v1::MovePartitionsRequest::default()
    };
    for (partitions, target, code) in
        [(&[][..], "p2", "RW5041"), (&[1_000_000], "p2", "RW5041"), (&partitions, "hub", "RW5041"), (&partitions, "p9", "RW5007")]
    {
        let fault = client.move_partitions(request(partitions, target, false)).await.expect_err("refused");
        assert_eq!(fault.code(), code, "{fault}");
    }
    let planned = client.move_partitions(request(&partitions, "p2", true)).await.expect("planned");
    let plan = &planned.moves[0];
    assert!((plan.source.as_str(), plan.target.as_str()) == ("p1", "p2") && plan.rows_total >= 4 && plan.bytes > 0, "{plan:?}");
    assert!(client.moves(v1::ListMovesRequest { all: true, ..Default::default() }).await.expect("listed").moves.is_empty());
    let (_, listed) = command(&bank, &["partition", "list", "--by", "size", "-o", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let largest = told["partitions"].as_array().expect("a list").iter().filter(|one| one["rows"].as_i64() > Some(0));
    let mut largest: Vec<i32> = largest.filter_map(|one| i32::try_from(one["partition"].as_i64()?).ok()).collect();
    largest.sort_unstable();
    assert_eq!(largest, partitions, "no other holds a row: {told}");
    let there = client.move_partitions(request(&partitions, "p1", false)).await.expect("nothing to do");
    assert!(there.moves.is_empty() && there.already_there == partitions, "{there:?}");
    // A partition is moved by one move at a time, and the same request twice is one.
    let id = Uuid::now_v7().to_string();
    let named = v1::MovePartitionsRequest { request_id: id, ..request(&partitions, "p2", false) };
    let first = client.move_partitions(named.clone()).await.expect("begun").moves.remove(0);
    let second = client.move_partitions(named).await;
    if look(&client, &first.id).await.is_some_and(|one| one.ended_at.is_empty()) {
        let fault = client.move_partitions(request(&partitions, "p2", false)).await;
        assert!(fault.as_ref().map_or_else(|fault| fault.code() == "RW5041", |begun| begun.moves.is_empty()), "{fault:?}");
    }
    wait_for(&client, &first.id, &["done"]).await;
    assert!(second.is_ok_and(|again| again.moves.iter().all(|one| one.id == first.id)));
    nothing_is_left(&bank).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_counted_once() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let accounts = bank.open_accounts(&plain, "p1", 20, 100).await.expect("opened");
    let client = client(&bank);
    let id = begin(&client, &partitions_of(&bank, &accounts), "p2").await;
    loop {
        let snapshot = client.take_snapshot(SnapshotOptions::default()).await.expect("taken");
        let rows = snapshot.rows("select count(*), sum(balance) from account").await.expect("rows");
        let seen: Vec<String> = rows.all().next().expect("a row").values.iter().map(tests::text_of).collect();
        snapshot.release().await.expect("released");
        assert_eq!(seen, ["20", "2000.00"]);
        let verified = client.verify().await.expect("counted");
        assert!(verified.is_ok, "{verified:?}");
        if look(&client, &id).await.expect("listed").stage == "done" {
            break;
        }
    }
    nothing_is_left(&bank).await;
}

/// Each step locks the peer's row before anything else, as strongly as a change of owners needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_two_moves_at_one_peer_do_not_wait_for_each_other_in_a_circle() {
    let bank = own_bank(1).await;
    let reader = bank.reader();
    let step = "select rootward_move.guard((select term from rootward.peer_state), (select term from rootward_move.mover))";
    let first = reader.connect("p1").await.expect("connected");
    first.batch_execute(&format!("begin; {step}")).await.expect("the first one is in its step");
    let second = tokio::spawn(async move { bank.reader().run("p1", step).await.map(|()| bank) });
    let waits = async || {
        let sql = "select pid from pg_locks where not granted and database = (select oid from pg_database where datname = current_database()) \
                   or not granted and locktype = 'transactionid'";
        reader.rows("p1", sql, &[]).await.ok().filter(|rows| !rows.is_empty()).map(|_| ())
    };
    until("the second one waits", waits).await.expect("it does");
    let release = "select rootward_move.release((select term from rootward.peer_state), (select term from rootward_move.mover), gen_random_uuid(), \
                   array(select partition from rootward.ownership where state = 'owned' limit 1))";
    first.batch_execute(&format!("{release}; rollback")).await.expect("the first one goes on");
    let _bank = second.await.expect("no panic").expect("and then the second one");
}

/// While its home is given from one peer to the other, nobody knows how a chain stands; nobody says that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_on_its_way_is_never_said_not_to_be() {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let from = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let (from_key, to) = (from.to_string(), bank.open_accounts(&plain, "p2", 1, 100).await.expect("opened")[0].to_string());
    let id = Uuid::now_v7();
    plain.run_chain("transfer", &[("from", &from_key), ("to", &to), ("amount", "7")], id).await.expect("it ends");
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at("mover_released", "mover"))]).await.expect("armed");
    let client = client(&bank);
    let one = begin(&client, &partitions_of(&bank, &[from]), "p2").await;
    pause.reached().await.expect("p1 has given it up, and p2 has not got it");
    let fault = plain.chain(id).await.expect_err("nobody knows");
    assert_eq!((fault.code(), fault.retry_class()), ("RW5047", v1::RetryClass::Retry), "{fault}");
    pause.release().expect("released");
    wait_for(&client, &one, &["done"]).await;
    assert_eq!(plain.chain(id).await.expect("shown").peer, "p2");
}
