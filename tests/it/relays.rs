//! Relays: reference data cross the way to a region once, and come by another way when the relay is dead.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rootward_proto::v1;
use tests::{Cluster, Reader, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::exe;

/// p1 passes on to p3 and p4, p2 to nobody.
fn shape(worker_settings: &'static str) -> Shape {
    Shape {
        regions: &[("p1", "east"), ("p2", "west"), ("p3", "east"), ("p4", "east")],
        relays: &["p1", "p2"],
        worker_settings,
        ..Shape::own(4)
    }
}

async fn start(shape: Shape) -> Cluster {
    Cluster::bank(exe(), shape).await.expect("a bank with relays starts")
}

const QUICK: &str = "route_patience_ms = 1000\n";
const CURRENCIES: &str = "select count(*) from currency";

async fn add(client: &tests::Client, code: &str) -> v1::CallResponse {
    client.settle("add_currency", &[("code", code), ("name", "money"), ("minor_digits", "2")], Uuid::now_v7()).await.expect("added")
}

/// The peers that a node has a slot for, and whether each is read. Names end with the peer's id, as its database does.
async fn slots(reader: &Reader, node: &str) -> Option<Vec<(String, bool)>> {
    let sql = "select right(slot_name::text, 2), active from pg_replication_slots where slot_name like 'rootward\\_%' and database = current_database() order by 1";
    Some(reader.rows(node, sql, &[]).await.ok()?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn until_slots(reader: &Reader, node: &str, wanted: &[&str]) {
    let wanted: Vec<(String, bool)> = wanted.iter().map(|peer| ((*peer).to_owned(), true)).collect();
    let mut seen = None;
    let waited = until("the slots are those of the route", async || {
        seen = slots(reader, node).await;
        (seen.as_ref() == Some(&wanted)).then_some(())
    });
    let waited = waited.await;
    waited.unwrap_or_else(|error| panic!("{node}: {error}; it has {seen:?}, and should have {wanted:?}"));
}

/// By which node each peer copies, as `peer list` shows it.
async fn routes(client: &tests::Client) -> Vec<String> {
    let peers = client.peers().await.expect("listed");
    peers.iter().filter(|peer| !peer.is_hub).filter_map(|peer| Some(peer.status.as_ref()?.reference_source.clone())).collect()
}

async fn until_routes(client: &tests::Client, wanted: &[&str]) {
    let mut seen = Vec::new();
    let waited = until("the routes", async || {
        seen = routes(client).await;
        (seen == wanted).then_some(())
    });
    let waited = waited.await;
    waited.unwrap_or_else(|error| panic!("{error}; they are {seen:?}"));
}

/// All rows of the copy, in order.
async fn content(reader: &Reader, node: &str) -> String {
    let sql = "select string_agg(c::text, ' ' order by code) from currency c";
    reader.rows(node, sql, &[]).await.expect("read")[0].get(0)
}

/// Looks at a copy until it is told to stop: neither its version nor its rows may ever become fewer.
fn watch(reader: Reader, peer: &'static str, is_over: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let session = reader.connect(peer).await.expect("a session");
        let (mut before, mut looks) = ((0, 0), 0);
        while !is_over.load(Ordering::Acquire) {
            let sql = "select version, (select count(*) from currency) from rootward.reference_version";
            let row = session.query_one(sql, &[]).await.expect("read");
            let now: (i64, i64) = (row.get(0), row.get(1));
            assert!(now.0 >= before.0 && now.1 >= before.1, "{peer} showed {before:?} and then {now:?}");
            (before, looks) = (now, looks + 1);
            tokio::task::yield_now().await;
        }
        looks
    })
}

async fn repair(bank: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), toml::to_string(bank.embedded.topology()).expect("TOML")).expect("written");
    let mut command = std::process::Command::new(exe());
    command.args(["reference", "repair"]).args(args).arg("--cluster").arg(file.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_relays_members_take_another_route_without_loss_and_go_back_by_command() {
    let mut bank = start(shape(QUICK)).await;
    let (client, reader) = (bank.client().expect("a client"), bank.reader());
    // A row crosses the way to a region once: only relays have slots on the hub.
    until_slots(&reader, "hub", &["p1", "p2"]).await;
    until_slots(&reader, "p1", &["p3", "p4"]).await;
    assert_eq!(routes(&client).await, ["hub", "hub", "p1", "p1"]);
    for number in 10..20 {
        add(&client, &format!("A{number}")).await;
    }
    bank.wait_for_reference(CURRENCIES, 11).await.expect("they come through the relay");

    let is_over = Arc::new(AtomicBool::new(false));
    let watchers = ["p3", "p4"].map(|peer| watch(reader.clone(), peer, is_over.clone()));
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.kill_postgres("p1").await.expect("killed");
    // Written before, during and after the switch.
    let is_switched = AtomicBool::new(false);
    let writer = async {
        let mut written = 0;
        while !is_switched.load(Ordering::Acquire) {
            add(&client, &format!("B{written}")).await;
            written += 1;
        }
        written
    };
    let switch = async {
        until_routes(&client, &["hub", "hub", "hub"]).await;
        let dead = [("p1", false), ("p2", true), ("p3", true), ("p4", true)].map(|(peer, is_read)| (peer.to_owned(), is_read));
        let kept = until("the hub keeps what the relay will need", async || (slots(&reader, "hub").await? == dead).then_some(()));
        kept.await.expect("slots");
        is_switched.store(true, Ordering::Release);
    };
    let (written, ()) = tokio::join!(writer, switch);
    let rows = 12 + written;
    add(&client, "C10").await;
    let wanted = content(&reader, "hub").await;
    for peer in ["p2", "p3", "p4"] {
        until(peer, async || (content(&reader, peer).await == wanted).then_some(())).await.expect("every row is there, once");
    }

    // The relay is back: nothing is left on it for those that left, and nothing comes twice.
    bank.embedded.start_postgres("p1").await.expect("up again");
    bank.embedded.start_worker("p1", &[]).await.expect("started");
    until_slots(&reader, "p1", &[]).await;
    until_slots(&reader, "hub", &["p1", "p2", "p3", "p4"]).await;
    add(&client, "D10").await;
    bank.wait_for_reference(CURRENCIES, rows + 1).await.expect("on every peer");
    bank.embedded.wait_until_serving(&["p1".to_owned()]).await.expect("it serves");
    assert_eq!(routes(&client).await, ["hub", "hub", "hub", "hub"], "who left stays where it is");

    // Back by command.
    for peer in ["p3", "p4"] {
        let (code, said) = repair(&bank, &[peer]).await;
        assert!(code == Some(0) && said.contains("every row was right; the subscription is new, by p1"), "{said}");
    }
    until_slots(&reader, "hub", &["p1", "p2"]).await;
    until_slots(&reader, "p1", &["p3", "p4"]).await;
    until_routes(&client, &["hub", "hub", "p1", "p1"]).await;
    add(&client, "E10").await;
    bank.wait_for_reference(CURRENCIES, rows + 2).await.expect("through the relay again");
    is_over.store(true, Ordering::Release);
    for watcher in watchers {
        assert!(watcher.await.expect("versions and rows only grew") > 0);
    }
    let (code, said) = repair(&bank, &["p1", "--from", "p2"]).await;
    assert!(code == Some(2) && said.contains("RW5010") && said.contains("relays from the hub"), "{said}");
    check_bank(&bank).await.expect("the copies are equal");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_patience_running_out_nothing_comes_past_a_dead_relay() {
    let mut bank = start(shape("route_patience_ms = 60000\n")).await;
    let client = bank.client().expect("a client");
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.kill_postgres("p1").await.expect("killed");
    let message = v1::CallRequest {
        transaction: "add_currency".to_owned(),
        arguments: tests::arguments(&[("code", "CHF"), ("name", "money"), ("minor_digits", "2")]),
        request_id: Uuid::now_v7().to_string(),
        reference_wait: v1::ReferenceWait::All.into(),
        ..v1::CallRequest::default()
    };
    let mut request = tonic::Request::new(message);
    request.set_timeout(std::time::Duration::from_secs(3));
    let answer = client.raw().call(request).await.expect("the hub takes it").into_inner();
    let behind: Vec<&str> = answer.lagging_peers.iter().map(|peer| peer.peer.as_str()).collect();
    assert_eq!(behind, ["p3", "p4", "p1"], "{:?}", answer.lagging_peers);
    bank.embedded.start_postgres("p1").await.expect("up again");
    bank.wait_for_reference(CURRENCIES, 2).await.expect("the same way goes on");
    assert_eq!(slots(&bank.reader(), "p1").await.expect("read").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_cut_off_from_the_hub_or_has_lost_a_slot_is_left_too() {
    let bank = start(shape(QUICK)).await;
    let (client, reader) = (bank.client().expect("a client"), bank.reader());
    until_slots(&reader, "p1", &["p3", "p4"]).await;
    // One slot is gone: its peer's copy is made anew by the same relay.
    reader.run("p3", "alter subscription rootward_reference disable").await.expect("stopped");
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'rootward\\_p1\\_to\\_p3%'";
    until("the slot is dropped", async || reader.run("p1", drop).await.ok()).await.expect("dropped");
    until_slots(&reader, "p1", &["p4"]).await;
    add(&client, "A10").await;
    until("p4 has it", async || (content(&reader, "p4").await.contains("A10")).then_some(())).await.expect("copied");
    assert!(!content(&reader, "p3").await.contains("A10"), "who switched it off is left alone");
    reader.run("p3", "alter subscription rootward_reference enable").await.expect("it goes on");
    until_slots(&reader, "p1", &["p3", "p4"]).await;
    bank.wait_for_reference(CURRENCIES, 2).await.expect("made anew");
    // The relay lives and gets nothing: so its members don't either, and leave. Nothing is left on it.
    reader.run("p1", "alter subscription rootward_reference disable").await.expect("cut off");
    add(&client, "B10").await;
    until_routes(&client, &["hub", "hub", "hub", "hub"]).await;
    until_slots(&reader, "p1", &[]).await;
    for peer in ["p3", "p4"] {
        until(peer, async || (content(&reader, peer).await.contains("B10")).then_some(())).await.expect("by the other way");
    }
    reader.run("p1", "alter subscription rootward_reference enable").await.expect("back");
    bank.wait_for_reference(CURRENCIES, 3).await.expect("on every peer");
    check_bank(&bank).await.expect("the copies are equal");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_server_and_with_a_new_version_relays_pass_on_too() {
    let bank = start(Shape { is_one_server: true, ..shape(QUICK) }).await;
    let client = bank.client().expect("a client");
    let changed = tests::compile_changed(exe(), "bank", |file, text| match file {
        "rootward.toml" => {
            text.replacen("version = 1", "version = 2", 1).replace("tables = [\"currency\"]", "tables = [\"currency\", \"region\"]")
        }
        "tables.sql" => {
            text.replacen("create table currency (", "create table region (code text primary key);\ncreate table currency (", 1)
        }
        "transactions/currencies.sql" => text + "\n-- name: add_region\n-- reference: write\ninsert into region (code) values (:code);\n",
        _ => text,
    });
    let changed = changed.await.expect("it compiles");
    rootward_cluster::deploy(bank.embedded.topology(), &changed.source, &changed.schema).await.expect("applied");
    let id = Uuid::now_v7();
    until("the new version is served", async || client.settle("add_region", &[("code", "eu")], id).await.ok()).await.expect("added");
    bank.wait_for_reference("select count(*) from region", 1).await.expect("it is published by relays too");
    let (code, said) = repair(&bank, &["p3", "--from", "hub"]).await;
    assert!(code == Some(0) && said.contains("by hub"), "{said}");
    add(&client, "CHF").await;
    bank.wait_for_reference(CURRENCIES, 2).await.expect("by both ways");
    assert_eq!(routes(&client).await, ["hub", "hub", "hub", "p1"]);
}

/// Applies the schema once more, with another file of databases.
async fn apply(bank: &Cluster, change: impl FnOnce(&mut rootward_cluster::Topology)) {
    let mut topology = bank.embedded.topology().clone();
    change(&mut topology);
    let compiled = tests::compile_example(exe(), "bank").await.expect("it compiles");
    rootward_cluster::deploy(&topology, &compiled.source, &compiled.schema).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_copies_from_the_hub_finds_by_itself_that_its_slot_is_gone_and_a_relay_is_left_when_the_file_says_so() {
    let regions = &[("p1", "east"), ("p2", "east")];
    let bank = start(Shape { peers: 2, regions, relays: &["p1"], worker_settings: QUICK, ..Shape::shared() }).await;
    let (client, reader) = (bank.client().expect("a client"), bank.reader());
    assert_eq!(routes(&client).await, ["hub", "p1"]);
    // It is no relay any more, and no other is left: its members find the hub, and nothing of them stays behind.
    apply(&bank, |topology| topology.peer.get_mut("p1").expect("there").relay = false).await;
    until_routes(&client, &["hub", "hub"]).await;
    until_slots(&reader, "p1", &[]).await;
    until_slots(&reader, "hub", &["p1", "p2"]).await;
    add(&client, "A10").await;
    bank.wait_for_reference(CURRENCIES, 2).await.expect("by the hub");
    // The slot on the hub is gone, and what was written since with it: the copy is made anew by the same way.
    reader.run("p1", "alter subscription rootward_reference disable").await.expect("stopped");
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'rootward\\_p1%' and database = current_database()";
    until("the slot is dropped", async || reader.run("hub", drop).await.ok()).await.expect("dropped");
    until_slots(&reader, "hub", &["p2"]).await;
    add(&client, "B10").await;
    until("p2 has it", async || (content(&reader, "p2").await.contains("B10")).then_some(())).await.expect("copied");
    assert!(!content(&reader, "p1").await.contains("B10"), "who switched it off is left alone");
    reader.run("p1", "alter subscription rootward_reference enable").await.expect("it goes on");
    until_slots(&reader, "hub", &["p1", "p2"]).await;
    add(&client, "C10").await;
    bank.wait_for_reference(CURRENCIES, 4).await.expect("made anew, and followed");
    // A hub that has lost what a copy shows already doesn't make it older. When it has written as much again, what it has is what counts.
    let ahead = "alter subscription rootward_reference disable; set session_replication_role = replica; \
                 insert into currency (code, name, minor_digits) values ('ZZZ', 'lost', 2); update rootward.reference_version set version = version + 2";
    reader.run("p1", ahead).await.expect("a superuser may");
    until("the slot is dropped", async || reader.run("hub", drop).await.ok()).await.expect("dropped");
    until_slots(&reader, "hub", &["p2"]).await;
    reader.run("p1", "alter subscription rootward_reference enable").await.expect("it goes on");
    let log = bank.embedded.folder().join("worker-p1.log");
    let is_said = async || std::fs::read_to_string(&log).ok().filter(|text| text.contains("the hub shows an older version"));
    until("the worker says so", is_said).await.expect("it does");
    add(&client, "D10").await;
    assert!(content(&reader, "p1").await.contains("ZZZ"), "nothing was taken away yet");
    add(&client, "E10").await;
    let is_equal = async || (content(&reader, "p1").await == content(&reader, "hub").await).then_some(());
    until("the copy is the hub's", is_equal).await.expect("made anew");
    check_bank(&bank).await.expect("the copies are equal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_begins_with_the_worker_and_goes_on_with_the_next_one_wherever_it_died() {
    let regions = &[("p1", "east"), ("p2", "east")];
    let mut bank = start(Shape { regions, relays: &["p1"], worker_settings: QUICK, ..Shape::own(2) }).await;
    let (client, reader) = (bank.client().expect("a client"), bank.reader());
    add(&client, "A10").await;
    bank.wait_for_reference(CURRENCIES, 2).await.expect("through the relay");
    // Both the worker and the relay are gone: nobody switches, until there is a worker again.
    bank.embedded.kill_worker("p2").await.expect("killed");
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.kill_postgres("p1").await.expect("killed");
    let is_over = Arc::new(AtomicBool::new(false));
    let watcher = watch(reader.clone(), "p2", is_over.clone());
    let state = async || {
        let sql = "select (select source from rootward_reference.route), exists (select from pg_subscription where subname = 'rootward_reference')";
        let row = reader.rows("p2", sql, &[]).await.expect("read");
        (row[0].get::<_, String>(0), row[0].get::<_, bool>(1))
    };
    let points =
        [("route_unsubscribed", ("p1", false)), ("route_copied", ("p1", false)), ("route_renewed", ("hub", true))].into_iter().zip(10..);
    for ((point, (source, is_subscribed)), number) in points {
        add(&client, &format!("B{number}")).await;
        bank.embedded.start_worker("p2", &[("ROOTWARD_FAIL_POINT", &format!("{point}/route=kill"))]).await.expect("started");
        let end = bank.embedded.wait_for_worker_end("p2");
        assert!(tokio::time::timeout(tests::LIMIT, end).await.is_ok(), "{point} was not reached");
        assert_eq!(state().await, (source.to_owned(), is_subscribed), "{point}");
    }
    add(&client, "C10").await;
    bank.embedded.start_worker("p2", &[]).await.expect("started");
    let wanted = content(&reader, "hub").await;
    until("every row is there, once", async || (content(&reader, "p2").await == wanted).then_some(())).await.expect("copied");
    let dead = [("p1", false), ("p2", true)].map(|(peer, is_read)| (peer.to_owned(), is_read));
    until("no slot is left over", async || (slots(&reader, "hub").await? == dead).then_some(())).await.expect("slots");
    bank.embedded.start_postgres("p1").await.expect("up again");
    bank.embedded.start_worker("p1", &[]).await.expect("started");
    until_slots(&reader, "p1", &[]).await;
    add(&client, "D10").await;
    bank.wait_for_reference(CURRENCIES, 7).await.expect("on every peer");
    is_over.store(true, Ordering::Release);
    assert!(watcher.await.expect("versions and rows only grew") > 0);
    bank.embedded.wait_until_serving(&["p1".to_owned(), "p2".to_owned()]).await.expect("they serve");
    check_bank(&bank).await.expect("the copies are equal");
}
