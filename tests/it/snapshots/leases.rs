//! Nothing is held longer than somebody asks for it, and than the settings allow.

use rootward_client::v1::{self, snapshot_state::State, snapshot_step::Step, worker_client::WorkerClient};
use tests::{Cluster, Shape, check_bank, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use super::{accounts, client, take};
use crate::{metrics::scrape, shared::exe};

/// A coordinator of the test's own.
struct Coordinator {
    steps: mpsc::Sender<v1::SnapshotStep>,
    states: Streaming<v1::SnapshotState>,
}

impl Coordinator {
    async fn of(bank: &Cluster, peer: &str) -> Coordinator {
        let mut worker =
            WorkerClient::connect(bank.embedded.worker_address(peer).expect("it listens").to_owned()).await.expect("connected");
        let (steps, asked) = mpsc::channel(1);
        let states = worker.snapshot(ReceiverStream::new(asked)).await.expect("it takes part").into_inner();
        let mut coordinator = Coordinator { steps, states };
        assert!(matches!(coordinator.state().await, Some(State::Draining(_))));
        coordinator
    }

    async fn state(&mut self) -> Option<State> {
        self.states.message().await.expect("no error").and_then(|message| message.state)
    }

    async fn ask(&mut self, step: Step) -> Option<State> {
        self.steps.send(v1::SnapshotStep { step: Some(step) }).await.expect("it listens");
        self.state().await
    }

    async fn drained(bank: &Cluster, peer: &str) -> Coordinator {
        let mut coordinator = Coordinator::of(bank, peer).await;
        assert!(matches!(coordinator.ask(Step::Drain(v1::SnapshotDrain::default())).await, Some(State::Drained(_))));
        coordinator
    }

    async fn taken(bank: &Cluster, peer: &str) -> Coordinator {
        let mut coordinator = Coordinator::drained(bank, peer).await;
        assert!(matches!(coordinator.ask(Step::Take(v1::SnapshotTake {})).await, Some(State::Taken(_))));
        coordinator
    }
}

async fn bank(settings: &'static str) -> Cluster {
    let shape = Shape { peers: 1, worker_settings: settings, ..Shape::shared() };
    Cluster::bank(exe(), shape).await.expect("a bank starts")
}

/// A minute and more is longer than any test waits.
const LONG: &str = "snapshot_hold_ms = 60000\nsnapshot_drain_ms = 60000\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_let_go_when_the_coordinator_leaves() {
    let bank = bank(LONG).await;
    let accounts = accounts(&bank, &["p1"], 2).await;
    let plain = bank.client().expect("a client");
    let [from, to] = [accounts[0], accounts[1]].map(|key| key.to_string());
    // New chains wait, and everything else goes on.
    let coordinator = Coordinator::drained(&bank, "p1").await;
    let id = Uuid::now_v7();
    let held = tokio::spawn({
        let (plain, from, to) = (plain.clone(), from.clone(), to.clone());
        async move { plain.start_chain("transfer", &[("from", &from), ("to", &to), ("amount", "1")], id).await }
    });
    plain.call("deposit", &[("account_id", &from), ("amount", "1")], Uuid::now_v7()).await.expect("calls are not held");
    assert!(bank.reader().chain_statuses(id).await.expect("read").is_empty() && !held.is_finished(), "it waits in front of the lane");
    drop(coordinator);
    assert_eq!(held.await.expect("no panic").expect("started").chain.expect("a chain").status, "completed");
    // All lanes wait.
    let coordinator = Coordinator::taken(&bank, "p1").await;
    let call = tokio::spawn({
        let (plain, from) = (plain.clone(), from.clone());
        async move { plain.call("deposit", &[("account_id", &from), ("amount", "1")], Uuid::now_v7()).await }
    });
    let queued = async || (scrape(&bank, "p1").await.sum("rootward_worker_in_flight", "") >= 1.0).then_some(());
    until("the deposit has come", queued).await.expect("it is there");
    assert!(!call.is_finished(), "it waits for its lane");
    drop(coordinator);
    call.await.expect("no panic").expect("done");
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_asks_for_nothing_holds_lanes_no_longer_than_the_settings_allow() {
    let bank = bank("snapshot_hold_ms = 300\n").await;
    let account = accounts(&bank, &["p1"], 1).await[0].to_string();
    let plain = bank.client().expect("a client");
    let mut coordinator = Coordinator::taken(&bank, "p1").await;
    plain.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("the lanes are let go");
    let Some(State::Failure(failure)) = coordinator.state().await else { panic!("it says that it has let go") };
    assert_eq!(failure.code, "RW5022", "{failure:?}");
    assert_eq!(scrape(&bank, "p1").await.sum("rootward_snapshots_total", "end=\"given_up\""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_at_once_both_succeed() {
    let bank = bank(LONG).await;
    let account = accounts(&bank, &["p1"], 1).await[0].to_string();
    let mut first = Coordinator::taken(&bank, "p1").await;
    let mut second = Coordinator::taken(&bank, "p1").await;
    for coordinator in [&mut first, &mut second] {
        assert!(matches!(coordinator.ask(Step::Confirm(v1::SnapshotConfirm {})).await, Some(State::Confirmed(_))));
    }
    let plain = bank.client().expect("a client");
    plain.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("nothing is held any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_have_room_expire_and_are_gone() {
    let bank = bank("max_snapshots = 2\n").await;
    let client = client(&bank);
    let first = take(&client).await.expect("taken");
    let second = take(&client).await.expect("taken");
    let fault = take(&client).await.expect_err("there is no room");
    assert_eq!(fault.code(), "RW5023", "{fault}");
    let id = first.id().to_owned();
    first.release().await.expect("released");
    client.release_snapshot(&id).await.expect("once more is no error");
    let open = async |wanted: f64| {
        let is_so = async || (scrape(&bank, "p1").await.sum("rootward_snapshots_open", "") == wanted).then_some(());
        until("so many are open", is_so).await.expect("so many");
    };
    open(1.0).await;
    second.rows("select 1").await.expect("the other one is there");
    second.release().await.expect("released");
    let short = rootward_client::SnapshotOptions { lifetime: Some(std::time::Duration::from_millis(200)), ..Default::default() };
    let short = client.take_snapshot(short).await.expect("taken");
    open(0.0).await;
    for id in [short.id(), &id, &Uuid::now_v7().to_string()] {
        let request = v1::QuerySnapshotRequest { snapshot_id: id.to_owned(), sql: "select 1".to_owned(), ..Default::default() };
        let fault = client.query_snapshot(request).await.expect_err("it is gone");
        assert_eq!(fault.code(), "RW5024", "{fault}");
    }
    assert_eq!(client.release_snapshot("none").await.expect_err("no id").code(), "RW5026");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_asked_for_together_share_a_pause() {
    let bank = bank("").await;
    let client = client(&bank);
    let taken = futures_util::future::join_all((0..30).map(|_| take(&client))).await;
    let taken: Vec<_> = taken.into_iter().map(|taken| taken.expect("taken")).collect();
    let ids: std::collections::BTreeSet<&str> = taken.iter().map(rootward_client::Snapshot::id).collect();
    assert_eq!(ids.len(), 30, "each has its own id");
    let pauses = scrape(&bank, "router").await.sum("rootward_router_snapshot_pause_seconds_count", "");
    assert!((1.0..=10.0).contains(&pauses), "{pauses} pauses for 30 snapshots");
    taken[0].clone().release().await.expect("released");
    for other in &taken[1..] {
        other.rows("select count(*) from account").await.expect("the others are still there");
    }
}
