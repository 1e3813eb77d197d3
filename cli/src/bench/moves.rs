//! `bench move`: partitions go back and forth between two peers under an open loop of transactions at them. How long those wait at the
//! switch, whether one fails, and how fast rows move beside a plain COPY of the same table.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rootward_client::{Arguments, Client, v1};
use rootward_cluster::run_sql;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Report,
    figures::{Figures, percentile},
    ground::{Ground, Site},
    live::Live,
    open_loop::{pace, schedule},
    workload::Workload,
};
use crate::output;

const GOAL_P50_US: u64 = 50_000;
const GOAL_P99_US: u64 = 200_000;
const GOAL_COPY: f64 = 0.5;
/// How long one move may take.
const MOVE_LIMIT: Duration = Duration::from_secs(600);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct MovesOptions {
    /// How often partitions change their owner.
    pub switches: u32,
    /// How many go at once.
    pub partitions: usize,
    /// Transactions a second, all of them at the partitions that move.
    pub rate: f64,
    /// Rows of the move that is compared with COPY.
    pub rows: u64,
}

/// One transaction: when it was meant, how long it took from then on, and why it failed.
type Asked = (Instant, u64, Option<String>);

/// Measures everything and checks the books.
///
/// # Errors
/// If something can't be started or a move doesn't end; then there are no figures.
pub(crate) async fn run(exe: &Path, options: &MovesOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let site = Site { peers: 2, is_one_server: false, lanes: None, most_clients: 0, server_settings: &[], worker_settings: "" };
    let ground = Ground::start(exe, Workload::bank(), site, &mut live).await?;
    let machine = ground.machine()?;
    let before = ground.books().await?;
    let (partitions, roots) = chosen(&ground, options.partitions).await?;
    let mut figures = Figures::default();
    let (mut stalls, mut helds, mut failures, mut asked) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for number in 0..options.switches {
        live.begin(format!("switch {} of {}", number + 1, options.switches));
        let target = if number % 2 == 0 { "p2" } else { "p1" };
        let (one, all) = under_load(&ground.client, &partitions, target, &roots, options.rate).await?;
        asked += all.len();
        stalls.push(all.iter().map(|(_, latency, _)| *latency).max().unwrap_or_default());
        helds.push(one.held_us);
        failures.extend(all.into_iter().filter_map(|(_, _, failure)| failure));
    }
    stalls.sort_unstable();
    helds.sort_unstable();
    live.begin(format!("a move of {} rows beside COPY", options.rows));
    let (moved, copied) = large(&ground, options.rows).await?;
    live.begin("counting".to_owned());
    ground.check(&before).await?;
    drop(live);
    for (name, all) in [("stall", &stalls), ("held", &helds)] {
        figures.add(format!("move_{name}_p50_us"), "us", percentile(all, 0.5) as f64);
        figures.add(format!("move_{name}_p99_us"), "us", percentile(all, 0.99) as f64);
    }
    figures.add("move_switches", "switches", stalls.len() as f64);
    figures.add("move_requests", "requests", asked as f64);
    figures.add("move_failed_requests", "requests", failures.len() as f64);
    figures.add("move_rows_per_s", "rows/s", moved);
    figures.add("move_copy_rows_per_s", "rows/s", copied);
    figures.add("move_ratio_vs_copy", "x", moved / copied);
    let table = table(&figures, &failures);
    let settings = vec![
        (
            "cluster",
            format!(
                "a hub and 2 peers, each with a PostgreSQL server and a worker of its own, one router, {} accounts",
                ground.workload.roots
            ),
        ),
        ("load", format!("deposits at the accounts of {} partitions that move, {:.0}/s in an open loop", partitions.len(), options.rate)),
    ];
    ground.cluster.stop().await?;
    let checks = vec!["every move's rows were equal on both sides".to_owned(), "sum unchanged".to_owned(), "verify: OK".to_owned()];
    Ok(Report { title: "bench move".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing: None })
}

/// Some partitions of the first peer that have accounts, and these.
async fn chosen(ground: &Ground, count: usize) -> anyhow::Result<(Vec<i32>, Arc<Vec<u64>>)> {
    let sizes = ground.client.partition_sizes().await?.sizes;
    let map = ground.client.partitions().await?;
    let is_first = |partition: i32| {
        let owner = usize::try_from(partition).ok().and_then(|at| map.owners.get(at));
        owner.and_then(|owner| map.peers.get(usize::try_from(*owner).ok()?)).is_some_and(|peer| peer == "p1")
    };
    let partitions: Vec<i32> =
        sizes.iter().filter(|size| size.rows > 0).map(|size| size.partition).filter(|partition| is_first(*partition)).take(count).collect();
    let key_type = &ground.schema.roots["account"].key_type;
    let partition = |root: &u64| rootward_schema::partition_of(key_type, &root.to_string(), ground.schema.partitions).unwrap_or_default();
    let is_moved = |root: &u64| i32::try_from(partition(root)).is_ok_and(|partition| partitions.contains(&partition));
    let roots: Vec<u64> = (1..=ground.workload.roots).filter(is_moved).collect();
    anyhow::ensure!(!roots.is_empty(), "no account lies in the partitions that move");
    Ok((partitions, Arc::new(roots)))
}

