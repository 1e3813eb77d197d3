//! The whole of what `cargo test` does a part of: every chain of every example, and long random programs.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tests::{
    Shape, Victim,
    play::{Crash, Example, Program, Stage, crash_example, each_step_twice, refuse_each_step, run_program},
};

/// Each kill point × each victim × each step of each chain, forward and back; each step twice; each step refused.
pub async fn matrix(exe: &Path, examples: &[Example], names: &[String]) -> Result<()> {
    let is_chosen = |chain: &str| names.is_empty() || names.iter().any(|name| name == chain);
    for example in examples.iter().copied() {
        let stage = Stage::start(exe, example, Shape { peers: 2, ..Shape::shared() }).await?;
        for chain in stage.chains().into_iter().filter(|chain| is_chosen(chain)) {
            let sent = each_step_twice(&stage, &chain).await?;
            let refused = refuse_each_step(&stage, &chain).await?;
            eprintln!("kept: {chain}, {sent} late copies, {refused} steps refused in turn");
        }
        stage.check().await?;
        drop(stage);
        for victim in [Victim::Worker, Victim::Backend] {
            let crash = Crash { victims: vec![victim], is_quick: false };
            let kills = crash_example(exe, example, &crash, is_chosen).await?;
            eprintln!("kept: {example:?}, {victim:?} killed {kills} times");
        }
    }
    Ok(())
}

/// Random programs, one for each example and round.
pub async fn programs(exe: &Path, examples: &[Example], seed: u64, rounds: u32) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    for example in examples.iter().copied() {
        let mut stage = Stage::start(exe, example, Shape::own(2)).await?;
        for round in 1..=rounds {
            let program = Program { seed: rng.random(), length: Duration::from_secs(10), clients: 6, kills: true };
            let report = run_program(&mut stage, program).await.with_context(|| format!("{example:?}, round {round}"))?;
            eprintln!("{example:?}, round {round}: {:?}, killed {}", report.ends, report.killed.join(", "));
        }
    }
    Ok(())
}
