//! Starts a server, says where it is, and holds it until it is killed.
//!
//! `hold-server ROOTWARD` prints one line: the postmaster's process id and the temporary folder.

use std::io::Write;

use rootward_cluster::{Launcher, Server, ServerConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let exe = std::env::args_os().nth(1).ok_or_else(|| anyhow::anyhow!("usage: hold-server ROOTWARD"))?;
    let launcher = Launcher::temporary(std::path::PathBuf::from(exe))?;
    let server = Server::start(&launcher, ServerConfig::new("held")).await?;
    let pid = server.pid().ok_or_else(|| anyhow::anyhow!("the server has no process"))?;
    let mut out = std::io::stdout();
    writeln!(out, "{pid} {}", launcher.folder().path().display())?;
    out.flush()?;
    server.wait().await;
    Ok(())
}
