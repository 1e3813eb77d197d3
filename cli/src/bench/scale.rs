//! `bench scale`: what more peers bring, and what they cost the router.
//!
//! On one machine the processors are soon what limits everything. So that the commit is the limit, as it is with disks and standbys that
//! take their time, each commit is delayed at PostgreSQL, each peer has one lane with small batches, and clients grow with the peers.
//! What a router needs for a transaction is measured apart, at a fixed rate, in front of more and more peers.

mod stand_in;

use std::{path::Path, sync::Arc, time::Duration};

use rand::RngExt as _;
use rootward_client::{Arguments, Client};
use rootward_cluster::ProcessorTime;

use super::{
    Report,
    callers::Calls,
    closed_loop::{Caller, End, Span, closed_loop},
    figures::{Figures, Series},
    ground::{Ground, Roots, Site},
    live::Live,
    machine::Machine,
    open_loop::open_loop,
    page::Chart,
    rounds::Rounds,
    workload::Workload,
};
use crate::output;
use stand_in::StandIns;

/// Few enough to be made soon where every commit is delayed.
const ROOTS: u64 = 2_000;
/// How many peers the router has real ones behind, all databases in one server; the rest are stand-ins.
const MOST_REAL: u32 = 16;
/// What should hold.
const EFFICIENCY_GOAL: f64 = 0.9;
/// Of PostgreSQL, whatever is measured.
const ALWAYS: [(&str, &str); 2] = [("max_wal_size", "4GB"), ("checkpoint_timeout", "30min")];
/// Clients of the router when its processor time is measured.
const ROUTER_CLIENTS: usize = 128;

/// What the command line says.
#[derive(Debug)]
pub(crate) struct ScaleOptions {
    /// How many peers; one measurement each.
    pub peers: Vec<u32>,
    /// In front of how many peers the router is measured.
    pub router_peers: Vec<u32>,
    /// What each commit waits at PostgreSQL before its flush.
    pub commit_delay: Duration,
    pub clients_per_peer: usize,
    /// The most that one commit carries.
    pub batch: usize,
    /// Transactions a second through the router whose processor time is measured.
    pub rate: f64,
    pub duration: Duration,
    pub rounds: u32,
}

/// Measures everything and checks that nothing was lost.
///
/// # Errors
/// If something can't be started, a request fails, or a check does not hold: then there are no figures.
pub(crate) async fn run(exe: &Path, options: ScaleOptions) -> anyhow::Result<Report> {
    let mut bench = Bench { options, live: Live::new(), figures: Figures::default(), machine: None, done: 0 };
    bench.throughput(exe).await?;
    bench.router(exe).await?;
    let Bench { options, live, figures, machine, done } = bench;
    drop(live);
    Ok(Report {
        title: "bench scale".to_owned(),
        machine: machine.ok_or_else(|| anyhow::anyhow!("nothing was measured"))?,
        settings: settings(&options),
        table: table(&options, &figures),
        charts: charts(&options, &figures),
        figures,
        checks: vec!["sum unchanged".to_owned(), format!("all {done} deposits are there, once each"), "verify: OK".to_owned()],
        closing: None,
    })
}

struct Bench {
    options: ScaleOptions,
    live: Live,
    figures: Figures,
    machine: Option<Machine>,
    done: u64,
}

impl Bench {
    fn span(&self) -> Span {
        Span::warmed(self.options.duration)
    }

    async fn ground(&mut self, exe: &Path, site: Site<'_>) -> anyhow::Result<Ground> {
        let mut workload = Workload::bank();
        workload.roots = ROOTS;
        let ground = Ground::start(exe, workload, site, &mut self.live).await?;
        self.machine.get_or_insert(ground.machine()?);
        Ok(ground)
    }

