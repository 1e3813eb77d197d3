//! The shop: orders over customers and products, refusals with compensation, a run on the last pieces, a peer that is killed.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{Stage, bank::wait_for_chains};
use crate::load::{self, Tally};

/// The example's files, by their path in its folder.
pub(super) const FILES: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("../../../schema/examples/shop/rootward.toml")),
    ("tables.sql", include_str!("../../../schema/examples/shop/tables.sql")),
    ("transactions/catalogue.sql", include_str!("../../../schema/examples/shop/transactions/catalogue.sql")),
    ("transactions/customers.sql", include_str!("../../../schema/examples/shop/transactions/customers.sql")),
    ("transactions/place_order.sql", include_str!("../../../schema/examples/shop/transactions/place_order.sql")),
    ("transactions/products.sql", include_str!("../../../schema/examples/shop/transactions/products.sql")),
];

const BUYERS: u64 = 100;
const PIECES: u64 = 10;
/// Customers of the load; the three orders' are 1 and 2.
const CUSTOMERS: u64 = 100;
const LOAD_CLIENTS: u64 = 8;

pub(super) async fn play(stage: &mut Stage, load_seconds: u64) -> anyhow::Result<()> {
    set_up(stage).await?;
    three_orders(stage).await?;
    refusals(stage).await?;
    two_warehouses(stage).await?;
    last_pieces(stage).await?;
    orders_while_a_peer_dies(stage, load_seconds).await?;
    stage.heading("everything is counted, with plain SQL on every peer");
    stage.type_and_check(&["verify"], 0, "OK").await?;
    stage.memory().await
}

async fn set_up(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("the catalogue is reference data; products with their stock, and customers with their orders, are trees");
    for warehouse in ["Main Warehouse", "Secondary Warehouse"] {
        quietly(stage, &["call", "add_warehouse", &format!("warehouse={warehouse}")]).await?;
    }
    for product in 1..=6 {
        let (id, name) = (format!("product_id={product}"), format!("name=Product {product}"));
        quietly(stage, &["call", "add_catalogue_item", &id, &name, "price=100.00"]).await?;
    }
    wait_until_copied(stage, 6).await?;
    for (product, warehouse, quantity) in STOCK {
        let id = format!("product_id={product}");
        // A product in two warehouses is made once.
        stage.run(&["call", "add_product", &id]).await?;
        quietly(stage, &["call", "add_stock", &id, &format!("warehouse={warehouse}"), &format!("quantity={quantity}")]).await?;
    }
    let client = load::connect(stage.router()).await?;
    load::for_each(CUSTOMERS, 32, move |number| {
        let client = client.clone();
        async move {
            let arguments = [("customer_id", (number + 1).to_string()), ("name", format!("customer {}", number + 1))];
            load::run_call(&client, &Tally::default(), "add_customer", load::values(&arguments)).await;
        }
    })
    .await;
    stage.type_and_check(&["call", "stock_of", "product_id=1"], 0, "100").await?;
    Ok(())
}

const STOCK: &[(u64, &str, u64)] = &[
    (1, "Main Warehouse", 100),
    (2, "Main Warehouse", 150),
    (3, "Secondary Warehouse", 200),
    (4, "Main Warehouse", 10),
    (4, "Secondary Warehouse", 10),
    (5, "Main Warehouse", PIECES),
    (6, "Main Warehouse", 1_000_000),
];

/// A command of the set-up: run for real, shown only if it fails.
async fn quietly(stage: &mut Stage, args: &[&str]) -> anyhow::Result<()> {
    let typed = stage.run(args).await?;
    stage.check(typed.code == 0, format!("`rootward {}` works: {}", args.join(" "), typed.text.trim()));
    Ok(())
}

