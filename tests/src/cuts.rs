//! A worker that is cut off from one of the others, one way or both, while money is paid in and transferred: packets are dropped, and nobody is
//! told. What was acknowledged is kept, nothing is done twice, and everything goes on when they pass again.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, Shape},
    faults::{check_balances, write},
    network::{Flow, Network, Way},
    wait::until,
};

/// The peer whose worker is cut off; it is the first member of the network, and the other one is the second.
const PEER: &str = "p1";
const OTHER: &str = "p2";
const MEMBER: u32 = 0;
/// Nobody is there.
const SILENT: u32 = 2;
const WRITERS: u64 = 4;
/// What peers without a fault commit while a cut is there.
const COMMITS: usize = 3;
/// Short, so that nobody waits for long.
const SETTINGS: &str = "database_silence_ms = 2000\n";

/// Whom the worker is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The router, and with it the worker of the hub, which asks from the same address.
    Router,
    /// The database of the hub.
    Hub,
    /// The worker of the other peer.
    Worker,
    /// Its own database.
    Database,
}

impl From {
    /// All of them.
    pub const ALL: [From; 4] = [From::Router, From::Hub, From::Worker, From::Database];
}

/// A bank whose workers have networks of their own.
pub struct Cuts {
    // Its processes end before their network does.
    cluster: Cluster,
    network: Network,
    _folder: tempfile::TempDir,
    client: Client,
    accounts: Vec<i64>,
    /// One at each peer, which no writer works on.
    own: BTreeMap<&'static str, i64>,
    expected: BTreeMap<i64, i64>,
}

impl Cuts {
    /// Starts it; none where the machine gives us no networks, which is printed.
    ///
    /// # Errors
    /// Whatever keeps the cluster from serving.
    pub async fn start(exe: &Path) -> Result<Option<Cuts>> {
        let Some(network) = Network::new(3) else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("rw-network-").tempdir()?;
        let access = folder.path().join("pg_hba.conf");
        let everybody = network.everybody();
        let rules = ["local all all trust", "local replication all trust", &format!("host all all {everybody} trust")];
        std::fs::write(&access, rules.join("\n") + "\n")?;
        for (path, mode) in [(folder.path(), 0o711), (&*access, 0o644)] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        let server_settings = vec![
            ("listen_addresses".to_owned(), format!("127.0.0.1,{}", network.outside())),
            ("hba_file".to_owned(), access.display().to_string()),
        ];
        let mut cluster = Cluster::bank(exe, Shape { worker_settings: SETTINGS, server_settings, ..Shape::own(2) }).await?;
        let client = cluster.client()?;
        let mut accounts = Vec::new();
        let mut own = BTreeMap::new();
        for peer in [PEER, OTHER] {
            let mut opened = cluster.open_accounts(&client, peer, 3, 1_000).await?;
            own.insert(peer, opened.pop().context("an account")?);
            accounts.extend(opened);
        }
        network.silence(SILENT);
        for node in ["hub", PEER, OTHER] {
            let port = cluster.embedded.server(node).context("a server")?.port();
            let mut hosts = vec![(network.outside(), port)];
            if node == "hub" {
                // Its old primary's machine is gone, and still the first that everybody tries.
                hosts.insert(0, (network.address(SILENT), port));
            }
            cluster.embedded.reach_postgres(node, hosts);
        }
        for (node, member) in [("hub", None), (PEER, Some(MEMBER)), (OTHER, Some(1))] {
            let term = cluster.wait_until_serving(node, 0).await?.term;
            cluster.embedded.place_worker(node, network.place(member));
            cluster.embedded.kill_worker(node).await?;
            cluster.embedded.start_worker(node, &[]).await?;
            cluster.wait_until_serving(node, term).await?;
        }
        let expected = accounts.iter().chain(own.values()).map(|account| (*account, 100_000)).collect();
        Ok(Some(Cuts { cluster, network, _folder: folder, client, accounts, own, expected }))
    }

