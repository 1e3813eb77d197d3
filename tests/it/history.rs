//! What clients see of appends at many roots, of chains over two of them, and of snapshots over all, is what one order explains;
//! with a worker and a PostgreSQL killed in between.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rootward_client::{Arguments, Client, SnapshotOptions, v1::RetryClass};
use rootward_cluster::{EmbeddedCluster, Standbys};
use tests::{
    Cluster, Shape,
    history::{End, Event, Operation, Root, Value, check},
    text_of,
};
use tokio::{task::JoinSet, time::Instant};

use crate::shared::own_cluster;

/// Lists of numbers, and a chain that appends one number to two of them.
const LISTS: &[(&str, &str)] = &[
    (
        "rootward.toml",
        r#"
name = "lists"
version = 1
partitions = 64

[root.list]
table = "list"

[chain.append_both]
params = { first = "bigint", second = "bigint", value = "bigint" }
steps = [
  { name = "first", call = "append", root = { list = "$first" }, args = { value = "$value" }, pivot = true },
  { name = "second", call = "append", root = { list = "$second" }, args = { value = "$value" }, on_failure = "park" },
]
"#,
    ),
    ("tables.sql", "create table list (list_id bigint primary key, items text not null default '');"),
    (
        "transactions/lists.sql",
        "-- name: add_list
-- root: list = :list_id
insert into list (list_id) values (:list_id) on conflict do nothing;

-- name: append
-- root: list = :list_id
update list set items = items || :value::bigint::text || ' ' where list_id = :list_id;  -- expect: one, else \"no such list\"
",
    ),
];

const ROOTS: Root = 8;
const WRITERS: u64 = 6;
const READERS: u64 = 2;
/// What each writer asks for.
const APPENDS: u64 = 60;
const READS_AT_LEAST: u64 = 20;

/// Everything that clients share.
#[derive(Clone)]
struct Stage {
    client: Client,
    zero: Instant,
    next: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
}

impl Stage {
    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_micros()).expect("a short time")
    }

    async fn write(self, seed: u64) -> Vec<Event> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut events = Vec::new();
        // Readers need something to look at for as long as they read.
        while events.len() < usize::try_from(APPENDS).expect("few") || self.reads.load(Ordering::Relaxed) < READS_AT_LEAST {
            let value = self.next.fetch_add(1, Ordering::Relaxed);
            let first = random.random_range(1..=ROOTS);
            let roots = if random.random_bool(0.4) { vec![first, first % ROOTS + 1] } else { vec![first] };
            let began = self.now();
            let end = self.append(&roots, value).await;
            events.push(Event { operation: Operation::Append { roots, value }, began, ended: self.now(), end });
        }
        events
    }

    async fn append(&self, roots: &[Root], value: Value) -> End {
        let answer = match roots {
            [first, second] => {
                let input = Arguments::new().with("first", *first).with("second", *second).with("value", value);
                let answer = self.client.start_chain("append_both", input).send().await;
                answer.map(|answer| answer.chain.is_some_and(|chain| chain.status == "completed"))
            }
            _ => self.client.call("append", Arguments::new().with("list_id", roots[0]).with("value", value)).send().await.map(|_| true),
        };
        match answer {
            Ok(true) => End::Done,
            Err(fault) if fault.retry_class() == RetryClass::Refused => End::Failed,
            // A chain whose end nobody told may be at its second list yet.
            Ok(false) | Err(_) => End::Unknown,
        }
    }

    async fn read(self) -> Vec<Event> {
        let mut events = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            match self.read_once().await {
                Some(event) => {
                    self.reads.fetch_add(1, Ordering::Relaxed);
                    events.push(event);
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        events
    }

    /// None if the snapshot is refused, or chains were in flight, whose halves it shows and lists.
    async fn read_once(&self) -> Option<Event> {
        let began = self.now();
        let snapshot = self.client.take_snapshot(SnapshotOptions::default()).await.ok()?;
        let rows = snapshot.rows("select list_id, items from list").await;
        let is_whole = snapshot.facts().in_flight_total == 0;
        let _ = snapshot.release().await;
        if !is_whole {
            return None;
        }
        let lists: BTreeMap<Root, Vec<Value>> =
            rows.ok()?.all().map(|row| list(&text_of(&row.values[0]), &text_of(&row.values[1]))).collect();
        assert_eq!(lists.len() as u64, ROOTS, "every list is in every snapshot");
        Some(Event { operation: Operation::Read(lists), began, ended: self.now(), end: End::Done })
    }
}

fn list(root: &str, items: &str) -> (Root, Vec<Value>) {
    (root.parse().expect("a number"), items.split_whitespace().map(|item| item.parse().expect("a number")).collect())
}

/// Runs writers and readers, and whatever else happens, and gives the history with a last read of everything.
async fn history(cluster: &mut Cluster, seed: u64, meanwhile: impl AsyncFnOnce(&mut EmbeddedCluster, &AtomicU64)) -> Vec<Event> {
    let client = Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30));
    for root in 1..=ROOTS {
        client.call("add_list", Arguments::new().with("list_id", root)).send().await.expect("added");
    }
    let stage = Stage { client, zero: Instant::now(), next: Arc::new(AtomicU64::new(1)), is_over: Arc::default(), reads: Arc::default() };
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    (0..WRITERS).for_each(|at| drop(writers.spawn(stage.clone().write(seed + at))));
    (0..READERS).for_each(|_| drop(readers.spawn(stage.clone().read())));
    meanwhile(&mut cluster.embedded, &stage.next).await;
    let mut events: Vec<Event> = writers.join_all().await.into_iter().flatten().collect();
    stage.is_over.store(true, Ordering::Relaxed);
    events.extend(readers.join_all().await.into_iter().flatten());
    events.push(tests::until("a last snapshot", async || stage.read_once().await).await.expect("taken"));
    events
}

