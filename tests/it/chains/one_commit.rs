//! Chains whose steps all run in one lane: they need one commit for all of them, and have the same ends as others.

use futures_util::future::join_all;
use rootward_proto::v1;
use tests::{Cluster, Ended, KILL_POINTS, Shape, Victim, check_bank, check_money, until, while_killing};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

/// Runs a transfer of 1 and waits for its end.
async fn transfer(client: &tests::Client, from: i64, to: i64, id: Uuid) -> Ended<v1::Chain> {
    let (from, to) = (from.to_string(), to.to_string());
    client.run_chain("transfer", &[("from", &from), ("to", &to), ("amount", "1")], id).await
}

/// In how many transactions of p1 the chain's outcomes were written, and its row if that is asked for.
async fn commits(bank: &Cluster, id: Uuid, with_row: bool) -> usize {
    let sql = "select count(distinct xmin::text) from (select xmin from rootward.outcome where request_id = $1 \
               union all select xmin from rootward.chain where id = $1 and $2) as written";
    let row = bank.reader().rows("p1", sql, &[&id, &with_row]).await.expect("read");
    usize::try_from(row[0].get::<_, i64>(0)).expect("a count")
}

#[tokio::test]
async fn a_chain_in_one_lane_is_one_commit_and_completes_once_wherever_its_worker_is_killed() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 2, 1000).await.expect("opened");
    let (from, to) = (accounts[0], accounts[1]);
    let mut one_commit = 0;
    for _ in 0..40 {
        let id = Uuid::now_v7();
        let ended = transfer(&client, from, to, id).await.expect("it ends");
        let steps: Vec<(&str, &str)> = ended.steps.iter().map(|step| (step.name.as_str(), step.outcome.as_str())).collect();
        assert_eq!((ended.status.as_str(), steps), ("completed", vec![("withdraw", "done"), ("deposit", "done")]));
        let shown = client.chain(id).await.expect("shown");
        assert_eq!((shown.status.as_str(), shown.steps.len()), ("completed", 2));
        one_commit += usize::from(commits(&bank, id, true).await == 1);
    }
    // Copies at once, and one that comes late: all get the first one's answer.
    let id = Uuid::now_v7();
    for ended in join_all((0..20).map(|_| transfer(&client, from, to, id))).await {
        assert_eq!(ended.expect("it ends").status, "completed");
    }
    let (from_key, to_key) = (from.to_string(), to.to_string());
    let late = client.start_chain("transfer", &[("from", &from_key), ("to", &to_key), ("amount", "1")], id).await.expect("answered");
    assert!(late.from_stored_outcome && late.chain.is_some_and(|chain| chain.status == "completed"));
    let other = client.start_chain("transfer", &[("from", &from_key), ("to", &to_key), ("amount", "2")], id).await;
    assert_eq!(other.expect_err("another input").code(), "RW3106");
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(100_000 + 4_100));
    // Now and then a batch takes two trips, and no step shares its commit with another then.
    assert!(one_commit >= 35, "{one_commit} of 40");
    let mut moved = 41;
    for point in KILL_POINTS {
        let id = Uuid::now_v7();
        let ended = while_killing(&mut bank, ("p1", Victim::Worker), (point, "transfer_out"), async {
            // A worker's first batch takes two trips.
            client.settle("unfreeze", &[("account_id", &to.to_string())], Uuid::now_v7()).await.expect("done");
            transfer(&client, from, to, id).await
        });
        assert_eq!(ended.await.expect("killed").expect("it ends").status, "completed", "{point}");
        moved += 1;
        let reader = bank.reader();
        assert_eq!(reader.balance(from).await.expect("read"), Some(100_000 - 100 * moved), "{point}");
        let kinds: Vec<String> = reader.outcomes(id).await.expect("read").into_iter().map(|row| row.kind).collect();
        assert_eq!(kinds, ["done", "done"], "{point}");
        if point == "after_commit" {
            assert_eq!(commits(&bank, id, true).await, 1, "it was one commit, though nobody was told");
        }
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// Transfers within p1, now and then one to an account that is frozen, or from one that has nothing. Gives the chains that parked.
async fn with_refusals(bank: &Cluster, client: &tests::Client) -> Vec<Uuid> {
    let rich = bank.open_accounts(client, "p1", 8, 1000).await.expect("opened");
    let poor = bank.open_accounts(client, "p1", 4, 0).await.expect("opened");
    let frozen = bank.open_accounts(client, "p1", 4, 0).await.expect("opened");
    for account in &frozen {
        client.settle("freeze", &[("account_id", &account.to_string())], Uuid::now_v7()).await.expect("frozen");
    }
    let mut parked = Vec::new();
    for (poor, frozen) in poor.into_iter().zip(frozen) {
        for (from, to) in [(rich[7], frozen), (poor, rich[6])] {
            // After a refusal, a while passes until batches run in one trip again.
            for _ in 0..20 {
                assert_eq!(transfer(client, rich[0], rich[1], Uuid::now_v7()).await.expect("it ends").status, "completed");
            }
            let id = Uuid::now_v7();
            let neighbours = [(rich[2], rich[3]), (rich[4], rich[5])].map(|(from, to)| transfer(client, from, to, Uuid::now_v7()));
            let (ended, neighbours) = tokio::join!(transfer(client, from, to, id), join_all(neighbours));
            for neighbour in neighbours {
                assert_eq!(neighbour.expect("it ends").status, "completed");
            }
            if from == poor {
                assert_eq!(ended.expect_err("it has nothing").code(), "RW3101");
                assert!(bank.reader().chain_statuses(id).await.expect("read").is_empty(), "a start that is refused leaves no chain");
            } else {
                assert_eq!(ended.expect("it stands somewhere").status, "parked");
                parked.push(id);
            }
        }
    }
    parked
}

#[tokio::test]
async fn who_is_refused_among_chains_of_one_commit_ends_as_others_do() {
    let bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    for id in with_refusals(&bank, &client).await {
        assert_eq!(client.compensate(id).await.expect("undone").status, "compensated");
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// Puts `other` into the function that counts outcomes, in the place of `text`.
async fn sabotage(bank: &Cluster, text: &str, other: &str) {
    let sql = "select replace(pg_get_functiondef('rootward.open_chains'::regproc), $1, $2)";
    let sabotaged: String = bank.reader().rows("p1", sql, &[&text, &other]).await.expect("read")[0].get(0);
    assert!(sabotaged.contains(other) && !sabotaged.contains(text), "{sabotaged}");
    bank.reader().run("p1", &sabotaged).await.expect("switched off");
}

#[tokio::test]
async fn without_the_count_of_outcomes_a_transfer_would_be_half_done() {
    // A deposit without its withdrawal, and a withdrawal whose chain counts as completed without its deposit.
    let refusals = [
        ("raise exception 'not all", "raise debug 'not all", false),
        ("stored.done operator(pg_catalog.>=) recorded[n.ordinality]", "stored.done is not null", true),
    ];
    for (text, other, is_frozen) in refusals {
        let bank = own_bank(1).await;
        let client = bank.client().expect("a client");
        sabotage(&bank, text, other).await;
        let accounts = bank.open_accounts(&client, "p1", 2, if is_frozen { 100 } else { 0 }).await.expect("opened");
        if is_frozen {
            client.settle("freeze", &[("account_id", &accounts[1].to_string())], Uuid::now_v7()).await.expect("frozen");
        }
        let id = Uuid::now_v7();
        let ended = transfer(&client, accounts[0], accounts[1], id).await;
        assert_eq!(check_money(&bank.reader()).await.expect_err("the scenario has to notice").what, "money", "{ended:?}");
        let statuses = bank.reader().chain_statuses(id).await.expect("read");
        assert_eq!(statuses, if is_frozen { vec!["completed"] } else { Vec::new() }, "{ended:?}");
    }
}

/// More chains of the bank: one that answers with what its steps answered, and one whose second step needs to know what the first one did.
const MORE_CHAINS: &str = r#"
[chain.told]
params = { from = "bigint", to = "bigint", amount = "numeric" }
result = { left = "$steps.withdraw.balance", has = "$steps.deposit.balance" }
steps = [
  { name = "withdraw", call = "transfer_out", root = { account = "$from" }, args = { amount = "$amount" }, compensate = "transfer_back" },
  { name = "deposit", call = "transfer_in", root = { account = "$to" }, args = { amount = "$amount" }, on_failure = "park" },
]

[chain.as_much]
params = { from = "bigint", to = "bigint", amount = "numeric" }
steps = [
  { name = "withdraw", call = "transfer_out", root = { account = "$from" }, args = { amount = "$amount" }, compensate = "transfer_back" },
  { name = "deposit", call = "transfer_in", root = { account = "$to" }, args = { amount = "$steps.withdraw.balance" }, on_failure = "park" },
]
"#;

#[tokio::test]
async fn only_steps_that_need_nothing_of_each_other_share_a_commit() {
    let change = |file: &str, text: String| if file == "rootward.toml" { text + MORE_CHAINS } else { text };
    let compiled = tests::compile_changed(exe(), "bank", change).await.unwrap_or_else(|findings| panic!("{findings:#}"));
    let bank = Cluster::start(exe(), &compiled, Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    client.settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], Uuid::now_v7()).await.expect("added");
    bank.wait_for_reference("select count(*) from currency", 1).await.expect("copied");
    let accounts = bank.open_accounts(&client, "p1", 2, 100).await.expect("opened");
    let (from, to) = (accounts[0].to_string(), accounts[1].to_string());
    let play = async |chain: &str, to: &str, amount: &str| {
        let id = Uuid::now_v7();
        let ended = client.run_chain(chain, &[("from", &from), ("to", to), ("amount", amount)], id).await.expect("it ends");
        assert_eq!(ended.status, "completed", "{chain}: {ended:?}");
        let noted = async || (bank.reader().chain_statuses(id).await.ok()? == ["completed"]).then_some(());
        until("its end is a row", noted).await.expect("it is noted");
        (commits(&bank, id, false).await, ended.result)
    };
    // So that no batch of those that count is one that takes two trips.
    let (first, _) = play("transfer", &to, "1").await;
    assert_eq!(first, 1);
    let (commits, result) = play("told", &to, "1").await;
    assert_eq!((commits, result.as_str()), (1, r#"{"has":"102.00","left":"98.00"}"#));
    assert_eq!(play("transfer", &from, "1").await.0, 2, "both steps at one root");
    assert_eq!(play("as_much", &to, "90").await.0, 2, "8.00, which the first step left");
    assert_eq!(bank.reader().balance(accounts[1]).await.expect("read"), Some(11_000));
}
