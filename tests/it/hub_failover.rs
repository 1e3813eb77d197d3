//! The hub's PostgreSQL is lost and its standby takes its place: what copied from the old one goes on from the new one, without loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rootward_client::{Arguments, Client};
use rootward_cluster::Standbys;
use rootward_proto::v1;
use tests::{Reader, Shape, check_bank, until};

use crate::journal::bank;

/// All rows of the copy, in order.
async fn content(reader: &Reader, node: &str) -> Option<String> {
    let sql = "select string_agg(c::text, ' ' order by code) from currency c";
    Some(reader.rows(node, sql, &[]).await.ok()?[0].get(0))
}

/// Writes currencies until it is told to stop, each sent until it is acknowledged; how many were.
async fn write(client: Client, prefix: &'static str, is_over: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !is_over.load(Ordering::Acquire) {
        let code = format!("{prefix}{written}");
        let arguments = Arguments::new().with("code", code).with("name", "money").with("minor_digits", 2);
        client.call("add_currency", arguments).send().await.expect("acknowledged");
        written += 1;
    }
    written
}

/// Deposits at one account until it is told to stop; the ids of those that were acknowledged.
async fn deposit(client: Client, account: i64, is_over: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !is_over.load(Ordering::Acquire) {
        let call = client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1));
        let id = call.request_id().to_owned();
        call.send().await.expect("the peers go on without their hub");
        acknowledged.push(id);
    }
    acknowledged
}

/// p1 is the relay and copies from the hub, p2 copies from p1. A standby has no replication slots.
#[tokio::test(flavor = "multi_thread")]
async fn members_and_relays_follow_a_promoted_hub_without_loss_and_subscribers_notice_nothing() {
    let shape = Shape {
        standbys: Standbys::Synchronous,
        standby_nodes: &["hub"],
        regions: &[("p1", "east"), ("p2", "east")],
        relays: &["p1"],
        worker_settings: "route_patience_ms = 1000\n",
        ..Shape::own(2)
    };
    let (mut bank, test_client) = bank(shape).await;
    let accounts = [
        bank.open_accounts(&test_client, "p1", 1, 0).await.expect("opened")[0],
        bank.open_accounts(&test_client, "p2", 1, 0).await.expect("opened")[0],
    ];
    let limit = Duration::from_secs(60);
    let client = Client::new([bank.embedded.router_address()]).expect("an address").with_deadline(limit).with_patience(limit);
    let is_over = Arc::new(AtomicBool::new(false));
    let request = v1::SubscribeRequest { entity: "account".to_owned(), from_start: true, ..v1::SubscribeRequest::default() };
    let mut subscription = client.subscribe(request);
    let writer = tokio::spawn(write(client.clone(), "A", is_over.clone()));
    let deposits = accounts.map(|account| tokio::spawn(deposit(client.clone(), account, is_over.clone())));
    bank.wait_for_reference("select count(*) from currency", 10).await.expect("they come");

    bank.embedded.kill_postgres("hub").await.expect("killed");
    bank.embedded.promote("hub").await.expect("promoted");
    bank.embedded.replace_primary("hub").await.expect("a standby of the new one");
    let reader = bank.reader();
    let count = async |node: &str| reader.rows(node, "select count(*) from currency", &[]).await.ok()?[0].get::<_, i64>(0).into();
    let before = until("the new hub answers", async || count("hub").await).await.expect("it does");
    until("the new hub takes writes", async || count("hub").await.filter(|count: &i64| *count > before + 5)).await.expect("it does");
    is_over.store(true, Ordering::Release);
    let written = writer.await.expect("each was acknowledged");
    let mut acknowledged = BTreeSet::new();
    for deposits in deposits {
        acknowledged.extend(deposits.await.expect("each was acknowledged"));
    }

    // Every row that was acknowledged, before and behind the promotion, is on the hub and on both copies, once.
    let wanted = content(&reader, "hub").await.expect("read");
    assert_eq!(wanted.split(' ').filter(|row| row.starts_with("(A")).count(), written, "the hub has what it acknowledged");
    for peer in ["p1", "p2"] {
        let waited = until(peer, async || (content(&reader, peer).await? == wanted).then_some(())).await;
        waited.unwrap_or_else(|error| panic!("{peer} does not have what the new hub has: {error}"));
    }
    let slots = "select right(slot_name::text, 2), active from pg_replication_slots where slot_type = 'logical'";
    let routes = async |node: &str| {
        let rows = reader.rows(node, slots, &[]).await.ok()?;
        Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, bool)>>())
    };
    for (node, member) in [("hub", "p1"), ("p1", "p2")] {
        let is_right = async || (routes(node).await? == [(member.to_owned(), true)]).then_some(());
        until("each has the slot that it had before", is_right).await.expect("slots");
    }

    // Who subscribes to what takes effect on the peers has all of it, in order.
    let mut came = BTreeMap::<i32, i64>::new();
    let mut missing = acknowledged;
    let reading = async {
        while !missing.is_empty() {
            for event in subscription.next().await.expect("it goes on").events {
                missing.remove(&event.request_id);
                let last = came.entry(event.partition).or_default();
                assert!(event.sequence <= *last + 1, "partition {}: {} came behind {last}", event.partition, event.sequence);
                *last = event.sequence.max(*last);
            }
        }
    };
    let is_whole = tokio::time::timeout(tests::LIMIT, reading).await.is_ok();
    assert!(is_whole, "{} acknowledged effects did not come", missing.len());
    check_bank(&bank).await.expect("every promise is kept");
}
