//! What every benchmark runs on: a cluster of its own with the example bank, accounts on each peer, and PostgreSQL's counters.

use std::{path::Path, sync::Arc, time::Duration};

use rand::RngExt as _;
use rootward_client::{Arguments, Client, v1::ChainFilter};
use rootward_cluster::{Books, EmbeddedCluster, EmbeddedOptions, Gauge, Place, compile_source};
use rootward_schema::{Schema, Source};
use tokio::time::Instant;

use super::machine::Machine;
use crate::bank::{self, Owners};

pub(super) const ACCOUNTS: u64 = 10_000;
/// Sessions beside the clients': lanes, workers, replication, and ours.
const OTHER_SESSIONS: usize = 60;
/// What must stay the same: all money, in cents.
const TOTAL_SQL: &str = "select (coalesce(sum(balance), 0) * 100)::bigint from account";
/// How long chains may be under way after their clients have had their answers: the end is noted lazily.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A running cluster with accounts.
pub(super) struct Ground {
    pub cluster: EmbeddedCluster,
    pub schema: Schema,
    pub client: Client,
    pub roots: Arc<Roots>,
    /// A superuser's connection string for each peer, in the order of `roots`.
    pub databases: Vec<String>,
    pub gauge: Gauge,
}

/// The accounts of each peer.
#[derive(Debug)]
pub(super) struct Roots(Vec<Vec<u64>>);

impl Roots {
    /// Two random accounts on two different peers: the same choice for whoever is measured.
    pub(super) fn pair(&self) -> (Place, Place) {
        let mut random = rand::rng();
        let from = random.random_range(0..self.0.len());
        let to = (from + random.random_range(1..self.0.len())) % self.0.len();
        let mut place = |peer: usize| Place { peer, root: self.0[peer][random.random_range(0..self.0[peer].len())] };
        (place(from), place(to))
    }
}

impl Ground {
    /// Starts the cluster and opens the accounts; `most_clients` sessions of a baseline fit on each server.
    pub(super) async fn start(exe: &Path, peers: u32, most_clients: usize) -> anyhow::Result<Ground> {
        let compiled = compile_source(Source::from_texts(bank::FILES.iter().copied()), exe, None).await?;
        let options = EmbeddedOptions {
            peers,
            worker_settings: String::new(),
            server_settings: vec![
                ("synchronous_commit".to_owned(), "on".to_owned()),
                ("max_connections".to_owned(), (most_clients + OTHER_SESSIONS).to_string()),
                ("max_prepared_transactions".to_owned(), (most_clients + OTHER_SESSIONS).to_string()),
            ],
            ..EmbeddedOptions::new(exe)
        };
        let cluster = EmbeddedCluster::start(options, &compiled).await?;
        let router = cluster.router_address().to_owned();
        let client = Client::connect([&router]).await?;
        client.call("add_currency", Arguments::new().with("code", "EUR").with("name", "Euro").with("minor_digits", 2)).send().await?;
        bank::wait_for_copies(&router).await?;
        let opened = bank::open_accounts(&router, ACCOUNTS).await?;
        anyhow::ensure!(opened == ACCOUNTS, "{ACCOUNTS} accounts were to be opened, not {opened}");
        let owners = Owners::read(&router).await?;
        let ids: Vec<String> = cluster.topology().peer.keys().cloned().collect();
        let of = |id: &String| (1..=ACCOUNTS).filter(|account| owners.of(*account) == Some(id)).collect::<Vec<u64>>();
        let roots = Roots(ids.iter().map(of).collect());
        anyhow::ensure!(roots.0.len() > 1 && roots.0.iter().all(|accounts| !accounts.is_empty()), "each of two peers needs accounts");
        let databases: Vec<String> = ids.iter().map(|id| cluster.database(id)).collect();
        let nodes: Vec<String> = cluster.topology().nodes().map(|(_, node)| node.database.clone()).collect();
        let gauge = Gauge::connect(&nodes).await?;
        gauge.vacuum_analyze().await?;
        Ok(Ground { schema: compiled.schema, client, roots: Arc::new(roots), databases, gauge, cluster })
    }

    /// The books of the moment; nothing may be under way.
    pub(super) async fn books(&self) -> anyhow::Result<Books> {
        // Tables of the bank are on the hub too, and empty there.
        Ok(self.gauge.books(TOTAL_SQL).await?)
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
