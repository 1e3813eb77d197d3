//! Negative controls: with one guard of the database switched off, the scenario that watches it turns red. Without them
//! nobody would know whether the tests can fail.

use tests::{
    Cluster, Shape, Violation, a_root_is_not_seen_from_another, a_worker_of_an_older_term_writes_nothing,
    a_worker_without_the_partition_writes_nothing, check_effects, check_money, one_id_has_one_effect,
};
use uuid::Uuid;

use crate::shared::exe;

/// Outcomes are counted, not written.
const RECORD_WRITES_NOTHING: &str = "create or replace function rootward.record(
  secret bytea, partitions integer[], entities text[], root_keys text[], request_ids uuid[], steps integer[], elements integer[],
  directions text[], kinds text[], transactions text[], fingerprints bytea[], replies bytea[], in_chains boolean[],
  issued_ats timestamptz[]) returns void
  language plpgsql as $$ begin end $$";

/// Neither term nor ownership is looked at.
const BEGIN_CHECKS_NOTHING: &str =
    "create or replace function rootward.begin_batch(secret bytea, term bigint, partitions integer[], epochs bigint[]) returns void
  language plpgsql as $$ begin end $$";

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

    sabotage(&bank, "rootward.record", RECORD_WRITES_NOTHING).await;
    assert_eq!(red(one_id_has_one_effect(&bank, first).await), "doubled");
    client.settle("deposit", &[("account_id", &first.to_string()), ("amount", "1")], Uuid::now_v7()).await.expect("done");
    assert_eq!(red(check_effects(&bank.reader()).await), "effects");
    restore(&bank).await;

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
