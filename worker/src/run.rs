//! The life of a worker: listen, follow the catalog, take the peer over, serve, begin again when the term ends, drain.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::Pool;
use rootward_metrics::Endpoint;
use rootward_proto::{
    Protocol,
    v1::{self, worker_server::WorkerServer},
};
use rootward_router::{Catalog, Routing};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    catalog,
    chain::{ChainHome, Drivers, OpenChains},
    collect::{Retention, collect},
    config::Config,
    execute::Limits,
    journal,
    lane::Counters,
    metrics::WorkerMetrics,
    moves::{Mover, Parts},
    pool::pool,
    primary::Primary,
    promotion,
    reads::{ReadCounters, Reads},
    reference::ReferenceVersion,
    route, service,
    snapshot::Snapshots,
    stage,
    term::{self, TermError},
};

/// A pause between two tries to take the peer over.
const RETRY_PAUSE: Duration = Duration::from_millis(150);
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address of the settings.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Server(#[from] tonic::transport::Error),
    /// Reflection could not be built from the descriptors.
    #[error("the service descriptors are broken")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A connection string is wrong.
    #[error("a database setting can't be used: {0}")]
    Database(String),
    /// The address can't be reported.
    #[error("can't write the report file")]
    Report(#[source] std::io::Error),
}

/// A worker that listens already; [`Worker::run`] serves.
pub struct Worker {
    config: Arc<Config>,
    listener: TcpListener,
    metrics: Option<Endpoint>,
    address: String,
}

impl Worker {
    /// Opens the port.
    ///
    /// # Errors
    /// [`RunError`] if the port is taken or a setting can't be used.
    pub async fn build(config: Config) -> Result<Worker, RunError> {
        let listener = TcpListener::bind(config.listen).await.map_err(|source| RunError::Listen { address: config.listen, source })?;
        let local = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;
        let address = config.advertise.clone().unwrap_or_else(|| format!("http://{local}"));
        // Each term makes its own, for the host that it is bound to; what is wrong with the settings is told at once.
        pool(&config).map_err(RunError::Database)?;
        let metrics = Endpoint::bind_if(config.metrics_listen).await.map_err(|(address, source)| RunError::Listen { address, source })?;
        if let Some(file) = &config.report_file {
            rootward_metrics::report(file, &address, metrics.as_ref()).map_err(RunError::Report)?;
        }
        Ok(Worker { config: Arc::new(config), listener, metrics, address })
    }

    /// Where the worker listens, as the catalog names it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until `shutdown`, then drains: no new requests, and the ones under way have the grace of the settings.
    ///
    /// # Errors
    /// [`RunError`] if the gRPC server fails. A database that is away is no error: the worker waits for it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Worker { config, listener, metrics, address } = self;
        let tasks = TaskTracker::new();
        let refresh = Arc::new(Notify::new());
        let (catalog, known) = watch::channel(None);
        let (state, shown_state) = watch::channel("starting");
        let (home, served) = watch::channel(None);
        let (mover, moving) = watch::channel(None);
        let (promotion, promoted) = watch::channel(None);
        let routing = Routing::new(known.clone(), refresh.clone(), tasks.clone(), shutdown.child_token());
        tasks.spawn(catalog::follow(config.clone(), catalog.clone(), refresh, shutdown.child_token()));
        let counters: Vec<Arc<Counters>> = (0..config.lanes).map(|_| Arc::default()).collect();
        let reads = Arc::<ReadCounters>::default();
        let in_flight = service::WorkerService::in_flight();
        let snapshots = Arc::new(Snapshots::new(config.clone()));
        if let Some(metrics) = metrics {
            let measured = WorkerMetrics {
                peer: config.peer.clone(),
                counters: counters.clone(),
                home: served.clone(),
                in_flight: in_flight.clone(),
                snapshots: snapshots.clone(),
                reads: reads.clone(),
            };
            tasks.spawn(metrics.serve(measured, shutdown.child_token()));
        }
        let terms = Terms {
            config: config.clone(),
            counters,
            reads,
            served: Mutex::default(),
            promotion,
            routing,
            catalog,
            address,
            state,
            home,
            mover,
            shutdown: shutdown.child_token(),
        };
        let serving = tasks.spawn(terms.run());
        let service = service::WorkerService {
            home: served,
            catalog: known,
            state: shown_state,
            limits: Limits {
                allow_ad_hoc_sql: config.allow_ad_hoc_sql,
                retention: Duration::from_secs(u64::from(config.retention_hours) * 3600),
            },
            peer: config.peer.as_str().into(),
            tasks: tasks.clone(),
            in_flight,
            snapshots,
            parts: Arc::new(Parts::new(config.clone(), tasks.clone())),
            mover: moving,
            promoted,
        };
        let result = serve_grpc(service, listener, shutdown.clone(), Duration::from_millis(config.grace_ms)).await;
        shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_millis(config.grace_ms), serving).await;
        result
    }
}

