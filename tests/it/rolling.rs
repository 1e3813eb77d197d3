//! Everything is restarted, one after the other, while clients work, and no request fails; processes of builds that don't go together
//! refuse each other by name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rootward_client::{Arguments, Client};
use tests::{Cluster, Shape, check_bank, deposit, eventually, send_to_worker, until};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    moves::{nothing_is_left, paid_in},
    shared::{exe, own_bank},
};

/// Deposits and transfers of one euro each by the client that applications link, over all routers. None may fail.
struct Load {
    is_over: Arc<AtomicBool>,
    deposits: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(routers: &[String], accounts: &[i64], clients: usize) -> Load {
        let mut load = Load { is_over: Arc::default(), deposits: Arc::default(), done: Arc::default(), clients: JoinSet::new() };
        for at in 0..clients {
            // Each begins with another router.
            let mut routers = routers.to_vec();
            let turn = at % routers.len().max(1);
            routers.rotate_left(turn);
            let client = Client::new(routers).expect("addresses").with_deadline(Duration::from_secs(60));
            let (is_over, deposits, done, accounts) = (load.is_over.clone(), load.deposits.clone(), load.done.clone(), accounts.to_vec());
            load.clients.spawn(async move {
                let mut failures = Vec::new();
                for round in at.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (from, to) = (accounts[round % accounts.len()], accounts[(round * 7 + 3) % accounts.len()]);
                    let failure = if at % 2 == 0 || from == to {
                        let call = client.call("deposit", Arguments::new().with("account_id", to).with("amount", 1)).send().await;
                        deposits.fetch_add(u64::from(call.is_ok()), Ordering::Relaxed);
                        call.err().map(|fault| fault.to_string())
                    } else {
                        let input = Arguments::new().with("from", from).with("to", to).with("amount", 1);
                        match client.start_chain("transfer", input).send().await {
                            Ok(started) => {
                                let chain = started.chain.unwrap_or_default();
                                (chain.status != "completed").then(|| format!("transfer {} is {}", chain.id, chain.status))
                            }
                            Err(fault) => Some(fault.to_string()),
                        }
                    };
                    failures.extend(failure);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        load
    }

    /// Waits until clients have come on.
    async fn some_more(&self) {
        let now = self.done.load(Ordering::Relaxed);
        until("clients come on", async || (self.done.load(Ordering::Relaxed) > now + 20).then_some(())).await.expect("they do");
    }

    /// What failed, and how many deposits were acknowledged.
    async fn stop(self) -> (Vec<String>, i64) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.into_iter().flatten().collect();
        (failures, i64::try_from(self.deposits.load(Ordering::Relaxed)).expect("few"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_restarted_and_no_request_fails() {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let mut accounts = bank.open_accounts(&plain, "p1", 4, 1_000).await.expect("opened");
    accounts.extend(bank.open_accounts(&plain, "p2", 4, 1_000).await.expect("opened"));
    let nodes = ["hub", "p1", "p2"];
    let workers: Vec<String> = nodes.iter().map(|id| bank.embedded.worker_address(id).expect("it listens").to_owned()).collect();
    let first = bank.embedded.router_address().to_owned();
    let (second, _) = bank.embedded.start_another_router(&workers).await.expect("a second router");
    let load = Load::start(&[first.clone(), second.clone()], &accounts, 6);
    load.some_more().await;
    for router in [&first, &second] {
        bank.embedded.drain_router(router).await.expect("it is back");
        load.some_more().await;
    }
    for node in nodes {
        let term = bank.wait_until_serving(node, 0).await.expect("it serves").term;
        bank.embedded.drain_worker(node).await.expect("it ends");
        bank.embedded.start_worker(node, &[]).await.expect("it is back");
        bank.wait_until_serving(node, term).await.expect("it serves");
        load.some_more().await;
    }
    for node in nodes {
        let term = bank.wait_until_serving(node, 0).await.expect("it serves").term;
        bank.embedded.start_postgres(node).await.expect("stopped and started");
        bank.wait_until_serving(node, term).await.expect("it serves");
        load.some_more().await;
    }
    let (failures, deposits) = load.stop().await;
    assert!(failures.is_empty(), "{} failed: {failures:#?}", failures.len());
    assert_eq!(paid_in(&bank, &accounts).await, 8_000 + deposits, "each acknowledged deposit is there once");
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_without_a_version_in_common_refuse_each_other_by_name() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let here = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let there = bank.open_accounts(&plain, "p2", 1, 100).await.expect("opened")[0];
    let client = Client::new([bank.embedded.router_address()]).expect("an address");
    let short = client.clone().with_deadline(Duration::from_secs(1));
    let deposit_at = async |client: &Client, account: i64| {
        client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).send().await
    };
    // A worker of a build that has a version in common with the others works with them.
    for (pretended, goes) in [("1-2", true), ("7-8", false)] {
        bank.embedded.kill_worker("p1").await.expect("killed");
        bank.embedded.start_worker("p1", &[("ROOTWARD_PROTOCOL", pretended)]).await.expect("started");
        if goes {
            deposit_at(&client, here).await.expect("deposited");
            continue;
        }
        let mut last = None;
        let refused = async || {
            last = Some(deposit_at(&short, here).await.map(drop));
            last.clone()?.err().filter(|fault| fault.code() == "RW5030")
        };
        let fault = until("it is refused by name", refused).await.unwrap_or_else(|error| panic!("{error}: {last:?}"));
        for words in ["version 7-8", "version 1"] {
            assert!(fault.message().contains(words), "{fault}");
        }
        deposit_at(&client, there).await.expect("other peers go on");
        // A tool that says nothing about versions is let through.
        let address = bank.embedded.worker_address("p1").expect("it listens").to_owned();
        until("the worker serves", async || send_to_worker(&address, deposit(here, Uuid::now_v7())).await.ok()?.ok())
            .await
            .expect("it does");
    }
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.start_worker("p1", &[]).await.expect("the right build");
    deposit_at(&client, here).await.expect("deposited");
    check_bank(&bank).await.expect("every promise is kept");
}
