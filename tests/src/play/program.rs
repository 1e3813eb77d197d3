//! Randomised programs: chains of an example under a load of commands, while anything is killed.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rootward_proto::v1::{ChainVerb, RetryClass};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Play, Stage, check_effects_of, refuse::Refusal};
use crate::commands::command;

/// What a program is to be.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Everything random follows from it, as far as a scheduler allows.
    pub seed: u64,
    /// How long chains are started.
    pub length: Duration,
    /// How many clients.
    pub clients: u32,
    /// Whether processes are killed.
    pub kills: bool,
}

/// How chains ended, by status, and what was killed.
#[derive(Debug, Default)]
pub struct Report {
    /// By chain and status.
    pub ends: BTreeMap<String, u32>,
    /// Whatever was killed.
    pub killed: Vec<String>,
}

/// Runs a program; at the end every chain has come to its end, and everything holds that must.
///
/// # Errors
/// The first promise that was broken, with the chain.
pub async fn run_program(stage: &mut Stage, program: Program) -> Result<Report> {
    let mut rng = StdRng::seed_from_u64(program.seed);
    let is_over = AtomicBool::new(false);
    let until = Instant::now() + program.length;
    let seeds: Vec<u64> = (0..program.clients).map(|_| rng.random()).collect();
    let plays = {
        // Reads of the stage go on while its processes are killed: what the clients use is their own.
        let mut plays = Vec::new();
        for seed in &seeds {
            plays.push(some_plays(stage, &mut StdRng::seed_from_u64(*seed)).await?);
        }
        plays
    };
    let client = stage.client.clone();
    let runs = plays.into_iter().zip(seeds).map(|(plays, seed)| run_client(&client, plays, StdRng::seed_from_u64(seed), until));
    let runs = async {
        let runs = join_all(runs).await;
        is_over.store(true, Ordering::Relaxed);
        runs
    };
    let kills = kill_some(stage, &mut rng, program.kills.then_some(&is_over));
    let (runs, killed) = tokio::join!(runs, kills);
    let mut report = Report { killed: killed?, ..Report::default() };
    let started: Vec<(Play, Uuid)> = runs.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    for (play, id) in &started {
        let status = settle(stage, play, *id).await?;
        check_effects_of(stage, play, *id, &status).await?;
        *report.ends.entry(format!("{} {status}", play.chain)).or_default() += 1;
    }
    stage.check().await?;
    Ok(report)
}

/// Plays on roots that are made before anything is killed; some of them with a step that is refused.
async fn some_plays(stage: &Stage, rng: &mut StdRng) -> Result<Vec<(Play, Option<Refusal>)>> {
    let chains = stage.chains();
    let mut plays = Vec::new();
    for chain in &chains {
        let play = stage.play(chain, rng.random_range(0..5)).await?;
        let refused = rng.random_range(0..play.parts.len() * 2);
        // The goods of the shop are everybody's: one client's refusal would be all others'.
        let part = play.parts.get(refused).filter(|_| stage.example != super::Example::Shop);
        let refusal = match part {
            Some(part) => Some(stage.refuse(part, false, "P0001").await?),
            None => None,
        };
        plays.push((play, refusal));
    }
    Ok(plays)
}

