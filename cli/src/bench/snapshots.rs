//! `bench snapshots`: transfers at full load while snapshots are taken. Every total must be exact; how long the lanes are held for
//! one, and what one a second costs in throughput.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rootward_client::Client;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Report,
    callers::Chains,
    closed_loop::{Sample, Span, closed_loop},
    figures::{Figures, Series, percentile},
    ground::{Ground, Site},
    live::Live,
    machine::flushes_us,
    workload::Workload,
    xtm::{Read, by_snapshot},
};
use crate::output;

const TOTAL: &str = "select sum(balance) from account";
/// Only stopped by the last snapshot.
const LONG: Duration = Duration::from_secs(24 * 3_600);
/// How often in a row a snapshot may be refused.
const MOST_REFUSED: u64 = 100;
const GOAL_P50_US: f64 = 10_000.0;
const GOAL_P99_US: f64 = 50_000.0;

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotsOptions {
    pub clients: usize,
    /// How many snapshots are taken under load.
    pub snapshots: u32,
    /// The pause between two of them.
    pub pause: Duration,
    /// Of each measurement of the throughput.
    pub duration: Duration,
    pub rounds: u32,
    pub peers: u32,
}

/// What the snapshots under load were like.
#[derive(Debug, Default)]
struct Taken {
    exact: u64,
    wrong: Vec<i64>,
    refused: u64,
    /// Snapshots that list chains, so that the total is without what these hold.
    in_flight: u64,
    pauses_us: Vec<u64>,
    drains_us: Vec<u64>,
    /// From the request to the total, the snapshot released.
    whole_us: Vec<u64>,
}

