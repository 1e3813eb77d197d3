//! The life of a router: listen, follow the catalog, serve, drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rootward_link::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use rootward_metrics::Endpoint;
use rootward_proto::v1::rootward_server::RootwardServer;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    Catalog, Config, Routing, follow,
    metrics::{Counters, RouterMetrics},
    nearness::{self, Nearness},
    service::RouterService,
    snapshot::Snapshots,
};

/// The largest request of a client.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Why a router ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address of the settings.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Server(#[from] tonic::transport::Error),
    /// Reflection could not be built from the descriptors.
    #[error("the service descriptors are broken")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The address can't be reported.
    #[error("can't write the report file")]
    Report(#[source] std::io::Error),
}

/// A router that listens already; [`Router::run`] serves.
pub struct Router {
    config: Config,
    listener: TcpListener,
    metrics: Option<Endpoint>,
    address: SocketAddr,
}

impl Router {
    /// Opens the port.
    ///
    /// # Errors
    /// [`RunError`] if the port is taken.
    pub async fn build(config: Config) -> Result<Router, RunError> {
        let bound = |source| RunError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bound)?;
        let address = listener.local_addr().map_err(bound)?;
        let metrics = Endpoint::bind_if(config.metrics_listen).await.map_err(|(address, source)| RunError::Listen { address, source })?;
        if let Some(file) = &config.report_file {
            rootward_metrics::report(file, &format!("http://{address}"), metrics.as_ref()).map_err(RunError::Report)?;
        }
        Ok(Router { config, listener, metrics, address })
    }

    /// Where the router listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then drains: no new requests, and the ones under way have the grace of the settings.
    ///
    /// # Errors
    /// [`RunError`] if the gRPC server fails. Workers that are away are no error: the router looks for them.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let tasks = TaskTracker::new();
        let refresh = Arc::new(Notify::new());
        let (catalog, known) = watch::channel(None);
        // The links outlive the shutdown signal: what is under way is answered first.
        let links = CancellationToken::new();
        let routing = Routing::new(known.clone(), refresh.clone(), tasks.clone(), links.clone());
        tasks.spawn(follow::follow(self.config.workers.clone(), catalog, refresh, shutdown.clone()));
        let counters = Arc::<Counters>::default();
        let in_flight = Arc::new(Semaphore::new(self.config.max_in_flight));
        let snapshots = Arc::<Snapshots>::default();
        if let Some(metrics) = self.metrics {
            let (counters, routing, max_in_flight) = (counters.clone(), routing.clone(), self.config.max_in_flight);
            let measured = RouterMetrics { counters, routing, in_flight: in_flight.clone(), max_in_flight, snapshots: snapshots.clone() };
            tasks.spawn(metrics.serve(measured, shutdown.clone()));
        }
        let service = RouterService {
            routing,
            counters,
            snapshots,
            nearness: Arc::new(Nearness::new(self.config.latitude.zip(self.config.longitude))),
            default_deadline: Duration::from_millis(self.config.default_deadline_ms),
            in_flight,
            max_in_flight_per_stream: self.config.max_in_flight_per_stream,
            drain: shutdown.clone(),
        };
        tasks.spawn(nearness::measure(service.clone(), shutdown.clone()));
        let (reporter, health) = tonic_health::server::health_reporter();
        tasks.spawn(report_health(reporter, known, shutdown.clone()));
        let reflection =
            || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(rootward_proto::DESCRIPTORS);
        let server = RootwardServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let drained = shutdown.clone();
        // The builder's own setting does not reach listeners that it didn't open; without it small answers wait for 40 ms.
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(server)
            .serve_with_incoming_shutdown(incoming, async move { drained.cancelled().await });
        let grace = Duration::from_millis(self.config.grace_ms);
        let limit = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let result = tokio::select! {
            result = serving => result.map_err(RunError::from),
            () = limit => Ok(()),
        };
        links.cancel();
        result
    }
}

async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    mut catalog: watch::Receiver<Option<Arc<Catalog>>>,
    shutdown: CancellationToken,
) {
    reporter.set_not_serving::<RootwardServer<RouterService>>().await;
    tokio::select! {
        known = catalog.wait_for(Option::is_some) => if known.is_err() { return },
        () = shutdown.cancelled() => return,
    }
    reporter.set_serving::<RootwardServer<RouterService>>().await;
    shutdown.cancelled().await;
    reporter.set_not_serving::<RootwardServer<RouterService>>().await;
}
