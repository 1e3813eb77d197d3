//! Chains in flight while the schema changes under them.

use rootward_cluster::{Compiled, deploy};
use rootward_proto::v1::{self, ChainVerb};
use tests::{Client, Cluster, Shape, check_bank, command};
use uuid::Uuid;

use crate::shared::exe;

async fn changed_bank(version: u32, change: impl Fn(&str, String) -> String) -> Compiled {
    let number = format!("version = {version}");
    let change = |file: &str, text: String| change(file, if file == "rootward.toml" { text.replace("version = 1", &number) } else { text });
    tests::compile_changed(exe(), "bank", change).await.unwrap_or_else(|findings| panic!("{findings:#}"))
}

async fn apply(bank: &Cluster, client: &Client, compiled: &Compiled) {
    deploy(bank.embedded.topology(), &compiled.source, &compiled.schema).await.expect("applied");
    let version = compiled.schema.version;
    let in_force = tests::until("it is in force on every peer", async || {
        let peers = client.peers().await.ok()?;
        peers.iter().all(|peer| peer.status.as_ref().is_some_and(|status| status.schema_version == version)).then_some(())
    });
    in_force.await.expect("in force");
}

/// A bank with transfers of 10 between two accounts that wait for the second one to be unfrozen.
struct Parked<const N: usize> {
    bank: Cluster,
    client: Client,
    from: i64,
    to: i64,
    ids: [Uuid; N],
}

impl<const N: usize> Parked<N> {
    async fn start() -> Parked<N> {
        let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
        let client = bank.client().expect("a client");
        let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
        let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
        client.settle("freeze", &[("account_id", &to.to_string())], Uuid::now_v7()).await.expect("frozen");
        let ids = [(); N].map(|()| Uuid::now_v7());
        let (from_key, to_key) = (from.to_string(), to.to_string());
        let input = [("from", from_key.as_str()), ("to", to_key.as_str()), ("amount", "10")];
        for id in ids {
            assert_eq!(client.run_chain("transfer", &input, id).await.expect("it stops").status, "parked");
        }
        Parked { bank, client, from, to, ids }
    }
}

#[tokio::test]
async fn a_definition_that_is_removed_in_flight_parks_its_chains_until_it_comes_back() {
    let Parked { bank, client, from, to, ids: [replayed, undone] } = Parked::start().await;
    let (from_key, to_key) = (from.to_string(), to.to_string());
    let input = [("from", from_key.as_str()), ("to", to_key.as_str()), ("amount", "10")];
    client.settle("unfreeze", &[("account_id", &to_key)], Uuid::now_v7()).await.expect("unfrozen");

    // Neither the chain nor its second step's transaction is there any more.
    let without = changed_bank(2, |file, text| match file {
        "rootward.toml" => {
            let (before, after) = text.split_once("[chain.transfer]").expect("the chain");
            let (_, after) = after.split_once("# Counted by").expect("what follows");
            format!("{before}# Counted by{after}")
        }
        "transactions/transfer.sql" => {
            let (before, after) = text.split_once("-- name: transfer_in").expect("the step");
            let (_, after) = after.split_once("-- Undoes").expect("what follows");
            format!("{before}-- Undoes{after}")
        }
        _ => text,
    })
    .await;
    apply(&bank, &client, &without).await;
    let fault = client.start_chain("transfer", &input, Uuid::now_v7()).await.expect_err("there is none");
    assert_eq!(fault.code(), "RW4004", "{fault}");
    client.replay(replayed).await.expect("tried");
    let parked = tests::until("it parks for the other reason", async || {
        let chain = client.chain(replayed).await.ok()?;
        (chain.status == "parked" && chain.failure.as_ref().is_some_and(|failure| failure.code == "RW4006")).then_some(chain)
    });
    assert!(parked.await.expect("it parks").failure.is_some_and(|failure| failure.message.contains("transfer_in")));
    // What undoes its first step is still there. Its second step's transaction is not, but to call that off nobody needs it.
    client.compensate(undone).await.expect("it goes back");
    client.wait_for(undone, &["compensated"]).await.expect("it ends");

    let back = changed_bank(3, |_, text| text).await;
    apply(&bank, &client, &back).await;
    client.replay(replayed).await.expect("it goes on");
    client.wait_for(replayed, &["completed"]).await.expect("it ends");
    let reader = bank.reader();
    assert_eq!((reader.balance(from).await.expect("read"), reader.balance(to).await.expect("read")), (Some(9_000), Some(1_000)));
    check_bank(&bank).await.expect("every promise is kept");
}