/// Measures everything and checks the books.
///
/// # Errors
/// If something can't be started, a request fails, or a total is wrong: then there are no figures.
pub(crate) async fn run(exe: &Path, options: &SnapshotsOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let site = Site { peers: options.peers, is_one_server: false, lanes: None, most_clients: 0, server_settings: &[], worker_settings: "" };
    let ground = Ground::start(exe, Workload::bank(), site, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let flushes = flushes_us(ground.cluster.folder())?;
    let expected = by_snapshot(&ground.client, TOTAL).await?.total;
    let mut bench = Bench { ground, live, expected };
    let mut figures = Figures::default();
    bench.throughput(options, &mut figures).await?;
    let taken = bench.under_load(options).await?;
    bench.live.begin("counting".to_owned());
    let Bench { ground, live, .. } = bench;
    anyhow::ensure!(
        taken.wrong.is_empty(),
        "{} of {} totals were wrong, such as {:?}",
        taken.wrong.len(),
        options.snapshots,
        taken.wrong.first()
    );
    ground.check(&before).await?;
    drop(live);
    add(&taken, &flushes, &mut figures);
    let table = table(&figures, options);
    let checks = vec![format!("every total of {} snapshots was exact", taken.exact), "sum unchanged".to_owned(), "verify: OK".to_owned()];
    let settings = vec![
        (
            "cluster",
            format!(
                "a hub and {} peers, each with a PostgreSQL server and a worker of its own, one router, {} accounts",
                options.peers, ground.workload.roots
            ),
        ),
        ("load", format!("transfers between two peers, {} clients in a closed loop, each waits for its chain's end", options.clients)),
        ("snapshot", format!("taken, `{TOTAL}` over all peers, released")),
    ];
    ground.cluster.stop().await?;
    Ok(Report { title: "bench snapshots".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

struct Bench {
    ground: Ground,
    live: Live,
    /// What every total must be.
    expected: i64,
}

impl Bench {
    /// With a snapshot a second and without, in turns.
    async fn throughput(&mut self, options: &SnapshotsOptions, figures: &mut Figures) -> anyhow::Result<()> {
        let (mut with, mut without, mut ratio) = (Series::default(), Series::default(), Series::default());
        let span = Span::warmed(options.duration);
        for round in 1..=options.rounds {
            let (first, second) = (round % 2 == 1, round % 2 == 0);
            let mut both = [0.0; 2];
            for with_snapshots in [first, second] {
                self.live.begin(format!(
                    "round {round} of {}: {}",
                    options.rounds,
                    if with_snapshots { "a snapshot a second" } else { "no snapshots" }
                ));
                let sample = self.load(options.clients, span, with_snapshots).await?;
                both[usize::from(with_snapshots)] = sample.per_second();
            }
            without.push(both[0]);
            with.push(both[1]);
            ratio.push(both[1] / both[0]);
        }
        figures.add("snapshots_throughput_ratio", "x", ratio);
        figures.add("snapshots_chains_per_s_with", "chains/s", with);
        figures.add("snapshots_chains_per_s_without", "chains/s", without);
        Ok(())
    }

    async fn load(&mut self, clients: usize, span: Span, with_snapshots: bool) -> anyhow::Result<Sample> {
        let callers = callers(&self.ground, clients);
        let (client, expected) = (self.ground.client.clone(), self.expected);
        let load = closed_loop(callers, span, &mut self.live);
        let sample = tokio::select! {
            sample = load => sample?,
            failed = each_second(&client, expected), if with_snapshots => failed?,
        };
        self.ground.wait_for_chains().await?;
        Ok(sample)
    }

    /// So many snapshots one after the other.
    async fn under_load(&mut self, options: &SnapshotsOptions) -> anyhow::Result<Taken> {
        self.live.begin(format!("{} snapshots under full load", options.snapshots));
        let span = Span { warm: Duration::ZERO, measured: LONG };
        let load = closed_loop(callers(&self.ground, options.clients), span, &mut self.live);
        let snapshots = snapshots(&self.ground.client, self.expected, options);
        let taken = tokio::select! {
            taken = snapshots => taken?,
            ended = load => anyhow::bail!("the load ended before the snapshots: {ended:?}"),
        };
        self.ground.wait_for_chains().await?;
        Ok(taken)
    }
}

fn callers(ground: &Ground, clients: usize) -> Vec<Chains> {
    std::iter::repeat_with(|| Chains { client: ground.client.clone(), roots: ground.roots.clone() }).take(clients).collect()
}

/// A snapshot a second, for ever.
async fn each_second(client: &Client, expected: i64) -> anyhow::Result<Sample> {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        let Read { total, in_flight, .. } = by_snapshot(client, TOTAL).await?;
        anyhow::ensure!(in_flight > 0 || total == expected, "a total was {total} and not {expected}");
    }
}

async fn snapshots(client: &Client, expected: i64, options: &SnapshotsOptions) -> anyhow::Result<Taken> {
    let mut taken = Taken::default();
    let mut in_a_row = 0;
    while taken.pauses_us.len() < usize::try_from(options.snapshots).unwrap_or(usize::MAX) {
        let began = Instant::now();
        match by_snapshot(client, TOTAL).await {
            Ok(Read { total, in_flight: 0, pause_us, drain_us }) => {
                in_a_row = 0;
                if total == expected {
                    taken.exact += 1
                } else {
                    taken.wrong.push(total)
                }
                taken.pauses_us.push(pause_us);
                taken.drains_us.push(drain_us);
                taken.whole_us.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
            // A step was waiting for its next attempt, and the snapshot says so.
            Ok(_) => taken.in_flight += 1,
            // Refused rather than torn.
            Err(fault) => {
                taken.refused += 1;
                in_a_row += 1;
                anyhow::ensure!(in_a_row < MOST_REFUSED, "{MOST_REFUSED} snapshots in a row were refused: {fault}");
            }
        }
        tokio::time::sleep(options.pause).await;
    }
    for list in [&mut taken.pauses_us, &mut taken.drains_us, &mut taken.whole_us] {
        list.sort_unstable();
    }
    Ok(taken)
}

fn add(taken: &Taken, flushes: &[u64], figures: &mut Figures) {
    figures.add("snapshots_taken", "snapshots", taken.pauses_us.len() as f64);
    figures.add("snapshots_wrong_totals", "snapshots", taken.wrong.len() as f64);
    figures.add("snapshots_refused", "snapshots", taken.refused as f64);
    figures.add("snapshots_in_flight", "snapshots", taken.in_flight as f64);
    for (name, all) in [("pause", &taken.pauses_us), ("drain", &taken.drains_us), ("whole", &taken.whole_us)] {
        figures.add(format!("snapshots_{name}_p50_us"), "us", percentile(all, 0.5) as f64);
        figures.add(format!("snapshots_{name}_p99_us"), "us", percentile(all, 0.99) as f64);
    }
    figures.add("flush_alone_p50_us", "us", percentile(flushes, 0.5) as f64);
    figures.add("flush_alone_p99_us", "us", percentile(flushes, 0.99) as f64);
}

fn table(figures: &Figures, options: &SnapshotsOptions) -> String {
    let us = |name: &str| output::duration(figures.median(name) as u64);
    let of = |name: &str| vec![name.to_owned(), us(&format!("snapshots_{name}_p50_us")), us(&format!("snapshots_{name}_p99_us"))];
    let mut text = output::table(&["", "P50", "P99"], &[of("pause"), of("drain"), of("whole")]);
    let (p50, p99) = (figures.median("snapshots_pause_p50_us"), figures.median("snapshots_pause_p99_us"));
    let bound = GOAL_P99_US.max(3.0 * figures.median("flush_alone_p99_us"));
    text += &format!(
        "\n\n{} snapshots, {:.0} refused; a flush alone takes {} (p50), {} (p99)",
        options.snapshots,
        figures.median("snapshots_refused"),
        us("flush_alone_p50_us"),
        us("flush_alone_p99_us")
    );
    let met = |is_met: bool| if is_met { "met" } else { "missed" };
    text += &format!(
        "\npause: goal at the median {} {}, at 99 of 100 {} {}",
        output::duration(GOAL_P50_US as u64),
        met(p50 <= GOAL_P50_US),
        output::duration(bound as u64),
        met(p99 <= bound)
    );
    text += &format!(
        "\nthroughput with a snapshot a second: {:.0} of {:.0} chains/s, {:.3} of it without",
        figures.median("snapshots_chains_per_s_with"),
        figures.median("snapshots_chains_per_s_without"),
        figures.median("snapshots_throughput_ratio")
    );
    text
}
