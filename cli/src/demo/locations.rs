//! A network of databases that share places: reference data, staged rows, a peer that was away, a relay that died, and everything that was changed behind the system's
//! back.

use std::time::Duration;

use rootward_client::{Arguments, Client};
use rootward_cluster::{Binaries, EmbeddedOptions, Position};
use tokio::time::Instant;

use super::Stage;
use crate::{bank::wait_for_copies, bench::percentile};

/// The example's files, by their path in its folder.
pub(super) const FILES: &[(&str, &str)] = &[
    ("rootward.toml", include_str!("../../../schema/examples/locations/rootward.toml")),
    ("tables.sql", include_str!("../../../schema/examples/locations/tables.sql")),
    ("transactions/locations.sql", include_str!("../../../schema/examples/locations/transactions/locations.sql")),
    ("transactions/visitors.sql", include_str!("../../../schema/examples/locations/transactions/visitors.sql")),
];

/// Each node stands at a place of its own; the hub in Evanston. With the distance from there in kilometres, and the region.
const PLACES: [(&str, &str, f64, f64, &str, &str); 6] = [
    ("hub", "Evanston IL", 42.052158, -87.687866, "0.0 km", ""),
    ("p1", "Chicago IL", 41.897217, -87.6210423, "18.1 km", "midwest"),
    ("p2", "Brooklyn NY", 40.692532, -73.990997, "1151.6 km", "east"),
    ("p3", "Vancouver BC CA", 49.24966, -123.11934, "2838.8 km", "west"),
    ("p4", "LincolnShire IL", 42.1900249, -87.9084039, "23.8 km", "midwest"),
    ("p5", "New Haven CT", 41.3083, -72.9279, "1227.0 km", "east"),
];
/// Each passes reference data on to the others of its region.
const RELAYS: [&str; 3] = ["p1", "p2", "p3"];
/// The rows that everybody has.
const ROWS: [(&str, f64, f64); 4] = [
    ("Evanston IL", 42.052158, -87.687866),
    ("Chicago IL", 41.897217, -87.6210423),
    ("LincolnShire IL", 42.1900249, -87.9084039),
    ("Brooklyn NY", 40.692532, -73.990997),
];
/// Changes whose way to all peers is measured.
const CHANGES: usize = 100;
/// Rows that are staged while a peer is away.
const STAGED: usize = 100;
/// How long a staged row may take to be on every peer.
const WITHIN: Duration = Duration::from_secs(1);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the nodes stand, and who passes on to whom.
pub(super) fn place(options: &mut EmbeddedOptions) {
    options.peers = u32::try_from(PLACES.len() - 1).unwrap_or_default();
    for (node, _, latitude, longitude, _, region) in PLACES {
        options.positions.insert(node.to_owned(), Position { latitude, longitude });
        options.regions.insert(node.to_owned(), region.to_owned());
    }
    options.relays.extend(RELAYS.map(str::to_owned));
    options.worker_settings.push_str("route_patience_ms = 1000\n");
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("each database has a place of its own; distances are from the hub, and ROUTE says by which node reference data come");
    let peers = stage.type_in(&["peer", "list"]).await?;
    for (node, _, _, _, distance, _) in PLACES {
        stage.check(peers.text.contains(distance), format!("{node} is {distance} away"));
    }
    routes(stage, &[("p1", "hub"), ("p2", "hub"), ("p3", "hub"), ("p4", "p1"), ("p5", "p2")]).await?;
    four_places(stage).await?;
    vancouver(stage).await?;
    changes(stage).await?;
    a_peer_that_was_away(stage).await?;
    a_dead_relay(stage).await?;
    behind_the_systems_back(stage).await?;
    stage.heading("everything is counted, with plain SQL on every peer");
    stage.type_and_check(&["verify"], 0, "OK").await?;
    stage.memory().await
}

