//! `bench bank`, `shop` and `tpcb`: a transaction of one root through Rootward, beside the same transaction sent to the same
//! PostgreSQL directly, in turns.

mod words;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rootward_client::Client;
use rootward_cluster::Gauge;

use super::{
    Report,
    baseline::{Baseline, Baselines},
    callers::Calls,
    closed_loop::{Sample, Span, closed_loop},
    figures::{Figures, Series},
    ground::{Ground, Site},
    kill::{Kill, Patient, Pauses},
    live::Live,
    memory::Memory,
    meter::{Meter, Used},
    open_loop::open_loop,
    rounds::Rounds,
    workload::{Shape, Workload},
};

/// Of the server, for all sides alike: no checkpoint in the middle of a round, and room for the tables.
const SERVER_SETTINGS: &[(&str, &str)] = &[("max_wal_size", "4GB"), ("checkpoint_timeout", "30min"), ("shared_buffers", "256MB")];
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
    /// How many lanes each worker has; by the number of cores if none.
    pub lanes: Option<u32>,
    /// What dies in one more measurement with the greatest number of clients.
    pub kill: Option<Kill>,
    /// How long memory is looked at under full load, with the greatest number of clients.
    pub memory_for: Option<Duration>,
    /// Over how many connections to the router all clients are spread.
    pub connections: usize,
}

impl SingleOptions {
    fn greatest(&self) -> usize {
        self.clients.iter().copied().max().unwrap_or(1)
    }

