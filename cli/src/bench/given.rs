//! `bench … --on ROUTER`: a transaction of one root at a cluster that runs already. There is no PostgreSQL beside it to compare with, and
//! nothing of the cluster's machines is known: what is measured is what a client gets.

use std::sync::{Arc, atomic::Ordering};

use anyhow::Context as _;
use rootward_client::{Client, Snapshot, SnapshotOptions, v1};

use super::{
    Report,
    callers::Calls,
    closed_loop::closed_loop,
    figures::Figures,
    ground::{make_roots, write_reference},
    live::Live,
    machine::Machine,
    open_loop::open_loop,
    page::Chart,
    rounds::Rounds,
    single::SingleOptions,
    workload::Workload,
};
use crate::{edge::Wrong, load::Tally, output};

/// What the command line asks for can't be measured.
const CODE: &str = "RW1109";

/// Measures a cluster that others started, and checks that what it acknowledged is there.
///
/// # Errors
/// If no router answers, the cluster has another schema, a request fails, or a check does not hold: then there are no figures.
pub(crate) async fn run(router: &str, workload: Workload, options: SingleOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    live.begin(format!("making {} roots", workload.roots));
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(Client::connect([router]).await?);
    }
    let peers = clients[0].peers().await?.peers;
    let postgres = peers.iter().filter_map(|peer| peer.status.as_ref()).map(|status| status.postgres_version.clone()).next();
    fill(router, &clients[0], &workload).await?;
    let before = Books::read(&clients[0], &workload).await?;
    let mut figures = Figures::default();
    let mut done = 0;
    let span = options.span();
    let mut all: Vec<(usize, Rounds)> = options.clients.iter().map(|count| (*count, Rounds::default())).collect();
    for round in 1..=options.rounds {
        for (count, rounds) in &mut all {
            live.begin(format!("round {round} of {}: {count} clients", options.rounds));
            let client = |number: usize| clients[number % clients.len()].clone();
            let caller = |number| Calls { client: client(number), shape: workload.main.clone(), roots: workload.roots };
            let callers: Vec<Calls> = (0..*count).map(caller).collect();
            let sample = match options.rate {
                None => closed_loop(callers, span, &mut live).await?,
                Some(rate) => open_loop(callers, rate, span, &mut live).await?,
            };
            anyhow::ensure!(sample.refused == 0, "{} calls were refused: are the roots 1 to {} there?", sample.refused, workload.roots);
            done += sample.done;
            rounds.push(&sample);
        }
    }
    for (count, rounds) in all {
        figures.add(format!("tps_{count}"), "tx/s", rounds.per_second);
        figures.add(format!("p50_us_{count}"), "us", rounds.p50_us);
        figures.add(format!("p99_us_{count}"), "us", rounds.p99_us);
    }
    live.begin("counting".to_owned());
    let checks = check(&clients[0], &workload, &before, done).await?;
    drop(live);
    Ok(Report {
        title: format!("bench {}", workload.name),
        machine: Machine::look(&std::env::temp_dir(), postgres.unwrap_or_default())?,
        settings: settings(router, &peers, &workload, &options),
        table: table(&figures, &options.clients),
        charts: charts(&figures, &options.clients),
        figures,
        checks,
        closing: None,
    })
}

/// Writes the reference data and makes the roots; what is there already stays as it is.
async fn fill(router: &str, client: &Client, workload: &Workload) -> anyhow::Result<()> {
    let schema = Wrong::new(
        CODE,
        format!("--on {router}: the cluster knows no transaction `{}`", workload.main.transaction),
        format!("apply schema/examples/{} to it, or leave --on out", workload.name),
    );
    let probe = client.call(workload.main.transaction, workload.main.arguments(workload.roots, &mut rand::rng())?).send().await;
    if probe.is_err_and(|fault| ["RW2001", "RW2002", "RW2003"].contains(&fault.code())) {
        return Err(schema.into());
    }
    let tally = Arc::new(Tally::default());
    write_reference(router, workload, &tally).await?;
    make_roots(router, workload, &tally).await?;
    let lost = tally.lost.load(Ordering::Relaxed);
    anyhow::ensure!(lost == 0, "while roots were made, {lost} calls were not answered");
    Ok(())
}

