//! More than a router or a lane takes, and a router that goes away under load.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use rootward_proto::v1::RetryClass;
use tests::{Cluster, Shape, check_bank};
use uuid::Uuid;

use crate::shared::exe;

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
