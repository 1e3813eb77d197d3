//! `bench journal`: what a journal costs beside the same cluster without one, what stored outcomes cost beside a cluster without them, and how
//! soon a subscriber has what took effect.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rootward_client::{
    Client,
    v1::{RetryClass, SubscribeRequest},
};

use super::{
    Report,
    callers::Calls,
    closed_loop::{Caller, End, Span, closed_loop},
    figures::{Figures, percentile},
    ground::{Ground, Site},
    live::Live,
    meter::Meter,
    open_loop::open_loop,
    rounds::Rounds,
    workload::Workload,
};
use crate::output;

/// No checkpoint in the middle of a round.
const SERVER_SETTINGS: &[(&str, &str)] = &[("max_wal_size", "4GB"), ("checkpoint_timeout", "30min"), ("shared_buffers", "256MB")];
/// What should hold: throughput with a journal against without, with stored outcomes against without, and how soon a subscriber has an event.
const RATIO_GOAL: f64 = 0.85;
const OUTCOMES_RATIO_GOAL: f64 = 0.9;
/// How a worker is told to store no outcomes of calls. A control for this measurement: whoever repeats a call at it takes effect twice.
const WITHOUT_OUTCOMES: &[(&str, &str)] = &[("ROOTWARD_FAIL_POINT", "without_outcomes=control")];
const P50_GOAL_US: f64 = 10_000.0;
/// Clients of the load that is subscribed to.
const EVENT_CLIENTS: usize = 128;
/// How long the subscriber may need behind the last answer.
const CATCH_UP: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Debug)]
pub(crate) struct JournalOptions {
    pub clients: usize,
    /// Transactions a second while a subscriber reads.
    pub rate: f64,
    pub duration: Duration,
    pub rounds: u32,
}

/// When each request was answered, and when its event came.
#[derive(Debug, Default)]
struct Arrivals {
    /// What has only come to one of both: the moment, and whether it is the event.
    open: HashMap<String, (Instant, bool)>,
    /// From the answer to the event, in microseconds; 0 if the event was first.
    latencies_us: Vec<u64>,
}

impl Arrivals {
    fn came(&mut self, id: String, is_event: bool) {
        let now = Instant::now();
        match self.open.remove(&id) {
            Some((answered, false)) if is_event => {
                self.latencies_us.push(u64::try_from((now - answered).as_micros()).unwrap_or(u64::MAX));
            }
            Some((_, true)) if !is_event => self.latencies_us.push(0),
            // An event that comes again.
            Some(known) => drop(self.open.insert(id, known)),
            None => drop(self.open.insert(id, (now, is_event))),
        }
    }
}

type Shared = Arc<Mutex<Arrivals>>;

fn lock(arrivals: &Shared) -> std::sync::MutexGuard<'_, Arrivals> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A deposit whose answer is noted.
struct Noted {
    calls: Calls,
    arrivals: Shared,
}

