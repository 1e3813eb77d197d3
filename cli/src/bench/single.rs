//! `bench bank`, `shop` and `tpcb`: a transaction of one root through Rootward, beside the same transaction sent to the same
//! PostgreSQL directly, in turns.

use std::{path::Path, time::Duration};

use rootward_client::Client;
use rootward_cluster::Gauge;

use super::{
    Report,
    baseline::{Baseline, Baselines},
    callers::Calls,
    closed_loop::{Sample, Span, closed_loop},
    figures::{Figures, Series},
    ground::Ground,
    live::Live,
    meter::{Meter, Used},
    open_loop::open_loop,
    rounds::Rounds,
    workload::{Shape, Workload},
};
use crate::output;

/// Of the server, for all sides alike: no checkpoint in the middle of a round, and room for the tables.
const SERVER_SETTINGS: &[(&str, &str)] = &[("max_wal_size", "4GB"), ("checkpoint_timeout", "30min"), ("shared_buffers", "256MB")];
/// What is printed of each server.
const PRINTED: &[&str] = &[
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
];

/// What the command line says.
#[derive(Debug)]
pub(crate) struct SingleOptions {
    /// How many clients at once, one measurement each.
    pub clients: Vec<usize>,
    /// Transactions a second at moments that are fixed in advance; as fast as they are answered if none.
    pub rate: Option<f64>,
    pub against: Vec<Baseline>,
    pub duration: Duration,
    pub rounds: u32,
    pub peers: u32,
    /// Over how many connections to the router all clients are spread.
    pub connections: usize,
}

impl SingleOptions {
    fn greatest(&self) -> usize {
        self.clients.iter().copied().max().unwrap_or(1)
    }

    fn span(&self) -> Span {
        // pgbench knows whole seconds, so short measurements begin at once.
        let second = Duration::from_secs(1);
        Span { warm: if self.duration < second { Duration::ZERO } else { second }, measured: self.duration }
    }
}

/// Measures everything and checks that nothing was lost.
///
/// # Errors
/// If something can't be started, a request fails, or a check does not hold: then there are no figures.
pub(crate) async fn run(exe: &Path, workload: Workload, options: SingleOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let ground = Ground::start(exe, workload, options.peers, options.greatest(), SERVER_SETTINGS, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let count_before = ground.gauge.total(ground.workload.count_sql).await?;
    let baselines = Baselines::start(&options.against, &ground, options.greatest()).await?;
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(Client::connect([ground.cluster.router_address()]).await?);
    }
    let mut bench = Bench { ground, baselines, clients, options, live, figures: Figures::default(), done: 0, refused: 0 };
    bench.throughput().await?;
    bench.by_rows().await?;
    bench.flushes().await?;
    bench.live.begin("counting".to_owned());
    let mut checks = bench.check(&before, count_before).await?;
    checks.extend(bench.baselines.missing.iter().cloned());
    let settings = bench.settings().await?;
    let table = bench.table();
    let Bench { ground, figures, live, baselines, .. } = bench;
    drop((live, baselines));
    let title = format!("bench {}", ground.workload.name);
    ground.cluster.stop().await?;
    Ok(Report { title, machine, settings, figures, table, checks })
}

struct Bench {
    ground: Ground,
    baselines: Baselines,
    clients: Vec<Client>,
    options: SingleOptions,
    figures: Figures,
    live: Live,
    /// Transactions that somebody was told are done.
    done: u64,
    refused: u64,
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Rootward,
    Direct(Baseline),
}

/// One side's rounds with one number of clients.
#[derive(Debug)]
struct Measured {
    side: Side,
    clients: usize,
    rounds: Rounds,
    used: UsedSeries,
}

/// Processor time for each transaction, by part, and bytes of WAL.
#[derive(Debug, Default)]
struct UsedSeries {
    router: Series,
    workers: Series,
    postgres: Series,
    client: Series,
    wal_bytes: Series,
}

impl UsedSeries {
    fn push(&mut self, side: Side, used: &Used, wal_bytes: i64, done: u64) {
        let each = |sum: f64| sum / done.max(1) as f64;
        self.router.push(each(used.router));
        self.workers.push(each(used.workers));
        self.postgres.push(each(used.postgres));
        self.client.push(each(if side == Side::Rootward { used.client } else { used.children }));
        self.wal_bytes.push(each(wal_bytes as f64));
    }
}