async fn serve_grpc(
    service: service::WorkerService,
    listener: TcpListener,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<(), RunError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let watched = service.state.clone();
    service.tasks.spawn(report_health(reporter, watched, shutdown.clone()));
    let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(rootward_proto::DESCRIPTORS);
    let server = WorkerServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = InterceptedService::new(server, |request| Protocol::own().check(&request).map(|()| request));
    let drained = shutdown.clone();
    // The builder's own setting does not reach listeners that it didn't open; without it small answers wait for 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        // Several messages of a router may be on their way, so that a stream never stops for want of a window.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(server)
        .serve_with_incoming_shutdown(incoming, async move { drained.cancelled().await });
    let limit = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace.min(Duration::from_millis(500))).await;
    };
    tokio::select! {
        result = serving => Ok(result?),
        // Streams of routers stay open as long as they live; they are cut when their grace is over.
        () = limit => Ok(()),
    }
}

async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    mut state: watch::Receiver<&'static str>,
    shutdown: CancellationToken,
) {
    loop {
        let is_serving = *state.borrow_and_update() == "serving";
        if is_serving {
            reporter.set_serving::<WorkerServer<service::WorkerService>>().await;
        } else {
            reporter.set_not_serving::<WorkerServer<service::WorkerService>>().await;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return reporter.set_not_serving::<WorkerServer<service::WorkerService>>().await,
        }
    }
}

/// One term after the other.
struct Terms {
    config: Arc<Config>,
    counters: Vec<Arc<Counters>>,
    reads: Arc<ReadCounters>,
    /// The PostgreSQL of the last term of this process.
    served: Mutex<Option<Primary>>,
    /// What is known of the last promotion.
    promotion: watch::Sender<Option<v1::Promotion>>,
    routing: Routing,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    address: String,
    state: watch::Sender<&'static str>,
    home: watch::Sender<Option<Arc<ChainHome>>>,
    /// Drives moves, where the hub is served.
    mover: watch::Sender<Option<Arc<Mover>>>,
    shutdown: CancellationToken,
}

