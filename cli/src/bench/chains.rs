//! `bench chains`: two-step transfers as chains beside the same transfers by two-phase commit, on the same tables of the same
//! PostgreSQL servers, in turns.

use std::{path::Path, time::Duration};

use futures_util::future::try_join_all;
use rootward_cluster::{Gauge, TwoPhaseClient, TwoPhaseTransfer};

use super::{
    Report,
    callers::{Chains, Deposits, TwoPhase},
    closed_loop::{Sample, Span, closed_loop},
    figures::Figures,
    ground::{Ground, Site},
    live::Live,
    page::Chart,
    recovery::recovery,
    rounds::Rounds,
    workload::Workload,
};
use crate::output;

/// With so many clients flushes are counted, whatever else is measured.
const FLUSH_CLIENTS: [usize; 2] = [1, 16];
/// Sessions that are closed report what they counted at once.
const CLOSED_REPORT: Duration = Duration::from_millis(1_500);

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct ChainsOptions {
    /// How many clients at once, one measurement each.
    pub clients: Vec<usize>,
    pub duration: Duration,
    pub rounds: u32,
    pub peers: u32,
    /// How many chains are left behind for a worker that starts; none if 0.
    pub recovery: u64,
}

/// Measures everything and checks the books.
///
/// # Errors
/// If something can't be started, a request fails, or a check does not hold: then there are no figures.
pub(crate) async fn run(exe: &Path, options: &ChainsOptions) -> anyhow::Result<Report> {
    let most = options.clients.iter().copied().chain(FLUSH_CLIENTS).max().unwrap_or(1);
    let mut live = Live::new();
    let site =
        Site { peers: options.peers, is_one_server: false, lanes: None, most_clients: most, server_settings: &[], worker_settings: "" };
    let ground = Ground::start(exe, Workload::bank(), site, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let mut bench = Bench { transfer: transfer(&ground)?, ground, live, figures: Figures::default(), not_done: NotDone::default() };
    bench.throughput(options).await?;
    bench.latency(options).await?;
    bench.flushes(options).await?;
    if options.recovery > 0 {
        recovery(&mut bench.ground, options.recovery, &mut bench.figures, &mut bench.live).await?;
        bench.ground.wait_for_chains().await?;
    }
    bench.live.begin("counting".to_owned());
    let checks = bench.check(&before).await?;
    let settings = bench.settings(options).await?;
    let Bench { ground, figures, not_done, live, .. } = bench;
    drop(live);
    ground.cluster.stop().await?;
    let table = table(&figures, &options.clients, &not_done);
    let charts = charts(&figures, &options.clients);
    Ok(Report { title: "bench chains".to_owned(), machine, settings, figures, table, checks, charts, closing: None })
}

/// The baseline runs the very statements that the chain's steps run.
fn transfer(ground: &Ground) -> anyhow::Result<TwoPhaseTransfer> {
    match (ground.schema.transactions.get("transfer_out"), ground.schema.transactions.get("transfer_in")) {
        (Some(out), Some(into)) => Ok(TwoPhaseTransfer::new(out, into)),
        _ => anyhow::bail!("the bank has no transfer"),
    }
}

struct Bench {
    ground: Ground,
    transfer: TwoPhaseTransfer,
    figures: Figures,
    not_done: NotDone,
    live: Live,
}

/// Requests that were answered and did nothing.
#[derive(Debug, Default)]
struct NotDone {
    chains_refused: u64,
    two_phase_refused: u64,
    two_phase_aborted: u64,
}

impl Bench {
    /// Both sides in turns; who is first changes with the round.
    async fn throughput(&mut self, options: &ChainsOptions) -> anyhow::Result<()> {
        let mut all: Vec<(Rounds, Rounds)> = options.clients.iter().map(|_| <(Rounds, Rounds)>::default()).collect();
        let span = Span::warmed(options.duration);
        for round in 1..=options.rounds {
            for (clients, (chains, two_phase)) in options.clients.iter().copied().zip(&mut all) {
                let label = format!("round {round} of {}", options.rounds);
                if round % 2 == 1 {
                    chains.push(&self.chains(clients, span, &label).await?);
                    two_phase.push(&self.two_phase(clients, span, &label).await?);
                } else {
                    two_phase.push(&self.two_phase(clients, span, &label).await?);
                    chains.push(&self.chains(clients, span, &label).await?);
                }
            }
        }
        let greatest = options.clients.iter().copied().max();
        for (clients, (chains, two_phase)) in options.clients.iter().copied().zip(all) {
            let ratio = chains.per_second.median() / two_phase.per_second.median();
            if Some(clients) == greatest {
                self.figures.add("ratio_vs_2pc", "x", ratio);
            }
            self.figures.add(format!("ratio_vs_2pc_{clients}"), "x", ratio);
            self.figures.add(format!("chains_per_s_{clients}"), "chains/s", chains.per_second);
            self.figures.add(format!("twopc_per_s_{clients}"), "transfers/s", two_phase.per_second);
            self.figures.add(format!("p50_us_{clients}"), "us", chains.p50_us);
            self.figures.add(format!("p99_us_{clients}"), "us", chains.p99_us);
            self.figures.add(format!("twopc_p50_us_{clients}"), "us", two_phase.p50_us);
            self.figures.add(format!("twopc_p99_us_{clients}"), "us", two_phase.p99_us);
        }
        Ok(())
    }

    /// One client: a chain of two steps beside a call of one transaction.
    async fn latency(&mut self, options: &ChainsOptions) -> anyhow::Result<()> {
        let (mut chain, mut call) = (Rounds::default(), Rounds::default());
        let span = Span::warmed(options.duration / 2);
        for round in 1..=options.rounds {
            let label = format!("latency, round {round} of {}", options.rounds);
            chain.push(&self.chains(1, span, &label).await?);
            self.live.begin(format!("{label}: calls, 1 client"));
            let caller = Deposits { client: self.ground.client.clone(), roots: self.ground.roots.clone() };
            call.push(&closed_loop(vec![caller], span, &mut self.live).await?);
        }
        self.figures.add("latency_ratio_1", "x", chain.p50_us.median() / call.p50_us.median());
        self.figures.add("chain_alone_p50_us", "us", chain.p50_us);
        self.figures.add("chain_alone_p99_us", "us", chain.p99_us);
        self.figures.add("call_alone_p50_us", "us", call.p50_us);
        self.figures.add("call_alone_p99_us", "us", call.p99_us);
        Ok(())
    }

    /// WAL flushes over all nodes for each transfer, the whole load counted, warm-up and the lazy end included.
    async fn flushes(&mut self, options: &ChainsOptions) -> anyhow::Result<()> {
        let span = Span { warm: Duration::ZERO, measured: options.duration };
        let mut before = self.reported_flushes(Gauge::IDLE_REPORT).await?;
        for clients in FLUSH_CLIENTS {
            let sample = self.chains(clients, span, "flushes").await?;
            let after = self.reported_flushes(Gauge::IDLE_REPORT).await?;
            self.figures.add(format!("flushes_per_chain_{clients}"), "flushes", (after - before) as f64 / sample.done as f64);
            before = after;
        }
        for clients in FLUSH_CLIENTS {
            let sample = self.two_phase(clients, span, "flushes").await?;
            let after = self.reported_flushes(CLOSED_REPORT).await?;
            self.figures.add(format!("flushes_per_2pc_{clients}"), "flushes", (after - before) as f64 / sample.done as f64);
            before = after;
        }
        Ok(())
    }

    async fn reported_flushes(&mut self, pause: Duration) -> anyhow::Result<i64> {
        self.live.begin("flushes: waiting until PostgreSQL has reported all".to_owned());
        Ok(self.ground.gauge.wal_flushes_after(pause).await?)
    }

    async fn chains(&mut self, clients: usize, span: Span, label: &str) -> anyhow::Result<Sample> {
        self.live.begin(format!("{label}: chains, {clients} clients"));
        let caller = || Chains { client: self.ground.client.clone(), roots: self.ground.roots.clone() };
        let callers = std::iter::repeat_with(caller).take(clients).collect();
        let sample = closed_loop(callers, span, &mut self.live).await?;
        self.ground.wait_for_chains().await?;
        self.not_done.chains_refused += sample.refused;
        Ok(sample)
    }

    async fn two_phase(&mut self, clients: usize, span: Span, label: &str) -> anyhow::Result<Sample> {
        self.live.begin(format!("{label}: two-phase commit, {clients} clients"));
        let sessions = try_join_all((0..clients).map(|_| TwoPhaseClient::connect(&self.ground.databases, &self.transfer))).await?;
        let caller = |client| TwoPhase { client, roots: self.ground.roots.clone() };
        let sample = closed_loop(sessions.into_iter().map(caller).collect(), span, &mut self.live).await?;
        self.not_done.two_phase_refused += sample.refused;
        self.not_done.two_phase_aborted += sample.aborted;
        Ok(sample)
    }

    /// What must hold after the load.
    async fn check(&mut self, before: &rootward_cluster::Books) -> anyhow::Result<Vec<String>> {
        self.ground.check(before).await?;
        Ok(vec!["sum unchanged".to_owned(), "no prepared transaction left".to_owned(), "verify: OK".to_owned()])
    }

    async fn settings(&self, options: &ChainsOptions) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut servers = Vec::new();
        for name in ["fsync", "synchronous_commit", "wal_sync_method", "shared_buffers", "max_connections", "max_prepared_transactions"] {
            servers.push(format!("{name} {}", self.ground.gauge.setting(name).await?));
        }
        let user = self.ground.gauge.setting("session_authorization").await?;
        Ok(vec![
            (
                "cluster",
                format!(
                    "a hub and {} peers, each with a PostgreSQL server and a worker of its own, one router, {} accounts, analyzed, all on this machine",
                    options.peers, self.ground.workload.roots
                ),
            ),
            ("servers", servers.join(", ")),
            (
                "load",
                format!(
                    "closed loop, both sides in turns, {} rounds of {} each, medians; both accounts random, always on two peers",
                    options.rounds,
                    humantime::format_duration(options.duration)
                ),
            ),
            (
                "chains",
                "the Rust client, one connection to the router for all clients, wait = done; outcomes and row security on".to_owned(),
            ),
            (
                "2pc",
                format!(
                    "superuser `{user}`, whom row security lets through; unix sockets, one session to each peer for every client; \
                     {}; first trip to both peers at once: BEGIN, the statements of transfer_out or transfer_in prepared, PREPARE \
                     TRANSACTION; second: COMMIT PREPARED; no record of the decision, no recovery",
                    TwoPhaseTransfer::session_settings()
                ),
            ),
        ])
    }
}

