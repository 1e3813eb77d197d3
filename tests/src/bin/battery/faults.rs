//! Rounds of faults while partitions move.

use std::path::Path;

use anyhow::{Context as _, Result};
use tests::faults::Rounds;

pub async fn run(exe: &Path, seed: u64, rounds: usize) -> Result<()> {
    eprintln!("{rounds} rounds of faults with --seed {seed}");
    let mut all = Rounds::start(exe, seed).await?;
    for (number, fault) in (1..).zip(all.plan(rounds)) {
        let round = all.run(fault).await.with_context(|| format!("round {number}"))?;
        eprintln!("round {number}: {fault:?} at {}, {} requests, the move is {}", round.victim, round.requests, round.stage);
    }
    Ok(())
}
