//! `bench overload`: many times more than a worker takes. What is done in time must stay near what is done at its capacity, and what is
//! refused must have no effect.

use std::{path::Path, time::Duration};

use rootward_client::Client;
use rootward_cluster::{Books, metric};
use tokio::time::{Instant, sleep};

use super::{
    Report,
    callers::Calls,
    closed_loop::Span,
    figures::{Figures, Series, percentile},
    flood::{Ends, Flooded, flood},
    ground::{Ground, Site},
    live::Live,
    workload::Workload,
};
use crate::output;

/// So many that no root is hot, and few enough to be made at a limited speed.
const ROOTS: u64 = 2_000;
/// What should hold: goodput as a share of the peak's, and tries a request.
const GOODPUT_GOAL: f64 = 0.8;
const AMPLIFICATION_GOAL: f64 = 1.1;
/// How long the worker may go on after the last client has its answer.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// A code of refusals: the deadline was over before the request's turn came.
const EXPIRED: &str = "RW3103";

/// What the command line says.
#[derive(Debug)]
pub(crate) struct OverloadOptions {
    /// What the worker takes on a second, by its setting.
    pub capacity: u32,
    /// How many times that is offered.
    pub times: u32,
    /// What each request has, its retries included.
    pub deadline: Duration,
    pub duration: Duration,
    pub rounds: u32,
    /// Over how many connections to the router all requests are spread; each has a retry budget of its own.
    pub connections: usize,
}

/// What the rounds of one load gave.
#[derive(Debug, Default)]
struct Load {
    offered: Series,
    goodput: Series,
    p50_us: Series,
    p99_us: Series,
    refused: Series,
    unknown: Series,
    /// By code, over all rounds, a second.
    codes: std::collections::BTreeMap<&'static str, f64>,
    requests: u64,
    /// Tries that came to the router, and what it sent to workers once more.
    tries: f64,
}

struct Bench {
    ground: Ground,
    clients: Vec<Client>,
    live: Live,
    ends: Ends,
}