    async fn throughput(&mut self, exe: &Path) -> anyhow::Result<()> {
        let delay = self.options.commit_delay.as_micros().to_string();
        let worker_settings = format!("max_batch = {}\n", self.options.batch);
        let settings: Vec<(&str, &str)> = ALWAYS.into_iter().chain([("commit_delay", delay.as_str()), ("commit_siblings", "0")]).collect();
        for peers in self.options.peers.clone() {
            let site = Site {
                peers,
                is_one_server: false,
                lanes: Some(1),
                most_clients: 0,
                server_settings: &settings,
                worker_settings: &worker_settings,
            };
            let ground = self.ground(exe, site).await?;
            let (before, count) = (ground.books().await?, ground.gauge.total(ground.workload.count_sql).await?);
            let client = Client::connect([ground.cluster.router_address()]).await?;
            let count_of = usize::try_from(peers)?;
            let clients = self.options.clients_per_peer * count_of;
            let (mut rounds, mut done) = (Rounds::default(), 0);
            for round in 1..=self.options.rounds {
                self.live.begin(format!("{peers} peers, {clients} clients, round {round} of {}", self.options.rounds));
                let sample = closed_loop(
                    // Else clients pile up at whichever peer is slower for a moment, while others have nothing to do.
                    (0..clients)
                        .map(|number| Local { client: client.clone(), roots: ground.roots.clone(), peer: number % count_of })
                        .collect(),
                    self.span(),
                    &mut self.live,
                )
                .await?;
                done += sample.done;
                rounds.push(&sample);
            }
            self.check(&ground, &before, count, done).await?;
            self.figures.add(format!("scale_tps_{peers}"), "tx/s", rounds.per_second);
            self.figures.add(format!("scale_p50_us_{peers}"), "us", rounds.p50_us);
            self.figures.add(format!("scale_p99_us_{peers}"), "us", rounds.p99_us);
            ground.cluster.stop().await?;
        }
        let Some(least) = self.options.peers.iter().copied().min() else { return Ok(()) };
        let each = |peers: u32| self.figures.median(&format!("scale_tps_{peers}")) / f64::from(peers);
        let shares: Vec<(u32, f64)> =
            self.options.peers.iter().filter(|peers| **peers > least).map(|peers| (*peers, each(*peers) / each(least))).collect();
        for (peers, share) in shares {
            self.figures.add(format!("scale_efficiency_{peers}"), "x", share);
        }
        Ok(())
    }

    /// What the router needs for a transaction, whatever lies behind it.
    async fn router(&mut self, exe: &Path) -> anyhow::Result<()> {
        for peers in self.options.router_peers.clone() {
            let site = Site {
                peers: peers.min(MOST_REAL),
                is_one_server: true,
                lanes: Some(1),
                most_clients: 16 * usize::try_from(peers.min(MOST_REAL))?,
                server_settings: &ALWAYS,
                worker_settings: "",
            };
            let mut ground = self.ground(exe, site).await?;
            let (before, count) = (ground.books().await?, ground.gauge.total(ground.workload.count_sql).await?);
            let (mut address, mut pid) = (ground.cluster.router_address().to_owned(), ground.cluster.router_pid().unwrap_or_default());
            let mut stand_ins = None;
            if peers > MOST_REAL {
                let real = ground.cluster.worker_address("p1").unwrap_or_default().to_owned();
                let arguments = Arguments::new().with("account_id", 1).with("amount", 0);
                let answer = ground.client.call("deposit", arguments).send().await?;
                let standing = StandIns::start(&real, peers, answer).await?;
                (address, pid) = ground.cluster.start_another_router(std::slice::from_ref(&standing.address)).await?;
                stand_ins = Some(standing);
            }
            let client = Client::connect([&address]).await?;
            let (mut cpu, mut done) = (Series::default(), 0);
            for round in 0..=self.options.rounds {
                self.live.begin(format!("router in front of {peers} peers, round {round} of {}", self.options.rounds));
                let span = Span { warm: Duration::ZERO, measured: self.options.duration };
                let used = ProcessorTime::of_alone(pid);
                let callers = callers(&client, &ground.workload, ROUTER_CLIENTS);
                let sample = open_loop(callers, self.options.rate, span, &mut self.live).await?;
                // The first round warms up.
                if round > 0 {
                    cpu.push(ProcessorTime::of_alone(pid).since(used) / sample.done.max(1) as f64);
                }
                done += sample.done;
            }
            // What stand-ins acknowledged is nowhere.
            if stand_ins.is_none() {
                self.check(&ground, &before, count, done).await?;
            }
            self.figures.add(format!("router_cpu_us_{peers}"), "us", cpu);
            ground.cluster.stop().await?;
        }
        Ok(())
    }

    async fn check(&mut self, ground: &Ground, before: &rootward_cluster::Books, count: i64, done: u64) -> anyhow::Result<()> {
        self.live.begin("counting".to_owned());
        ground.check(before).await?;
        let added = ground.gauge.total(ground.workload.count_sql).await? - count;
        anyhow::ensure!(added == i64::try_from(done)?, "{done} deposits were acknowledged, and {added} are there");
        self.done += done;
        Ok(())
    }
}

