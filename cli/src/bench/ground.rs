//! What every benchmark runs on: a cluster of its own with a workload's schema and roots, and PostgreSQL's counters.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::RngExt as _;
use rootward_client::{Client, v1::ChainFilter};
use rootward_cluster::{Books, EmbeddedCluster, EmbeddedOptions, Gauge, Place, compile_source, run_sql};
use rootward_schema::Schema;
use tokio::time::Instant;

use super::{
    live::Live,
    machine::Machine,
    workload::{Setup, Workload},
};
use crate::{
    bank::{self, Owners},
    edge::Wrong,
    load::{self, Tally},
};

/// Sessions beside the clients': lanes, workers, replication, and ours.
const OTHER_SESSIONS: usize = 60;
/// How long chains may be under way after their clients have had their answers: the end is noted lazily.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A running cluster with a workload's roots.
pub(super) struct Ground {
    pub cluster: EmbeddedCluster,
    pub workload: Workload,
    pub schema: Schema,
    pub client: Client,
    pub roots: Arc<Roots>,
    /// A superuser's connection string for each peer, in the order of `roots`.
    pub databases: Vec<String>,
    pub gauge: Gauge,
}

/// The roots of each peer.
#[derive(Debug)]
pub(super) struct Roots(Vec<Vec<u64>>);

impl Roots {
    /// The roots of one peer.
    pub(super) fn of(&self, peer: usize) -> &[u64] {
        self.0.get(peer).map(Vec::as_slice).unwrap_or_default()
    }

    /// Two random roots on two different peers: the same choice for whoever is measured.
    pub(super) fn pair(&self) -> (Place, Place) {
        let mut random = rand::rng();
        let from = random.random_range(0..self.0.len());
        let to = (from + random.random_range(1..self.0.len())) % self.0.len();
        let mut place = |peer: usize| Place { peer, root: self.0[peer][random.random_range(0..self.0[peer].len())] };
        (place(from), place(to))
    }
}

/// What a cluster is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub peers: u32,
    /// Whether all databases lie in one server: many peers take less room so.
    pub is_one_server: bool,
    /// Of each worker; by the number of cores if none.
    pub lanes: Option<u32>,
    /// So many sessions of a baseline fit on each server.
    pub most_clients: usize,
    /// More of PostgreSQL's settings.
    pub server_settings: &'a [(&'a str, &'a str)],
    /// More lines for every worker's settings.
    pub worker_settings: &'a str,
}

impl Ground {
    /// Starts the cluster and makes the roots.
    pub(super) async fn start(exe: &Path, workload: Workload, site: Site<'_>, live: &mut Live) -> anyhow::Result<Ground> {
        live.begin("starting PostgreSQL, workers and a router".to_owned());
        let compiled = compile_source(workload.source(), exe, None).await?;
        let sessions = (site.most_clients + OTHER_SESSIONS).to_string();
        let always = [("synchronous_commit", "on"), ("max_connections", &sessions), ("max_prepared_transactions", &sessions)];
        let options = EmbeddedOptions {
            peers: site.peers,
            is_one_server: site.is_one_server,
            lanes: site.lanes,
            worker_settings: site.worker_settings.to_owned(),
            server_settings: always
                .iter()
                .chain(site.server_settings)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..EmbeddedOptions::new(exe)
        };
        let cluster = EmbeddedCluster::start(options, &compiled).await?;
        live.begin(format!("making {} roots", workload.roots));
        let router = cluster.router_address().to_owned();
        let client = Client::connect([&router]).await?;
        match &workload.setup {
            Some(setup) => set_up(&cluster, &compiled.schema, setup).await?,
            None => fill(&router, &workload).await?,
        }
        let owners = Owners::read(&router).await?;
        let ids: Vec<String> = cluster.topology().peer.keys().cloned().collect();
        let of = |id: &String| (1..=workload.roots).filter(|root| owners.of(*root) == Some(id)).collect::<Vec<u64>>();
        let roots = Roots(ids.iter().map(of).collect());
        anyhow::ensure!(workload.roots == 0 || roots.0.iter().all(|roots| !roots.is_empty()), "a peer has no root");
        let databases: Vec<String> = ids.iter().map(|id| cluster.database(id)).collect();
        let gauge = Ground::gauge(&cluster).await?;
        gauge.vacuum_analyze().await?;
        Ok(Ground { workload, schema: compiled.schema, client, roots: Arc::new(roots), databases, gauge, cluster })
    }

    /// New sessions to all nodes; those to a server that was killed are gone.
    pub(super) async fn gauge(cluster: &EmbeddedCluster) -> anyhow::Result<Gauge> {
        let nodes: Vec<String> = cluster.topology().nodes().map(|(_, node)| node.database.clone()).collect();
        Ok(Gauge::connect(&nodes).await?)
    }