    /// One cut under load, until it has been noticed where it must be; then it heals.
    ///
    /// # Errors
    /// The promise that was broken.
    pub async fn run(&mut self, from: From, way: Way, seed: u64) -> Result<u32> {
        let mut random = StdRng::seed_from_u64(seed);
        let (client, accounts) = (self.client.clone(), self.accounts.clone());
        let is_over = AtomicBool::new(false);
        let writers = (0..WRITERS).map(|_| write(&client, &accounts, StdRng::seed_from_u64(random.random()), &is_over));
        let cut = async {
            let done = self.strike(from, way).await;
            is_over.store(true, Ordering::Relaxed);
            done
        };
        let (written, struck) = tokio::join!(join_all(writers), cut);
        let mut gained = struck.with_context(|| format!("{way:?} of {from:?}"))?;
        let mut requests = 0;
        for part in written {
            let (gains, count) = part.with_context(|| format!("{way:?} of {from:?}"))?;
            requests += count;
            gains.into_iter().for_each(|(account, cents)| *gained.entry(account).or_default() += cents);
        }
        gained.into_iter().for_each(|(account, cents)| *self.expected.entry(account).or_default() += cents);
        check_balances(&self.cluster, &self.expected).await.with_context(|| format!("{way:?} of {from:?}"))?;
        Ok(requests)
    }

    /// Cuts, sees that it is noticed and that the others go on, and heals. Returns what was paid in, in cents.
    async fn strike(&self, from: From, way: Way) -> Result<BTreeMap<i64, i64>> {
        let term = self.cluster.wait_until_serving(PEER, 0).await?.term;
        self.network.cut(MEMBER, &self.flow(from)?, way);
        let noticed = self.notice(from).await;
        self.network.heal(MEMBER);
        let gained = noticed?;
        let after = if from == From::Database { term } else { 0 };
        let status = self.cluster.wait_until_serving(PEER, after).await?;
        anyhow::ensure!(from == From::Database || status.term == term, "the term has ended: {} is not {term}", status.term);
        Ok(gained)
    }

    fn flow(&self, from: From) -> Result<Flow> {
        let address = self.cluster.embedded.worker_address(PEER).context("a worker")?;
        let own_port = Some(address.rsplit(':').next().context("a port")?.parse()?);
        let port_of = |node: &str| self.cluster.embedded.server(node).map(rootward_cluster::Server::port);
        let outside = self.network.outside();
        Ok(match from {
            From::Router => Flow { with: outside, their_port: None, own_port },
            From::Hub => Flow { with: outside, their_port: port_of("hub"), own_port: None },
            From::Worker => Flow { with: self.network.address(1), their_port: None, own_port: None },
            From::Database => Flow { with: outside, their_port: port_of(PEER), own_port: None },
        })
    }

    /// Waits until both ends know what they can know, and pays in where that must be possible.
    async fn notice(&self, from: From) -> Result<BTreeMap<i64, i64>> {
        let reader = self.cluster.reader();
        let sessions = async |node: &str, what: &str| {
            let sql = format!("select 1 from pg_stat_activity a where client_addr = '{}' and {what}", self.network.address(MEMBER));
            until(&format!("{node} has given up half-open connections"), async || {
                reader.rows(node, &sql, &[]).await.ok().filter(|rows| rows.is_empty())
            })
            .await
        };
        match from {
            // The hub's server gives up the connection over which nothing comes, and the worker goes on without it.
            From::Hub => {
                sessions("hub", "application_name like 'rootward%'").await?;
            }
            // The server lets go of the peer, so that another worker could have it; and the worker knows that it serves no more.
            From::Database => {
                sessions(PEER, "application_name in ('rootward worker', 'rootward lane')").await?;
                until("the worker serves no more", async || {
                    let peers = self.client.peers().await.ok()?;
                    let status = peers.into_iter().find(|peer| peer.id == PEER)?.status?;
                    (status.state != "serving").then_some(())
                })
                .await?;
            }
            From::Router => {
                until("the router knows of it", async || {
                    let peers = self.client.peers().await.ok()?;
                    peers.into_iter().find(|peer| peer.id == PEER)?.status.is_none().then_some(())
                })
                .await?;
            }
            From::Worker => {}
        }
        let mut gained = BTreeMap::new();
        for (peer, account) in &self.own {
            if *peer == PEER && matches!(from, From::Router | From::Database) {
                continue;
            }
            for _ in 0..COMMITS {
                let given = [("account_id", &*account.to_string()), ("amount", "1")];
                let paid = self.client.settle("deposit", &given, Uuid::now_v7()).await;
                paid.map_err(|fault| anyhow::anyhow!("account {account} of {peer}, which is not cut off: {fault}"))?;
                *gained.entry(*account).or_default() += 100;
            }
        }
        Ok(gained)
    }
}
