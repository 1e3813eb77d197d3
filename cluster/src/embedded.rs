//! A whole cluster on this machine, each part a real process of its own: PostgreSQL servers, workers, a router.

mod elsewhere;
mod routers;
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use rootward_proto::v1::{self, rootward_client::RootwardClient};
use tokio::time::Instant;

pub use self::elsewhere::Elsewhere;
use self::routers::AnotherRouter;
use self::{
    elsewhere::Places,
    servers::{start_replicas, start_servers, topology},
};
use crate::{
    Child, Compiled, DeployError, Launcher, Position, ProcessError, Server, ServerConfig, ServerError, Shutdown, Spawn, Topology, deploy,
    topology::HUB,
};

/// How long a worker or router may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long the whole cluster may take to serve.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(12);

/// The router's name among the nodes'.
const ROUTER: &str = "router";

/// Where a process listens.
struct Reported {
    address: String,
    page: String,
}

/// Whether each node's PostgreSQL has a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standbys {
    /// No.
    #[default]
    None,
    /// One that commits don't wait for.
    Asynchronous,
    /// One that commits wait for, as workers declare it.
    Synchronous,
}

/// What an embedded cluster is to be.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The program `rootward`.
    pub exe: PathBuf,
    /// Where the data stay; a temporary folder if none.
    pub data: Option<PathBuf>,
    /// How many peers beside the hub.
    pub peers: u32,
    /// Where the router listens; a free port if none.
    pub listen: Option<SocketAddr>,
    /// How many lanes each worker has; by the number of cores if none.
    pub lanes: Option<u32>,
    /// Whether all databases lie in one PostgreSQL server, which starts faster and can't be killed one by one.
    pub is_one_server: bool,
    /// Whether each node's PostgreSQL has a standby.
    pub standbys: Standbys,
    /// Whose PostgreSQL has one, if any has; every node's if none is named.
    pub standby_nodes: BTreeSet<String>,
    /// More lines for every worker's settings.
    pub worker_settings: String,
    /// More lines for the router's settings.
    pub router_settings: String,
    /// More settings for every PostgreSQL server.
    pub server_settings: Vec<(String, String)>,
    /// Where nodes stand, by id.
    pub positions: BTreeMap<String, Position>,
    /// The regions of nodes, by id.
    pub regions: BTreeMap<String, String>,
    /// The nodes that pass reference data on to the others of their region.
    pub relays: BTreeSet<String>,
}

impl EmbeddedOptions {
    /// Whether this node's PostgreSQL is to have a standby, if any has one.
    fn has_standby(&self, id: &str) -> bool {
        self.standby_nodes.is_empty() || self.standby_nodes.contains(id)
    }

    /// Three peers, each a server of its own, in a temporary folder, with ad-hoc SQL allowed.
    pub fn new(exe: impl Into<PathBuf>) -> EmbeddedOptions {
        EmbeddedOptions {
            exe: exe.into(),
            data: None,
            peers: 3,
            listen: None,
            lanes: None,
            is_one_server: false,
            standbys: Standbys::None,
            standby_nodes: BTreeSet::new(),
            worker_settings: "allow_ad_hoc_sql = true\n".to_owned(),
            router_settings: String::new(),
            server_settings: Vec::new(),
            positions: BTreeMap::new(),
            regions: BTreeMap::new(),
            relays: BTreeSet::new(),
        }
    }
}

