//! Keys that are placed by region live on peers of that region, whatever moves.

use rootward_proto::v1;
use tests::{Client, Cluster, Shape, until};
use uuid::Uuid;

use crate::shared::{exe, own_cluster};

const MANIFEST: &str = r#"
name = "regions"
version = 1
partitions = 16
regions = ["eu", "us-east"]

[root.customer]
table = "customer"
place_by = "region"
journal = true

[root.product]
table = "product"

[chain.send]
params = { from = "text", to = "text" }
steps = [
  { name = "take", call = "spend", root = { customer = "$from" }, compensate = "earn" },
  { name = "give", call = "earn", root = { customer = "$to" } },
]
"#;
const TABLES: &str = "
create table customer (customer_id text primary key, points bigint not null check (points >= 0));
create table note (customer_id text not null references customer, note_no integer not null, primary key (customer_id, note_no));
create table product (product_id text primary key, name text not null);
";
const TRANSACTIONS: &str = "
-- name: open_customer
-- root: customer = :customer_id
insert into customer (customer_id, points) values (:customer_id, 10);  -- expect: one
insert into note (customer_id, note_no) values (:customer_id, 1);  -- expect: one

-- name: spend
-- root: customer = :customer_id
update customer set points = points - 1 where customer_id = :customer_id;  -- expect: one

-- name: earn
-- root: customer = :customer_id
update customer set points = points + 1 where customer_id = :customer_id;  -- expect: one

-- name: add_product
-- root: product = :product_id
insert into product (product_id, name) values (:product_id, 'thing');  -- expect: one
";
const FILES: [(&str, &str); 3] = [("rootward.toml", MANIFEST), ("tables.sql", TABLES), ("transactions/t.sql", TRANSACTIONS)];

/// p1 and p2 in Europe, p3 in America.
fn shape() -> Shape {
    Shape { regions: &[("p1", "eu"), ("p2", "eu"), ("p3", "us-east")], ..Shape::own(3) }
}

async fn open(client: &Client, transaction: &str, key: &str) -> v1::CallResponse {
    let name = if transaction == "add_product" { "product_id" } else { "customer_id" };
    client.settle(transaction, &[(name, key)], Uuid::now_v7()).await.expect("opened")
}

/// The keys of the customers that lie on a peer.
async fn customers(cluster: &Cluster, peer: &str) -> Vec<String> {
    let sql = "select c.customer_id from customer c join note n using (customer_id) order by 1";
    cluster.reader().rows(peer, sql, &[]).await.expect("read").iter().map(|row| row.get(0)).collect()
}

async fn every_key_is_at_home(cluster: &Cluster, count: usize) {
    let (mut found, regions) = (0, [("p1", "eu:"), ("p2", "eu:"), ("p3", "us-east:")]);
    for (peer, region) in regions {
        let keys = customers(cluster, peer).await;
        assert!(keys.iter().all(|key| key.starts_with(region)), "{peer}: {keys:?}");
        found += keys.len();
    }
    assert_eq!(found, count, "each is somewhere, once");
}

/// What `verify` finds wrong.
async fn verify(client: &Client) -> Vec<String> {
    let mut request = tonic::Request::new(v1::VerifyRequest::default());
    request.set_timeout(std::time::Duration::from_secs(60));
    let counted = client.raw().verify(request).await.expect("it counts").into_inner();
    counted.checks.into_iter().filter(|check| !check.is_ok).flat_map(|check| check.examples).collect()
}

