//! More than a router or a lane takes, and a router that goes away under load.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use rootward_client::{Arguments, Fault};
use rootward_proto::v1::{self, RetryClass};
use tests::{Cluster, Shape, check_bank};
use uuid::Uuid;

use crate::{metrics::scrape, shared::exe};

#[tokio::test]
async fn a_router_that_restarts_under_load_loses_no_request() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let mut accounts = bank.open_accounts(&client, "p1", 2, 100).await.expect("opened");
    accounts.extend(bank.open_accounts(&client, "p2", 2, 100).await.expect("opened"));
    let done = std::sync::atomic::AtomicUsize::new(0);
    let load = join_all((0..8).map(async |writer: usize| {
        for turn in 0..40 {
            let (from, to) = (accounts[writer % 4].to_string(), accounts[(writer + turn + 1) % 4].to_string());
            let ended = match turn % 4 {
                0 => client.run_chain("transfer", &[("from", &from), ("to", &to), ("amount", "0.01")], Uuid::now_v7()).await.map(|_| ()),
                _ => client.settle("deposit", &[("account_id", &to), ("amount", "1")], Uuid::now_v7()).await.map(|_| ()),
            };
            ended.unwrap_or_else(|fault| panic!("writer {writer}, turn {turn}: {fault}"));
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }));
    let embedded = &mut bank.embedded;
    let restarts = async {
        for after in [60, 160] {
            tests::until("the load is under way", async || (done.load(std::sync::atomic::Ordering::Relaxed) >= after).then_some(()))
                .await
                .expect("load");
            embedded.restart_router().await.expect("a router again");
        }
    };
    tokio::join!(load, restarts);
    let deposits = bank.reader().sum("select count(*) from entry where kind = 'deposit'").await.expect("read");
    assert_eq!(deposits, 8 * 30);
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn what_finds_no_room_is_refused_and_has_no_effect() {
    let shape = Shape { peers: 1, worker_settings: "queue = 2\n", router_settings: "max_in_flight = 40\n", ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 0).await.expect("opened")[0];
    let key = account.to_string();
    let ids: Vec<Uuid> = (0..400).map(|_| Uuid::now_v7()).collect();
    let given = [("account_id", key.as_str()), ("amount", "1")];
    let ended = join_all(ids.iter().map(|id| client.call("deposit", &given, *id))).await;
    let mut refused = BTreeSet::new();
    let mut places = BTreeSet::new();
    for (id, ended) in ids.iter().zip(&ended) {
        if let Err(fault) = ended {
            assert_eq!((fault.code(), fault.retry_class()), ("RW3001", RetryClass::Retry), "{fault}");
            places.insert(if fault.message().contains("router") { "router" } else { "lane" });
            refused.insert(*id);
        }
    }
    assert_eq!(places, BTreeSet::from(["lane", "router"]), "both bounds were met by {} of 400", refused.len());
    let deposited: BTreeSet<Uuid> = bank
        .reader()
        .all("select request_id from rootward.outcome where transaction = 'deposit'", &[])
        .await
        .expect("read")
        .iter()
        .map(|(_, row)| row.get(0))
        .collect();
    assert!(deposited.is_disjoint(&refused), "a refused request has left no trace");
    assert_eq!(deposited.len() + refused.len(), 400, "and every other one is done");
    // Sent again when there is room, each of them takes effect after all.
    for id in &refused {
        client.settle("deposit", &given, *id).await.expect("done");
    }
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(40_000));
    check_bank(&bank).await.expect("every promise is kept");
}

/// What the workers of these tests take on a second.
const CAPACITY: usize = 200;
const LIMITED: &str = "max_units_per_second = 200\nmax_queue_ms = 1000\n";

