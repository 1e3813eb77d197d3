//! The page over HTTP, for Prometheus and for people: `GET /metrics`.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Measured, page::Shown};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An open port that serves the page once it is told of what.
#[derive(Debug)]
pub struct Endpoint(TcpListener);

impl Endpoint {
    /// Opens the port.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Endpoint> {
        TcpListener::bind(address).await.map(Endpoint)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves the page until `shutdown`. Whoever reads it then is cut off: the next scrape would fail anyway.
    pub async fn serve(self, measured: impl Measured, shutdown: CancellationToken) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shown(measured)));
        let registry = Arc::new(registry);
        let page = move || async move { answer(&registry) };
        let serving = axum::serve(self.0, Router::new().route("/metrics", get(page)));
        tokio::select! {
            _ = serving => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// The page as text.
pub fn page_of(measured: impl Measured) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown(measured)));
    encoded(&registry).unwrap_or_default()
}

fn encoded(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

fn answer(registry: &Registry) -> Response {
    match encoded(registry) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
