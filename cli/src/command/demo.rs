//! `rootward demo`: see the module [`crate::demo`].

use std::process::ExitCode;

use clap::Args;

use crate::{
    demo::{self, DemoOptions, Story},
    signals,
};

/// Play the story from end to end on a cluster of its own: transactions, a refusal, a peer killed, a chain replayed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward demo shop")]
pub(crate) struct Demo {
    /// Which story.
    #[arg(value_enum, default_value_t)]
    story: Story,
    /// Leave the cluster up at the end, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// How long the load runs in which a peer is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3600))]
    load_seconds: u64,
}

/// Succeeds only if every check of the story held.
pub(crate) async fn run(options: Demo) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe()?;
    let stop = signals::shutdown();
    let options = DemoOptions { story: options.story, load_seconds: options.load_seconds, is_stay: options.stay };
    tokio::select! {
        code = demo::play(&exe, options) => code,
        () = stop.cancelled() => Ok(ExitCode::from(130)),
    }
}
