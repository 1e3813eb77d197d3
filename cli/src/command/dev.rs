//! `rootward dev`: a cluster for one's own schema on this machine.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;
use rootward_cluster::{EmbeddedCluster, EmbeddedOptions, Standbys, compile_folder};

use super::{exit, schema};
use crate::{output, signals};

/// Start a cluster on this machine: a hub, peers, workers and a router, kept until Ctrl-C. Not for production.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward dev --schema schema/examples/bank --peers 3")]
pub(crate) struct Dev {
    /// The folder of schema files.
    #[arg(long, value_name = "DIR")]
    schema: PathBuf,
    /// How many peers beside the hub.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    peers: u32,
    /// Keep the data in this folder over restarts; without it they are gone at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Give each PostgreSQL a standby that streams from it: `none`, `asynchronous`, or `synchronous`, which commits wait for.
    #[arg(long, value_name = "HOW", default_value = "none", conflicts_with = "data")]
    standbys: How,
    /// Where the router listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
}

/// Which standbys there are.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum How {
    None,
    Asynchronous,
    Synchronous,
}

impl From<How> for Standbys {
    fn from(how: How) -> Standbys {
        match how {
            How::None => Standbys::None,
            How::Asynchronous => Standbys::Asynchronous,
            How::Synchronous => Standbys::Synchronous,
        }
    }
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(dev: Dev) -> anyhow::Result<ExitCode> {
    // Before anything is started: a taken port is the likeliest obstacle, and the router's log the last place to look.
    if let Err(error) = std::net::TcpListener::bind(dev.listen) {
        output::print_error(&format!(
            "error[RW1107]: can't listen on {}: {error}\n  help: does another `rootward dev` run? choose an address with --listen, such as 127.0.0.1:0",
            dev.listen
        ));
        return Ok(ExitCode::from(exit::USAGE));
    }
    let exe = std::env::current_exe()?;
    let started = std::time::Instant::now();
    let compiled = match compile_folder(&dev.schema, &exe, None).await {
        Ok(compiled) => compiled,
        Err(error) => return schema::refuse(error),
    };
    let options = EmbeddedOptions {
        data: dev.data.clone(),
        peers: dev.peers,
        listen: Some(dev.listen),
        standbys: dev.standbys.into(),
        ..EmbeddedOptions::new(&exe)
    };
    let stop = signals::shutdown();
    let cluster = tokio::select! {
        cluster = EmbeddedCluster::start(options, &compiled) => cluster?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let mut lines = vec![
        format!(
            "rootward {} dev   schema `{}` version {}   not for production",
            env!("CARGO_PKG_VERSION"),
            compiled.schema.name,
            compiled.schema.version
        ),
        format!("  grpc   {}", cluster.router_address()),
        format!("  metrics {}", cluster.metrics_page("router").unwrap_or_default()),
        format!(
            "  data   {}{}",
            cluster.folder().display(),
            if dev.data.is_some() { "" } else { " (gone at the end; keep it with --data)" }
        ),
    ];
    for (id, node) in cluster.topology().nodes() {
        lines.push(format!("  {id:<6} worker {}   psql \"{}\"", cluster.worker_address(id).unwrap_or_default(), node.database));
        lines.push(format!("         metrics {}", cluster.metrics_page(id).unwrap_or_default()));
    }
    lines.push(format!("ready in {:.1} s; Ctrl-C ends it", started.elapsed().as_secs_f64()));
    output::print(&lines.join("\n"));
    stop.cancelled().await;
    cluster.stop().await?;
    Ok(ExitCode::SUCCESS)
}