/// Waits until reference data come by these nodes.
async fn routes(stage: &mut Stage, wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let client = Client::connect([stage.router()]).await?;
    let began = Instant::now();
    for (id, source) in wanted {
        let is_so = async || {
            let peers = client.peers().await?.peers;
            let status = peers.iter().find(|peer| peer.id == *id).and_then(|peer| peer.status.as_ref());
            anyhow::Ok(status.is_some_and(|status| status.reference_source == *source))
        };
        let mut is_there = is_so().await?;
        while !is_there && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            is_there = is_so().await?;
        }
        stage.check(is_there, format!("reference data come to {id} by {source}"));
    }
    Ok(())
}

async fn four_places(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("places are reference data: written on the hub, and answered when every peer shows them");
    for (name, latitude, longitude) in ROWS {
        let (name, latitude, longitude) = (format!("name={name}"), format!("latitude={latitude}"), format!("longitude={longitude}"));
        stage.type_and_check(&["call", "add_location", &name, &latitude, &longitude, "--wait", "all"], 0, "reference data version").await?;
    }
    Ok(())
}

async fn vancouver(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("Vancouver is staged on p2 with plain psql, and a moment later it is everywhere");
    let began = Instant::now();
    psql(stage, "p2", "insert into stage.location (name, latitude, longitude) values ('Vancouver BC CA', 49.24966, -123.11934)").await?;
    let took = until_counted(stage, 5, &[], began).await?;
    stage.say(&format!("   five rows on every peer after {:.0} ms, psql's own start included\n", took.as_secs_f64() * 1000.0));
    stage.check(took < WITHIN, format!("five rows are on every peer within {WITHIN:?}, not after {took:?}"));
    stage.type_and_check(&["verify"], 0, "OK").await?;
    Ok(())
}

async fn changes(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading(&format!("{CHANGES} more places: how long each takes from the call until every peer shows it"));
    let client = Client::connect([stage.router()]).await?;
    let mut times = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let place = Arguments::new().with("name", format!("place {number}")).with("latitude", number as f64 / 10.0).with("longitude", 1);
        let began = Instant::now();
        let answer = client.call("add_location", place).wait_for_all_peers().send().await?;
        times.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        stage.check(answer.lagging_peers.is_empty(), "every peer shows it when it is answered");
    }
    times.sort_unstable();
    let ms = |share: f64| percentile(&times, share) as f64 / 1000.0;
    stage.say(&format!("   p50 {:.1} ms, p99 {:.1} ms\n", ms(0.5), ms(0.99)));
    Ok(())
}

async fn a_peer_that_was_away(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading(&format!("p3 is away; {STAGED} rows are staged on p1 meanwhile"));
    stage.kill_peer("p3").await?;
    let rows = format!(
        "insert into stage.location (name, latitude, longitude) select 'staged ' || n, n / 10.0, 2 from generate_series(1, {STAGED}) n"
    );
    psql(stage, "p1", &rows).await?;
    stage.start_peer("p3").await?;
    until_counted(stage, 5 + CHANGES + STAGED, &[], Instant::now()).await?;
    stage.type_and_check(&["stage", "list", "location", "--state", "staged"], 0, "0 of 0 rows").await?;
    let query = "select count(*) as places, count(distinct location_id) as different from location";
    let counted = stage.type_in(&["query", "--all", "--per-peer", query]).await?;
    let wanted = (5 + CHANGES + STAGED).to_string();
    stage.check(counted.text.matches(&wanted).count() >= 2 * (PLACES.len() - 1), format!("every peer has {wanted} places, each once"));
    Ok(())
}