async fn moves_end(client: &Client) {
    until("all moves have ended", async || {
        let moves = client.raw().list_moves(v1::ListMovesRequest::default()).await.ok()?.into_inner().moves;
        moves.is_empty().then_some(())
    })
    .await
    .expect("they end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regions_keys_live_on_its_peers_through_moves_and_rebalances_and_nowhere_else() {
    let cluster = own_cluster(&FILES, shape()).await;
    let client = cluster.client().expect("a client");
    for number in 0..20 {
        open(&client, "open_customer", &format!("eu:{number}")).await;
        open(&client, "open_customer", &format!("us-east:{number}")).await;
        open(&client, "add_product", &format!("eu:{number}")).await;
    }
    every_key_is_at_home(&cluster, 40).await;
    let products = cluster.reader().rows("p3", "select count(*) from product", &[]).await.expect("read")[0].get::<_, i64>(0);
    assert!(products > 0, "what is not placed by region goes anywhere, whatever its key looks like");
    // A key of no region is refused before anything is sent.
    for wrong in ["7", "asia:7", "EU:7"] {
        let fault = client.settle("open_customer", &[("customer_id", wrong)], Uuid::now_v7()).await.expect_err(wrong);
        assert!(fault.code() == "RW2003" && fault.message().contains("is none of eu, us-east"), "{fault}");
    }
    // Chains cross regions.
    let (code, said) = type_in(&cluster, &["chain", "start", "send", "from=eu:1", "to=us-east:1"]).await;
    assert!(code == Some(0) && said.contains("completed"), "{said}");
    let (code, said) = type_in(&cluster, &["partition", "list", "-o", "jsonl"]).await;
    let placed: Vec<serde_json::Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(code, Some(0), "{said}");
    for (peer, region, others) in [("p1", "eu", "us-east"), ("p2", "eu", "us-east"), ("p3", "us-east", "eu")] {
        let regions = placed.iter().find(|line| line["peer"] == peer).map(|line| &line["regions"]).expect("listed");
        assert!(regions[region].is_array() && regions[others].is_null(), "{peer}: {said}");
    }
    let (_, said) = type_in(&cluster, &["partition", "list"]).await;
    assert!(said.contains("REGION") && said.contains("any") && said.contains("us-east"), "{said}");
    // To another peer of the region, and not out of it. Partitions 16 to 31 are Europe's, 32 to 47 America's.
    let (code, said) = type_in(&cluster, &["partition", "move", "16-31", "--to", "p2"]).await;
    assert_eq!(code, Some(0), "{said}");
    for (partition, target) in [("16", "p3"), ("40", "p1")] {
        let (code, said) = type_in(&cluster, &["partition", "move", partition, "--to", target]).await;
        assert!(code == Some(4) && said.contains("RW5048") && said.contains("belongs to region"), "{said}");
    }
    let (code, said) = type_in(&cluster, &["partition", "move", "3", "--to", "p3"]).await;
    assert_eq!(code, Some(0), "those of no region go anywhere: {said}");
    moves_end(&client).await;
    assert!(customers(&cluster, "p1").await.is_empty() && customers(&cluster, "p2").await.len() == 20);
    // A rebalance shares each region's among its own peers.
    let (code, said) = type_in(&cluster, &["rebalance", "--run"]).await;
    assert_eq!(code, Some(0), "{said}");
    moves_end(&client).await;
    assert!(!customers(&cluster, "p1").await.is_empty());
    every_key_is_at_home(&cluster, 40).await;
    // Without its only peer America's have nowhere to go: nothing is moved.
    assert_eq!(type_in(&cluster, &["peer", "drain", "p3"]).await.0, Some(0));
    let (code, said) = type_in(&cluster, &["rebalance", "--plan"]).await;
    assert!(code == Some(4) && said.contains("RW1112") && said.contains("region `us-east`"), "{said}");
    every_key_is_at_home(&cluster, 40).await;
    assert_eq!(verify(&client).await, [""; 0]);
    // A key of no region lies nowhere, and is found.
    cluster.reader().run("p1", "insert into customer (customer_id, points) values ('asia:1', 1)").await.expect("a superuser may");
    assert!(verify(&client).await.iter().any(|wrong| wrong.contains("customer asia:1 (partition no")), "{:?}", verify(&client).await);
    let (code, said) = type_in(&cluster, &["explain", "select points from customer where customer_id = 'us-east:7'"]).await;
    assert!(code == Some(0) && said.contains("its region is us-east, whose partitions begin at 32"), "{said}");
}

async fn type_in(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(exe());
    command.args(args).env("ROOTWARD_ROUTER", cluster.embedded.router_address()).env("NO_COLOR", "1");
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

async fn compiled(change: impl Fn(&str) -> String) -> rootward_cluster::Compiled {
    let manifest = change(MANIFEST);
    let files = [("rootward.toml", manifest.as_str()), FILES[1], FILES[2]];
    tests::compile(exe(), rootward_schema::Source::from_texts(files)).await.unwrap_or_else(|findings| panic!("{findings:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_added_at_the_end_and_what_is_placed_stays_placed() {
    let cluster = own_cluster(&FILES, Shape { is_one_server: true, ..shape() }).await;
    let client = cluster.client().expect("a client");
    open(&client, "open_customer", "eu:1").await;
    let deploy = async |changed: &rootward_cluster::Compiled| {
        rootward_cluster::deploy(cluster.embedded.topology(), &changed.source, &changed.schema).await.map_err(|error| error.to_string())
    };
    let next = |text: &str| text.replacen("version = 1", "version = 2", 1);
    let swapped = compiled(|text| next(text).replace("[\"eu\", \"us-east\"]", "[\"us-east\", \"eu\"]")).await;
    let error = deploy(&swapped).await.expect_err("the order is for life");
    assert!(error.contains("the cluster's regions are `eu, us-east`"), "{error}");
    let spread = compiled(|text| next(text).replace("place_by = \"region\"", "")).await;
    let error = deploy(&spread).await.expect_err("so is an entity's placement");
    assert!(error.contains("`customer` is placed by region in the cluster"), "{error}");
    let nobody = compiled(|text| next(text).replace("\"us-east\"]", "\"us-east\", \"asia\"]")).await;
    let error = deploy(&nobody).await.expect_err("nobody is there");
    assert!(error.contains("region `asia` has no active peer"), "{error}");
    // With a peer there it is added.
    let mut topology = cluster.embedded.topology().clone();
    topology.peer.get_mut("p2").expect("a peer").region = "asia".to_owned();
    rootward_cluster::deploy(&topology, &nobody.source, &nobody.schema).await.expect("applied");
    until("the new region is served", async || client.settle("open_customer", &[("customer_id", "asia:1")], Uuid::now_v7()).await.ok())
        .await
        .expect("opened");
    assert_eq!(customers(&cluster, "p2").await.iter().filter(|key| key.starts_with("asia:")).count(), 1);
    // p2's region is another one now: Europe's partitions leave it with the next rebalance.
    let (code, said) = type_in(&cluster, &["rebalance", "--run"]).await;
    assert_eq!(code, Some(0), "{said}");
    moves_end(&client).await;
    let sql = "select count(*) from rootward_catalog.partition m join rootward_catalog.peer p on p.id = m.peer where m.region <> '' and m.region <> p.region";
    assert_eq!(cluster.reader().rows("hub", sql, &[]).await.expect("read")[0].get::<_, i64>(0), 0);
    assert_eq!(customers(&cluster, "p1").await, ["eu:1"]);
    assert_eq!(verify(&client).await, [""; 0]);
}
