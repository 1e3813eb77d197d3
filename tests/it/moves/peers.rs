//! Peers come and go.

use std::collections::BTreeMap;

use rootward_client::{Client, v1};
use tests::{Cluster, Shape, check_bank, compile_example, eventually, until};

use super::{
    client,
    load::{Load, paid_in},
    nothing_is_left,
};
use crate::shared::exe;

/// How many partitions each peer owns.
async fn owned(cluster: &Cluster) -> BTreeMap<String, i64> {
    let sql = "select peer, count(*) from rootward_catalog.partition group by 1";
    let rows = cluster.reader().rows("hub", sql, &[]).await.expect("read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Rebalances and waits for the end; returns how many partitions moved.
async fn rebalanced(client: &Client) -> usize {
    let plan = client.rebalance(v1::RebalanceRequest { dry_run: true, ..Default::default() }).await.expect("planned");
    let request = v1::RebalanceRequest { request_id: uuid::Uuid::now_v7().to_string(), ..Default::default() };
    let begun = client.rebalance(request.clone()).await.expect("begun");
    let partitions = |moves: &[v1::Move]| moves.iter().map(|one| one.partitions.len()).sum::<usize>();
    assert_eq!(partitions(&plan.moves), partitions(&begun.moves), "what was planned is done");
    let is_over = async || client.moves(v1::ListMovesRequest::default()).await.ok().filter(|open| open.moves.is_empty());
    until("all moves have ended", is_over).await.expect("they end");
    let all = client.moves(v1::ListMovesRequest { all: true, ..Default::default() }).await.expect("listed");
    assert!(all.moves.iter().all(|one| one.stage == "done" && one.is_verified), "{:?}", all.moves);
    let again = client.rebalance(request).await.expect("known");
    assert_eq!(partitions(&again.moves), partitions(&begun.moves), "whose answer was lost hears of the same moves");
    partitions(&begun.moves)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_peer_gets_its_share_and_a_drained_one_gives_all_of_its_own() {
    let compiled = compile_example(exe(), "bank").await.expect("it compiles");
    let mut bank = Cluster::bank(exe(), Shape { peers: 3, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let mut accounts = Vec::new();
    for peer in ["p1", "p2", "p3"] {
        accounts.extend(bank.open_accounts(&plain, peer, 4, 1_000).await.expect("opened"));
    }
    let client = client(&bank);
    assert!(client.rebalance(v1::RebalanceRequest::default()).await.expect("nothing to do").moves.is_empty());
    let load = Load::start(&bank, &accounts, 3, false);

    bank.embedded.add_peer("p4", &compiled).await.expect("added");
    assert_eq!(owned(&bank).await.get("p4"), None, "it gets nothing by itself");
    let partitions = usize::try_from(bank.schema.partitions).expect("few");
    let moved = rebalanced(&client).await;
    assert!(moved * 100 >= partitions * 25 && moved * 100 <= partitions * 31, "{moved} of {partitions} moved");
    assert_eq!(owned(&bank).await["p4"], i64::from(bank.schema.partitions) / 4);
    nothing_is_left(&bank).await;

    for (id, change, code) in
        [("p1", v1::PeerChange::Remove, "RW5045"), ("hub", v1::PeerChange::Drain, "RW5045"), ("p9", v1::PeerChange::Drain, "RW5007")]
    {
        assert_eq!(client.change_peer(id, change).await.expect_err("refused").code(), code);
    }
    assert_eq!(client.change_peer("p1", v1::PeerChange::Drain).await.expect("drained").state, "draining");
    let moved = rebalanced(&client).await;
    assert_eq!(moved, partitions / 4, "what it had, and nothing else");
    assert_eq!(owned(&bank).await.get("p1"), None);
    nothing_is_left(&bank).await;

    let (deposits, failures) = (load.deposits.clone(), load.stop().await);
    assert!(failures.is_empty(), "{failures:?}");
    let deposits = i64::try_from(deposits.load(std::sync::atomic::Ordering::Relaxed)).expect("few");
    assert_eq!(paid_in(&bank, &accounts).await, 12_000 + deposits, "each acknowledged deposit is there once");
    assert_eq!(client.change_peer("p1", v1::PeerChange::Remove).await.expect("removed").state, "removed");
    let slots = "select count(*) from pg_replication_slots where slot_name like 'rootward\\_p1\\_%'";
    until("its slot on the hub is gone", async || {
        let rows = bank.reader().rows("hub", slots, &[]).await.ok()?;
        (rows[0].get::<_, i64>(0) == 0).then_some(())
    })
    .await
    .expect("gone");
    until("the router has heard of it", async || {
        let known = client.peers().await.ok()?.peers;
        known.iter().any(|peer| peer.id == "p1" && peer.state == "removed").then_some(())
    })
    .await
    .expect("removed");
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
