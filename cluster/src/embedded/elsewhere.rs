//! Parts of an embedded cluster that are not where the others are: workers in a network of their own, and PostgreSQL servers that
//! somebody else starts.

use std::{collections::BTreeMap, ffi::OsString};

use super::{EmbeddedCluster, EmbeddedError, Result, servers::conninfo};
use crate::{Server, Shutdown, settings};

/// Where a worker runs.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    /// A program by its full path, with arguments, that becomes what stands behind them, such as `ip netns exec NAME`; none if the worker runs
    /// where we do.
    pub through: Vec<OsString>,
    /// The address that it listens on.
    pub address: String,
    /// More lines for its settings.
    pub settings: String,
}

/// By node.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub workers: BTreeMap<String, Elsewhere>,
    postgres: BTreeMap<String, Vec<(String, u16)>>,
}

impl Places {
    /// How a worker reaches the PostgreSQL of a node.
    pub(super) fn conninfo(
        &self,
        servers: &BTreeMap<String, Server>,
        replicas: &BTreeMap<String, Server>,
        user: &str,
        of: &str,
    ) -> Result<String> {
        let Some(hosts) = self.postgres.get(of) else {
            return conninfo(servers, replicas, user, of).ok_or_else(|| EmbeddedError::NoNode(of.to_owned()));
        };
        let joined = |part: fn(&(String, u16)) -> String| hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let (names, ports) = (joined(|host| host.0.clone()), joined(|host| host.1.to_string()));
        let primary = ("target_session_attrs", "read-write");
        Ok(settings::conninfo(&[("host", &names), ("port", &ports), ("user", user), ("dbname", of), primary]))
    }
}

impl EmbeddedCluster {
    /// From its next start on, a node's worker runs there, and listens on a port of its own.
    pub fn place_worker(&mut self, id: &str, elsewhere: Elsewhere) {
        self.addresses.remove(id);
        self.places.workers.insert(id.to_owned(), elsewhere);
    }

    /// From their next start on, workers reach a node's PostgreSQL at the first of these hosts, with their ports, that takes writes. The host may
    /// be the folder of a socket.
    pub fn reach_postgres(&mut self, id: &str, hosts: Vec<(String, u16)>) {
        self.places.postgres.insert(id.to_owned(), hosts);
        let superuser = self.places.conninfo(&self.servers, &self.replicas, settings::SUPERUSER, id);
        if let (Some(node), Ok(database)) = (self.topology.peer.get_mut(id), superuser) {
            node.database = database;
        }
    }

    /// Shuts a node's PostgreSQL down.
    ///
    /// # Errors
    /// [`EmbeddedError`] if there is no such node.
    pub async fn stop_postgres(&mut self, id: &str) -> Result<()> {
        let server = self.servers.get_mut(id).ok_or_else(|| EmbeddedError::NoNode(id.to_owned()))?;
        Ok(server.stop(Shutdown::Fast).await?)
    }
}