    /// How long each measurement takes.
    pub(super) fn span(&self) -> Span {
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
    let site = Site {
        peers: options.peers,
        is_one_server: false,
        lanes: options.lanes,
        most_clients: options.greatest(),
        server_settings: SERVER_SETTINGS,
        worker_settings: "",
    };
    let ground = Ground::start(exe, workload, site, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let count_before = ground.gauge.total(ground.workload.count_sql).await?;
    let baselines = Baselines::start(&options.against, &ground, options.greatest()).await?;
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(Client::connect([ground.cluster.router_address()]).await?);
    }
    let mut bench = Bench { ground, baselines, clients, options, live, figures: Figures::default(), done: 0, refused: 0, lost: 0 };
    bench.throughput().await?;
    bench.by_rows().await?;
    bench.flushes().await?;
    bench.memory().await?;
    bench.kill().await?;
    bench.live.begin("counting".to_owned());
    let mut checks = bench.check(&before, count_before).await?;
    checks.extend(bench.baselines.missing.iter().cloned());
    let settings = bench.settings().await?;
    let (table, charts) = (bench.table(), bench.charts());
    let Bench { ground, figures, live, baselines, .. } = bench;
    drop((live, baselines));
    let title = format!("bench {}", ground.workload.name);
    ground.cluster.stop().await?;
    Ok(Report { title, machine, settings, figures, table, checks, charts, closing: None })
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
    /// Transactions of which nobody knows, after a kill.
    lost: u64,
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Rootward,
    Direct(Baseline),
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Rootward => "rootward",
            Side::Direct(baseline) => baseline.name(),
        }
    }

    /// What its figures' names begin with.
    fn prefix(self) -> String {
        match self {
            Side::Rootward => String::new(),
            Side::Direct(baseline) => format!("{}_", baseline.name()),
        }
    }
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
    async fn alternate(&mut self, shape: &Shape, clients: &[usize], sides: &[Side], what: &str) -> anyhow::Result<Vec<Measured>> {
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

    async fn measure(&mut self, shape: &Shape, measured: &mut Measured, label: &str) -> anyhow::Result<()> {
        let meter = Meter::of(&self.ground.cluster);
        let (wal, before) = (self.ground.gauge.wal_bytes().await?, meter.read());
        let sample = self.side(measured.side, shape, measured.clients, label).await?;
        let used = meter.read().since(&before);
        let wal = self.ground.gauge.wal_bytes().await? - wal;
        measured.used.push(measured.side, &used, wal, sample.done);
        measured.rounds.push(&sample);
        Ok(())
    }

    async fn side(&mut self, side: Side, shape: &Shape, clients: usize, label: &str) -> anyhow::Result<Sample> {
        let span = self.options.span();
        self.live.begin(format!("{label}: {}, {clients} clients", side.name()));
        let sample = match side {
            Side::Direct(baseline) => {
                let load = (clients, self.options.rate);
                self.baselines.run(baseline, &self.ground, shape, load, span, &mut self.live).await?
            }
            Side::Rootward => {
                let client = |number: usize| self.clients[number % self.clients.len()].clone();
                let caller = |number| Calls { client: client(number), shape: shape.clone(), roots: self.ground.workload.roots };
                let callers = (0..clients).map(caller).collect();
                match self.options.rate {
                    None => closed_loop(callers, span, &mut self.live).await?,
                    Some(rate) => open_loop(callers, rate, span, &mut self.live).await?,
                }
            }
        };
        if side == Side::Rootward || self.ground.workload.counts_baselines {
            self.done += sample.done;
        }
        self.refused += sample.refused;
        Ok(sample)
    }

    async fn throughput(&mut self) -> anyhow::Result<()> {
        let (shape, clients, sides) = (self.ground.workload.main.clone(), self.options.clients.clone(), self.sides());
        let all = self.alternate(&shape, &clients, &sides, "").await?;
        let greatest = self.options.greatest();
        let of = |side: Side, clients: usize| all.iter().find(|measured| measured.side == side && measured.clients == clients);
        for measured in &all {
            let (count, rounds) = (measured.clients, &measured.rounds);
            let prefix = measured.side.prefix();
            // At a fixed rate all sides do the same, as long as they keep up.
            let compared = of(Side::Rootward, count).filter(|_| self.options.rate.is_none());
            if let (Side::Direct(baseline), Some(ours)) = (measured.side, compared) {
                let ratio = ours.rounds.per_second.median() / rounds.per_second.median();
                self.figures.add(format!("ratio_vs_{}_{count}", baseline.name()), "x", ratio);
            }
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
        let is_compared = self.options.rate.is_none() && self.sides().contains(&statement);
        let Some(shape) = self.ground.workload.by_rows.clone().filter(|_| is_compared) else { return Ok(()) };
        let is_set_wise = self.ground.schema.transactions.get(shape.transaction).is_none_or(|transaction| transaction.set_wise.is_some());
        anyhow::ensure!(!is_set_wise, "`{}` is to run row by row, and the schema says otherwise", shape.transaction);
        let clients = self.options.greatest();
        let all = self.alternate(&shape, &[clients], &[Side::Rootward, statement], "row by row, ").await?;
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
        let shape = self.ground.workload.main.clone();
        for clients in self.options.clients.clone() {
            let sample = self.side(Side::Rootward, &shape, clients, "flushes").await?;
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

    /// Full load for a while, and what router and workers hold meanwhile.
    async fn memory(&mut self) -> anyhow::Result<()> {
        let Some(length) = self.options.memory_for else { return Ok(()) };
        let clients = self.options.greatest();
        self.live.begin(format!("memory: {clients} clients for {}", humantime::format_duration(length)));
        let (meter, shape, mut memory) = (Meter::of(&self.ground.cluster), self.ground.workload.main.clone(), Memory::default());
        let caller = |number: usize| Calls {
            client: self.clients[number % self.clients.len()].clone(),
            shape: shape.clone(),
            roots: self.ground.workload.roots,
        };
        let span = Span { warm: Duration::ZERO, measured: length };
        let load = closed_loop((0..clients).map(caller).collect(), span, &mut self.live);
        let sample = tokio::select! {
            sample = load => sample?,
            () = memory.watch(&meter) => return Ok(()),
        };
        self.done += sample.done;
        self.refused += sample.refused;
        self.figures.add("memory_tps", "tx/s", sample.per_second());
        memory.add_to(&mut self.figures);
        Ok(())
    }

    /// One more measurement, in whose middle a part of a peer dies. Nothing after it counts: PostgreSQL's counters are gone too.
    async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(kill) = self.options.kill.clone() else { return Ok(()) };
        let (span, clients) = (self.options.span(), self.options.greatest());
        self.live.begin(format!("{}, {clients} clients", kill.what()));
        let pauses = Arc::new(Mutex::new(Pauses::new()));
        let (shape, roots) = (&self.ground.workload.main, self.ground.workload.roots);
        let caller = |number: usize| Patient {
            calls: Calls { client: self.clients[number % self.clients.len()].clone(), shape: shape.clone(), roots },
            pauses: pauses.clone(),
        };
        let load = closed_loop((0..clients).map(caller).collect(), span, &mut self.live);
        let (sample, killed) = tokio::join!(load, kill.run(&mut self.ground.cluster, span.warm));
        killed?;
        let sample = sample?;
        self.ground.gauge = Ground::gauge(&self.ground.cluster).await?;
        let pauses = pauses.lock().unwrap_or_else(PoisonError::into_inner);
        self.done += sample.done;
        self.refused += sample.refused;
        self.lost += pauses.lost;
        self.figures.add("kill_tps", "tx/s", sample.per_second());
        self.figures.add("kill_longest_pause_ms", "ms", pauses.longest().as_secs_f64() * 1e3);
        Ok(())
    }

    /// What must hold after the load.
    async fn check(&mut self, before: &rootward_cluster::Books, count_before: i64) -> anyhow::Result<Vec<String>> {
        self.ground.check(before).await?;
        let count = self.ground.gauge.total(self.ground.workload.count_sql).await? - count_before;
        let done = i64::try_from(self.done)?;
        let possible = done..=done + i64::try_from(self.lost)?;
        anyhow::ensure!(possible.contains(&count), "{done} transactions were answered as done, and {count} are in the database");
        let mut checks = Vec::new();
        checks.extend(self.ground.workload.total_sql.map(|_| "sum unchanged".to_owned()));
        checks.push(format!("all {done} transactions that were answered are there, once each"));
        checks.extend(["no prepared transaction left".to_owned(), "verify: OK".to_owned()]);
        if self.lost > 0 {
            checks.push(format!("{} transactions were given up after the kill", self.lost));
        }
        if self.refused > 0 {
            checks.push(format!("{} transactions were refused by the business logic", self.refused));
        }
        Ok(checks)
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
