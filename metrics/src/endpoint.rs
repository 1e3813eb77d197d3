//! The page over HTTP, for Prometheus and for people: `GET /metrics`.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

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

    /// Opens the port if there is to be one.
    ///
    /// # Errors
    /// The address, and what the system says.
    pub async fn bind_if(address: Option<SocketAddr>) -> Result<Option<Endpoint>, (SocketAddr, io::Error)> {
        match address {
            Some(address) => Endpoint::bind(address).await.map(Some).map_err(|error| (address, error)),
            None => Ok(None),
        }
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

/// Writes where a process listens for whoever started it: its address, and on a second line that of its page if it has one.
///
/// # Errors
/// What the system says.
pub fn report(file: &Path, address: &str, endpoint: Option<&Endpoint>) -> io::Result<()> {
    let page = endpoint.map(|endpoint| endpoint.address().map(|page| format!("\nhttp://{page}/metrics"))).transpose()?;
    // Renamed into place, so that whoever waits for the file never reads half of it.
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{address}{}", page.unwrap_or_default()))?;
    std::fs::rename(draft, file)
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