async fn a_dead_relay(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("the relay in Chicago dies: LincolnShire takes another route by itself, and misses nothing");
    stage.kill_peer("p1").await?;
    let began = Instant::now();
    let file = stage.folder().join("cluster.toml");
    std::fs::write(&file, toml::to_string(stage.cluster.topology())?)?;
    let file = file.to_string_lossy().into_owned();
    stage
        .type_and_check(
            &["call", "add_location", "name=Toronto ON CA", "latitude=43.6532", "longitude=-79.3832"],
            0,
            "reference data version",
        )
        .await?;
    let places = 5 + CHANGES + STAGED + 1;
    let took = until_counted(stage, places, &["p1"], began).await?;
    stage.say(&format!("   p4 shows it {:.1} s after the kill\n", took.as_secs_f64()));
    routes(stage, &[("p4", "hub"), ("p5", "p2")]).await?;
    stage.heading("the relay is back: nothing comes twice, and who left it is led back by command");
    stage.start_peer("p1").await?;
    until_counted(stage, places, &[], Instant::now()).await?;
    stage
        .type_and_check(&["reference", "repair", "p4", "--cluster", &file], 0, "every row was right; the subscription is new, by p1")
        .await?;
    routes(stage, &[("p1", "hub"), ("p4", "p1")]).await?;
    stage.type_and_check(&["verify"], 0, "OK").await?;
    Ok(())
}

async fn behind_the_systems_back(stage: &mut Stage) -> anyhow::Result<()> {
    stage.heading("rows never change, whoever asks");
    let refused = psql(stage, "p4", "update location set longitude = 0").await?;
    stage.check(refused.contains("only ever inserted"), "an UPDATE is refused");
    stage.heading("a key that is not its content's is refused");
    let wrong = "insert into location select location_id, 'Brooklyn NY', 40.692532, 73.990997 from location where name = 'Brooklyn NY'";
    let refused = psql(stage, "hub", wrong).await?;
    stage.check(refused.contains("location_location_id_is_content"), "a longitude with the wrong sign is refused by its key");
    stage.heading("a superuser switches all of that off on p4, and turns the sign of Chicago's longitude");
    let harm = "set session_replication_role = replica; alter table location drop constraint location_location_id_is_content; \
                update location set longitude = -longitude where name = 'Chicago IL'; \
                alter table location add constraint location_location_id_is_content \
                check ((location_id = location_key(name, latitude, longitude)) is true) not valid";
    psql(stage, "p4", harm).await?;
    let found = stage.type_and_check(&["verify"], 4, "peer p4: `location` location_id = ").await?;
    stage.check(found.text.contains("peer p4: `location` differs from the hub's"), "the copies are compared, too");
    stage.heading("the copy is made anew, while it is read");
    let file = stage.folder().join("cluster.toml");
    std::fs::write(&file, toml::to_string(stage.cluster.topology())?)?;
    let file = file.to_string_lossy().into_owned();
    stage.type_and_check(&["reference", "repair", "p4", "--cluster", &file], 0, "1 rows of `location` differed").await?;
    wait_for_copies(stage.router()).await
}

/// Types a statement into psql, as a superuser of a node's database; returns what it printed.
async fn psql(stage: &Stage, node: &str, sql: &str) -> anyhow::Result<String> {
    // Some packages put clients elsewhere than servers.
    let program = Some(Binaries::find()?.program("psql")).filter(|program| program.exists()).unwrap_or_else(|| "psql".into());
    let output =
        tokio::process::Command::new(program).arg(stage.cluster.database(node)).args(["-Xqc", sql]).kill_on_drop(true).output().await?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    stage.say(&format!("$ psql {node} -c \"{sql}\"\n{text}"));
    Ok(text)
}

/// Waits until every peer but those that are dead shows this many places; returns how long that took since a moment.
async fn until_counted(stage: &Stage, wanted: usize, dead: &[&str], began: Instant) -> anyhow::Result<Duration> {
    // Each place is one version of the reference data, so the version counts them.
    let client = Client::connect([stage.router()]).await?;
    loop {
        let peers = client.peers().await?.peers;
        let shows = |status: &rootward_client::v1::PeerStatus| usize::try_from(status.reference_version).is_ok_and(|shown| shown >= wanted);
        if peers.iter().all(|peer| dead.contains(&peer.id.as_str()) || peer.status.as_ref().is_some_and(shows)) {
            return Ok(began.elapsed());
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "{wanted} places did not arrive on every peer within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