/// One move with transactions at its partitions from before it begins until after it has ended.
async fn under_load(
    client: &Client,
    partitions: &[i32],
    target: &str,
    roots: &Arc<Vec<u64>>,
    rate: f64,
) -> anyhow::Result<(v1::Move, Vec<Asked>)> {
    let (tell, mut moments) = mpsc::unbounded_channel();
    let plan = schedule(rate, MOVE_LIMIT, &mut rand::rng());
    let start = Instant::now();
    let pacer = tokio::task::spawn_blocking(move || pace(start, &plan, &tell));
    let carried = carry_out(client, partitions, target);
    tokio::pin!(carried);
    let mut requests = JoinSet::new();
    let mut random = StdRng::from_rng(&mut rand::rng());
    let one = loop {
        tokio::select! {
            one = &mut carried => break one?,
            Some(due) = moments.recv() => {
                let (client, root) = (client.clone(), roots[random.random_range(0..roots.len())]);
                requests.spawn(async move {
                    let deposit = client.call("deposit", Arguments::new().with("account_id", root).with("amount", 0)).send().await;
                    let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    (due, latency, deposit.err().map(|fault| fault.to_string()))
                });
            }
        }
    };
    drop(moments);
    let all = requests.join_all().await;
    pacer.await?;
    Ok((one, all))
}

async fn carry_out(client: &Client, partitions: &[i32], target: &str) -> anyhow::Result<v1::Move> {
    let request =
        v1::MovePartitionsRequest { partitions: partitions.to_vec(), target: target.to_owned(), ..v1::MovePartitionsRequest::default() };
    let begun = client.move_partitions(request).await?;
    let id = begun.moves.first().map(|one| one.id.clone()).unwrap_or_default();
    let deadline = Instant::now() + MOVE_LIMIT;
    loop {
        let request = v1::ListMovesRequest { id: id.clone(), ..v1::ListMovesRequest::default() };
        let one = client.moves(request).await?.moves.pop().unwrap_or_default();
        if one.stage == "done" && one.is_verified {
            return Ok(one);
        }
        anyhow::ensure!(one.ended_at.is_empty() && Instant::now() < deadline, "move {id} is {}: {}", one.stage, one.error);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Rows a second of a move of everything that the first peer has, and of COPY out of its largest table and into another.
async fn large(ground: &Ground, rows: u64) -> anyhow::Result<(f64, f64)> {
    let database = ground.databases.first().map(String::as_str).unwrap_or_default();
    // Entries of nothing, so that the books stay.
    let fill = format!(
        "insert into entry (account_id, entry_id, kind, amount, at) select a.account_id, gen_random_uuid(), 'deposit', 0, now() \
         from generate_series(1, (select {rows} / greatest(count(*), 1) + 1 from account)) cross join account a"
    );
    run_sql(database, &fill).await?;
    let file = ground.cluster.folder().join("p1/data/copied").display().to_string();
    let began = Instant::now();
    run_sql(database, &format!("copy entry to '{file}'")).await?;
    run_sql(database, &format!("create table copied (like entry including all); copy copied from '{file}'")).await?;
    let copy_s = began.elapsed().as_secs_f64();
    let map = ground.client.partitions().await?;
    let first = map.peers.iter().position(|peer| peer == "p1").and_then(|at| u32::try_from(at).ok());
    let partitions: Vec<i32> = (0..).zip(&map.owners).filter(|(_, owner)| Some(**owner) == first).map(|(partition, _)| partition).collect();
    run_sql(database, "drop table copied").await?;
    let accounts = ground.roots.of(0).len() as u64;
    let of_table = (rows / accounts.max(1) + 1) * accounts;
    let one = carry_out(&ground.client, &partitions, "p2").await?;
    Ok((one.rows_total as f64 / one.copy_s, of_table as f64 / copy_s))
}

fn table(figures: &Figures, failures: &[String]) -> String {
    let us = |name: &str| output::duration(figures.median(name) as u64);
    let of = |name: &str| vec![name.to_owned(), us(&format!("move_{name}_p50_us")), us(&format!("move_{name}_p99_us"))];
    let mut text = output::table(&["", "P50", "P99"], &[of("stall"), of("held")]);
    let met = |is_met: bool| if is_met { "met" } else { "missed" };
    text += &format!(
        "\n\n{:.0} switches, {:.0} requests, {:.0} failed{}",
        figures.median("move_switches"),
        figures.median("move_requests"),
        figures.median("move_failed_requests"),
        failures.first().map(|first| format!(", such as {first}")).unwrap_or_default()
    );
    text += &format!(
        "\nstall (the longest wait of any request, from the moment it was meant): goal at the median {} {}, at 99 of 100 {} {}",
        output::duration(GOAL_P50_US),
        met(figures.median("move_stall_p50_us") <= GOAL_P50_US as f64),
        output::duration(GOAL_P99_US),
        met(figures.median("move_stall_p99_us") <= GOAL_P99_US as f64)
    );
    let ratio = figures.median("move_ratio_vs_copy");
    text += &format!(
        "\ncopy: {:.0} rows/s, {ratio:.2} of COPY out of the table and into another ({:.0} rows/s): goal {GOAL_COPY} {}",
        figures.median("move_rows_per_s"),
        figures.median("move_copy_rows_per_s"),
        met(ratio >= GOAL_COPY)
    );
    text
}