/// Measures both loads in turns and looks into the database.
///
/// # Errors
/// If something can't be started, or something that was refused has been done: then there are no figures.
pub(crate) async fn run(exe: &Path, options: OverloadOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let mut workload = Workload::bank();
    workload.roots = ROOTS;
    let limit = format!("max_units_per_second = {}\n", options.capacity);
    let site = Site { peers: 1, is_one_server: false, lanes: None, most_clients: 0, server_settings: &[], worker_settings: &limit };
    let ground = Ground::start(exe, workload, site, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(Client::connect([ground.cluster.router_address()]).await?);
    }
    let mut bench = Bench { ground, clients, live, ends: Ends::default() };
    let (mut peak, mut over) = (Load::default(), Load::default());
    for round in 1..=options.rounds {
        bench.load(&options, 1, round, &mut peak).await?;
        bench.load(&options, options.times, round, &mut over).await?;
    }
    let checks = bench.check(&before, &over, &options).await?;
    let settings = bench.settings(&options).await?;
    let Bench { ground, live, .. } = bench;
    drop(live);
    ground.cluster.stop().await?;
    let figures = figures(&peak, &over);
    let table = table(&figures, &peak, &over, options.times);
    Ok(Report { title: "bench overload".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

impl Load {
    fn push(&mut self, flooded: &Flooded, tries: f64) {
        let a_second = |count: u64| count as f64 / flooded.seconds;
        self.offered.push(a_second(flooded.offered));
        self.goodput.push(a_second(flooded.in_time));
        self.refused.push(a_second(flooded.refused.values().sum()));
        self.unknown.push(a_second(flooded.unknown));
        for (code, count) in &flooded.refused {
            *self.codes.entry(code).or_default() += a_second(*count);
        }
        self.p50_us.push(percentile(&flooded.latencies_us, 0.5) as f64);
        self.p99_us.push(percentile(&flooded.latencies_us, 0.99) as f64);
        self.requests += flooded.requests;
        self.tries += tries;
    }

    fn amplification(&self) -> f64 {
        self.tries / self.requests.max(1) as f64
    }
}

impl Bench {
    /// One flood of so many times the capacity.
    async fn load(&mut self, options: &OverloadOptions, times: u32, round: u32, load: &mut Load) -> anyhow::Result<()> {
        let rate = f64::from(options.capacity) * f64::from(times);
        self.live.begin(format!("round {round} of {}: {rate} requests a second", options.rounds));
        let before = self.tries().await?;
        let (shape, roots) = (&self.ground.workload.main, self.ground.workload.roots);
        let callers: Vec<Calls> = self.clients.iter().map(|client| Calls { client: client.clone(), shape: shape.clone(), roots }).collect();
        let mut turn = 0;
        let call = || {
            turn += 1;
            callers[turn % callers.len()].call()
        };
        let flooded = flood(call, rate, options.deadline, Span::warmed(options.duration), &mut self.live).await?;
        self.drained().await?;
        load.push(&flooded, self.tries().await? - before);
        self.ends.extend(flooded.ends);
        Ok(())
    }

    /// What came to the router so far, and what it sent to workers once more.
    async fn tries(&self) -> anyhow::Result<f64> {
        let page = self.ground.cluster.metrics_page("router").unwrap_or_default();
        Ok(metric(page, "rootward_router_requests_total").await? + metric(page, "rootward_router_retries_total").await?)
    }

    /// Clients that left early don't know when the last of their requests is through.
    async fn drained(&self) -> anyhow::Result<()> {
        let page = self.ground.cluster.metrics_page("p1").unwrap_or_default();
        let deadline = Instant::now() + DRAIN_LIMIT;
        while metric(page, "rootward_worker_in_flight").await? > 0.0 {
            anyhow::ensure!(Instant::now() < deadline, "requests are still under way {DRAIN_LIMIT:?} after the load");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn check(&mut self, before: &Books, over: &Load, options: &OverloadOptions) -> anyhow::Result<Vec<String>> {
        self.live.begin("counting".to_owned());
        let applied = self.ground.gauge.texts("select entry_id::text from entry where kind = 'deposit'").await?;
        let late = self.ends.check(&applied)?;
        self.ground.check(before).await?;
        let expired = self.ends.refused.iter().filter(|(_, code)| *code == EXPIRED).count();
        let mut checks = vec![
            format!("none of {} refused requests has been done, {expired} of them expired", self.ends.refused.len()),
            format!("all {} requests that were answered as done are there, once each", self.ends.done.len()),
        ];
        if !self.ends.unknown.is_empty() {
            checks.push(format!("{} clients left without an answer; {late} of their requests were done", self.ends.unknown.len()));
        }
        checks.extend(["sum unchanged", "no prepared transaction left", "verify: OK"].map(str::to_owned));
        let wanted = f64::from(options.capacity) * f64::from(options.times);
        if over.offered.median() < 0.9 * wanted {
            checks.push(format!("note: this machine offered {:.0} of {wanted} requests a second", over.offered.median()));
        }
        Ok(checks)
    }

    async fn settings(&self, options: &OverloadOptions) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut servers = Vec::new();
        for name in ["fsync", "synchronous_commit", "shared_buffers"] {
            servers.push(format!("{name} {}", self.ground.gauge.setting(name).await?));
        }
        Ok(vec![
            ("cluster", format!("a hub and 1 peer, one router, {ROOTS} roots, analyzed, all on this machine")),
            ("servers", servers.join(", ")),
            ("worker", format!("max_units_per_second = {}, else as it comes", options.capacity)),
            (
                "load",
                format!(
                    "`{}` at random roots at random moments fixed in advance, none waits for another; each has {} for all its tries, latency \
                     from its moment on; first at the capacity, which is the peak, then {} times as much; {} rounds of {}, medians",
                    self.ground.workload.main.transaction,
                    humantime::format_duration(options.deadline),
                    options.times,
                    options.rounds,
                    humantime::format_duration(options.duration),
                ),
            ),
            ("client", format!("the Rust client, {} of them, each with its retry budget and connection", options.connections)),
        ])
    }
}

fn figures(peak: &Load, over: &Load) -> Figures {
    let mut figures = Figures::default();
    figures.add("goodput_ratio", "x", over.goodput.median() / peak.goodput.median());
    figures.add("admitted_p99_us", "us", over.p99_us.clone());
    figures.add("amplification", "x", over.amplification());
    figures.add("goodput_per_s", "tx/s", over.goodput.clone());
    figures.add("offered_per_s", "requests/s", over.offered.clone());
    figures.add("refused_per_s", "requests/s", over.refused.clone());
    figures.add("unknown_per_s", "requests/s", over.unknown.clone());
    figures.add("admitted_p50_us", "us", over.p50_us.clone());
    figures.add("peak_per_s", "tx/s", peak.goodput.clone());
    figures.add("peak_p99_us", "us", peak.p99_us.clone());
    figures.add("peak_refused_per_s", "requests/s", peak.refused.clone());
    figures
}

fn table(figures: &Figures, peak: &Load, over: &Load, times: u32) -> String {
    let us = |series: &Series| output::duration(series.median() as u64);
    let row = |name: String, load: &Load| {
        vec![
            name,
            format!("{:.0}", load.offered.median()),
            format!("{:.0}", load.goodput.median()),
            format!("{:.0} to {:.0}", load.goodput.low(), load.goodput.high()),
            us(&load.p50_us),
            us(&load.p99_us),
            format!("{:.0}", load.refused.median()),
            format!("{:.0}", load.unknown.median()),
        ]
    };
    let rows = [row("the capacity".to_owned(), peak), row(format!("{times} times"), over)];
    let heads = ["LOAD", "OFFERED/S", "IN TIME/S", "(LOW TO HIGH)", "P50", "P99", "REFUSED/S", "UNKNOWN/S"];
    let mut text = output::table(&heads, &rows);
    let said = |is_held: bool| if is_held { "held" } else { "missed" };
    let (ratio, amplification) = (figures.median("goodput_ratio"), figures.median("amplification"));
    text += &format!(
        "\n\ngoodput at {times} times the capacity: {:.1} % of the peak's; goal {:.0} %: {}",
        ratio * 100.0,
        GOODPUT_GOAL * 100.0,
        said(ratio >= GOODPUT_GOAL)
    );
    text += &format!(
        "\ntries a request at {times} times the capacity: {amplification:.3}; goal {AMPLIFICATION_GOAL} at most: {}",
        said(amplification <= AMPLIFICATION_GOAL)
    );
    let rounds = over.goodput.count().max(1) as f64;
    let codes: Vec<String> = over.codes.iter().map(|(code, count)| format!("{code} {:.0}", count / rounds)).collect();
    text + &format!("\nrefused a second, by code: {}", if codes.is_empty() { "none".to_owned() } else { codes.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_compare_the_flood_with_the_peak() {
        let flooded = |in_time, requests| Flooded {
            requests,
            in_time,
            offered: requests,
            refused: [("RW3001", requests - in_time)].into(),
            latencies_us: vec![1_000, 2_000],
            seconds: 2.0,
            ..Flooded::default()
        };
        let (mut peak, mut over) = (Load::default(), Load::default());
        peak.push(&flooded(2_000, 2_000), 2_000.0);
        over.push(&flooded(1_500, 20_000), 23_000.0);
        let figures = figures(&peak, &over);
        let of = |name| figures.median(name);
        assert_eq!((of("goodput_ratio"), of("amplification"), of("admitted_p99_us")), (0.75, 1.15, 2_000.0));
        assert_eq!((of("peak_per_s"), of("goodput_per_s"), of("refused_per_s")), (1_000.0, 750.0, 9_250.0));
        let text = table(&figures, &peak, &over, 10);
        assert!(text.contains("75.0 % of the peak's; goal 80 %: missed"), "{text}");
        assert!(text.contains("1.150; goal 1.1 at most: missed") && text.contains("RW3001 9250"), "{text}");
    }
}