    /// The books of the moment; nothing may be under way.
    pub(super) async fn books(&self) -> anyhow::Result<Books> {
        // Tables of trees are on the hub too, and empty there.
        Ok(self.gauge.books(self.workload.total_sql.unwrap_or("select 0::bigint")).await?)
    }

    /// Compares the books with those before the load, and has everything counted.
    pub(super) async fn check(&self, before: &Books) -> anyhow::Result<()> {
        before.check(&self.books().await?)?;
        let verified = self.client.verify().await?;
        let failed: Vec<&str> = verified.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
        anyhow::ensure!(failed.is_empty(), "`verify` finds something wrong: {}", failed.join(", "));
        Ok(())
    }

    /// Waits until no chain is under way.
    pub(super) async fn wait_for_chains(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        let filter = ChainFilter { statuses: vec!["running".to_owned()], ..ChainFilter::default() };
        loop {
            let running = self.client.list_chains(filter.clone(), 1).await?.running;
            if running == 0 {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{running} chains are still under way {DRAIN_LIMIT:?} after the load");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn machine(&self) -> anyhow::Result<Machine> {
        let server = self.cluster.topology().peer.keys().next().and_then(|id| self.cluster.server(id));
        let version = server.map(|server| server.version().to_string()).unwrap_or_default();
        Ok(Machine::look(self.cluster.folder(), version)?)
    }
}

/// Runs the user's SQL past everything that Rootward checks: what fills reference tables on the hub, the rest on the only peer.
async fn set_up(cluster: &EmbeddedCluster, schema: &Schema, setup: &Setup) -> anyhow::Result<()> {
    let nodes: Vec<String> = cluster.topology().nodes().map(|(_, node)| node.database.clone()).collect();
    let [hub, peer] = nodes.as_slice() else { anyhow::bail!("a hub and one peer are wanted for --setup") };
    let run = async |database: &str, option: &str, sql: &str| {
        run_sql(database, sql).await.map_err(|error| {
            let said = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            Wrong::new("RW1108", format!("the file of {option} fails: {said}"), "it is run as superuser, all of it in one transaction")
        })
    };
    if let Some(sql) = &setup.reference {
        run(hub, "--reference", sql).await?;
        let (hub, peer) = (Gauge::connect(std::slice::from_ref(hub)).await?, Gauge::connect(std::slice::from_ref(peer)).await?);
        let deadline = Instant::now() + DRAIN_LIMIT;
        for table in &schema.reference {
            let count = format!("select count(*) from {}", rootward_schema::quoted(&table.name));
            while peer.total(&count).await? != hub.total(&count).await? {
                anyhow::ensure!(Instant::now() < deadline, "`{}` was not copied to the peer within {DRAIN_LIMIT:?}", table.name);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(run(peer, "--setup", &setup.trees).await?)
}

/// Writes the reference data, and then makes the roots as any client would.
pub(super) async fn fill(router: &str, workload: &Workload) -> anyhow::Result<()> {
    let tally = Arc::new(Tally::default());
    write_reference(router, workload, &tally).await?;
    make_roots(router, workload, &tally).await?;
    let wrong = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (refused, lost) = (wrong(&tally.refused), wrong(&tally.lost));
    anyhow::ensure!(refused + lost == 0, "while data were made, {refused} calls were refused and {lost} not answered");
    Ok(())
}

/// Writes the reference data and waits until every peer has them.
pub(super) async fn write_reference(router: &str, workload: &Workload, tally: &Tally) -> anyhow::Result<()> {
    let client = load::connect(router).await?;
    for (transaction, arguments) in &workload.reference {
        load::run_call(&client, tally, transaction, load::values(arguments)).await;
    }
    bank::wait_for_copies(router).await
}

/// Makes all roots, many at a time.
pub(super) async fn make_roots(router: &str, workload: &Workload, tally: &Arc<Tally>) -> anyhow::Result<()> {
    let client = load::connect(router).await?;
    for step in &workload.fill {
        let (step, client, counted) = (*step, client.clone(), tally.clone());
        load::for_each(workload.roots, bank::OPENING_CLIENTS, move |number| {
            let (client, tally) = (client.clone(), counted.clone());
            async move {
                let (transaction, arguments) = step(number + 1);
                load::run_call(&client, &tally, transaction, load::values(&arguments)).await;
            }
        })
        .await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_always_lies_on_two_peers() {
        let roots = Roots(vec![vec![1, 2], vec![3], vec![4, 5, 6]]);
        for _ in 0..200 {
            let (from, to) = roots.pair();
            assert_ne!(from.peer, to.peer);
            assert!(roots.0[from.peer].contains(&from.root) && roots.0[to.peer].contains(&to.root));
        }
    }
}
