//! The PostgreSQL servers of an embedded cluster, and their standbys.

use std::collections::BTreeMap;

use super::{EmbeddedCluster, EmbeddedError, EmbeddedOptions, Result, Standbys};
use crate::{Launcher, Node, Server, ServerConfig, Topology, topology::HUB};

impl EmbeddedCluster {
    /// The standby of a node's PostgreSQL.
    pub fn replica(&self, id: &str) -> Option<&Server> {
        self.replicas.get(id)
    }

    /// Promotes the standby of a node's PostgreSQL, as whoever watches over them would once the primary is gone.
    ///
    /// # Errors
    /// [`EmbeddedError`] if there is none, or it doesn't become a primary.
    pub async fn promote(&self, id: &str) -> Result<()> {
        let replica = self.replicas.get(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(replica.promote().await?)
    }

    /// Kills the standby of a node's PostgreSQL.
    ///
    /// # Errors
    /// [`EmbeddedError`] if there is none.
    pub async fn kill_replica(&mut self, id: &str) -> Result<()> {
        let replica = self.replicas.get(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(replica.kill_hard().await?)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not start.
    pub async fn start_replica(&mut self, id: &str) -> Result<()> {
        let replica = self.replicas.get_mut(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(replica.restart().await?)
    }

    /// Gives what was promoted a standby of its own, in the place of the primary that is gone. Commits wait for it if they did before.
    /// A worker learns of its address when it is started anew.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not start.
    pub async fn replace_primary(&mut self, id: &str) -> Result<()> {
        let primary = self.replicas.remove(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        // Its folder is its own: those of the servers before it stay.
        let names = (2..).map(|number| format!("{id}-standby-{number}"));
        let name = names.into_iter().find(|name| !self.file(name).exists()).unwrap_or_default();
        let replica = primary.start_standby(&name).await?;
        if self.options.standbys == Standbys::Synchronous {
            primary.wait_for_standbys().await?;
        }
        self.replicas.insert(id.to_owned(), replica);
        self.servers.insert(id.to_owned(), primary);
        Ok(())
    }

    /// Ends a node's PostgreSQL at once, backends and all, as `kill -9` does.
    ///
    /// # Errors
    /// [`EmbeddedError`] if there is no such node.
    pub async fn kill_postgres(&mut self, id: &str) -> Result<()> {
        let server = self.servers.get(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(server.kill_hard().await?)
    }

    /// Starts a node's PostgreSQL again on the same data.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not come up.
    pub async fn start_postgres(&mut self, id: &str) -> Result<()> {
        let server = self.servers.get_mut(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(server.restart().await?)
    }
}

pub(super) async fn start_replicas(servers: &BTreeMap<String, Server>, options: &EmbeddedOptions) -> Result<BTreeMap<String, Server>> {
    let standbys = options.standbys;
    if standbys == Standbys::None {
        return Ok(BTreeMap::new());
    }
    let follow = servers.iter().filter(|(id, _)| options.has_standby(id)).map(|(id, server)| async move {
        let replica = server.start_standby(&format!("{id}-standby")).await?;
        if standbys == Standbys::Synchronous {
            server.wait_for_standbys().await?;
        }
        Ok((id.clone(), replica))
    });
    futures_util::future::try_join_all(follow).await.map(|replicas| replicas.into_iter().collect())
}

pub(super) async fn start_servers(launcher: &Launcher, options: &EmbeddedOptions, ids: &[String]) -> Result<BTreeMap<String, Server>> {
    let configure = |config: ServerConfig| options.server_settings.iter().fold(config, |config, (name, value)| config.setting(name, value));
    if options.is_one_server {
        let config = ids.iter().fold(ServerConfig::new("all"), |config, id| config.database(id));
        let server = Server::start(launcher, configure(config)).await?;
        return Ok(BTreeMap::from([("all".to_owned(), server)]));
    }
    let starts =
        ids.iter().map(|id| async move { Ok((id.clone(), Server::start(launcher, configure(ServerConfig::new(id).database(id))).await?)) });
    futures_util::future::try_join_all(starts).await.map(|servers| servers.into_iter().collect())
}

/// The connection string for a node's primary.
pub(super) fn conninfo(servers: &BTreeMap<String, Server>, replicas: &BTreeMap<String, Server>, user: &str, id: &str) -> Option<String> {
    let name = if servers.contains_key(id) { id } else { "all" };
    let server = servers.get(name)?;
    Some(match replicas.get(name) {
        Some(replica) => server.conninfo_with(replica, user, id),
        None => server.conninfo(user, id),
    })
}

pub(super) fn topology(
    name: &str,
    servers: &BTreeMap<String, Server>,
    replicas: &BTreeMap<String, Server>,
    ids: &[String],
    options: &EmbeddedOptions,
) -> Topology {
    let server = |id: &str| servers.get(id).or_else(|| servers.get("all"));
    let node = |id: &str| Node {
        database: server(id).and_then(|server| conninfo(servers, replicas, server.superuser(), id)).unwrap_or_default(),
        worker: String::new(),
        capacity: 1,
        region: options.regions.get(id).cloned().unwrap_or_default(),
        latitude: options.positions.get(id).map(|position| position.latitude),
        longitude: options.positions.get(id).map(|position| position.longitude),
        relay: options.relays.contains(id),
        replication: server(id)
            .filter(|_| id == HUB || options.relays.contains(id))
            .and_then(|_| conninfo(servers, replicas, "rootward_system", id))
            .unwrap_or_default(),
    };
    Topology { name: name.to_owned(), hub: node(HUB), peer: ids.iter().filter(|id| *id != HUB).map(|id| (id.clone(), node(id))).collect() }
}
