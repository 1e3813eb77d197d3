//! Clusters for tests, and roots on wanted places in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
};

use anyhow::{Context as _, Result};
use rootward_cluster::{Compiled, EmbeddedCluster, EmbeddedOptions, Position, Standbys};
use rootward_proto::v1;
use rootward_schema::{Schema, partition_of};
use uuid::Uuid;

use crate::{client::Client, detour::Detour, reader::Reader, schemas, wait::until};

/// Numbers of roots; no two tests of a process get the same ones.
static NEXT_ROOT: AtomicI64 = AtomicI64::new(1_000);

/// What a cluster is to look like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many peers beside the hub.
    pub peers: u32,
    /// All databases in one server, for tests that kill no server.
    pub is_one_server: bool,
    /// More lines for the workers' settings.
    pub worker_settings: &'static str,
    /// More lines for the router's settings.
    pub router_settings: &'static str,
    /// Where the data stay; a temporary folder if none.
    pub data: Option<PathBuf>,
    /// Whether PostgreSQL flushes: what a kill of processes leaves in the kernel, only a power cut takes.
    pub fsync: bool,
    /// Whether each server has a standby.
    pub standbys: Standbys,
    /// Whose server has one, if any has; every node's if none is named.
    pub standby_nodes: &'static [&'static str],
    /// Regions of peers, by id.
    pub regions: &'static [(&'static str, &'static str)],
    /// Peers that pass reference data on to the others of their region.
    pub relays: &'static [&'static str],
    /// More settings for every PostgreSQL server.
    pub server_settings: Vec<(String, String)>,
    /// Where nodes stand: latitudes and longitudes, by id.
    pub positions: &'static [(&'static str, f64, f64)],
}

impl Shape {
    /// For tests that kill nothing: one server for all.
    pub fn shared() -> Shape {
        Shape {
            peers: 3,
            is_one_server: true,
            worker_settings: "",
            router_settings: "",
            data: None,
            fsync: false,
            standbys: Standbys::None,
            standby_nodes: &[],
            regions: &[],
            relays: &[],
            positions: &[],
            server_settings: Vec::new(),
        }
    }

    /// For destructive tests: a server for each peer.
    pub fn own(peers: u32) -> Shape {
        Shape { peers, is_one_server: false, ..Shape::shared() }
    }
}

/// A running cluster.
pub struct Cluster {
    /// The processes.
    pub embedded: EmbeddedCluster,
    /// The schema that it was started with.
    pub schema: Schema,
    /// By partition: the owner's id at the start.
    owners: Vec<String>,
}

