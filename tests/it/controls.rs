//! Negative controls: with one guard of the database switched off, the scenario that watches it turns red. Without them
//! nobody would know whether the tests can fail.

use tests::{
    Cluster, Shape, TestClock, Violation, a_late_duplicate_has_no_effect, a_root_is_not_seen_from_another,
    a_step_sent_twice_has_one_effect, a_step_that_was_called_off_has_no_effect, a_worker_of_an_older_term_writes_nothing,
    a_worker_without_the_partition_writes_nothing, check_effects, check_money, one_id_has_one_effect, until,
};
use uuid::Uuid;

use crate::shared::exe;

/// No outcome is written, whoever writes it.
const OUTCOMES_ARE_DROPPED: &str = "create or replace function public.drop_outcome() returns trigger
  language plpgsql as $$ begin return null; end $$;
create or replace trigger drop_outcome before insert on rootward.outcome for each row execute function public.drop_outcome()";

/// They are again.
const OUTCOMES_ARE_KEPT: &str = "drop trigger drop_outcome on rootward.outcome";

/// Neither term nor ownership is looked at.
const BEGIN_CHECKS_NOTHING: &str =
    "create or replace function rootward.begin_batch(secret bytea, term bigint, version bigint, partitions integer[], epochs bigint[]) returns void
  language plpgsql as $$ begin end $$";

/// Outcomes are taken away, and nobody remembers how old they were.
const COLLECTION_FORGETS: &str = "create or replace function rootward.collect_outcomes(
  secret bytea, partition integer, issued_before timestamptz, entities text[], root_keys text[], request_ids uuid[]) returns bigint
  language plpgsql security definer as $$
declare removed bigint;
begin
  delete from rootward.outcome o using unnest(entities, root_keys, request_ids) as u(entity, root_key, request_id)
    where o.partition = collect_outcomes.partition and o.root_key = u.root_key and o.request_id = u.request_id and not o.in_chain;
  get diagnostics removed = row_count;
  return removed;
end $$;
create or replace function rootward.forget_chain(
  secret bytea, partition integer, entity text, root_key text, id uuid, expires_at timestamptz) returns void
  language plpgsql security definer as $$
begin
  delete from rootward.outcome o where o.partition = forget_chain.partition and o.root_key = forget_chain.root_key
    and o.request_id = forget_chain.id;
end $$";

const EIGHT_DAYS: i64 = 8 * 24 * 3600;

#[tokio::test]
async fn without_outcomes_no_chain_is_exactly_once() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let mut accounts = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened");
    accounts.extend(bank.open_accounts(&client, "p2", 1, 100).await.expect("opened"));
    let (from, to) = (accounts[0].to_string(), accounts[1].to_string());
    let input = [("from", from.as_str()), ("to", to.as_str()), ("amount", "1")];
    a_step_sent_twice_has_one_effect(&bank, accounts[0]).await.expect("one effect");
    a_step_that_was_called_off_has_no_effect(&bank, accounts[0]).await.expect("no effect");
    check_effects(&bank.reader()).await.expect("effects have outcomes");

    for peer in ["p1", "p2"] {
        bank.reader().run(peer, OUTCOMES_ARE_DROPPED).await.expect("switched off");
    }
    assert_eq!(red(a_step_sent_twice_has_one_effect(&bank, accounts[0]).await), "answer");
    assert_eq!(red(a_step_that_was_called_off_has_no_effect(&bank, accounts[0]).await), "late");
    assert_eq!(red(check_effects(&bank.reader()).await), "effects");
    let id = Uuid::now_v7();
    client.start_chain("transfer", &input, id).await.expect("it runs all the same");
    until("home has heard of its end", async || (bank.reader().chain_statuses(id).await.ok()? == ["completed"]).then_some(()))
        .await
        .expect("it ends");
    let chains = client.verify().await.expect("counted").checks.into_iter().find(|check| check.name == "chains").expect("it counts chains");
    assert!(!chains.is_ok && chains.examples.iter().any(|example| example.contains("is missing")), "{chains:?}");
}