/// Starts chains and meddles with them, until the time is over.
async fn run_client(
    client: &crate::Client,
    plays: Vec<(Play, Option<Refusal>)>,
    mut rng: StdRng,
    until: Instant,
) -> Result<Vec<(Play, Uuid)>> {
    const VERBS: [ChainVerb; 6] =
        [ChainVerb::Pause, ChainVerb::Resume, ChainVerb::Cancel, ChainVerb::Replay, ChainVerb::Compensate, ChainVerb::Abandon];
    let mut started: Vec<(Play, Uuid)> = Vec::new();
    while Instant::now() < until {
        match rng.random_range(0..10) {
            0..4 => {
                let (play, _) = &plays[rng.random_range(0..plays.len())];
                let id = Uuid::now_v7();
                started.push((play.clone(), id));
                let copies = if rng.random_range(0..4) == 0 { 2 } else { 1 };
                join_all((0..copies).map(|_| client.start(play.start(id)))).await;
            }
            4..7 if !started.is_empty() => {
                let (play, id) = &started[rng.random_range(started.len().saturating_sub(6)..started.len())];
                for (step, payload) in &play.signals {
                    let payload: Vec<(&str, &str)> = payload.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                    let _ = client.signal(*id, step, &payload).await;
                }
            }
            _ if !started.is_empty() => {
                let (_, id) = &started[rng.random_range(started.len().saturating_sub(6)..started.len())];
                // What makes an end that effects can't be judged by is rare.
                let verb = VERBS[rng.random_range(0..VERBS.len() - 1)];
                let _ = client.command(command(verb, *id)).await;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
    }
    Ok(started)
}

/// Brings a chain to its end, whatever it takes.
async fn settle(stage: &Stage, play: &Play, id: Uuid) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = stage.client.chain(id).await;
        let chain = match shown {
            Ok(chain) => chain,
            Err(fault) if fault.code() == "RW4001" => {
                // Its start was lost, or its first step refused: whoever asks once more is told, and then it is there.
                match stage.client.start(play.start(id)).await {
                    Err(fault) if fault.retry_class() == RetryClass::Refused => return Ok("refused".to_owned()),
                    _ => continue,
                }
            }
            Err(fault) => bail!("{} {id} can't be shown: {fault}", play.chain),
        };
        match chain.status.as_str() {
            "completed" | "failed" | "compensated" | "cancelled" | "abandoned" => return Ok(chain.status),
            "paused" => drop(stage.client.command(command(ChainVerb::Resume, id)).await),
            // With its step still refused it never completes.
            "parked" => drop(stage.client.command(command(ChainVerb::Cancel, id)).await),
            "waiting" => drop(stage.client.command(command(ChainVerb::Cancel, id)).await),
            // After a kill it may rest for a minute; nobody waits that long.
            "running" if chain.attempts > 0 => drop(stage.client.command(command(ChainVerb::Cancel, id)).await),
            _ => {}
        }
        if chain.status == "parked" && chain.failure.is_some() && Instant::now() > deadline - Duration::from_secs(50) {
            // Behind its pivot nothing turns it back: a person gives it up.
            drop(stage.client.command(command(ChainVerb::Abandon, id)).await);
        }
        ensure!(Instant::now() < deadline, "{} {id} is {} at {}: {:?}", play.chain, chain.status, chain.step, chain.failure);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn kill_some(stage: &mut Stage, rng: &mut StdRng, is_over: Option<&AtomicBool>) -> Result<Vec<String>> {
    let mut killed = Vec::new();
    let Some(is_over) = is_over else { return Ok(killed) };
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let peer = ["p1", "p2"][rng.random_range(0..2)];
        let pause = Duration::from_millis(rng.random_range(0..400));
        let cluster = &mut stage.cluster;
        let what = match rng.random_range(0..10) {
            0..2 => {
                cluster.embedded.kill_postgres(peer).await?;
                tokio::time::sleep(pause).await;
                cluster.embedded.start_postgres(peer).await.context("PostgreSQL starts again")?;
                "PostgreSQL"
            }
            2..5 => {
                // It may be recovering from the kill before.
                if cluster.kill_lane_backends(peer).await.is_err() {
                    continue;
                }
                "backends"
            }
            _ => {
                cluster.embedded.kill_worker(peer).await?;
                tokio::time::sleep(pause).await;
                cluster.embedded.start_worker(peer, &[]).await.context("a worker starts again")?;
                "worker"
            }
        };
        killed.push(format!("{what} of {peer}"));
    }
    for peer in ["p1", "p2"] {
        stage.cluster.wait_until_serving(peer, 0).await?;
    }
    Ok(killed)
}
