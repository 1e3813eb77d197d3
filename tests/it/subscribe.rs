//! Subscriptions: each effect at least once, in order within its partition, whatever is killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use futures_util::future::join_all;
use rootward_proto::v1;
use tests::{Cluster, Shape, until};
use uuid::Uuid;

use crate::{journal::bank, shared::exe};

/// By partition: the numbers as they came.
type Came = BTreeMap<i32, Vec<i64>>;

async fn journal_of(cluster: &Cluster) -> BTreeSet<(i32, i64)> {
    let reader = cluster.reader();
    // The calls may all have been answered before a killed backend took its PostgreSQL with it, which then recovers.
    let read = until("every peer can be read", async || reader.all("select partition, sequence from rootward.journal", &[]).await.ok());
    let rows = read.await.expect("read");
    rows.iter().map(|(_, row)| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_effect_comes_at_least_once_and_in_order_though_workers_and_routers_are_killed() {
    let (mut cluster, client) = bank(Shape::own(2)).await;
    let mut accounts = cluster.open_accounts(&client, "p1", 6, 100).await.expect("opened");
    accounts.extend(cluster.open_accounts(&client, "p2", 6, 100).await.expect("opened"));
    let subscriber = rootward_client::Client::new([cluster.embedded.router_address()]).expect("an address");
    let request = v1::SubscribeRequest { entity: "account".to_owned(), from_start: true, ..v1::SubscribeRequest::default() };
    let mut subscription = subscriber.subscribe(request);
    let mut came = Came::new();
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        let calls =
            join_all(
                (0..60_usize).map(|number| {
                    let (client, account) = (&client, accounts[number % accounts.len()].to_string());
                    async move {
                        client.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("it settles")
                    }
                }),
            );
        let kills = async {
            match round {
                0 => {
                    cluster.embedded.kill_worker("p1").await.expect("killed");
                    cluster.embedded.start_worker("p1", &[]).await.expect("started");
                }
                1 => cluster.kill_lane_backends("p2").await.expect("killed"),
                2 => cluster.embedded.restart_router().await.expect("restarted"),
                _ => {}
            }
        };
        tokio::join!(calls, kills);
        let wanted = journal_of(&cluster).await;
        let reading = async {
            while !wanted.is_subset(&seen) {
                let response = subscription.next().await.expect("it goes on");
                for event in response.events {
                    came.entry(event.partition).or_default().push(event.sequence);
                    seen.insert((event.partition, event.sequence));
                }
            }
        };
        let is_whole = tokio::time::timeout(tests::LIMIT, reading).await.is_ok();
        assert!(is_whole, "round {round}: {:?} did not come", wanted.difference(&seen).take(3).collect::<Vec<_>>());
    }
    let journal = journal_of(&cluster).await;
    assert_eq!(seen, journal, "nothing came that is not there");
    for (partition, numbers) in came {
        // Behind a break some may come again; none is passed over.
        let mut highest = 0;
        for number in numbers {
            assert!(number <= highest + 1, "partition {partition}: {number} came behind {highest}");
            highest = highest.max(number);
        }
    }
    // Another subscriber that goes on from what this one has read gets what comes then, and nothing of before.
    let request = v1::SubscribeRequest { entity: "account".to_owned(), after: subscription.positions(), ..v1::SubscribeRequest::default() };
    let mut next = subscriber.subscribe(request);
    let id = Uuid::now_v7();
    client.settle("deposit", &[("account_id", &accounts[0].to_string()), ("amount", "1")], id).await.expect("done");
    let event = loop {
        if let Some(event) = next.next().await.expect("it comes").events.into_iter().next() {
            break event;
        }
    };
    assert_eq!((event.request_id, event.transaction.as_str()), (id.to_string(), "deposit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_root_is_told_apart_from_its_neighbours_and_what_has_no_journal_is_refused() {
    let (cluster, client) = bank(Shape { peers: 2, ..Shape::shared() }).await;
    let accounts = cluster.open_accounts(&client, "p1", 3, 100).await.expect("opened");
    for account in &accounts {
        client.settle("deposit", &[("account_id", &account.to_string()), ("amount", "7")], Uuid::now_v7()).await.expect("done");
    }
    let type_in = |args: &[&str]| {
        let output = Command::new(exe()).args(args).env("ROOTWARD_ROUTER", cluster.embedded.router_address()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let root = format!("account={}", accounts[1]);
    let (code, said) = type_in(&["subscribe", "--root", &root, "--from", "1", "--limit", "2"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{said}");
    assert!(lines.iter().all(|line| line.contains(&format!("account {}", accounts[1]))), "{said}");
    assert!(lines[0].contains("open_account") && lines[1].contains("deposit"), "{said}");
    // Who doesn't read holds nobody up, and misses nothing: what waits lies in the journal.
    let slow = rootward_client::Client::new([cluster.embedded.router_address()]).expect("an address");
    let request = v1::SubscribeRequest { entity: "account".to_owned(), from_start: true, ..v1::SubscribeRequest::default() };
    let mut unread = slow.subscribe(request);
    let place = |event: &v1::JournalEvent| (event.partition, event.sequence);
    let mut seen: BTreeSet<(i32, i64)> = unread.next().await.expect("it begins").events.iter().map(place).collect();
    let deposits = (0..1_000_usize).map(|number| {
        let (client, account) = (&client, accounts[number % accounts.len()].to_string());
        async move { client.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await }
    });
    for done in join_all(deposits).await {
        done.expect("the lanes go on");
    }
    let wanted = journal_of(&cluster).await;
    let reading = async {
        while seen.len() < wanted.len() {
            seen.extend(unread.next().await.expect("it goes on").events.iter().map(place));
        }
    };
    assert!(tokio::time::timeout(tests::LIMIT, reading).await.is_ok(), "{} of {} came", seen.len(), wanted.len());
    assert_eq!(seen, wanted);
    let (code, said) = type_in(&["subscribe", "--root", "acount"]);
    assert!(code == Some(2) && said.contains("RW2003"), "{said}");
    let plain = crate::shared::bank().await;
    let without = rootward_client::Client::new([plain.embedded.router_address()]).expect("an address");
    let request = v1::SubscribeRequest { entity: "account".to_owned(), ..v1::SubscribeRequest::default() };
    assert_eq!(without.subscribe(request).next().await.expect_err("no journal").code(), "RW2011");
}