#[tokio::test]
async fn a_collection_that_remembers_nothing_lets_late_duplicates_through() {
    let shape = Shape { peers: 1, worker_settings: "collection_pause_ms = 50\n", ..Shape::shared() };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let clock = TestClock::new().expect("a clock");
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let reader = bank.reader();
    // By the next clock the first duplicate is so old that its outcome goes, and by the one before it is young again.
    for is_sound in [true, false] {
        bank.restart_all_at(&clock, 0).await.expect("they serve");
        if !is_sound {
            reader.run("p1", COLLECTION_FORGETS).await.expect("switched off");
            reader.run("p1", "truncate rootward.collected").await.expect("as if nothing had been collected yet");
            bank.restart_all_at(&clock, 0).await.expect("they serve");
        }
        let late = tests::deposit(account, Uuid::now_v7());
        let address = bank.embedded.worker_address("p1").expect("it listens").to_owned();
        tests::send_to_worker(&address, late.clone()).await.expect("answered").expect("done");
        let id = Uuid::from_slice(&late.request_id).expect("an id");
        bank.restart_all_at(&clock, EIGHT_DAYS).await.expect("they serve");
        until("its outcome is collected", async || reader.outcomes(id).await.ok()?.is_empty().then_some(())).await.expect("collected");
        a_late_duplicate_has_no_effect(&bank, account, &late).await.expect("the clock says that it is too old");
        bank.restart_all_at(&clock, 0).await.expect("they serve");
        let ended = a_late_duplicate_has_no_effect(&bank, account, &late).await;
        match is_sound {
            true => ended.expect("what was collected is remembered"),
            false => assert_eq!(red(ended), "late"),
        }
    }
}

#[tokio::test]
async fn the_suite_turns_red_when_a_guard_is_switched_off() {
    let bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 2, 100).await.expect("opened");
    let (first, second) = (accounts[0], accounts[1]);

    // Sound, every one of them is green.
    one_id_has_one_effect(&bank, first).await.expect("one effect");
    a_root_is_not_seen_from_another(&bank, first, second).await.expect("contained");
    a_worker_without_the_partition_writes_nothing(&bank, first).await.expect("fenced");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    a_worker_of_an_older_term_writes_nothing(&bank, first).await.expect("fenced");
    bank.wait_until_serving("p1", term).await.expect("a new term");
    check_effects(&bank.reader()).await.expect("effects have outcomes");

    bank.reader().run("p1", OUTCOMES_ARE_DROPPED).await.expect("switched off");
    assert_eq!(red(one_id_has_one_effect(&bank, first).await), "doubled");
    client.settle("deposit", &[("account_id", &first.to_string()), ("amount", "1")], Uuid::now_v7()).await.expect("done");
    assert_eq!(red(check_effects(&bank.reader()).await), "effects");
    bank.reader().run("p1", OUTCOMES_ARE_KEPT).await.expect("switched on");

    sabotage(&bank, "rootward.begin_batch", BEGIN_CHECKS_NOTHING).await;
    assert_eq!(red(a_worker_without_the_partition_writes_nothing(&bank, first).await), "written");
    assert_eq!(red(a_worker_of_an_older_term_writes_nothing(&bank, first).await), "written");
    restore(&bank).await;

    bank.reader().run("p1", "alter table account disable row level security").await.expect("switched off");
    assert_eq!(red(a_root_is_not_seen_from_another(&bank, first, second).await), "read");
    bank.reader().run("p1", "alter table account enable row level security").await.expect("switched on");

    bank.reader().run("p1", &format!("update account set balance = balance + 1 where account_id = {second}")).await.expect("forged");
    assert_eq!(red(check_money(&bank.reader()).await), "money");
    let verified = client.verify().await.expect("counted");
    assert!(!verified.is_ok, "`verify` sees it, too");
}

fn red(ended: Result<(), Violation>) -> &'static str {
    ended.expect_err("the scenario has to notice").what
}

/// Replaces a function and keeps its name, owner and rights.
async fn sabotage(bank: &Cluster, function: &str, sql: &str) {
    // The right to execute stays with a replaced function, but not that it runs as its owner.
    bank.reader().run("p1", sql).await.unwrap_or_else(|error| panic!("{function}: {error}"));
}

/// Brings every function back, as a set-up that is run again does.
async fn restore(bank: &Cluster) {
    bank.reader().run("p1", tests::PEER_SQL).await.expect("restored");
}