/// One peer that takes on [`CAPACITY`], and accounts in it.
async fn limited_bank(accounts: usize) -> (Cluster, Vec<i64>) {
    let shape = Shape { peers: 1, worker_settings: LIMITED, ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let accounts = bank.open_accounts(&bank.client().expect("a client"), "p1", accounts, 0).await.expect("opened");
    (bank, accounts)
}

/// A client that is told of a refusal rather than trying again.
async fn once(client: &tests::Client, account: i64, id: Uuid) -> Result<v1::CallResponse, Fault> {
    client.call("deposit", &[("account_id", &account.to_string()), ("amount", "1")], id).await
}

fn is_honest(fault: &Fault) -> bool {
    ["RW3001", "RW3103"].contains(&fault.code()) && fault.retry_class() == RetryClass::Retry && fault.retry_after().is_some()
}

#[tokio::test]
async fn at_ten_times_the_capacity_it_is_used_and_whoever_is_refused_is_told_when_to_come_back() {
    const SECONDS: usize = 4;
    let (bank, accounts) = limited_bank(40).await;
    let client = bank.client().expect("a client");
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut sent = Vec::new();
    let begun = tokio::time::Instant::now();
    // An open loop: what comes doesn't wait for answers.
    for number in 0..SECONDS * 100 {
        ticks.tick().await;
        for at in 0..CAPACITY / 10 {
            let (client, id, account) = (client.clone(), Uuid::now_v7(), accounts[(number * 7 + at) % accounts.len()]);
            sent.push(tokio::spawn(async move { (id, once(&client, account, id).await) }));
        }
    }
    let (mut done, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for request in sent {
        match request.await.expect("no panic") {
            (id, Ok(_)) => {
                done.insert(id);
            }
            (id, Err(fault)) => {
                assert!(is_honest(&fault), "{fault}");
                refused.insert(id);
            }
        }
    }
    let possible = CAPACITY * begun.elapsed().as_millis() as usize / 1_000;
    // How much of the capacity is used is for a benchmark to say; that it is used at all, and that there was too much, for a test.
    assert!(!done.is_empty() && !refused.is_empty(), "{} done, {} refused", done.len(), refused.len());
    assert!(done.len() <= possible + CAPACITY / 2, "the limit holds: {} of {possible}", done.len());
    let sql = "select request_id from rootward.outcome where transaction = 'deposit'";
    let deposited: BTreeSet<Uuid> = bank.reader().all(sql, &[]).await.expect("read").iter().map(|(_, row)| row.get(0)).collect();
    assert_eq!(deposited, done, "what was refused has not run");
    assert!(deposited.is_disjoint(&refused));
    check_bank(&bank).await.expect("every promise is kept");
}

/// How a few roots fare, one request after the other, beside a flood at these roots.
async fn beside(bank: &Cluster, flooded: &[i64], few: &[i64]) -> (Vec<Fault>, Vec<Fault>) {
    let client = bank.client().expect("a client");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_over = &is_over;
    let flood = join_all((0..300).map(async |at: usize| {
        let mut refused = Vec::new();
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            if let Err(fault) = once(&client, flooded[at % flooded.len()], Uuid::now_v7()).await {
                assert!(is_honest(&fault), "{fault}");
                // As long as it asks for.
                tokio::time::sleep(fault.retry_after().unwrap_or_default()).await;
                refused.push(fault);
            }
        }
        refused
    }));
    let cold = async {
        let refused = join_all(few.iter().map(async |account| {
            let mut refused = Vec::new();
            for _ in 0..10 {
                refused.extend(once(&client, *account, Uuid::now_v7()).await.err());
            }
            refused
        }));
        let refused = refused.await.concat();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        refused
    };
    let (hot, cold) = tokio::join!(flood, cold);
    (hot.concat(), cold)
}

#[tokio::test]
async fn a_hot_root_is_refused_while_the_others_in_its_lane_are_served() {
    let (bank, _) = limited_bank(0).await;
    // All in one lane.
    let of_lane = bank.roots_on("account", "p1", Some(0), 110);
    let client = bank.client().expect("a client");
    for account in &of_lane {
        bank.open_account(&client, *account, 0).await.expect("opened");
    }
    let (few, many) = of_lane.split_at(10);
    let (hot, cold) = beside(&bank, &many[..1], few).await;
    assert!(hot.len() > 100 && hot.iter().any(|fault| fault.message().contains("its share of the lane")), "{} of the hot root", hot.len());
    assert!(cold.is_empty(), "{} of the others were refused: {}", cold.len(), cold[0]);
    // The same load spread over many roots leaves no room for anybody, which shows that the share made the difference.
    let (_, cold) = beside(&bank, many, few).await;
    assert!(!cold.is_empty() && cold.iter().all(is_honest), "the flood fills the lane");
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn under_overload_the_retries_of_a_client_add_a_tenth_at_most_at_the_worker() {
    const REQUESTS: u64 = 1_500;
    let (bank, accounts) = limited_bank(40).await;
    let handled = async || {
        let page = scrape(&bank, "p1").await;
        (page.sum("rootward_lane_committed_total", "") + page.sum("rootward_lane_refused_total", "")) as u64
    };
    let before = handled().await;
    let client = rootward_client::Client::new([bank.embedded.router_address()]).expect("an address");
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut sent = Vec::new();
    while sent.len() as u64 != REQUESTS {
        if sent.len() % 15 == 0 {
            ticks.tick().await;
        }
        let arguments = Arguments::new().with("account_id", accounts[sent.len() % accounts.len()]).with("amount", 1);
        sent.push(tokio::spawn(client.call("deposit", arguments).send()));
    }
    let ended = join_all(sent).await.into_iter().map(|ended| ended.expect("no panic"));
    let refused = ended.filter(Result::is_err).count();
    let came = handled().await - before;
    assert!(refused > 500, "there was no overload: {refused}");
    // Ten retries are there from the start.
    assert!(came <= REQUESTS + REQUESTS / 10 + 10, "{came} came of {REQUESTS}");
    assert!(came > REQUESTS + REQUESTS / 20, "and there were retries: {came}");
}