impl Bench {
    fn sides(&self) -> Vec<Side> {
        std::iter::once(Side::Rootward).chain(self.baselines.all.iter().copied().map(Side::Direct)).collect()
    }

    /// All sides in turns; who is first changes with the round.
    async fn alternate(&mut self, shape: Shape, clients: &[usize], sides: &[Side], what: &str) -> anyhow::Result<Vec<Measured>> {
        let empty = |(clients, side)| Measured { side, clients, rounds: Rounds::default(), used: UsedSeries::default() };
        let mut all: Vec<Measured> = clients.iter().flat_map(|clients| sides.iter().map(|side| (*clients, *side))).map(empty).collect();
        for round in 1..=self.options.rounds {
            for group in all.chunks_mut(sides.len()) {
                if round % 2 == 0 {
                    group.reverse();
                }
                for measured in group.iter_mut() {
                    let label = format!("{what}round {round} of {}", self.options.rounds);
                    self.measure(shape, measured, &label).await?;
                }
                if round % 2 == 0 {
                    group.reverse();
                }
            }
        }
        Ok(all)
    }

    async fn measure(&mut self, shape: Shape, measured: &mut Measured, label: &str) -> anyhow::Result<()> {
        let meter = Meter::of(&self.ground.cluster);
        let (wal, before) = (self.ground.gauge.wal_bytes().await?, meter.read());
        let sample = self.side(measured.side, shape, measured.clients, label).await?;
        let used = meter.read().since(&before);
        let wal = self.ground.gauge.wal_bytes().await? - wal;
        measured.used.push(measured.side, &used, wal, sample.done);
        measured.rounds.push(&sample);
        Ok(())
    }

    async fn side(&mut self, side: Side, shape: Shape, clients: usize, label: &str) -> anyhow::Result<Sample> {
        let span = self.options.span();
        let name = match side {
            Side::Rootward => "rootward",
            Side::Direct(baseline) => baseline.name(),
        };
        self.live.begin(format!("{label}: {name}, {clients} clients"));
        let sample = match side {
            Side::Direct(baseline) => {
                let load = (clients, self.options.rate);
                self.baselines.run(baseline, &self.ground, &shape, load, span, &mut self.live).await?
            }
            Side::Rootward => {
                let client = |number: usize| self.clients[number % self.clients.len()].clone();
                let caller = |number| Calls { client: client(number), shape, roots: self.ground.workload.roots };
                let callers = (0..clients).map(caller).collect();
                match self.options.rate {
                    None => closed_loop(callers, span, &mut self.live).await?,
                    Some(rate) => open_loop(callers, rate, span, &mut self.live).await?,
                }
            }
        };
        self.done += sample.done;
        self.refused += sample.refused;
        Ok(sample)
    }

    async fn throughput(&mut self) -> anyhow::Result<()> {
        let (shape, clients, sides) = (self.ground.workload.main, self.options.clients.clone(), self.sides());
        let all = self.alternate(shape, &clients, &sides, "").await?;
        let greatest = self.options.greatest();
        let of = |side: Side, clients: usize| all.iter().find(|measured| measured.side == side && measured.clients == clients);
        for measured in &all {
            let (count, rounds) = (measured.clients, &measured.rounds);
            let prefix = match measured.side {
                Side::Rootward => String::new(),
                Side::Direct(baseline) => {
                    if let Some(ours) = of(Side::Rootward, count) {
                        let ratio = ours.rounds.per_second.median() / rounds.per_second.median();
                        self.figures.add(format!("ratio_vs_{}_{count}", baseline.name()), "x", ratio);
                    }
                    format!("{}_", baseline.name())
                }
            };
            self.figures.add(format!("{prefix}tps_{count}"), "tx/s", rounds.per_second.clone());
            self.figures.add(format!("{prefix}p50_us_{count}"), "us", rounds.p50_us.clone());
            self.figures.add(format!("{prefix}p99_us_{count}"), "us", rounds.p99_us.clone());
            if count == greatest {
                add_used(&mut self.figures, measured, &prefix);
            }
        }
        if let (Some(ours), Some(direct)) = (of(Side::Rootward, 1), of(Side::Direct(Baseline::Pipelined), 1)) {
            self.figures.add("latency_ratio_1", "x", ours.rounds.p50_us.median() / direct.rounds.p50_us.median());
        }
        let (router, worker) = Meter::of(&self.ground.cluster).memory_mib();
        self.figures.add("router_memory_mib", "MiB", router);
        self.figures.add("worker_memory_mib", "MiB", worker);
        Ok(())
    }