impl Terms {
    async fn run(self) {
        let mut last_failure = String::new();
        while !self.shutdown.is_cancelled() {
            let result = tokio::select! {
                result = self.serve_one_term() => result,
                () = self.shutdown.cancelled() => {
                    self.stop_serving().await;
                    return;
                }
            };
            if let Err(error) = result {
                let text = format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
                if text != last_failure {
                    tracing::warn!(error = text, peer = self.config.peer, "the peer is not served; the worker keeps trying");
                }
                last_failure = text;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn serve_one_term(&self) -> Result<(), TermError> {
        let on_standby = || {
            self.state.send_replace("standby");
        };
        let (serving, client, copy) = term::take_over(&self.config, &self.counters, on_standby).await?;
        let pool = pool(&self.config).map_err(TermError::Pool)?;
        catalog::publish(&self.catalog, copy);
        tracing::info!(peer = self.config.peer, term = serving.term, lanes = serving.lanes.len(), "serving");
        self.look_for_promises(&client, &serving).await;
        let home = Arc::new(ChainHome {
            peer: self.config.peer.clone(),
            routing: self.routing.clone(),
            serving: serving.clone(),
            pool: pool.clone(),
            drivers: Drivers::default(),
            gate: Arc::default(),
            open: OpenChains::default(),
            retention: Duration::from_secs(u64::from(self.config.retention_hours) * 3600),
            reads: Reads::follow(self.config.clone(), pool.clone(), &serving, self.reads.clone())?,
            reference: ReferenceVersion::follow(self.config.clone(), &serving.tasks, serving.stop.clone()),
        });
        self.home.send_replace(Some(home.clone()));
        self.state.send_replace("serving");
        serving.tasks.spawn(home.clone().recover());
        serving.tasks.spawn(home.clone().count_open());
        serving.tasks.spawn(journal::tell_heads(home.clone()));
        serving.tasks.spawn(stage::pick_up(home.clone(), self.config.clone()));
        serving.tasks.spawn(route::keep(home.clone(), self.config.clone(), self.catalog.subscribe()));
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        let idle = Duration::from_millis(self.config.collection_pause_ms);
        serving.tasks.spawn(stage::collect(home.clone(), hours(self.config.stage_retention_hours), idle));
        let retention = Retention { requests: hours(self.config.retention_hours), chains: hours(self.config.chain_retention_hours), idle };
        serving.tasks.spawn(collect(home, retention));
        self.keep_in_step(&client, &serving, &pool).await;
        self.stop_serving().await;
        Ok(())
    }

    /// If another PostgreSQL has taken the place of the one before: whether it has what was acknowledged there.
    async fn look_for_promises(&self, client: &tokio_postgres::Client, serving: &crate::serving::Serving) {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).replace(serving.primary.clone());
        if promotion::is_promoted(&serving.primary, served.as_ref(), serving.before.as_ref()) {
            let timeline = serving.primary.timeline;
            let looked = promotion::look(client, &self.config.peer, timeline, &self.counters, served.is_some()).await;
            self.promotion.send_replace(Some(looked));
        }
    }

    /// Until the term ends: the catalog names this worker's address, its copy is kept, and a new schema begins a new term.
    async fn keep_in_step(&self, client: &tokio_postgres::Client, serving: &crate::serving::Serving, pool: &Pool) {
        let mut known = self.catalog.subscribe();
        let mut is_announced = false;
        loop {
            let copy = known.borrow_and_update().clone();
            if let Some(catalog) = copy {
                if let Err(error) = term::keep_copy(client, &catalog).await {
                    tracing::debug!(%error, "the copy of the catalog was not kept");
                }
                match term::read_ownership(client).await {
                    Ok(owned) => serving.set_owned(owned),
                    Err(error) => tracing::debug!(%error, "the ownership was not read"),
                }
                if catalog.schema.version > serving.schema.version && self.has_newer_schema(client, serving).await {
                    tracing::info!(version = catalog.schema.version, "a new schema is in force: a new term begins");
                    serving.stop.cancel();
                }
                if catalog.peers.iter().any(|peer| peer.id == self.config.peer && peer.timeline > serving.primary.timeline) {
                    tracing::warn!(timeline = serving.primary.timeline, "another PostgreSQL serves this peer by now: the term is over");
                    serving.stop.cancel();
                }
                let mine = catalog.peers.iter().find(|peer| peer.id == self.config.peer);
                is_announced &= mine.is_some_and(|peer| peer.worker_address == self.address);
                if mine.is_some_and(|peer| peer.is_hub) && self.mover.borrow().is_none() {
                    self.move_partitions(serving, pool);
                }
            }
            if !is_announced && self.announce().await.is_ok() {
                is_announced = true;
            }
            let poll = Duration::from_secs(if is_announced { 5 } else { 1 });
            tokio::select! {
                () = serving.stop.cancelled() => return,
                _ = tokio::time::timeout(poll, known.changed()) => {}
            }
        }
    }

    /// Drives the moves of partitions, as long as this worker holds the hub.
    fn move_partitions(&self, serving: &crate::serving::Serving, pool: &Pool) {
        let rows_per_second = self.config.move_rows_per_second;
        let mover = Arc::new(Mover::new(pool.clone(), self.catalog.subscribe(), serving.hold.clone(), serving.term, rows_per_second));
        self.mover.send_replace(Some(mover.clone()));
        serving.tasks.spawn(mover.run(serving.tasks.clone(), serving.stop.clone()));
    }

    async fn has_newer_schema(&self, client: &tokio_postgres::Client, serving: &crate::serving::Serving) -> bool {
        let sql = "/* read_schema_version */ select coalesce(max(version), 0) from rootward.schema_version";
        let version = client.query_one(sql, &[]).await.and_then(|row| row.try_get::<_, i32>(0)).unwrap_or(0);
        u32::try_from(version).unwrap_or(0) > serving.schema.version
    }

    /// Tells the hub where this peer is served now.
    async fn announce(&self) -> Result<(), TermError> {
        let (client, _) = term::connect(&self.config.hub_database, &self.config, "rootward announce", |_| {}).await?;
        let sql = "/* announce_worker */ update rootward_catalog.peer set worker_address = $2, replication = $3 \
                   where id = $1 and (worker_address <> $2 or replication <> $3)";
        let replication = self.config.replication_database.as_ref().unwrap_or(&self.config.database);
        client.execute(sql, &[&self.config.peer, &self.address, replication]).await?;
        Ok(())
    }

    async fn stop_serving(&self) {
        let home = self.home.send_replace(None);
        self.mover.send_replace(None);
        self.state.send_replace("starting");
        if let Some(home) = home {
            home.serving.stop.cancel();
            home.serving.tasks.close();
            // A batch that is at its COMMIT ends first; nothing cancels it.
            let _ = tokio::time::timeout(Duration::from_millis(self.config.grace_ms), home.serving.tasks.wait()).await;
        }
    }
}
