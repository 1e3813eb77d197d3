//! The routers of an embedded cluster: the first one, and those beside it.

use nix::sys::signal::Signal;

use super::{DRAIN_LIMIT, EmbeddedCluster, EmbeddedError, Result};
use crate::Child;

/// A router beside the first one.
#[derive(Debug)]
pub(super) struct AnotherRouter {
    name: String,
    address: String,
    workers: Vec<String>,
    pub(super) child: Option<Child>,
}

impl EmbeddedCluster {
    /// Starts one more router, which knows these workers; returns its address and its process.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not listen in time.
    pub async fn start_another_router(&mut self, workers: &[String]) -> Result<(String, u32)> {
        let name = format!("router-{}", self.routers.len() + 2);
        let another = AnotherRouter { name, address: "127.0.0.1:0".to_owned(), workers: workers.to_vec(), child: None };
        let another = self.spawn_another(another).await?;
        let started = (another.address.clone(), another.child.as_ref().map(Child::pid).unwrap_or_default());
        self.routers.push(another);
        Ok(started)
    }

    /// Drains a router by SIGTERM, waits for its end, and starts it where it listened.
    ///
    /// # Errors
    /// [`EmbeddedError`] if there is none with this address, or it does not come up.
    pub async fn drain_router(&mut self, address: &str) -> Result<()> {
        if address == self.router_address {
            if let Some(child) = self.router.take() {
                child.terminate(Signal::SIGTERM, DRAIN_LIMIT).await?;
            }
            return self.start_router().await;
        }
        let at = self.routers.iter().position(|router| router.address == address);
        let mut another = self.routers.remove(at.ok_or_else(|| EmbeddedError::NoNode(address.to_owned()))?);
        if let Some(child) = another.child.take() {
            child.terminate(Signal::SIGTERM, DRAIN_LIMIT).await?;
        }
        let another = self.spawn_another(another).await?;
        self.routers.push(another);
        Ok(())
    }

    async fn spawn_another(&self, another: AnotherRouter) -> Result<AnotherRouter> {
        let AnotherRouter { name, address, workers, .. } = another;
        let settings = format!(
            "listen = {:?}\nworkers = {workers:?}\nreport_file = {:?}\n{}",
            address.trim_start_matches("http://"),
            self.file(&format!("{name}.address")),
            self.options.router_settings
        );
        let child = self.spawn("router", &name, &settings, &[]).await?;
        let address = self.reported(&name).await?.address;
        Ok(AnotherRouter { name, address, workers, child: Some(child) })
    }
}