fn charts(figures: &Figures, clients: &[usize]) -> Vec<Chart> {
    let chart = |title, unit, ours: &str, theirs: &str, scale| {
        Chart::of(title, unit, figures, clients, &[("chains", ours.to_owned()), ("two-phase commit", theirs.to_owned())], scale)
    };
    vec![
        chart("Throughput", "transfers/s", "chains_per_s_", "twopc_per_s_", 1.0),
        chart("Latency, median", "ms", "p50_us_", "twopc_p50_us_", 1_000.0),
        chart("Latency, 99 of 100", "ms", "p99_us_", "twopc_p99_us_", 1_000.0),
    ]
}

fn table(figures: &Figures, clients: &[usize], not_done: &NotDone) -> String {
    let headings = ["CLIENTS", "CHAINS/S", "(LOW TO HIGH)", "2PC/S", "(LOW TO HIGH)", "RATIO", "CHAIN P50", "P99", "2PC P50", "P99"];
    let us = |name: String| output::duration(figures.median(&name) as u64);
    let spread = |name: &str| figures.series(name).map(|series| format!("{:.0} to {:.0}", series.low(), series.high())).unwrap_or_default();
    let row = |clients: &usize| {
        let (ours, baseline) = (format!("chains_per_s_{clients}"), format!("twopc_per_s_{clients}"));
        vec![
            clients.to_string(),
            format!("{:.0}", figures.median(&ours)),
            spread(&ours),
            format!("{:.0}", figures.median(&baseline)),
            spread(&baseline),
            format!("{:.2}", figures.median(&format!("ratio_vs_2pc_{clients}"))),
            us(format!("p50_us_{clients}")),
            us(format!("p99_us_{clients}")),
            us(format!("twopc_p50_us_{clients}")),
            us(format!("twopc_p99_us_{clients}")),
        ]
    };
    let mut text = output::table(&headings, &clients.iter().map(row).collect::<Vec<_>>());
    text += &format!(
        "\n\none client: a chain takes {} (p50), a call {}: {:.2} times as long",
        us("chain_alone_p50_us".to_owned()),
        us("call_alone_p50_us".to_owned()),
        figures.median("latency_ratio_1")
    );
    for clients in FLUSH_CLIENTS {
        text += &format!(
            "\nWAL flushes with {clients} clients: {:.2} a chain, {:.2} a two-phase commit",
            figures.median(&format!("flushes_per_chain_{clients}")),
            figures.median(&format!("flushes_per_2pc_{clients}"))
        );
    }
    if let Some(all) = figures.series("recovery_all_s") {
        text += &format!(
            "\n{:.0} chains after a start: the first completed after {:.1} s, steadily from {:.1} s on, all after {:.1} s",
            figures.median("recovery_chains"),
            figures.median("recovery_first_s"),
            figures.median("recovery_moving_s"),
            all.median()
        );
    }
    text += &format!(
        "\nanswered without effect: {} chains refused; {} two-phase commits refused, {} given up for a lock",
        not_done.chains_refused, not_done.two_phase_refused, not_done.two_phase_aborted
    );
    text
}
