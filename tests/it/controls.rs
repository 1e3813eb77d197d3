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
  directions text[], kinds text[], transactions text[], fingerprints bytea[], replies bytea[]) returns void
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

#[tokio::test]
async fn verify_finds_what_is_missing_doubled_misplaced_or_changed() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let (from, to, id) = (from.to_string(), to.to_string(), Uuid::now_v7());
    let input = [("from", from.as_str()), ("to", to.as_str()), ("amount", "10")];
    assert_eq!(client.run_chain("transfer", &input, id).await.expect("done").status, "completed");
    let at_home = async || bank.reader().chain_statuses(id).await.ok().filter(|statuses| statuses == &["completed"]);
    tests::until("the end is noted at home", at_home).await.expect("noted");
    tests::check_bank(&bank).await.expect("sound");
    let misplaced = bank.roots_on("account", "p1", None, 1)[0];
    // What is done to a peer behind the system's back, how it is taken back, and which check sees it.
    let forgeries = [
        (
            "p2",
            format!(
                "create table rootward.kept as select * from rootward.outcome where request_id = '{id}'; \
                 delete from rootward.outcome where request_id = '{id}'"
            ),
            "insert into rootward.outcome select * from rootward.kept; drop table rootward.kept".to_owned(),
            "chains",
        ),
        (
            "p2",
            format!("insert into account (account_id, owner) values ({misplaced}, 'stray')"),
            format!("delete from account where account_id = {misplaced}"),
            "placement",
        ),
        ("p1", "update currency set name = 'forged'".to_owned(), "update currency set name = 'euro'".to_owned(), "reference"),
        (
            "p2",
            format!("update entry set amount = amount + 1 where account_id = {to}"),
            format!("update entry set amount = amount - 1 where account_id = {to}"),
            "balance_is_sum_of_entries",
        ),
    ];
    for (peer, forge, restore, seen_by) in forgeries {
        bank.reader().run(peer, &forge).await.expect("forged");
        let found = client.verify().await.expect("counted");
        let red: Vec<&str> = found.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
        assert!(!found.is_ok && red.contains(&seen_by), "{forge}: {red:?}");
        bank.reader().run(peer, &restore).await.expect("restored");
        assert!(client.verify().await.expect("counted").is_ok, "{restore}");
    }
}