impl Caller for Noted {
    async fn once(&mut self) -> anyhow::Result<End> {
        match self.calls.call()?.send().await {
            Ok(answer) => {
                lock(&self.arrivals).came(answer.request_id, false);
                Ok(End::Done)
            }
            Err(fault) if fault.retry_class() == RetryClass::Refused => Ok(End::Refused),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Measures both and checks that each effect came as an event.
///
/// # Errors
/// If something can't be started, a request fails, or a check does not hold: then there are no figures.
pub(crate) async fn run(exe: &Path, options: &JournalOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let site = Site { peers: 1, is_one_server: false, lanes: None, most_clients: 0, server_settings: SERVER_SETTINGS, worker_settings: "" };
    let plain = Ground::start(exe, Workload::bank(), site, &mut live).await?;
    let journaled = Ground::start(exe, Workload::bank_with_journal(), site, &mut live).await?;
    let bare = without_outcomes(Ground::start(exe, Workload::bank(), site, &mut live).await?).await?;
    let machine = plain.machine()?;
    let before = journaled.books().await?;
    let stored_before = bare.gauge.total(OUTCOMES).await?;
    let mut figures = Figures::default();
    let span = Span::warmed(options.duration);
    let (mut with, mut without, mut without_any) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=options.rounds {
        let mut sides = [
            (&plain, &mut without, "without a journal"),
            (&journaled, &mut with, "with a journal"),
            (&bare, &mut without_any, "without outcomes"),
        ];
        sides.rotate_left(usize::try_from(round).unwrap_or_default() % 3);
        for (ground, rounds, what) in sides {
            live.begin(format!("round {round} of {}: {what}, {} clients", options.rounds, options.clients));
            let client = Client::connect([ground.cluster.router_address()]).await?;
            let callers = (0..options.clients).map(|_| calls(&client, ground)).collect();
            rounds.push(&closed_loop(callers, span, &mut live).await?);
        }
    }
    figures.add("journal_throughput_ratio", "x", with.per_second.median() / without.per_second.median());
    figures.add("journal_tps", "tx/s", with.per_second);
    figures.add("outcomes_ratio", "x", without.per_second.median() / without_any.per_second.median());
    figures.add("plain_tps", "tx/s", without.per_second);
    figures.add("without_outcomes_tps", "tx/s", without_any.per_second);
    anyhow::ensure!(bare.gauge.total(OUTCOMES).await? == stored_before, "the cluster without outcomes has stored some");
    bare.cluster.stop().await?;
    plain.cluster.stop().await?;
    let events = subscribe(&journaled, options, &mut figures, &mut live).await?;
    live.begin("counting".to_owned());
    journaled.check(&before).await?;
    let checks = vec![format!("each of {events} effects came as an event"), "sum unchanged".to_owned(), "verify: OK".to_owned()];
    let (table, settings) = (table(&figures, options), settings(options));
    drop(live);
    journaled.cluster.stop().await?;
    Ok(Report { title: "bench journal".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

/// All outcomes that are stored.
const OUTCOMES: &str = "select count(*)::bigint from rootward.outcome";

/// Starts the workers anew, so that they store no outcomes of calls.
async fn without_outcomes(mut ground: Ground) -> anyhow::Result<Ground> {
    let ids: Vec<String> = ground.cluster.topology().peer.keys().cloned().collect();
    for id in &ids {
        ground.cluster.drain_worker(id).await?;
        ground.cluster.start_worker(id, WITHOUT_OUTCOMES).await?;
    }
    ground.cluster.wait_until_serving(&ids).await?;
    Ok(ground)
}

fn calls(client: &Client, ground: &Ground) -> Calls {
    Calls { client: client.clone(), shape: ground.workload.main.clone(), roots: ground.workload.roots }
}

/// A load at a fixed rate, and a subscriber that reads what takes effect; how many events there were.
async fn subscribe(ground: &Ground, options: &JournalOptions, figures: &mut Figures, live: &mut Live) -> anyhow::Result<u64> {
    let arrivals = Shared::default();
    let client = Client::connect([ground.cluster.router_address()]).await?;
    let subscriber = Client::connect([ground.cluster.router_address()]).await?;
    let mut subscription = subscriber.subscribe(SubscribeRequest { entity: "account".to_owned(), ..SubscribeRequest::default() });
    let noted = arrivals.clone();
    let read = async move {
        loop {
            for event in subscription.next().await?.events {
                lock(&noted).came(event.request_id, true);
            }
        }
        #[allow(unreachable_code)] // says what it fails with
        anyhow::Ok(())
    };
    live.begin(format!("{} transactions a second, subscribed to", options.rate));
    let meter = Meter::of(&ground.cluster);
    let memory_before = meter.memory_mib();
    let callers = (0..EVENT_CLIENTS).map(|_| Noted { calls: calls(&client, ground), arrivals: arrivals.clone() }).collect();
    let load = async {
        // Who subscribes from now on is told of what comes after the journals' heads were read.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sample = open_loop(callers, options.rate, Span { warm: Duration::ZERO, measured: options.duration }, live).await?;
        let deadline = Instant::now() + CATCH_UP;
        while lock(&arrivals).open.values().any(|(_, is_event)| !is_event) {
            anyhow::ensure!(Instant::now() < deadline, "{} effects did not come as events within {CATCH_UP:?}", lock(&arrivals).open.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(sample)
    };
    let sample = tokio::select! {
        sample = load => sample?,
        ended = read => {
            ended?;
            anyhow::bail!("the subscription ended")
        }
    };
    let memory_after = meter.memory_mib();
    let mut latencies = std::mem::take(&mut lock(&arrivals).latencies_us);
    latencies.sort_unstable();
    anyhow::ensure!(latencies.len() as u64 >= sample.done, "{} effects, and {} events", sample.done, latencies.len());
    figures.add("events_per_s", "events/s", sample.per_second());
    figures.add("event_p50_us", "us", percentile(&latencies, 0.5) as f64);
    figures.add("event_p99_us", "us", percentile(&latencies, 0.99) as f64);
    figures.add("event_router_growth_mib", "MiB", memory_after.0 - memory_before.0);
    figures.add("event_worker_growth_mib", "MiB", memory_after.1 - memory_before.1);
    Ok(latencies.len() as u64)
}

fn settings(options: &JournalOptions) -> Vec<(&'static str, String)> {
    vec![
        (
            "clusters",
            "three alike, one with `journal = true` for accounts, and one whose workers store no outcomes, so that a repeated call would take \
             effect again: a hub and a peer, each with a PostgreSQL server and a worker, and a router"
                .to_owned(),
        ),
        (
            "load",
            format!(
                "deposits at random accounts; closed loop, {} clients, the clusters in turns, {} rounds of {}, medians; then {} a second, subscribed to",
                options.clients,
                options.rounds,
                humantime::format_duration(options.duration),
                options.rate
            ),
        ),
        ("events", "latency from a client's answer to its event at another client of the same process; 0 if the event is first".to_owned()),
    ]
}

fn table(figures: &Figures, options: &JournalOptions) -> String {
    let met = |is_met: bool| if is_met { "met" } else { "missed" };
    let ratio = figures.median("journal_throughput_ratio");
    let outcomes = figures.median("outcomes_ratio");
    let p50 = figures.median("event_p50_us");
    format!(
        "{} clients: {:.0} tx/s with a journal, {:.0} without: {ratio:.3} of it; goal {RATIO_GOAL} {}\n\
         {:.0} tx/s if no outcomes are stored: with them {outcomes:.3} of it; goal {OUTCOMES_RATIO_GOAL} {}\n\
         {:.0} events/s: {} (p50), {} (p99) behind the answer; goal {} at the median {}\n\
         memory grew meanwhile by {:+.1} MiB (router) and {:+.1} MiB (worker)",
        options.clients,
        figures.median("journal_tps"),
        figures.median("plain_tps"),
        met(ratio >= RATIO_GOAL),
        figures.median("without_outcomes_tps"),
        met(outcomes >= OUTCOMES_RATIO_GOAL),
        figures.median("events_per_s"),
        output::duration(p50 as u64),
        output::duration(figures.median("event_p99_us") as u64),
        output::duration(P50_GOAL_US as u64),
        met(p50 <= P50_GOAL_US),
        figures.median("event_router_growth_mib"),
        figures.median("event_worker_growth_mib"),
    )
}
