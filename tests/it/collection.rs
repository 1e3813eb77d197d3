//! What is kept and for how long: with clocks that are moved.

use rootward_proto::{
    Fault,
    v1::{self, ChainVerb, RetryClass},
};
use tests::{Client, Cluster, Shape, TestClock, check_bank, command, send_to_worker, until};
use uuid::Uuid;

use crate::shared::exe;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

async fn collecting_bank() -> (Cluster, Client, TestClock) {
    let shape = Shape { peers: 2, worker_settings: "collection_pause_ms = 50\n", ..Shape::shared() };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let clock = TestClock::new().expect("a clock");
    bank.restart_all_at(&clock, 0).await.expect("they serve");
    let client = bank.client().expect("a client");
    (bank, client, clock)
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).expect("a moment of our days")
}

/// A call that is issued so many seconds from now.
async fn call_at(client: &Client, seconds: i64, transaction: &str, given: &[(&str, &str)]) -> Result<v1::CallResponse, Fault> {
    let message = v1::CallRequest {
        transaction: transaction.to_owned(),
        arguments: tests::arguments(given),
        // An id of version 7 would carry today's date.
        request_id: Uuid::new_v4().to_string(),
        issued_at_ms: now_ms() + seconds * 1000,
        ..v1::CallRequest::default()
    };
    client.send(message).await
}

struct Kept {
    from: i64,
    to: i64,
    frozen: i64,
    deposit: Uuid,
    completed: Uuid,
    compensated: Uuid,
    parked: Uuid,
    /// The second step of the completed chain, as its driver sent it.
    step: v1::Execute,
}