/// The bank without the chain and without some of its transactions.
async fn bank_without(version: u32, gone: &[&str]) -> Compiled {
    changed_bank(version, |file, text| match file {
        "rootward.toml" => {
            let (before, after) = text.split_once("[chain.transfer]").expect("the chain");
            let (_, after) = after.split_once("# Counted by").expect("what follows");
            format!("{before}# Counted by{after}")
        }
        "transactions/transfer.sql" => {
            let is_gone = |section: &&str| gone.iter().any(|name| section.starts_with(&format!("{name}\n")));
            text.split("-- name: ").filter(|section| !is_gone(section)).collect::<Vec<_>>().join("-- name: ")
        }
        _ => text,
    })
    .await
}

#[tokio::test]
async fn a_chain_needs_of_its_transactions_only_those_that_it_has_not_run_yet() {
    let Parked { bank, client, from, to, ids: [forward, back, skipped, ended] } = Parked::start().await;
    let (from_key, to_key) = (from.to_string(), to.to_string());
    client.compensate(ended).await.expect("it goes back");
    client.wait_for(ended, &["compensated"]).await.expect("it ends");

    // Neither what took the money nor what would give it back is there any more; what pays it in is.
    apply(&bank, &client, &bank_without(2, &["transfer_out", "transfer_back"]).await).await;
    for id in [back, skipped] {
        client.compensate(id).await.expect("it tries");
        let stuck = client.wait_for(id, &["stuck"]).await.expect("it can't");
        let failure = stuck.failure.expect("it says why");
        assert_eq!(failure.code, "RW4006");
        assert!(failure.message.contains("transfer_back"), "{failure:?}");
        // What was done is still told by its root, whatever the schema has.
        let steps: Vec<String> = stuck.steps.iter().map(|step| format!("{} {}", step.name, step.outcome)).collect();
        assert_eq!(steps, ["withdraw done", "deposit tombstone"]);
        client.replay(id).await.expect("tried again");
        client.wait_for(id, &["stuck"]).await.expect("it still can't");
    }
    // One that went back shows how, though nothing of it is in the schema.
    let shown = client.chain(ended).await.expect("shown");
    let steps: Vec<String> = shown.steps.iter().map(|step| format!("{} {} {}", step.name, step.direction, step.outcome)).collect();
    assert_eq!(steps, ["withdraw do done", "deposit do tombstone", "withdraw undo done"]);
    // Somebody gave the money back by hand.
    let skip = v1::ChangeChainsRequest { step: "withdraw".to_owned(), ..command(ChainVerb::Skip, skipped) };
    client.settle("deposit", &[("account_id", &from_key), ("amount", "10")], Uuid::now_v7()).await.expect("paid in");
    client.command(skip).await.expect("skipped");
    client.wait_for(skipped, &["compensated"]).await.expect("it ends");
    // Its first step is done: it goes on without that step's transaction.
    client.settle("unfreeze", &[("account_id", &to_key)], Uuid::now_v7()).await.expect("unfrozen");
    client.replay(forward).await.expect("it goes on");
    client.wait_for(forward, &["completed"]).await.expect("it ends");

    apply(&bank, &client, &changed_bank(3, |_, text| text).await).await;
    client.replay(back).await.expect("it goes on");
    client.wait_for(back, &["compensated"]).await.expect("it ends");
    let reader = bank.reader();
    // 100, less the transfer that went on; the ten that were paid in by hand are those of the skipped one.
    assert_eq!((reader.balance(from).await.expect("read"), reader.balance(to).await.expect("read")), (Some(9_000), Some(1_000)));
    let counted = client.verify().await.expect("counted");
    let chains = counted.checks.iter().find(|check| check.name == "chains").expect("it counts chains");
    assert!(chains.is_ok, "{chains:?}");
}
