//! How fast rows are copied can be limited.

use std::time::Duration;

use rootward_client::v1;
use tests::{Cluster, Shape, check_bank, eventually};
use tokio::time::Instant;

use super::{begin, client, look, partitions_of, wait_for};
use crate::shared::exe;

const ROWS_PER_SECOND: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_move_begins_before_the_rows_of_those_before_it_had_their_time() {
    let settings = "move_rows_per_second = 10\n";
    let bank = Cluster::bank(exe(), Shape { peers: 2, worker_settings: settings, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let moved = partitions_of(&bank, &bank.open_accounts(&plain, "p1", 12, 100).await.expect("opened"));
    let (some, others) = moved.split_at(moved.len() / 2);
    let client = client(&bank);

    let began = Instant::now();
    let first = begin(&client, some, "p2").await;
    let second = begin(&client, others, "p2").await;
    let first = wait_for(&client, &first, &["done"]).await;
    let due = Duration::from_secs_f64(first.rows_total as f64 / f64::from(ROWS_PER_SECOND));
    assert!(due > Duration::from_secs(1), "{first:?}");
    // The first has done what it had to as fast as ever, which is no reason for the second to begin.
    let waiting = look(&client, &second).await.expect("listed");
    assert!(began.elapsed() >= due || waiting.stage == "preparing" && waiting.tables == 0, "{waiting:?} after {:?}", began.elapsed());
    wait_for(
        &client,
        &second,
        &["publishing", "copying", "comparing", "switching", "switched", "dropping", "confirming", "cleaning", "done"],
    )
    .await;
    assert!(began.elapsed() >= due, "{:?} instead of {due:?}", began.elapsed());
    wait_for(&client, &second, &["done"]).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");

    client.change_peer("p2", v1::PeerChange::Drain).await.expect("drained");
    let plan = client.rebalance(v1::RebalanceRequest { dry_run: true, ..Default::default() }).await.expect("planned");
    assert!(plan.moves.len() > 1 && plan.moves.iter().all(|one| one.partitions.len() == 1), "each partition goes by itself");
}