/// Products refer to the catalogue, so they wait until its last item is everywhere.
async fn wait_until_copied(stage: &mut Stage, items: usize) -> anyhow::Result<()> {
    let mut client = load::connect(stage.router()).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let peers = client.list_peers(rootward_proto::v1::ListPeersRequest {}).await?.into_inner().peers;
        let wanted = i64::try_from(items)? + 2;
        if peers.iter().all(|peer| peer.status.as_ref().is_some_and(|status| status.reference_version == wanted)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.check(false, "the catalogue is on every peer within 10 s");
    Ok(())
}

fn line(product: u64, quantity: u64, price: &str) -> String {
    format!(r#"{{"product_id": {product}, "quantity": {quantity}, "unit_price": {price}}}"#)
}

async fn three_orders(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("three orders at once, each a chain: reserve at the product, order at the customer, confirm at the product");
    let orders = [(1, line(2, 1, "100.00")), (2, line(1, 2, "100.00")), (1, line(1, 1, "150.00"))];
    let inputs: Vec<(String, String)> =
        orders.iter().map(|(customer, line)| (format!("customer_id={customer}"), format!("lines=[{line}]"))).collect();
    let args: Vec<[&str; 5]> =
        inputs.iter().map(|(customer, lines)| ["chain", "start", "place_order", customer.as_str(), lines.as_str()]).collect();
    let shown: &Stage = stage;
    let typed = futures_util::future::try_join_all(args.iter().map(|args| shown.type_in(args))).await?;
    for typed in typed {
        stage.check(typed.code == 0 && typed.text.contains("completed"), "each of the three orders completes");
    }
    stage.heading("stock ends at 97, 149 and 200; three orders of 450 in all");
    for (product, left) in [(1, "97"), (2, "149"), (3, "200")] {
        stage.type_and_check(&["call", "stock_of", &format!("product_id={product}")], 0, left).await?;
    }
    let first = stage.type_and_check(&["call", "orders_of", "customer_id=1"], 0, "150").await?;
    let second = stage.type_and_check(&["call", "orders_of", "customer_id=2"], 0, "200").await?;
    let total = first.text.contains("100.00") && first.text.contains("150.00") && second.text.contains("200.00");
    stage.check(total, "the orders are of 100, 150 and 200: 450 in all");
    stage.heading("the same order sent twice is one order, with the same answer");
    let id = uuid::Uuid::now_v7().to_string();
    let lines = format!("lines=[{}]", line(6, 1, "5.00"));
    let order = ["chain", "start", "place_order", "customer_id=3", &lines, "--id", &id];
    stage.type_and_check(&order, 0, "completed").await?;
    stage.type_and_check(&order, 0, "completed").await?;
    let orders = stage.run(&["call", "orders_of", "customer_id=3", "-o", "json"]).await?;
    stage.check(orders.text.matches(&id).count() == 1, "the order that was sent twice is there once");
    Ok(())
}

async fn refusals(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("a product that nobody knows");
    let unknown = format!("lines=[{}]", line(99, 1, "1.00"));
    stage.type_and_check(&["chain", "start", "place_order", "customer_id=1", &unknown], 4, "unknown product").await?;
    stage.heading("out of stock on the second line: the first line's reservation is released");
    let short = format!("lines=[{}, {}]", line(1, 1, "100.00"), line(3, 1000, "1.00"));
    stage.type_and_check(&["chain", "start", "place_order", "customer_id=1", &short], 4, "out of stock").await?;
    stage.type_and_check(&["call", "stock_of", "product_id=1"], 0, "97").await?;
    Ok(())
}

async fn two_warehouses(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("ten pieces in each of two warehouses: an order of three takes them from one");
    let lines = format!("lines=[{}]", line(4, 3, "1.00"));
    stage.type_and_check(&["chain", "start", "place_order", "customer_id=1", &lines], 0, "completed").await?;
    stage.type_in(&["call", "stock_of", "product_id=4"]).await?;
    let left = stage.run(&["call", "stock_of", "product_id=4", "-o", "json"]).await?;
    let numbers = on_hand(&left.text);
    stage.check(numbers == [7, 10], format!("the warehouses keep 7 and 10, not {numbers:?}"));
    Ok(())
}

/// The column `on_hand` of a JSON answer, sorted.
fn on_hand(json: &str) -> Vec<i64> {
    let answer: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let rows = answer.get("rows").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let mut numbers: Vec<i64> = rows.iter().filter_map(|row| row.get("on_hand")?.as_i64()).collect();
    numbers.sort_unstable();
    numbers
}

async fn last_pieces(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading(&format!("{BUYERS} buyers at once for {PIECES} pieces"));
    let client = load::connect(stage.router()).await?;
    let tally = Arc::new(Tally::default());
    let counted = tally.clone();
    load::for_each(BUYERS, BUYERS, move |number| {
        let (client, tally) = (client.clone(), counted.clone());
        async move {
            let input = [("customer_id", (number % CUSTOMERS + 1).to_string()), ("lines", format!("[{}]", line(5, 1, "9.99")))];
            load::run_chain(&client, &tally, "place_order", load::values(&input)).await;
        }
    })
    .await;
    let (done, refused) = (Tally::read(&tally.done), Tally::read(&tally.refused));
    stage.say(&format!("   {done} orders confirmed, {refused} refused\n"));
    stage.check(done == PIECES && done + refused == BUYERS, format!("exactly {PIECES} are confirmed, not {done}"));
    stage.type_and_check(&["call", "stock_of", "product_id=5"], 0, "0").await?;
    Ok(())
}

async fn orders_while_a_peer_dies(stage: &mut Stage, load_seconds: u64) -> anyhow::Result<()> {
    let seconds = load_seconds.div_ceil(2).max(4);
    stage.heading(&format!("{seconds} s of orders of two lines by {LOAD_CLIENTS} clients; p2 dies in the middle"));
    let tally = Arc::new(Tally::default());
    let client = load::connect(stage.router()).await?;
    let mut clients = JoinSet::new();
    for number in 0..LOAD_CLIENTS {
        let (client, tally) = (client.clone(), tally.clone());
        clients.spawn(async move {
            let mut customer = number;
            while !tally.is_stopped() {
                customer = (customer + LOAD_CLIENTS) % CUSTOMERS;
                let lines = format!("[{}, {}]", line(6, 1, "5.00"), line(2, 1, "1.00"));
                let input = [("customer_id", (customer + 1).to_string()), ("lines", lines)];
                load::run_chain(&client, &tally, "place_order", load::values(&input)).await;
            }
        });
    }
    let part = Duration::from_secs(seconds) / 4;
    tokio::time::sleep(part).await;
    stage.kill_peer("p2").await?;
    tokio::time::sleep(part).await;
    let took = stage.start_peer("p2").await?;
    stage.say(&format!("   p2 is started again: its worker serves {:.2} s after its PostgreSQL", took.as_secs_f64()));
    tokio::time::sleep(part * 2).await;
    tally.stop();
    clients.join_all().await;
    let (done, refused, lost) = (Tally::read(&tally.done), Tally::read(&tally.refused), Tally::read(&tally.lost));
    stage.say(&format!("   {done} orders confirmed, {refused} refused (product 2 sells out), {lost} lost\n"));
    stage.check(lost == 0 && done > 0, "every order has an answer");
    wait_for_chains(stage).await
}