fn explain(events: &[Event], seed: u64) {
    let of = |end| events.iter().filter(|event| event.end == end).count();
    let wrong: Vec<String> = check(events).iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "seed {seed}, {} done, {} unknown: {wrong:#?}", of(End::Done), of(End::Unknown));
    assert!(of(End::Done) > usize::try_from(READS_AT_LEAST + APPENDS).expect("few"), "hardly anything was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_chains_and_snapshots_have_one_order() {
    let seed = rand::random();
    let mut cluster = own_cluster(LISTS, Shape::shared()).await;
    let events = history(&mut cluster, seed, async |_, _| {}).await;
    explain(&events, seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_chains_and_snapshots_have_one_order_over_kills() {
    let seed = rand::random();
    let mut cluster = own_cluster(LISTS, Shape::own(2)).await;
    let events = history(&mut cluster, seed, async |embedded, next| {
        let some = async |count: u64| {
            let now = next.load(Ordering::Relaxed);
            tests::until("some more appends", async || (next.load(Ordering::Relaxed) > now + count).then_some(()))
                .await
                .expect("they come");
        };
        some(40).await;
        embedded.kill_worker("p1").await.expect("killed");
        embedded.start_worker("p1", &[]).await.expect("started");
        some(20).await;
        embedded.kill_postgres("p2").await.expect("killed");
        embedded.start_postgres("p2").await.expect("started");
    });
    let events = events.await;
    explain(&events, seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_chains_and_snapshots_have_one_order_over_a_failover() {
    let seed = rand::random();
    let mut cluster = own_cluster(LISTS, Shape { standbys: Standbys::Synchronous, ..Shape::own(1) }).await;
    let events = history(&mut cluster, seed, async |embedded, next| {
        let now = next.load(Ordering::Relaxed);
        tests::until("some appends", async || (next.load(Ordering::Relaxed) > now + 40).then_some(())).await.expect("they come");
        embedded.kill_postgres("p1").await.expect("killed");
        embedded.promote("p1").await.expect("promoted");
        embedded.replace_primary("p1").await.expect("a standby of the new one");
    });
    let events = events.await;
    explain(&events, seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_chains_and_snapshots_have_one_order_while_partitions_move() {
    let seed = rand::random();
    let mut cluster = own_cluster(LISTS, Shape::own(2)).await;
    let client = crate::moves::client(&cluster);
    let map = client.partitions().await.expect("a map");
    let owned_by = |peer: &str| -> Vec<i32> {
        let is_its = |owner: &u32| map.peers[usize::try_from(*owner).expect("few")] == peer;
        map.owners.iter().zip(0..).filter(|(owner, _)| is_its(owner)).map(|(_, partition)| partition).collect()
    };
    let (first, second) = (owned_by("p1"), owned_by("p2"));
    let events = history(&mut cluster, seed, async |embedded, _| {
        // All of one peer's against all of the other's, then back, with a worker killed on the way.
        tokio::join!(crate::moves::carry_out(&client, &first, "p2"), crate::moves::carry_out(&client, &second, "p1"));
        let back = async {
            tokio::join!(crate::moves::carry_out(&client, &first, "p1"), crate::moves::carry_out(&client, &second, "p2"));
        };
        let kill = async {
            embedded.kill_worker("p1").await.expect("killed");
            embedded.start_worker("p1", &[]).await.expect("started");
        };
        tokio::join!(back, kill);
    });
    let events = events.await;
    explain(&events, seed);
    crate::moves::nothing_is_left(&cluster).await;
}

/// The checker sees what a cluster without consistent cuts shows: each peer read by itself, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_one_peer_after_the_other_have_no_order() {
    let mut cluster = own_cluster(LISTS, Shape::shared()).await;
    let reader = cluster.reader();
    let torn = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let seen = torn.clone();
    let seed = rand::random();
    let mut events = history(&mut cluster, seed, async |_, next| {
        while next.load(Ordering::Relaxed) < WRITERS * APPENDS {
            let mut lists = BTreeMap::new();
            for peer in reader.peers() {
                let rows = reader.rows(peer, "select list_id::text, items from list", &[]).await.expect("rows");
                lists.extend(rows.iter().map(|row| list(row.get(0), row.get(1))));
            }
            // When it was is left open, so that nothing but what it shows tells against it.
            seen.lock().await.push(Event { operation: Operation::Read(lists), began: 0, ended: u64::MAX, end: End::Done });
        }
    })
    .await;
    explain(&events, seed);
    events.extend(torn.lock().await.drain(..));
    assert!(!check(&events).is_empty(), "reads without a cut look like a consistent one");
}