    /// The second class: what lanes can't run set-wise, with the greatest number of clients.
    async fn by_rows(&mut self) -> anyhow::Result<()> {
        let statement = Side::Direct(Baseline::Statement);
        let (Some(shape), true) = (self.ground.workload.by_rows, self.sides().contains(&statement)) else { return Ok(()) };
        let clients = self.options.greatest();
        let all = self.alternate(shape, &[clients], &[Side::Rootward, statement], "row by row, ").await?;
        let median = |side: Side| all.iter().find(|one| one.side == side).map(|one| one.rounds.per_second.clone()).unwrap_or_default();
        let (ours, direct) = (median(Side::Rootward), median(statement));
        self.figures.add(format!("ratio_vs_statement_rows_{clients}"), "x", ours.median() / direct.median());
        self.figures.add(format!("rows_tps_{clients}"), "tx/s", ours);
        self.figures.add(format!("statement_rows_tps_{clients}"), "tx/s", direct);
        Ok(())
    }

    /// WAL flushes over all nodes for each transaction, the whole load counted.
    async fn flushes(&mut self) -> anyhow::Result<()> {
        let mut before = self.reported_flushes().await?;
        for clients in self.options.clients.clone() {
            let sample = self.side(Side::Rootward, self.ground.workload.main, clients, "flushes").await?;
            let after = self.reported_flushes().await?;
            self.figures.add(format!("flushes_per_tx_{clients}"), "flushes", (after - before) as f64 / sample.done.max(1) as f64);
            before = after;
        }
        Ok(())
    }

    async fn reported_flushes(&mut self) -> anyhow::Result<i64> {
        self.live.begin("flushes: waiting until PostgreSQL has reported all".to_owned());
        Ok(self.ground.gauge.wal_flushes_after(Gauge::IDLE_REPORT).await?)
    }

    /// What must hold after the load.
    async fn check(&mut self, before: &rootward_cluster::Books, count_before: i64) -> anyhow::Result<Vec<String>> {
        before.check(&self.ground.books().await?)?;
        let count = self.ground.gauge.total(self.ground.workload.count_sql).await? - count_before;
        let done = i64::try_from(self.done)?;
        anyhow::ensure!(count == done, "{done} transactions were answered as done, and {count} are in the database");
        let verified = self.ground.client.verify().await?;
        let failed: Vec<&str> = verified.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
        anyhow::ensure!(failed.is_empty(), "`verify` finds something wrong: {}", failed.join(", "));
        let mut checks = vec!["sum unchanged".to_owned(), format!("all {done} transactions that were answered are there, once each")];
        checks.extend(["no prepared transaction left".to_owned(), "verify: OK".to_owned()]);
        if self.refused > 0 {
            checks.push(format!("{} transactions were refused by the business logic", self.refused));
        }
        Ok(checks)
    }

