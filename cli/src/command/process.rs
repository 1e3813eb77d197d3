//! `rootward router` and `rootward worker`: the processes of real deployments, each configured by one TOML file.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use rootward_router::Router;
use rootward_worker::Worker;

use crate::{output, signals};

/// The settings of a process.
#[derive(Debug, Args)]
pub(crate) struct Process {
    /// Its file of settings; docs/samples has a commented one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Process {
    fn read(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.config).with_context(|| format!("can't read {}", self.config.display()))
    }

    fn refuse(&self, error: &dyn std::fmt::Display) -> ExitCode {
        output::print_error(&format!("error[RW1101]: {}: {error}\n  help: docs/samples has a complete file", self.config.display()));
        ExitCode::from(2)
    }
}

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn router(process: Process) -> anyhow::Result<ExitCode> {
    log();
    let config = match rootward_router::parse_config(&process.read()?) {
        Ok(config) => config,
        Err(error) => return Ok(process.refuse(&error)),
    };
    let router = Router::build(config).await?;
    tracing::info!(address = %router.address(), "router listens");
    router.run(signals::shutdown()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn worker(process: Process) -> anyhow::Result<ExitCode> {
    log();
    let config = match rootward_worker::parse_config(&process.read()?) {
        Ok(config) => config,
        Err(error) => return Ok(process.refuse(&error)),
    };
    let worker = Worker::build(config).await?;
    tracing::info!(address = worker.address(), "worker listens");
    worker.run(signals::shutdown()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Logs to stderr; `ROOTWARD_LOG` says what, such as `rootward_worker=debug`.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROOTWARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,tokio_postgres=warn"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(filter).init();
}
