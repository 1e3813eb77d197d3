//! What routers and workers show to Prometheus: it moves with the load, adds up to what clients saw, and is documented.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tests::{Cluster, Shape};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use uuid::Uuid;

use crate::shared::exe;

/// A page as Prometheus reads it.
pub(crate) struct Page {
    /// By name with labels.
    values: BTreeMap<String, f64>,
    /// Name and kind, as the page declares them.
    declared: BTreeSet<(String, String)>,
}

pub(crate) async fn scrape(cluster: &Cluster, of: &str) -> Page {
    let url = cluster.embedded.metrics_page(of).expect("a page");
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("an address and a path");
    let mut connection = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let declared = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let values = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    Page { values: values.collect(), declared: declared.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect() }
}

impl Page {
    /// The sum of a name's values whose labels hold this text.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let of_name = |full: &str| full.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.values.iter().filter(|(full, _)| of_name(full) && full.contains(label)).map(|(_, value)| value).sum()
    }
}

#[tokio::test]
async fn what_is_scraped_during_load_adds_up_to_what_clients_saw() {
    let shape = Shape { peers: 1, worker_settings: "queue = 4\n", ..Shape::shared() };
    let bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 10, 0).await.expect("opened");
    let (router, worker) = (scrape(&bank, "router").await, scrape(&bank, "p1").await);
    let calls = (0..300).map(async |at: usize| {
        let account = accounts[at % accounts.len()].to_string();
        // Every third one is refused by the account's constraint.
        let transaction = if at.is_multiple_of(3) { "withdraw" } else { "deposit" };
        client
            .call(transaction, &[("account_id", &account), ("amount", if at.is_multiple_of(3) { "100000" } else { "1" })], Uuid::now_v7())
            .await
    });
    let (ended, during) = tokio::join!(join_all(calls), scrape(&bank, "p1"));
    assert!(during.values.len() >= worker.values.len());
    let (router_after, worker_after) = (scrape(&bank, "router").await, scrape(&bank, "p1").await);
    let at_router = |name: &str, label: &str| router_after.sum(name, label) - router.sum(name, label);
    let at_worker = |name: &str, label: &str| worker_after.sum(name, label) - worker.sum(name, label);

    assert_eq!(at_router("rootward_router_requests_total", ""), 300.0);
    assert_eq!(at_router("rootward_router_answers_total", ""), 300.0);
    let mut codes = BTreeMap::<String, f64>::new();
    for ended in &ended {
        *codes.entry(ended.as_ref().map_or_else(|fault| fault.code().to_owned(), |_| "OK".to_owned())).or_default() += 1.0;
    }
    assert!(codes.len() >= 3, "done, refused and overloaded: {codes:?}");
    for (code, count) in &codes {
        let label = format!("code=\"{code}\"");
        assert_eq!(at_router("rootward_router_answers_total", &label), *count, "{code}");
        let of_lanes =
            if code == "OK" { at_worker("rootward_lane_committed_total", "") } else { at_worker("rootward_lane_refused_total", &label) };
        assert_eq!(of_lanes, *count, "{code} at the worker");
    }
    let ran = codes.values().sum::<f64>() - codes["RW3001"];
    assert_eq!(at_worker("rootward_lane_batch_units_sum", ""), ran);
    assert_eq!(at_worker("rootward_lane_queue_seconds_count", ""), ran);
    assert_eq!(at_worker("rootward_lane_batch_units_count", ""), at_worker("rootward_lane_batches_total", ""));
    assert_eq!(at_worker("rootward_lane_units_total", ""), ran);
    assert!(at_worker("rootward_lane_flush_seconds_sum", "") > 0.0);
    assert!(at_worker("process_cpu_seconds_total", "") > 0.0 && worker_after.sum("process_resident_memory_bytes", "") > 1e6);
    assert_eq!((worker_after.sum("rootward_lane_queued", ""), worker_after.sum("rootward_worker_serving", "")), (0.0, 1.0));
    assert_eq!(router_after.sum("rootward_router_in_flight", ""), 0.0);
    assert!(at_router("rootward_router_worker_requests_total", "") >= 300.0);
}

#[tokio::test]
async fn open_chains_are_shown_by_their_status() {
    let workflow = Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    client.close_item(&items[1]).await.expect("closed");
    let input = [("item", items[0].as_str()), ("other", items[1].as_str()), ("end", items[0].as_str())];
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    for (id, (chain, status)) in ids.iter().zip([("by_hand", "parked"), ("by_hand", "parked"), ("long_wait", "waiting")]) {
        let wanted = if chain == "by_hand" { &input[..] } else { &input[..2] };
        client.begin(chain, wanted, *id).await.expect("begun");
        client.wait_for(*id, &[status]).await.expect("it comes there");
    }
    let shows = async |wanted: [(&str, f64); 3]| {
        let is_shown = async || {
            let page = scrape(&workflow, "p1").await;
            let of = |status: &str| page.sum("rootward_chains_open", &format!("status=\"{status}\""));
            wanted.iter().all(|(status, count)| of(status) == *count).then_some(page)
        };
        tests::until("the page shows them", is_shown).await.expect("shown")
    };
    let page = shows([("parked", 2.0), ("waiting", 1.0), ("running", 0.0)]).await;
    assert_eq!(page.sum("rootward_chains_open", ""), 3.0);
    assert_eq!(page.values.keys().filter(|name| name.starts_with("rootward_chains_open{")).count(), 7, "each open status, and no end");
    for id in ids {
        client.change_one(rootward_proto::v1::ChainVerb::Cancel, id).await.expect("cancelled");
    }
    shows([("parked", 0.0), ("waiting", 0.0), ("compensating", 0.0)]).await;
}

#[tokio::test]
async fn every_value_that_is_shown_is_documented_and_the_other_way_round() {
    let bank = crate::shared::bank().await;
    let shown: BTreeSet<(String, String)> =
        [scrape(bank, "router").await, scrape(bank, "p1").await].into_iter().flat_map(|page| page.declared).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).expect("a page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let rows: Vec<Vec<&str>> = rows.collect();
    assert!(rows.iter().all(|row| !row[2].is_empty() && row[3].len() > 10), "each has a unit and a meaning");
    let documented: BTreeSet<(String, String)> =
        rows.iter().map(|row| (row[0].trim_end_matches('`').to_owned(), row[1].to_owned())).collect();
    assert_eq!(shown, documented);
}
