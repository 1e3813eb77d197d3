//! What any peer can answer is asked at the nearest one: by the measured way, else by the map.

use std::time::Duration;

use rootward_proto::v1;
use tests::{Client, Cluster, Shape, until};

use crate::shared::exe;

/// The peer that answered a query of reference data alone.
async fn answered_by(client: &Client, nearest: bool, sql: &str) -> Option<String> {
    let taken = client.raw().take_snapshot(v1::TakeSnapshotRequest { partial: true, ..Default::default() }).await.ok()?.into_inner();
    let query = v1::QuerySnapshotRequest { snapshot_id: taken.snapshot_id.clone(), sql: sql.to_owned(), nearest, ..Default::default() };
    let mut pages = client.raw().query_snapshot(query).await.ok()?.into_inner();
    let first = pages.message().await.ok()??;
    let rows = first.rows.len();
    drop(pages);
    client.raw().release_snapshot(v1::ReleaseSnapshotRequest { snapshot_id: taken.snapshot_id }).await.ok()?;
    assert_eq!(rows, 1, "{first:?}");
    Some(first.peer)
}

async fn until_answered_by(client: &Client, wanted: &str) {
    let mut seen = None;
    let waited = until("the nearest one answers", async || {
        seen = answered_by(client, true, "select name from currency").await;
        (seen.as_deref() == Some(wanted)).then_some(())
    });
    let waited = waited.await;
    waited.unwrap_or_else(|error| panic!("{error}: {wanted}, and not {seen:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_data_are_read_at_the_nearest_peer_that_is_alive_if_that_is_asked_for() {
    let shape = Shape {
        positions: &[("hub", 0.0, 100.0), ("p1", 0.0, 20.0), ("p2", 0.0, 5.0), ("p3", 0.0, 60.0)],
        router_settings: "latitude = 0.0\nlongitude = 0.0\n",
        ..Shape::shared()
    };
    let mut bank = Cluster::bank(exe(), shape).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    until_answered_by(&client, "p2").await;
    assert_eq!(answered_by(&client, false, "select name from currency").await.as_deref(), Some("hub"), "where they are newest");
    // The way counts more than the map.
    let detour = bank.detour("p2").await.expect("a detour");
    until_answered_by(&client, "p2").await;
    detour.lengthen(Duration::from_millis(60));
    until_answered_by(&client, "p1").await;
    // People see what was measured, too.
    let ways = async || {
        let way = |peers: &[v1::Peer], id: &str| peers.iter().find(|peer| peer.id == id).map(|peer| peer.round_trip_us);
        let peers = client.peers().await.ok()?;
        way(&peers, "p2").filter(|way| *way >= 60_000).and(way(&peers, "p1").filter(|way| *way > 0))
    };
    until("`peer list` shows the longer way", ways).await.expect("measured");
    detour.lengthen(Duration::ZERO);
    until_answered_by(&client, "p2").await;
    // A dead one is passed over at once, also before that was measured.
    bank.embedded.kill_worker("p2").await.expect("killed");
    let passed = answered_by(&client, true, "select name from currency").await;
    assert_eq!(passed.as_deref(), Some("p1"), "the next one");
}