/// What the trees hold at a snapshot.
#[derive(Debug, PartialEq)]
struct Books {
    count: i64,
    /// Stays as it is, whatever the load does.
    total: Option<i64>,
}

impl Books {
    async fn read(client: &Client, workload: &Workload) -> anyhow::Result<Books> {
        let snapshot = client.take_snapshot(SnapshotOptions::default()).await?;
        let total = match workload.total_sql {
            Some(sql) => Some(sum(&snapshot, sql).await?),
            None => None,
        };
        let books = Books { count: sum(&snapshot, workload.count_sql).await?, total };
        snapshot.release().await?;
        Ok(books)
    }
}

/// A number of each peer, added up.
async fn sum(snapshot: &Snapshot, sql: &str) -> anyhow::Result<i64> {
    let rows = snapshot.rows_by_peer(sql).await?;
    let number = |row: &v1::Row| {
        let text = row.values.first().map(output::value_text).unwrap_or_default();
        text.parse::<i64>().with_context(|| format!("`{sql}` gives `{text}`, which is no number"))
    };
    rows.all().map(number).sum()
}

async fn check(client: &Client, workload: &Workload, before: &Books, done: u64) -> anyhow::Result<Vec<String>> {
    let after = Books::read(client, workload).await?;
    let added = after.count - before.count;
    // Others may use it too.
    anyhow::ensure!(added >= i64::try_from(done)?, "{done} transactions were acknowledged, and only {added} are there");
    anyhow::ensure!(after.total == before.total, "the total was {:?} and is {:?}", before.total, after.total);
    let verified = client.verify().await?;
    let failed: Vec<&str> = verified.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
    anyhow::ensure!(failed.is_empty(), "`verify` finds something wrong: {}", failed.join(", "));
    Ok(vec![
        format!("each of {done} acknowledged transactions is there"),
        "sum unchanged".to_owned(),
        "verify: OK".to_owned(),
        format!("the {} roots and what was written stay in the cluster", workload.roots),
    ])
}

fn settings(router: &str, peers: &[v1::Peer], workload: &Workload, options: &SingleOptions) -> Vec<(&'static str, String)> {
    let load = match options.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("{rate} transactions a second at random moments fixed in advance, latency from the moment on"),
    };
    let ids: Vec<&str> = peers.iter().map(|peer| peer.id.as_str()).collect();
    vec![
        ("cluster", format!("given, router {router}, {}; the machine above runs the clients", ids.join(", "))),
        (
            "load",
            format!(
                "{load}, {} rounds of {} each after {} of warm-up, medians; transaction `{}` at a random root of {}, {} connections",
                options.rounds,
                humantime::format_duration(options.duration),
                humantime::format_duration(options.span().warm),
                workload.main.transaction,
                workload.roots,
                options.connections
            ),
        ),
    ]
}

fn table(figures: &Figures, clients: &[usize]) -> String {
    let us = |name: String| output::duration(figures.median(&name) as u64);
    let row = |clients: &usize| {
        let tps = format!("tps_{clients}");
        let spread = figures.series(&tps).map(|one| format!("{:.0} to {:.0}", one.low(), one.high())).unwrap_or_default();
        let (p50, p99) = (us(format!("p50_us_{clients}")), us(format!("p99_us_{clients}")));
        vec![clients.to_string(), format!("{:.0}", figures.median(&tps)), spread, p50, p99]
    };
    output::table(&["CLIENTS", "TX/S", "(LOW TO HIGH)", "P50", "P99"], &clients.iter().map(row).collect::<Vec<_>>())
}

fn charts(figures: &Figures, clients: &[usize]) -> Vec<Chart> {
    let chart = |title, unit, name: &str, scale| Chart::of(title, unit, figures, clients, &[("rootward", name.to_owned())], scale);
    vec![
        chart("Throughput", "transactions/s", "tps_", 1.0),
        chart("Latency, median", "ms", "p50_us_", 1_000.0),
        chart("Latency, 99 of 100", "ms", "p99_us_", 1_000.0),
    ]
}
