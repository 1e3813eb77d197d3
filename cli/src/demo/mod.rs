//! `rootward demo`: the story from end to end, on a cluster of real processes. Every line that it prints is the output of a
//! command that a user could type, or a count of what really happened; it succeeds only if every check held.

mod bank;
mod locations;
mod shop;
mod stage;

use std::{path::Path, process::ExitCode};

use rootward_cluster::{Compiled, EmbeddedCluster, EmbeddedOptions, compile_source};
use rootward_schema::Source;

pub(crate) use stage::Stage;

/// Which story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Story {
    /// Accounts, transfers, a peer that is killed.
    #[default]
    Bank,
    /// Orders over customers and products.
    Shop,
    /// A network of databases that share places.
    Locations,
}

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct DemoOptions {
    pub story: Story,
    /// How long the load runs in which a peer is killed, in seconds.
    pub load_seconds: u64,
    /// Keep the cluster until Ctrl-C.
    pub is_stay: bool,
}

/// Plays the story; the exit code is 0 only if every check held.
///
/// # Errors
/// If the cluster does not start or a command can't be run at all.
pub(crate) async fn play(exe: &Path, options: DemoOptions) -> anyhow::Result<ExitCode> {
    let started = std::time::Instant::now();
    let compiled = compile(options.story, exe).await?;
    let mut cluster = EmbeddedOptions::new(exe);
    if options.story == Story::Locations {
        locations::place(&mut cluster);
    }
    let cluster = EmbeddedCluster::start(cluster, &compiled).await?;
    let mut stage = Stage::new(exe, cluster);
    stage.header(options.story, &compiled, started.elapsed());
    match options.story {
        Story::Bank => bank::play(&mut stage, options.load_seconds).await?,
        Story::Shop => shop::play(&mut stage, options.load_seconds).await?,
        Story::Locations => locations::play(&mut stage).await?,
    }
    stage.closing(started.elapsed());
    if options.is_stay {
        stage.say(&format!("the cluster stays up at {} (data and logs in {}) until Ctrl-C", stage.router(), stage.folder().display()));
        tokio::signal::ctrl_c().await?;
    }
    let is_ok = stage.is_ok();
    stage.stop().await?;
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn compile(story: Story, exe: &Path) -> anyhow::Result<Compiled> {
    // Built in, so that the demo runs wherever the program is.
    let files: &[(&str, &str)] = match story {
        Story::Bank => crate::bank::FILES,
        Story::Shop => shop::FILES,
        Story::Locations => locations::FILES,
    };
    Ok(compile_source(Source::from_texts(files.iter().copied()), exe, None).await?)
}
