//! `bench reference`: how soon a change of the reference data is visible on all peers.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rootward_client::Arguments;

use super::{
    Report,
    figures::{Figures, percentile},
    ground::{Ground, Site},
    live::Live,
    workload::Workload,
};
use crate::output;

/// What should hold.
const P50_GOAL_US: f64 = 20_000.0;
const P99_GOAL_US: f64 = 200_000.0;

/// What the command line says.
#[derive(Debug)]
pub(crate) struct ReferenceOptions {
    pub peers: u32,
    /// How many changes, one after the other.
    pub changes: u32,
    /// Between two of them.
    pub pause: Duration,
}

/// Changes the reference data and waits until all peers show it.
///
/// # Errors
/// If something can't be started, or a peer does not show a change: then there are no figures.
pub(crate) async fn run(exe: &Path, options: &ReferenceOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let mut workload = Workload::bank();
    workload.roots = 64;
    let site =
        Site { peers: options.peers, is_one_server: false, lanes: Some(1), most_clients: 0, server_settings: &[], worker_settings: "" };
    let ground = Ground::start(exe, workload, site, &mut live).await?;
    let machine = ground.machine()?;
    live.begin(format!("{} changes on {} peers", options.changes, options.peers));
    let (mut visible, mut written) = (Vec::new(), Vec::new());
    for number in 0..options.changes {
        for (waits, latencies) in [(true, &mut visible), (false, &mut written)] {
            let code = format!("X{number}{}", if waits { 'w' } else { 'n' });
            let arguments = Arguments::new().with("code", code).with("name", "bench").with("minor_digits", 2);
            let call = ground.client.call("add_currency", arguments);
            let call = if waits { call.wait_for_all_peers() } else { call };
            let began = Instant::now();
            let answer = call.send().await?;
            latencies.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            anyhow::ensure!(!waits || answer.lagging_peers.is_empty(), "not on every peer: {:?}", answer.lagging_peers);
            tokio::time::sleep(options.pause).await;
        }
        live.show(u64::from(number));
    }
    let mut figures = Figures::default();
    for (name, latencies) in [("visible", &mut visible), ("written", &mut written)] {
        latencies.sort_unstable();
        figures.add(format!("reference_{name}_p50_us"), "us", percentile(latencies, 0.5) as f64);
        figures.add(format!("reference_{name}_p99_us"), "us", percentile(latencies, 0.99) as f64);
    }
    live.begin("comparing all copies".to_owned());
    let verified = ground.client.verify().await?;
    let failed: Vec<&str> = verified.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
    anyhow::ensure!(failed.is_empty(), "`verify` finds something wrong: {}", failed.join(", "));
    drop(live);
    ground.cluster.stop().await?;
    let settings = vec![
        (
            "cluster",
            format!(
                "a hub and {} peers, each with a PostgreSQL server and a worker of its own, one router, all on this machine",
                options.peers
            ),
        ),
        (
            "load",
            format!(
                "{} changes that wait for all peers and as many that don't, in turns, one after the other with {} between them",
                options.changes,
                humantime::format_duration(options.pause)
            ),
        ),
    ];
    let table = table(&figures, options);
    let checks = vec!["every peer has every change; `verify` compared the copies: OK".to_owned()];
    Ok(Report { title: "bench reference".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

fn table(figures: &Figures, options: &ReferenceOptions) -> String {
    let us = |name: &str| output::duration(figures.median(name) as u64);
    let met = |name: &str, goal: f64| if figures.median(name) <= goal { "met" } else { "missed" };
    format!(
        "from the request to a change that {} peers show: {} (p50; goal {} {}), {} (p99; goal {} {})\nwithout waiting for them: {} (p50), {} (p99)",
        options.peers,
        us("reference_visible_p50_us"),
        output::duration(P50_GOAL_US as u64),
        met("reference_visible_p50_us", P50_GOAL_US),
        us("reference_visible_p99_us"),
        output::duration(P99_GOAL_US as u64),
        met("reference_visible_p99_us", P99_GOAL_US),
        us("reference_written_p50_us"),
        us("reference_written_p99_us"),
    )
}