    async fn settings(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut servers = Vec::new();
        for name in PRINTED {
            servers.push(format!("{name} {}", self.ground.gauge.setting(name).await?));
        }
        let options = &self.options;
        let workload = &self.ground.workload;
        let load = match options.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!("{rate} transactions a second at random moments fixed in advance, latency from the moment on"),
        };
        let mut settings = vec![
            (
                "cluster",
                format!(
                    "a hub and {} peers, each with a PostgreSQL server and a worker of its own, one router, {} roots, analyzed, all on this machine",
                    options.peers, workload.roots
                ),
            ),
            ("servers", servers.join(", ")),
            (
                "load",
                format!(
                    "{load}, all sides in turns, {} rounds of {} each after {} of warm-up, medians; transaction `{}` at a random root",
                    options.rounds,
                    humantime::format_duration(options.duration),
                    humantime::format_duration(options.span().warm),
                    workload.main.transaction
                ),
            ),
            (
                "rootward",
                format!("the Rust client, {} connections to the router for all clients; outcomes and row security on", options.connections),
            ),
        ];
        settings.extend(self.baselines.settings());
        Ok(settings)
    }

    fn table(&self) -> String {
        let figures = &self.figures;
        let us = |name: String| output::duration(figures.median(&name) as u64);
        let spread = |name: &str| figures.series(name).map(|one| format!("{:.0} to {:.0}", one.low(), one.high())).unwrap_or_default();
        let mut rows = Vec::new();
        for clients in &self.options.clients {
            for side in self.sides() {
                let (name, prefix) = match side {
                    Side::Rootward => ("rootward", String::new()),
                    Side::Direct(baseline) => (baseline.name(), format!("{}_", baseline.name())),
                };
                let tps = format!("{prefix}tps_{clients}");
                let ratio = figures.series(&format!("ratio_vs_{name}_{clients}")).map(|one| format!("{:.2}", one.median()));
                rows.push(vec![
                    clients.to_string(),
                    name.to_owned(),
                    format!("{:.0}", figures.median(&tps)),
                    spread(&tps),
                    ratio.unwrap_or_default(),
                    us(format!("{prefix}p50_us_{clients}")),
                    us(format!("{prefix}p99_us_{clients}")),
                ]);
            }
        }
        let mut text = output::table(&["CLIENTS", "SIDE", "TX/S", "(LOW TO HIGH)", "ROOTWARD IS", "P50", "P99"], &rows);
        let greatest = self.options.greatest();
        for side in self.sides() {
            text += &match side {
                Side::Rootward => format!(
                    "\n\nprocessor time a transaction with {greatest} clients: router {:.1} us, workers {:.1} us, PostgreSQL {:.1} us, clients {:.1} us; {:.0} bytes of WAL",
                    figures.median("router_cpu_us"),
                    figures.median("worker_cpu_us"),
                    figures.median("postgres_cpu_us"),
                    figures.median("client_cpu_us"),
                    figures.median("wal_bytes_per_tx")
                ),
                Side::Direct(baseline) => format!(
                    "\n  {}: PostgreSQL {:.1} us, pgbench and what is between {:.1} us; {:.0} bytes of WAL",
                    baseline.name(),
                    figures.median(&format!("{}_postgres_cpu_us", baseline.name())),
                    figures.median(&format!("{}_client_cpu_us", baseline.name())),
                    figures.median(&format!("{}_wal_bytes_per_tx", baseline.name()))
                ),
            };
        }
        let rows_name = format!("ratio_vs_statement_rows_{greatest}");
        if let (Some(ratio), Some(shape)) = (figures.series(&rows_name), self.ground.workload.by_rows) {
            text += &format!(
                "\nrow by row (`{}`, which calls a function of the schema), {greatest} clients: {:.0} tx/s beside {:.0}: {:.2} times statement",
                shape.transaction,
                figures.median(&format!("rows_tps_{greatest}")),
                figures.median(&format!("statement_rows_tps_{greatest}")),
                ratio.median()
            );
        }
        if let Some(ratio) = figures.series("latency_ratio_1") {
            text += &format!("\none client: {:.2} times as long as one pipeline (p50)", ratio.median());
        }
        for clients in &self.options.clients {
            text +=
                &format!("\nWAL flushes with {clients} clients: {:.3} a transaction", figures.median(&format!("flushes_per_tx_{clients}")));
        }
        text
    }
}

fn add_used(figures: &mut Figures, measured: &Measured, prefix: &str) {
    let used = &measured.used;
    if measured.side == Side::Rootward {
        figures.add("router_cpu_us", "us", used.router.clone());
        figures.add("worker_cpu_us", "us", used.workers.clone());
    }
    figures.add(format!("{prefix}postgres_cpu_us"), "us", used.postgres.clone());
    figures.add(format!("{prefix}client_cpu_us"), "us", used.client.clone());
    figures.add(format!("{prefix}wal_bytes_per_tx"), "bytes", used.wal_bytes.clone());
}