/// A deposit, and chains that ended well, that went back and that wait.
async fn fill(bank: &Cluster, client: &Client) -> Kept {
    let from = bank.open_accounts(client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(client, "p2", 2, 0).await.expect("opened");
    let (to, frozen) = (to[0], to[1]);
    let (from_key, to_key, frozen_key) = (from.to_string(), to.to_string(), frozen.to_string());
    let [deposit, completed, compensated, parked] = [(); 4].map(|()| Uuid::now_v7());
    client.settle("deposit", &[("account_id", &to_key), ("amount", "1")], deposit).await.expect("done");
    client.settle("freeze", &[("account_id", &frozen_key)], Uuid::now_v7()).await.expect("frozen");
    for (id, to) in [(completed, &to_key), (compensated, &frozen_key), (parked, &frozen_key)] {
        client.run_chain("transfer", &[("from", &from_key), ("to", to), ("amount", "10")], id).await.expect("it comes to a stand");
    }
    client.compensate(compensated).await.expect("it goes back");
    client.wait_for(compensated, &["compensated"]).await.expect("it ends");
    client.wait_for(completed, &["completed"]).await.expect("it ends");
    let sql = "select fingerprint, (extract(epoch from issued_at) * 1000)::bigint, (extract(epoch from expires_at) * 1000)::bigint \
               from rootward.chain where id = $1";
    let row = bank.reader().rows("p1", sql, &[&completed]).await.expect("read").remove(0);
    let argument = |name: &str, text: String| v1::TextArgument { name: name.to_owned(), text: Some(text) };
    let step = v1::Execute {
        transaction: "transfer_in".to_owned(),
        step: 1,
        chain_fingerprint: row.get(0),
        issued_at_ms: row.get(1),
        expires_at_ms: row.get(2),
        arguments: vec![argument("account_id", to_key), argument("amount", "10".to_owned())],
        ..tests::deposit(to, completed)
    };
    Kept { from, to, frozen, deposit, completed, compensated, parked, step }
}

async fn rows(bank: &Cluster, id: Uuid) -> (usize, usize) {
    let reader = bank.reader();
    (reader.chain_statuses(id).await.expect("read").len(), reader.outcomes(id).await.expect("read").len())
}

/// Everything that was collected stays refused, whoever sends it again.
async fn late_ones_do_nothing(bank: &Cluster, client: &Client, kept: &Kept, when: &str) {
    let reader = bank.reader();
    let before = (reader.balance(kept.from).await.expect("read"), reader.balance(kept.to).await.expect("read"));
    let (from_key, to_key) = (kept.from.to_string(), kept.to.to_string());
    let fault = client.call("deposit", &[("account_id", &to_key), ("amount", "1")], kept.deposit).await.expect_err("too old");
    assert_eq!((fault.code(), fault.retry_class()), ("RW3107", RetryClass::Refused), "{when}: {fault}");
    let input = [("from", from_key.as_str()), ("to", &to_key), ("amount", "10")];
    let fault = client.start_chain("transfer", &input, kept.completed).await.expect_err("too old");
    assert_eq!(fault.code(), "RW3107", "{when}: {fault}");
    let address = bank.embedded.worker_address("p2").expect("it listens");
    let fault = send_to_worker(address, kept.step.clone()).await.expect("answered").expect_err("too late");
    assert_eq!(fault.code(), "RW4008", "{when}: {fault}");
    let after = (reader.balance(kept.from).await.expect("read"), reader.balance(kept.to).await.expect("read"));
    assert_eq!(before, after, "{when}");
}

#[tokio::test]
async fn what_nobody_can_ask_for_any_more_is_collected_and_stays_refused() {
    let (mut bank, client, clock) = collecting_bank().await;
    let kept = fill(&bank, &client).await;
    let address = bank.embedded.worker_address("p2").expect("it listens").to_owned();
    let stored = send_to_worker(&address, kept.step.clone()).await.expect("answered");
    assert!(matches!(stored, Ok(v1::reply::Result::Executed(response)) if response.from_stored_outcome), "it is the step's own message");

    // Set forward while they run, the clocks may be wrong: nothing is thrown away, and no person can do it either.
    clock.set(8 * DAY).expect("set");
    let fault = until("the workers see the jump", async || match client.command(command(ChainVerb::Purge, kept.completed)).await {
        Err(fault) if fault.code() == "RW4011" => Some(fault),
        _ => None,
    });
    assert_eq!(fault.await.expect("seen").retry_class(), RetryClass::Retry);
    // Many of the collection's pauses later it is all there.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!((rows(&bank, kept.completed).await, rows(&bank, kept.deposit).await), ((1, 2), (0, 1)));

    // Workers that start by that clock believe it.
    bank.restart_all_at(&clock, 8 * DAY).await.expect("they serve");
    until("everything old is collected", async || {
        let gone = [rows(&bank, kept.completed).await, rows(&bank, kept.compensated).await, rows(&bank, kept.deposit).await];
        (gone == [(0, 0); 3]).then_some(())
    })
    .await
    .expect("collected");
    let events = "select count(*) from rootward.chain_event";
    assert_eq!(bank.reader().sum(events).await.expect("read"), 0, "the deeds went with their chains");
    assert_eq!(rows(&bank, kept.parked).await, (1, 1), "an open chain stays, with its outcomes");
    assert_eq!(client.chain(kept.completed).await.expect_err("forgotten").code(), "RW4001");
    late_ones_do_nothing(&bank, &client, &kept, "eight days later").await;

    // Parked for eight days, it goes on.
    let frozen = kept.frozen.to_string();
    call_at(&client, 8 * DAY, "unfreeze", &[("account_id", &frozen)]).await.expect("unfrozen");
    client.replay(kept.parked).await.expect("replayed");
    client.wait_for(kept.parked, &["completed"]).await.expect("it ends");
    assert_eq!(bank.reader().balance(kept.frozen).await.expect("read"), Some(1_000));
    late_ones_do_nothing(&bank, &client, &kept, "after the replay").await;

    // The clocks are set back: what was collected is not forgotten.
    bank.restart_all_at(&clock, 0).await.expect("they serve");
    late_ones_do_nothing(&bank, &client, &kept, "with the clocks set back").await;
    assert_eq!(rows(&bank, kept.parked).await, (1, 2), "what ended by a later clock is young");
    check_bank_money(&bank).await;
}

/// Most outcomes are gone, so only the money can be counted.
async fn check_bank_money(bank: &Cluster) {
    tests::check_money(&bank.reader()).await.expect("the money is there");
    tests::check_everything(bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_person_purges_what_no_duplicate_can_come_of() {
    let (mut bank, client, clock) = collecting_bank().await;
    let kept = fill(&bank, &client).await;
    for (id, why) in [(kept.completed, "is kept until"), (kept.parked, "is parked")] {
        let fault = client.command(command(ChainVerb::Purge, id)).await.expect_err("too young, or open");
        assert_eq!(fault.code(), "RW4003", "{fault}");
        assert!(fault.message().contains(why), "{fault}");
    }
    // Later than requests are kept, and earlier than chains are.
    bank.restart_all_at(&clock, 2 * DAY + 2 * HOUR).await.expect("they serve");
    until("old requests are collected", async || (rows(&bank, kept.deposit).await == (0, 0)).then_some(())).await.expect("collected");
    assert_eq!((rows(&bank, kept.completed).await, rows(&bank, kept.compensated).await), ((1, 2), (1, 3)));
    let purge = command(ChainVerb::Purge, kept.completed);
    let purged = client.change(purge).await.expect("purged");
    assert_eq!((purged.matched, purged.changed, purged.chains.len()), (1, 1, 0));
    assert_eq!(rows(&bank, kept.completed).await, (0, 0));
    let filter = Some(v1::ChainFilter { definition: "transfer".to_owned(), ..Default::default() });
    let purged = client.change(v1::ChangeChainsRequest { filter, ..command(ChainVerb::Purge, Uuid::nil()) }).await.expect("purged");
    assert_eq!((purged.matched, purged.changed, purged.refused), (1, 1, 0), "the open one isn't meant");
    assert_eq!((rows(&bank, kept.compensated).await, rows(&bank, kept.parked).await), ((0, 0), (1, 1)));
    late_ones_do_nothing(&bank, &client, &kept, "purged").await;
    call_at(&client, 2 * DAY + 2 * HOUR, "unfreeze", &[("account_id", &kept.frozen.to_string())]).await.expect("unfrozen");
    client.replay(kept.parked).await.expect("replayed");
    client.wait_for(kept.parked, &["completed"]).await.expect("it ends");
    check_bank_money(&bank).await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_loses_and_doubles_nothing() {
    let (mut bank, client, clock) = collecting_bank().await;
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let (from_key, to_key) = (from.to_string(), to.to_string());
    let input = [("from", from_key.as_str()), ("to", to_key.as_str()), ("amount", "1")];
    let mut moved = 0;
    for seconds in [HOUR, 0, -HOUR, 0] {
        // Under way while the clock jumps, and again after its worker has begun anew by that clock.
        let ids: Vec<Uuid> = (0..6).map(|_| Uuid::now_v7()).collect();
        let runs = futures_util::future::join_all(ids.iter().map(|id| client.run_chain("transfer", &input, *id)));
        let jump = async { clock.set(seconds).expect("set") };
        let (ended, ()) = tokio::join!(runs, jump);
        assert!(ended.into_iter().all(|ended| ended.expect("done").status == "completed"), "{seconds}");
        bank.restart_all_at(&clock, seconds).await.expect("they serve");
        for id in ids {
            assert_eq!(client.run_chain("transfer", &input, id).await.expect("the same").status, "completed");
            moved += 100;
        }
        assert_eq!(bank.reader().balance(to).await.expect("read"), Some(moved), "{seconds}");
    }
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_mountain_of_old_outcomes_is_collected_in_bounded_pieces() {
    let (bank, client, _clock) = collecting_bank().await;
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let partition = bank.partition_of("account", account);
    let reader = bank.reader();
    // Whoever deletes is counted, by the statement.
    let watch = "create table public.removed (rows bigint not null);
        create function public.count_removed() returns trigger language plpgsql security definer set search_path = public as $$ begin
          insert into removed select count(*) from gone having count(*) > 0; return null; end $$;
        create trigger removed after delete on rootward.outcome referencing old table as gone for each statement execute function public.count_removed()";
    reader.run("p1", watch).await.expect("watched");
    let mountain = format!(
        "insert into rootward.outcome (partition, entity, root_key, request_id, step, element, direction, kind, transaction, fingerprint, reply, in_chain, issued_at)
         select {partition}, 'account', '{account}', gen_random_uuid(), 0, 0, 'do', 'done', 'deposit', '\\x00', '\\x00', false, now() - interval '400 days'
         from generate_series(1, 40000)"
    );
    reader.run("p1", &mountain).await.expect("inserted");
    let left = "select count(*) from rootward.outcome where issued_at < now() - interval '399 days'";
    let key = account.to_string();
    until("all of them are collected", async || {
        // Meanwhile the partition's lane serves others.
        client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("done");
        (reader.sum(left).await.ok()? == 0).then_some(())
    })
    .await
    .expect("collected");
    let rows = reader.rows("p1", "select count(*), max(rows), sum(rows)::bigint from removed", &[]).await.expect("read").remove(0);
    let (pieces, largest, all): (i64, i64, i64) = (rows.get(0), rows.get(1), rows.get(2));
    assert_eq!(all, 40_000, "each once");
    // The rows of 128 pages: each has more than a hundred bytes.
    assert!(pieces >= 4 && largest <= 128 * 8192 / 100, "{pieces} pieces, the largest of {largest}");
    reader
        .run("p1", "drop trigger removed on rootward.outcome; drop function public.count_removed; drop table public.removed")
        .await
        .expect("gone");
    check_bank_money(&bank).await;
}