impl Cluster {
    /// Starts a cluster.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn start(exe: &Path, compiled: &Compiled, shape: Shape) -> Result<Cluster> {
        let mut options = EmbeddedOptions::new(exe);
        options.peers = shape.peers;
        options.is_one_server = shape.is_one_server;
        options.worker_settings.push_str(shape.worker_settings);
        // A debug build on a busy machine is slow; only tests of the bound itself are to meet it.
        if !shape.worker_settings.contains("max_queue_ms") {
            options.worker_settings.push_str("max_queue_ms = 60000\n");
        }
        options.router_settings.push_str(shape.router_settings);
        options.data = shape.data;
        options.standbys = shape.standbys;
        options.standby_nodes = shape.standby_nodes.iter().map(|id| (*id).to_owned()).collect();
        options.regions = shape.regions.iter().map(|(id, region)| ((*id).to_owned(), (*region).to_owned())).collect();
        let position =
            |(id, latitude, longitude): &(&str, f64, f64)| ((*id).to_owned(), Position { latitude: *latitude, longitude: *longitude });
        options.positions = shape.positions.iter().map(position).collect();
        options.relays = shape.relays.iter().map(|id| (*id).to_owned()).collect();
        options.server_settings.extend(shape.server_settings);
        if !shape.fsync {
            // Most tests kill processes, not machines: what the kernel has, a killed server's successor finds.
            options.server_settings.push(("fsync".to_owned(), "off".to_owned()));
        }
        let embedded = EmbeddedCluster::start(options, compiled).await?;
        let map = Client::new(embedded.router_address())?.raw().list_partitions(v1::ListPartitionsRequest {}).await?.into_inner();
        let owner = |at: &u32| usize::try_from(*at).ok().and_then(|at| map.peers.get(at)).cloned().context("a partition without an owner");
        let owners = map.owners.iter().map(owner).collect::<Result<_>>()?;
        Ok(Cluster { embedded, schema: compiled.schema.clone(), owners })
    }

    /// The bank with its currency on every peer.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn bank(exe: &Path, shape: Shape) -> Result<Cluster> {
        let cluster = Cluster::start(exe, &schemas::compile_example(exe, "bank").await?, shape).await?;
        let client = cluster.client()?;
        client.settle("add_currency", &[("code", "EUR"), ("name", "euro"), ("minor_digits", "2")], Uuid::now_v7()).await?;
        cluster.wait_for_reference("select count(*) from currency", 1).await?;
        Ok(cluster)
    }

    /// The shop with a catalogue of products 1 to `products` and two warehouses on every peer.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn shop(exe: &Path, shape: Shape) -> Result<Cluster> {
        let cluster = Cluster::start(exe, &schemas::compile_example(exe, "shop").await?, shape).await?;
        let client = cluster.client()?;
        for warehouse in ["main", "second"] {
            client.settle("add_warehouse", &[("warehouse", warehouse)], Uuid::now_v7()).await?;
        }
        cluster.wait_for_reference("select count(*) from warehouse", 2).await?;
        Ok(cluster)
    }

    /// A client of the router. Connections belong to the runtime of the test, so each test makes its own.
    ///
    /// # Errors
    /// If the router's address is no address.
    pub fn client(&self) -> Result<Client> {
        Client::new(self.embedded.router_address())
    }

    /// The independent reader.
    pub fn reader(&self) -> Reader {
        let ids = self.embedded.topology().nodes().map(|(id, _)| id.to_owned());
        Reader::new(ids.map(|id| (id.clone(), self.embedded.database(&id))).collect::<BTreeMap<_, _>>())
    }

    /// The partition of a root.
    pub fn partition_of(&self, entity: &str, root: i64) -> i32 {
        let key_type = &self.schema.roots[entity].key_type;
        let partition = partition_of(key_type, &root.to_string(), self.schema.partitions).expect("a number is a key");
        i32::try_from(partition).expect("few partitions")
    }

    /// The peer that owned a root at the start.
    pub fn owner_of(&self, entity: &str, root: i64) -> &str {
        &self.owners[usize::try_from(self.partition_of(entity, root)).expect("not negative")]
    }

    /// Fresh numbers of roots that live on a peer; with a lane, if one is wanted (there are two).
    pub fn roots_on(&self, entity: &str, peer: &str, lane: Option<i32>, count: usize) -> Vec<i64> {
        let is_there =
            |root: &i64| self.owner_of(entity, *root) == peer && lane.is_none_or(|lane| self.partition_of(entity, *root) % 2 == lane);
        std::iter::repeat_with(|| NEXT_ROOT.fetch_add(1, Ordering::Relaxed)).filter(is_there).take(count).collect()
    }

    /// Opens fresh accounts on a peer, each with this many euros.
    ///
    /// # Errors
    /// If one can't be opened.
    pub async fn open_accounts(&self, client: &Client, peer: &str, count: usize, euros: i64) -> Result<Vec<i64>> {
        let accounts = self.roots_on("account", peer, None, count);
        for account in &accounts {
            self.open_account(client, *account, euros).await?;
        }
        Ok(accounts)
    }

    /// Opens one account.
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn open_account(&self, client: &Client, account: i64, euros: i64) -> Result<()> {
        let (account, euros) = (account.to_string(), euros.to_string());
        client.settle("open_account", &[("account_id", &account), ("owner", "test"), ("amount", &euros)], Uuid::now_v7()).await?;
        Ok(())
    }

    /// Waits until a count on every peer's copy of the reference data is this or more.
    ///
    /// # Errors
    /// If it isn't in time.
    pub async fn wait_for_reference(&self, count: &str, wanted: i64) -> Result<()> {
        let reader = self.reader();
        until(count, async || {
            for peer in reader.peers() {
                let rows = reader.rows(peer, count, &[]).await.ok()?;
                rows.first().filter(|row| row.get::<_, i64>(0) >= wanted)?;
            }
            Some(())
        })
        .await
    }

    /// Starts a worker anew with this environment; returns its term.
    ///
    /// # Errors
    /// If it doesn't serve in time.
    pub async fn restart_worker(&mut self, peer: &str, env: &[(&str, &str)]) -> Result<i64> {
        let before = self.wait_until_serving(peer, 0).await?.term;
        self.embedded.kill_worker(peer).await?;
        self.embedded.start_worker(peer, env).await?;
        Ok(self.wait_until_serving(peer, before).await?.term)
    }

    /// Leads everything that others send to a peer's worker over a way that can be cut. The worker's own connections, to its
    /// PostgreSQL, the hub's and other workers, are not led over it.
    ///
    /// # Errors
    /// If there is no worker, or it doesn't serve in time.
    pub async fn detour(&mut self, peer: &str) -> Result<Detour> {
        let to = self.embedded.worker_address(peer).context("a worker")?.trim_start_matches("http://").to_owned();
        let detour = Detour::to(to).await?;
        self.embedded.advertise(peer, detour.address());
        self.restart_worker(peer, &[]).await?;
        let client = self.client()?;
        until("the worker is known by the other address", async || {
            let peers = client.peers().await.ok()?;
            peers.iter().any(|other| other.id == peer && other.worker_address == detour.address()).then_some(())
        })
        .await?;
        Ok(detour)
    }

    /// Ends the session that holds a peer for its worker, as a cut network would.
    ///
    /// # Errors
    /// If there is none.
    pub async fn cut_off_worker(&self, peer: &str) -> Result<()> {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity a where application_name = 'rootward worker' \
                   and datname = current_database() and exists (select from pg_locks l where l.pid = a.pid and locktype = 'advisory' and granted)";
        let ended: i64 = self.reader().rows(peer, sql, &[]).await?[0].get(0);
        anyhow::ensure!(ended == 1, "{ended} sessions hold {peer}");
        Ok(())
    }

    /// Kills the backends of a peer's lanes with SIGKILL and waits until they are gone.
    ///
    /// # Errors
    /// If they can't be found or don't end.
    pub async fn kill_lane_backends(&self, peer: &str) -> Result<()> {
        let sql = "select pid from pg_stat_activity where usename = 'rootward_lane' and datname = current_database()";
        let pids: Vec<i32> = self.reader().rows(peer, sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        anyhow::ensure!(!pids.is_empty(), "{peer} has no lanes");
        for pid in &pids {
            // One that ended with the others is as dead as it should be.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        let is_gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
        until("the backends are gone", async || pids.iter().all(is_gone).then_some(())).await
    }

    /// Waits until a peer's worker serves again, in a newer term than `after_term`.
    ///
    /// # Errors
    /// If it doesn't in time.
    pub async fn wait_until_serving(&self, peer: &str, after_term: i64) -> Result<v1::PeerStatus> {
        let client = self.client()?;
        until(&format!("{peer} serves in a term after {after_term}"), async || {
            let peers = client.peers().await.ok()?;
            let status = peers.into_iter().find(|other| other.id == peer)?.status?;
            (status.state == "serving" && status.term > after_term).then_some(status)
        })
        .await
    }
}
