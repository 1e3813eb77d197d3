//! A server that is thrown away: `schema check` asks it what the tables and statements of a folder mean.

use std::path::PathBuf;

use crate::process::Launcher;
use crate::server::{Server, ServerConfig, ServerError};

const DATABASE: &str = "scratch";

/// A server with one empty database, both gone when this is dropped.
#[derive(Debug)]
pub struct ScratchServer {
    server: Server,
}

/// Starts a scratch server; less than a second if the cache is warm.
///
/// # Errors
/// As [`Server::start`].
pub async fn scratch_database(rootward_exe: impl Into<PathBuf>) -> Result<ScratchServer, ServerError> {
    let launcher = Launcher::temporary(rootward_exe)?;
    // Nothing of it is ever read again after a crash, so nothing needs to reach the disk.
    let config = ServerConfig::new("scratch").database(DATABASE).setting("fsync", "off").setting("synchronous_commit", "off");
    let config = config.setting("full_page_writes", "off").setting("shared_buffers", "16MB");
    Ok(ScratchServer { server: Server::start(&launcher, config).await? })
}

impl ScratchServer {
    /// libpq's connection string for the superuser and the empty database.
    pub fn conninfo(&self) -> String {
        self.server.conninfo(self.server.superuser(), DATABASE)
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
