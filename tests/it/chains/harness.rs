//! The three harnesses over every chain of every example, in a quick pass; the battery has the whole of it.

use futures_util::future::try_join_all;
use tests::{
    Shape, Victim,
    play::{Crash, Example, Program, Stage, crash_example, each_step_twice, refuse_each_step, run_program},
};

use crate::shared::exe;

#[tokio::test]
async fn each_step_of_every_chain_sent_twice_takes_effect_once_and_refused_in_turn_leaves_nothing() {
    let play = async |example| {
        let stage = Stage::start(exe(), example, Shape { peers: 2, ..Shape::shared() }).await?;
        let chains = stage.chains();
        let twice = try_join_all(chains.iter().map(|chain| each_step_twice(&stage, chain))).await?;
        anyhow::ensure!(twice.iter().all(|sent| *sent > 0), "a chain was not sent twice: {twice:?}");
        for chain in &chains {
            refuse_each_step(&stage, chain).await?;
        }
        Ok(stage.check().await?)
    };
    let played = try_join_all(Example::ALL.map(play)).await;
    played.unwrap_or_else(|error| panic!("{error:#}"));
}

#[tokio::test]
async fn a_worker_killed_around_each_commit_of_every_kind_of_chain_changes_nothing() {
    let crash = Crash { victims: vec![Victim::Worker], is_quick: true };
    let is_chosen = |chain: &str| ["side_by_side", "delayed", "long_wait", "kept", "brittle"].contains(&chain);
    let kills = crash_example(exe(), Example::Workflow, &crash, is_chosen).await.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(kills >= 15, "{kills}");
}

#[tokio::test]
async fn backends_killed_around_commits_of_a_chain_that_goes_back_change_nothing() {
    let crash = Crash { victims: vec![Victim::Backend], is_quick: true };
    let kills = crash_example(exe(), Example::Workflow, &crash, |chain| ["side_by_side", "by_hand"].contains(&chain)).await;
    assert!(kills.unwrap_or_else(|error| panic!("{error:#}")) >= 10);
}

#[tokio::test]
async fn a_random_program_under_kills_leaves_nothing_between_states() {
    let seed = rand::random();
    let mut stage = Stage::start(exe(), Example::Workflow, Shape::own(2)).await.expect("it starts");
    let program = Program { seed, length: std::time::Duration::from_secs(4), clients: 3, kills: true };
    let report = run_program(&mut stage, program).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    assert!(!report.ends.is_empty() && !report.killed.is_empty(), "seed {seed}: {report:?}");
}