/// Why the cluster did not start, or a part of it did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A PostgreSQL server.
    #[error("PostgreSQL")]
    Server(#[from] ServerError),
    /// A process.
    #[error("a process")]
    Process(#[from] ProcessError),
    /// The schema could not be applied.
    #[error("the schema could not be applied")]
    Deploy(#[from] DeployError),
    /// A file could not be written or read.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part did not come up.
    #[error("{what} did not come up within {limit:?}; see {log}")]
    NotUp {
        /// Which part.
        what: String,
        /// How long was waited.
        limit: Duration,
        /// Where it says why.
        log: PathBuf,
    },
    /// There is no such node.
    #[error("there is no node `{0}`")]
    NoNode(String),
}

type Result<T> = std::result::Result<T, EmbeddedError>;

/// A running cluster. Dropping it ends every process of it, and removes its folder if that is temporary.
#[derive(Debug)]
pub struct EmbeddedCluster {
    // The order is the order of dropping: the router first, PostgreSQL last.
    router: Option<Child>,
    /// Beside it.
    routers: Vec<AnotherRouter>,
    workers: BTreeMap<String, Child>,
    standbys: Vec<Child>,
    servers: BTreeMap<String, Server>,
    /// What follows them; once it is promoted, it is the primary.
    replicas: BTreeMap<String, Server>,
    launcher: Launcher,
    options: EmbeddedOptions,
    topology: Topology,
    addresses: BTreeMap<String, String>,
    /// What workers tell others instead of where they listen.
    advertised: BTreeMap<String, String>,
    /// What is not where the rest is.
    places: Places,
    /// Where Prometheus reads, by node; the router's under its own name.
    pages: BTreeMap<String, String>,
    router_address: String,
}

impl EmbeddedCluster {
    /// Starts servers, applies the schema, starts workers and a router, and waits until all of them serve.
    ///
    /// # Errors
    /// [`EmbeddedError`]; everything that was started is ended again.
    pub async fn start(options: EmbeddedOptions, compiled: &Compiled) -> Result<EmbeddedCluster> {
        let launcher = match &options.data {
            Some(folder) => Launcher::kept(&options.exe, folder)?,
            None => Launcher::temporary(&options.exe)?,
        };
        let ids: Vec<String> = std::iter::once(HUB.to_owned()).chain((1..=options.peers).map(|number| format!("p{number}"))).collect();
        let servers = start_servers(&launcher, &options, &ids).await?;
        let replicas = start_replicas(&servers, &options).await?;
        let topology = topology(&compiled.schema.name, &servers, &replicas, &ids, &options);
        deploy(&topology, &compiled.source, &compiled.schema).await?;
        let mut cluster = EmbeddedCluster {
            router: None,
            routers: Vec::new(),
            workers: BTreeMap::new(),
            standbys: Vec::new(),
            servers,
            replicas,
            launcher,
            options,
            topology,
            addresses: BTreeMap::new(),
            advertised: BTreeMap::new(),
            places: Places::default(),
            pages: BTreeMap::new(),
            router_address: String::new(),
        };
        for id in &ids {
            let child = cluster.spawn_worker(id, &[], "").await?;
            cluster.workers.insert(id.clone(), child);
        }
        for id in &ids {
            cluster.worker_listens(id).await?;
        }
        cluster.start_router().await?;
        cluster.wait_until_serving(&ids).await?;
        Ok(cluster)
    }

    /// Where the router listens, such as `http://127.0.0.1:7400`.
    pub fn router_address(&self) -> &str {
        &self.router_address
    }

    /// Where Prometheus reads what the worker of a node measures, or the router (`router`).
    pub fn metrics_page(&self, of: &str) -> Option<&str> {
        self.pages.get(of).map(String::as_str)
    }

    /// Where the worker of a node listens.
    pub fn worker_address(&self, id: &str) -> Option<&str> {
        self.addresses.get(id).map(String::as_str)
    }

    /// The nodes with their databases.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The PostgreSQL server of a node.
    pub fn server(&self, id: &str) -> Option<&Server> {
        self.servers.get(id).or_else(|| self.servers.get("all"))
    }

    /// A superuser's connection string for a node's database.
    pub fn database(&self, id: &str) -> String {
        self.topology.nodes().find(|(other, _)| *other == id).map(|(_, node)| node.database.clone()).unwrap_or_default()
    }

    /// The process id of a node's worker, if it runs.
    pub fn worker_pid(&self, id: &str) -> Option<u32> {
        self.workers.get(id).map(Child::pid)
    }

    /// The process id of the router, if it runs.
    pub fn router_pid(&self) -> Option<u32> {
        self.router.as_ref().map(Child::pid)
    }

    /// What the cluster's processes were started with, for more beside them.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// The folder with data, settings and logs.
    pub fn folder(&self) -> &Path {
        self.launcher.folder().path()
    }

    /// Ends a node's worker at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not run.
    pub async fn kill_worker(&mut self, id: &str) -> Result<()> {
        let child = self.workers.remove(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        child.kill_hard()?;
        child.wait().await;
        Ok(())
    }

    /// Adds a peer with a server of its own: sets it up as `peer add` does, and starts its worker. It has no partitions yet.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not serve in time.
    pub async fn add_peer(&mut self, id: &str, compiled: &Compiled) -> Result<()> {
        let config = ServerConfig::new(id).database(id);
        let config = self.options.server_settings.iter().fold(config, |config, (name, value)| config.setting(name, value));
        let server = Server::start(&self.launcher, config).await?;
        self.servers.insert(id.to_owned(), server);
        let node = topology("", &self.servers, &self.replicas, &[id.to_owned()], &self.options).peer.remove(id);
        self.topology.peer.extend(node.map(|node| (id.to_owned(), node)));
        deploy(&self.topology, &compiled.source, &compiled.schema).await?;
        self.start_worker(id, &[]).await?;
        self.wait_until_serving(&[id.to_owned()]).await
    }

    /// Waits until a node's worker has ended by itself.
    pub async fn wait_for_worker_end(&mut self, id: &str) {
        if let Some(child) = self.workers.remove(id) {
            child.wait().await;
        }
    }

    /// Sends a signal to a node's worker.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not run.
    pub fn signal_worker(&self, id: &str, signal: Signal) -> Result<()> {
        let child = self.workers.get(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(child.signal(signal)?)
    }

    /// Starts a node's worker where it listened before; `env` arms its fail points.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not listen in time.
    pub async fn start_worker(&mut self, id: &str, env: &[(&str, &str)]) -> Result<()> {
        let child = self.spawn_worker(id, env, "").await?;
        self.workers.insert(id.to_owned(), child);
        self.worker_listens(id).await?;
        Ok(())
    }

    /// From its next start on, a node's worker tells others this address and listens where it listened before: what lies between may
    /// be a network that can be cut.
    pub fn advertise(&mut self, id: &str, address: String) {
        self.advertised.insert(id.to_owned(), address);
    }

    /// Starts a second worker for a node, on a port of its own. It waits as a standby. Returns its address.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not listen in time.
    pub async fn start_standby(&mut self, id: &str) -> Result<String> {
        let child = self.spawn_worker(id, &[], "-standby").await?;
        self.standbys.push(child);
        Ok(self.reported(&format!("worker-{id}-standby")).await?.address)
    }

    /// Drains a node's worker by SIGTERM and waits for its end.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not run.
    pub async fn drain_worker(&mut self, id: &str) -> Result<()> {
        let child = self.workers.remove(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        child.terminate(Signal::SIGTERM, DRAIN_LIMIT).await?;
        Ok(())
    }

    /// Ends the router at once and starts it where it listened.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not come up.
    pub async fn restart_router(&mut self) -> Result<()> {
        if let Some(child) = self.router.take() {
            child.kill_hard()?;
            child.wait().await;
        }
        self.start_router().await
    }

    /// Ends everything in order: the router, the workers, PostgreSQL.
    ///
    /// # Errors
    /// [`EmbeddedError`] if a server does not shut down; it is killed when this is dropped.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(router) = self.router.take() {
            router.terminate(Signal::SIGTERM, DRAIN_LIMIT).await?;
        }
        for router in std::mem::take(&mut self.routers).into_iter().filter_map(|router| router.child) {
            router.terminate(Signal::SIGTERM, DRAIN_LIMIT).await?;
        }
        let workers = std::mem::take(&mut self.workers).into_values().chain(std::mem::take(&mut self.standbys));
        futures_util::future::try_join_all(workers.map(async |child| child.terminate(Signal::SIGTERM, DRAIN_LIMIT).await)).await?;
        futures_util::future::try_join_all(self.replicas.values_mut().map(|server| server.stop(Shutdown::Fast))).await?;
        futures_util::future::try_join_all(self.servers.values_mut().map(|server| server.stop(Shutdown::Fast))).await?;
        Ok(())
    }

    async fn spawn_worker(&self, id: &str, env: &[(&str, &str)], suffix: &str) -> Result<Child> {
        let name = format!("worker-{id}{suffix}");
        let address = |user: &str, of: &str| self.places.conninfo(&self.servers, &self.replicas, user, of);
        let known = self.addresses.get(id).filter(|_| suffix.is_empty());
        let place = self.places.workers.get(id);
        let anywhere = format!("{}:0", place.map_or("127.0.0.1", |place| &place.address));
        let listen = known.map_or(&*anywhere, |address| address.trim_start_matches("http://"));
        // About one lane for each core that this peer's PostgreSQL may use: half of them, since the worker, the router and their
        // clients are on this machine too. With more lanes than that, batches are smaller and wait for each other.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = (cores / 2 / usize::try_from(self.options.peers).unwrap_or(1).max(1)).clamp(1, 16);
        let lanes = self.options.lanes.map_or(share, |lanes| usize::try_from(lanes).unwrap_or(share));
        let advertise = self.advertised.get(id).map(|address| format!("advertise = {address:?}\n")).unwrap_or_default();
        let settings = format!(
            "peer = {id:?}\nlisten = {listen:?}\n{advertise}metrics_listen = \"127.0.0.1:0\"\nlanes = {lanes}\ndatabase = {:?}\nlane_database = {:?}\nhub_database = {:?}\nreport_file = {:?}\n{}",
            address("rootward_system", id)?,
            address("rootward_lane", id)?,
            address("rootward_system", HUB)?,
            self.file(&format!("{name}.address")),
            match self.options.standbys {
                Standbys::Synchronous if self.options.has_standby(id) => "durability = \"replicated\"\n",
                _ => "",
            }
            .to_owned()
                + &self.options.worker_settings
                + place.map_or("", |place| &place.settings),
        );
        let through = place.map(|place| &*place.through).unwrap_or_default();
        self.spawn_through(through, "worker", &name, &settings, env).await
    }

    async fn start_router(&mut self) -> Result<()> {
        let workers: Vec<&String> = self.addresses.values().collect();
        let listen = match (self.router_address.strip_prefix("http://"), self.options.listen) {
            (Some(before), _) => before.to_owned(),
            (None, Some(listen)) => listen.to_string(),
            (None, None) => "127.0.0.1:0".to_owned(),
        };
        let settings = format!(
            "listen = {listen:?}\nmetrics_listen = \"127.0.0.1:0\"\nworkers = {workers:?}\nreport_file = {:?}\n{}",
            self.file("router.address"),
            self.options.router_settings
        );
        self.router = Some(self.spawn("router", "router", &settings, &[]).await?);
        let reported = self.reported(ROUTER).await?;
        self.router_address = reported.address;
        self.pages.insert(ROUTER.to_owned(), reported.page);
        Ok(())
    }

    async fn spawn(&self, command: &str, name: &str, settings: &str, env: &[(&str, &str)]) -> Result<Child> {
        self.spawn_through(&[], command, name, settings, env).await
    }

    /// Starts a process of ours by another program that becomes it.
    async fn spawn_through(&self, through: &[OsString], command: &str, name: &str, settings: &str, env: &[(&str, &str)]) -> Result<Child> {
        let config = self.file(&format!("{name}.toml"));
        let report = self.file(&format!("{name}.address"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EmbeddedError::File { path, source }
        };
        if report.exists() {
            std::fs::remove_file(&report).map_err(failed(&report))?;
        }
        std::fs::write(&config, settings).map_err(failed(&config))?;
        let exe = [self.options.exe.clone().into_os_string()];
        let own = exe.into_iter().chain([command.into(), "--config".into(), config.into_os_string()]);
        let mut all = through.iter().cloned().chain(own);
        let program = all.next().unwrap_or_default();
        let mut spawn = Spawn::new(program, all, self.file(&format!("{name}.log")));
        spawn.env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Ok(self.launcher.spawn(spawn).await?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Waits until a node's worker listens, and remembers where.
    async fn worker_listens(&mut self, id: &str) -> Result<()> {
        let reported = self.reported(&format!("worker-{id}")).await?;
        if !self.advertised.contains_key(id) {
            self.addresses.insert(id.to_owned(), reported.address);
        }
        self.pages.insert(id.to_owned(), reported.page);
        Ok(())
    }

    /// What a process wrote once it listened.
    async fn reported(&self, name: &str) -> Result<Reported> {
        let path = self.file(&format!("{name}.address"));
        let deadline = Instant::now() + LISTEN_LIMIT;
        loop {
            if let Ok(text) = std::fs::read_to_string(&path) {
                let (address, page) = text.split_once('\n').unwrap_or((&text, ""));
                return Ok(Reported { address: address.to_owned(), page: page.to_owned() });
            }
            if Instant::now() >= deadline {
                return Err(EmbeddedError::NotUp { what: name.to_owned(), limit: LISTEN_LIMIT, log: self.file(&format!("{name}.log")) });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the router knows every one of these peers as serving.
    ///
    /// # Errors
    /// [`EmbeddedError::NotUp`] with the log to look into.
    pub async fn wait_until_serving(&self, ids: &[String]) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut missing = ids.first().cloned().unwrap_or_default();
        while Instant::now() < deadline {
            match self.not_serving(ids).await {
                Some(None) => return Ok(()),
                Some(Some(id)) => missing = id,
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        let log = self.file(&format!("worker-{missing}.log"));
        Err(EmbeddedError::NotUp { what: format!("peer {missing}"), limit: READY_LIMIT, log })
    }

    /// The first of these peers that does not serve; the outer none if the router doesn't answer.
    async fn not_serving(&self, ids: &[String]) -> Option<Option<String>> {
        let mut client = RootwardClient::connect(self.router_address.clone()).await.ok()?;
        let peers = client.list_peers(v1::ListPeersRequest {}).await.ok()?.into_inner().peers;
        let serves = |id: &String| {
            let peer = peers.iter().find(|peer| peer.id == *id);
            peer.and_then(|peer| peer.status.as_ref()).is_some_and(|status| status.state == "serving" && status.map_version > 0)
        };
        Some(ids.iter().find(|id| !serves(id)).cloned())
    }
}
