//! Workers, backends and servers killed before and after each commit of each chain.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use uuid::Uuid;

use super::{Example, Play, Stage, check_effects_of};
use crate::{
    cluster::Shape,
    kill::{KILL_POINTS, Victim, while_killing},
};

/// Which of all kills are tried.
#[derive(Debug, Clone)]
pub struct Crash {
    /// Who is killed.
    pub victims: Vec<Victim>,
    /// One point for each step, in turn, in place of each.
    pub is_quick: bool,
}

impl Crash {
    fn points(&self, turn: &mut usize) -> Vec<&'static str> {
        if !self.is_quick {
            return KILL_POINTS.to_vec();
        }
        *turn += 1;
        vec![KILL_POINTS[*turn % KILL_POINTS.len()]]
    }
}

/// Plays every chain of an example with something killed at each step; returns how often.
///
/// # Errors
/// The first promise that was broken, with the case.
pub async fn crash_example(exe: &Path, example: Example, crash: &Crash, is_chosen: impl Fn(&str) -> bool) -> Result<u32> {
    let mut stage = Stage::start(exe, example, Shape::own(2)).await?;
    let (mut turn, mut kills) = (0, 0);
    for chain in stage.chains().into_iter().filter(|chain| is_chosen(chain)) {
        kills += crash_chain(&mut stage, &chain, crash, &mut turn).await?;
    }
    stage.check().await?;
    Ok(kills)
}

/// Plays one chain with something killed at each of its steps, forward and, where it can, on its way back.
///
/// # Errors
/// The first promise that was broken, with the case.
pub async fn crash_chain(stage: &mut Stage, chain: &str, crash: &Crash, turn: &mut usize) -> Result<u32> {
    let mut kills = 0;
    let parts = stage.play(chain, 0).await?.parts.len();
    for at in 0..parts {
        for point in crash.points(turn) {
            for victim in &crash.victims {
                kills += crash_once(stage, chain, at, None, (point, *victim)).await?;
            }
        }
    }
    // Refused at its last step that may be, each step before it is undone.
    let play = stage.play(chain, 0).await?;
    let Some(refused) =
        play.parts.iter().rposition(|part| !play.parks(part) && part.step > 0 && part.on_failure != rootward_schema::OnFailure::Keep)
    else {
        return Ok(kills);
    };
    for at in (0..refused).filter(|at| play.parts[*at].undo.is_some()) {
        for point in crash.points(turn) {
            for victim in &crash.victims {
                kills += crash_once(stage, chain, at, Some(refused), (point, *victim)).await?;
            }
        }
    }
    Ok(kills)
}

async fn crash_once(stage: &mut Stage, chain: &str, at: usize, refused: Option<usize>, (point, victim): (&str, Victim)) -> Result<u32> {
    let play = stage.play(chain, usize::try_from(stage.play(chain, 0).await?.parts[at].step)?).await?;
    let part = play.parts[at].clone();
    let transaction = match refused {
        Some(_) => part.undo.clone().unwrap_or_default(),
        None => part.transaction.clone(),
    };
    let case = format!("{chain}: {victim:?} killed at {point} of {transaction} ({}.{} on {})", part.name, part.element, part.peer);
    let refusal = match refused {
        Some(refused) => Some(stage.refuse(&play.parts[refused], false, "P0001").await?),
        None => None,
    };
    let id = Uuid::now_v7();
    let client = stage.client.clone();
    let run = play.run(&client, id);
    let ended = while_killing(&mut stage.cluster, (&part.peer, victim), (point, &transaction), run).await.context(case.clone())?;
    let ended = ended.context(case.clone())?;
    if let Some(refusal) = refusal {
        stage.heal(refusal).await?;
    }
    judge(stage, &play, id, ended.status(), refused.is_some()).await.with_context(|| format!("{case}: {ended:?}"))?;
    Ok(1)
}

async fn judge(stage: &Stage, play: &Play, id: Uuid, status: &str, goes_back: bool) -> Result<()> {
    let wanted = if goes_back { "compensated" } else { "completed" };
    ensure!(status == wanted || (play.is_hasty && status == "compensated"), "it is {status}");
    check_effects_of(stage, play, id, status).await?;
    // Whoever asks again with the same id hears the same.
    let again = play.run(&stage.client, id).await?;
    ensure!(again.status() == status, "asked again it is {}", again.status());
    Ok(check_effects_of(stage, play, id, status).await?)
}
