//! `rootward router` and `rootward worker`: the processes of real deployments, each configured by one TOML file.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Args;
use rootward_router::Router;
use rootward_worker::Worker;

use super::exit;
use crate::{output, signals};

/// The settings of a process.
#[derive(Debug, Args)]
pub(crate) struct Process {
    /// Its file of settings; docs/samples has a commented one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Process {
    fn read(&self) -> Result<String, ExitCode> {
        std::fs::read_to_string(&self.config).map_err(|error| self.refuse(&error, "give the file's path with --config"))
    }

    fn refuse(&self, why: &dyn std::fmt::Display, help: &str) -> ExitCode {
        output::print_error(&format!("error[RW1101]: {}: {why}\n  help: {help}", self.config.display()));
        ExitCode::from(exit::USAGE)
    }
}

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn router(process: Process) -> ExitCode {
    log();
    hold_small_pages();
    let text = match process.read() {
        Ok(text) => text,
        Err(code) => return code,
    };
    let config = match rootward_router::parse_config(&text) {
        Ok(config) => config,
        Err(error) => return process.refuse(&error, &error.help()),
    };
    let router = match Router::build(config).await {
        Ok(router) => router,
        Err(error) => return cannot_start(&error),
    };
    tracing::info!(address = %router.address(), "router listens");
    ended(router.run(signals::shutdown()).await)
}

/// Serves until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn worker(process: Process) -> ExitCode {
    log();
    hold_small_pages();
    let text = match process.read() {
        Ok(text) => text,
        Err(code) => return code,
    };
    let config = match rootward_worker::parse_config(&text) {
        Ok(config) => config,
        Err(error) => return process.refuse(&error, &error.help()),
    };
    let worker = match Worker::build(config).await {
        Ok(worker) => worker,
        Err(error) => return cannot_start(&error),
    };
    tracing::info!(address = worker.address(), "worker listens");
    ended(worker.run(signals::shutdown()).await)
}

fn cannot_start(error: &dyn Error) -> ExitCode {
    output::print_error(&format!("error[RW1107]: {}\n  help: change the setting, or what it names, and start again", chain_of(error)));
    ExitCode::from(exit::USAGE)
}

fn ended<E: Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&format!("error[RW9001]: {}", chain_of(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The message and those of its causes.
fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// With huge pages, which the allocator asks for, a process holds three times the memory that it uses.
fn hold_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Logs to stderr; `ROOTWARD_LOG` says what, such as `rootward_worker=debug`.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROOTWARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,tokio_postgres=warn"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(filter).init();
}
