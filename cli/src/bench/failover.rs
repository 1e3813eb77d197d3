//! `bench failover`: the primary of a peer is killed under load, its standby promoted, and transactions run again.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rootward_client::{Arguments, Client};
use rootward_cluster::{EmbeddedCluster, EmbeddedOptions, Standbys, compile_source};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Report, figures::Figures, live::Live, machine::Machine, workload::Workload};

/// What should hold: from the promotion to the first transaction that is answered.
const GOAL_S: f64 = 2.0;
/// The peer whose PostgreSQL is lost.
const PEER: &str = "p1";
/// How long a request is sent again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the load runs before the primary is killed, and how many answers are waited for after it.
const WARM: Duration = Duration::from_secs(1);
const ANSWERS: u64 = 50;

/// What the command line says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailoverOptions {
    pub clients: usize,
    pub rounds: u32,
}

/// What clients have seen.
#[derive(Debug, Default)]
struct Seen {
    is_over: AtomicBool,
    answered: AtomicU64,
    /// The beginning and the end of the first request that began after the mark.
    mark: Mutex<Option<Instant>>,
    first: Mutex<Option<Instant>>,
    failure: Mutex<Option<String>>,
}

/// Measures and checks that nothing but what the promoted standby never had is missing.
///
/// # Errors
/// If something can't be started, a request fails, or `verify` does not agree: then there are no figures.
pub(crate) async fn run(exe: &Path, options: FailoverOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    live.begin("starting PostgreSQL with a standby for each, workers and a router".to_owned());
    let workload = Workload::bank();
    let compiled = compile_source(workload.source(), exe, None).await?;
    let embedded = EmbeddedOptions { peers: 1, standbys: Standbys::Asynchronous, ..EmbeddedOptions::new(exe) };
    let mut cluster = EmbeddedCluster::start(embedded, &compiled).await?;
    let version = cluster.server(PEER).map(|server| server.version().to_string()).unwrap_or_default();
    let machine = Machine::look(cluster.folder(), version)?;
    let client = Client::connect([cluster.router_address()]).await?.with_deadline(PATIENCE);
    client
        .call("add_currency", Arguments::new().with("code", "EUR").with("name", "euro").with("minor_digits", 2))
        .wait_for_all_peers()
        .send()
        .await?;
    for account in 1..=options.clients {
        let open = Arguments::new().with("account_id", account as u64).with("owner", "bench").with("amount", 1_000);
        client.call("open_account", open).send().await?;
    }
    let mut figures = Figures::default();
    let (mut promotes, mut firsts, mut totals, mut lost) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 1..=options.rounds {
        live.begin(format!("failover {round} of {}", options.rounds));
        let seen = Arc::<Seen>::default();
        let mut load = JoinSet::new();
        for account in 1..=options.clients {
            load.spawn(deposits(client.clone(), account as u64, seen.clone()));
        }
        tokio::time::sleep(WARM).await;
        let killed = Instant::now();
        cluster.kill_postgres(PEER).await?;
        let asked = Instant::now();
        cluster.promote(PEER).await?;
        let promoted = Instant::now();
        *seen.mark.lock().unwrap_or_else(PoisonError::into_inner) = Some(promoted);
        let wanted = seen.answered.load(Ordering::Relaxed) + ANSWERS;
        while seen.answered.load(Ordering::Relaxed) < wanted {
            anyhow::ensure!(promoted.elapsed() < PATIENCE, "no transactions within {PATIENCE:?} of the promotion");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen.is_over.store(true, Ordering::Relaxed);
        load.join_all().await;
        if let Some(failure) = seen.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            anyhow::bail!("a request failed: {failure}");
        }
        let first = seen.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let first = first.ok_or_else(|| anyhow::anyhow!("no answer was noted"))?;
        promotes.push((promoted - asked).as_secs_f64());
        firsts.push(first.saturating_duration_since(promoted).as_secs_f64());
        totals.push(first.saturating_duration_since(killed).as_secs_f64());
        let peers = client.peers().await?.peers;
        let promotion = peers.into_iter().find(|peer| peer.id == PEER).and_then(|peer| peer.status?.promotion);
        let promotion = promotion.ok_or_else(|| anyhow::anyhow!("the worker saw no promotion"))?;
        anyhow::ensure!(promotion.checked.is_some(), "the worker could not say what was lost");
        lost += promotion.lost;
        // A standby for the next round; the worker learns of its address when it is started.
        cluster.replace_primary(PEER).await?;
        cluster.kill_worker(PEER).await?;
        cluster.start_worker(PEER, &[]).await?;
        cluster.wait_until_serving(&[PEER.to_owned()]).await?;
    }
    live.begin("counting".to_owned());
    let verified = client.verify().await?;
    anyhow::ensure!(verified.is_ok, "verify does not agree: {:?}", verified.checks);
    drop(live);
    cluster.stop().await?;
    for (name, unit, values) in
        [("failover_after_promotion_s", "s", &firsts), ("failover_promotion_s", "s", &promotes), ("failover_after_loss_s", "s", &totals)]
    {
        let mut series = super::figures::Series::default();
        values.iter().for_each(|value| series.push(*value));
        figures.add(name, unit, series);
    }
    figures.add("failover_lost", "transactions", lost as f64);
    let table = table(&figures);
    let settings = vec![
        ("cluster", "a hub and a peer, each with a PostgreSQL server, an asynchronous standby and a worker, and a router".to_owned()),
        ("load", format!("deposits, closed loop, {} clients, each request sent again until it is answered", options.clients)),
        ("failover", format!("kill -9 of the primary, pg_promote at the standby; {} rounds, medians", options.rounds)),
    ];
    let checks = vec!["no request failed".to_owned(), "verify: OK".to_owned()];
    Ok(Report { title: "bench failover".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

/// Deposits until it is over; notes the first answer behind the mark.
async fn deposits(client: Client, account: u64, seen: Arc<Seen>) {
    while !seen.is_over.load(Ordering::Relaxed) {
        let call = client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).with_request_id(Uuid::now_v7());
        if let Err(fault) = call.send().await {
            *seen.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.to_string());
            return;
        }
        seen.answered.fetch_add(1, Ordering::Relaxed);
        // Read behind the answer: one that came just before the promotion is none of it.
        let is_after = seen.mark.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_after {
            seen.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
    }
}

fn table(figures: &Figures) -> String {
    let after = figures.median("failover_after_promotion_s");
    format!(
        "{after:.2} s from the promotion to the first answer; goal {GOAL_S} s {}\n\
         {:.2} s for the promotion itself, {:.2} s from the kill to the first answer\n\
         {:.0} acknowledged transactions were not on the standbys, which were asynchronous, and were told",
        if after <= GOAL_S { "met" } else { "missed" },
        figures.median("failover_promotion_s"),
        figures.median("failover_after_loss_s"),
        figures.median("failover_lost"),
    )
}