/// A deposit at an account of one peer.
struct Local {
    client: Client,
    roots: Arc<Roots>,
    peer: usize,
}

impl Caller for Local {
    async fn once(&mut self) -> anyhow::Result<End> {
        let roots = self.roots.of(self.peer);
        let account = roots[rand::rng().random_range(0..roots.len())];
        self.client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).send().await?;
        Ok(End::Done)
    }
}

fn callers(client: &Client, workload: &Workload, count: usize) -> Vec<Calls> {
    (0..count).map(|_| Calls { client: client.clone(), shape: workload.main.clone(), roots: workload.roots }).collect()
}

fn settings(options: &ScaleOptions) -> Vec<(&'static str, String)> {
    vec![
        (
            "clusters",
            format!(
                "a hub and so many peers, each with a PostgreSQL server and a worker of its own, one router, {ROOTS} accounts, all on this machine; fsync on, synchronous_commit on"
            ),
        ),
        (
            "commits",
            format!(
                "delayed by {} at PostgreSQL (commit_delay, commit_siblings 0); one lane a peer, {} transactions in a batch at most",
                humantime::format_duration(options.commit_delay),
                options.batch
            ),
        ),
        (
            "load",
            format!(
                "deposits, closed loop, {} clients for each peer at random accounts of it, {} rounds of {}, medians",
                options.clients_per_peer,
                options.rounds,
                humantime::format_duration(options.duration)
            ),
        ),
        (
            "router",
            format!(
                "its processor time for a transaction, {} a second at random moments fixed in advance; up to {MOST_REAL} real peers, all databases in one server; \
                 the rest are stand-ins that answer at once with what a real worker answered",
                options.rate
            ),
        ),
    ]
}

fn table(options: &ScaleOptions, figures: &Figures) -> String {
    let row = |peers: &u32| {
        let tps = format!("scale_tps_{peers}");
        let spread = figures.series(&tps).map(|one| format!("{:.0} to {:.0}", one.low(), one.high())).unwrap_or_default();
        let efficiency = figures.series(&format!("scale_efficiency_{peers}")).map(|one| format!("{:.2}", one.median()));
        let us = |name: &str| output::duration(figures.median(&format!("scale_{name}_us_{peers}")) as u64);
        vec![peers.to_string(), format!("{:.0}", figures.median(&tps)), spread, efficiency.unwrap_or_default(), us("p50"), us("p99")]
    };
    let rows: Vec<Vec<String>> = options.peers.iter().map(row).collect();
    let mut text = output::table(&["PEERS", "TX/S", "(LOW TO HIGH)", "OF LINEAR", "P50", "P99"], &rows);
    let least = rows.iter().filter_map(|row| row[3].parse::<f64>().ok()).fold(f64::INFINITY, f64::min);
    if least.is_finite() {
        text += &format!("\ngoal {EFFICIENCY_GOAL} of linear: {}", if least >= EFFICIENCY_GOAL { "held" } else { "missed" });
    }
    for peers in &options.router_peers {
        let of = if *peers > MOST_REAL { format!(" ({} of them stand-ins)", peers - MOST_REAL) } else { String::new() };
        text +=
            &format!("\nrouter in front of {peers} peers{of}: {:.1} us a transaction", figures.median(&format!("router_cpu_us_{peers}")));
    }
    text
}

fn charts(options: &ScaleOptions, figures: &Figures) -> Vec<Chart> {
    let places = |peers: &[u32]| peers.iter().filter_map(|peers| usize::try_from(*peers).ok()).collect::<Vec<usize>>();
    let chart = |title, unit, peers: &[u32], name: &str, scale| {
        Chart::of(title, unit, figures, &places(peers), &[("rootward", name.to_owned())], scale).over("peers")
    };
    vec![
        chart("Throughput", "transactions/s", &options.peers, "scale_tps_", 1.0),
        chart("Share of linear", "x", &options.peers, "scale_efficiency_", 1.0),
        chart("Latency, median", "ms", &options.peers, "scale_p50_us_", 1_000.0),
        chart("Router", "us of processor time a transaction", &options.router_peers, "router_cpu_us_", 1.0),
    ]
}
