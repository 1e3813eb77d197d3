//! Each step sent twice: beside its driver, at the same time, and again when everything is over.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use rootward_proto::v1::{self, reply};
use uuid::Uuid;

use super::{Part, Play, Stage, check_effects_of, effects};
use crate::{client::send_to_worker, wait::until};

/// The message that a driver sends for a task, as far as it can be told from outside.
fn message(part: &Part, id: Uuid, chain: &(Vec<u8>, i64), is_undo: bool) -> Option<v1::Execute> {
    let arguments = if is_undo { &part.undo_arguments } else { &part.arguments }.as_ref()?.iter();
    let transaction = if is_undo { part.undo.clone()? } else { part.transaction.clone() };
    Some(v1::Execute {
        transaction,
        entity: part.root.0.clone(),
        root_key: part.root.1.to_string(),
        arguments: arguments.map(|(name, text)| v1::TextArgument { name: name.clone(), text: Some(text.clone()) }).collect(),
        request_id: id.as_bytes().to_vec(),
        step: part.step,
        element: part.element,
        direction: if is_undo { v1::Direction::Undo } else { v1::Direction::Do }.into(),
        time_left_ms: 5_000,
        issued_at_ms: chain.1,
        chain_fingerprint: chain.0.clone(),
        refusal_is_no_outcome: true,
        expires_at_ms: i64::MAX,
        schema_version: 1,
        ..v1::Execute::default()
    })
}

/// The chain's fingerprint and when it was issued, once its row is there.
async fn identity(stage: &Stage, id: Uuid) -> Result<(Vec<u8>, i64)> {
    let reader = stage.cluster.reader();
    let sql = "select fingerprint, (extract(epoch from issued_at) * 1000)::bigint from rootward.chain where id = $1";
    until("the chain's row is there", async || {
        let rows = reader.all(sql, &[&id]).await.ok()?;
        rows.first().map(|(_, row)| (row.get(0), row.get(1)))
    })
    .await
}

/// Sends each task twice as soon as it may begin, while its driver does so too.
async fn send_beside(stage: &Stage, play: &Play, id: Uuid) -> Result<()> {
    let chain = identity(stage, id).await?;
    let reader = stage.cluster.reader();
    for part in &play.parts {
        let Some(execute) = message(part, id, &chain, false) else { continue };
        until("the steps before it are done", async || {
            let outcomes = reader.outcomes(id).await.ok()?;
            let is_done = |step: &u32| {
                let elements = play.parts.iter().filter(|other| other.step == *step).count().max(1);
                let of = |row: &&crate::Outcome| row.direction == "do" && u32::try_from(row.place.0) == Ok(*step);
                outcomes.iter().filter(of).count() >= elements
            };
            part.after.iter().all(is_done).then_some(())
        })
        .await?;
        let address = stage.cluster.embedded.worker_address(&part.peer).context("the peer has a worker")?;
        for sent in join_all([send_to_worker(address, execute.clone()), send_to_worker(address, execute)]).await {
            ensure!(matches!(sent?, Ok(reply::Result::Executed(_))), "a copy of {} was not answered as its original", part.name);
        }
    }
    Ok(())
}

/// Plays a chain with each of its steps sent twice and more.
///
/// # Errors
/// What took effect twice, or was answered otherwise.
pub async fn each_step_twice(stage: &Stage, chain: &str) -> Result<u32> {
    let play = stage.play(chain, 1).await?;
    let id = Uuid::now_v7();
    let starts = join_all((0..3).map(|_| play.run(&stage.client, id)));
    let (ended, beside) = tokio::join!(starts, send_beside(stage, &play, id));
    for ended in ended {
        let ended = ended?;
        ensure!(ended.status() == "completed", "{chain}: {ended:?}");
    }
    beside.with_context(|| chain.to_owned())?;
    check_effects_of(stage, &play, id, "completed").await?;
    let mut sent = send_after(stage, &play, id, "completed").await?;
    // The same on its way back.
    if let Some(refused) = play.parts.iter().rposition(|part| !play.parks(part) && part.step > 0 && part.undo.is_none()) {
        let play = stage.play(chain, refused).await?;
        let refusal = stage.refuse(&play.parts[refused], false, "P0001").await?;
        let id = Uuid::now_v7();
        let ended = play.run(&stage.client, id).await?;
        stage.heal(refusal).await?;
        check_effects_of(stage, &play, id, ended.status()).await?;
        sent += send_after(stage, &play, id, ended.status()).await?;
    }
    Ok(sent)
}

/// Sends everything again after the end, which changes nothing.
async fn send_after(stage: &Stage, play: &Play, id: Uuid, status: &str) -> Result<u32> {
    let chain = identity(stage, id).await?;
    let before = effects(stage, play, id).await?;
    let outcomes = stage.cluster.reader().outcomes(id).await?;
    let was_sent = |part: &&Part| {
        outcomes.iter().any(|row| (i64::from(row.place.0), i64::from(row.place.1)) == (part.step.into(), part.element.into()))
    };
    let mut sent = 0;
    for part in play.parts.iter().filter(was_sent) {
        let (done, undone) = before[&(part.name.clone(), part.element)];
        for (is_undo, has_taken_effect) in [(false, done > 0), (true, undone > 0)] {
            // Nobody ever sends what undoes a step that nobody undoes.
            let Some(execute) = message(part, id, &chain, is_undo).filter(|_| !is_undo || has_taken_effect) else { continue };
            let address = stage.cluster.embedded.worker_address(&part.peer).context("the peer has a worker")?;
            let answer = send_to_worker(address, execute).await?;
            sent += 1;
            let is_stored = match &answer {
                Ok(reply::Result::Executed(response)) => response.from_stored_outcome && has_taken_effect,
                Ok(_) => false,
                Err(fault) => fault.as_wire().from_stored_outcome && !has_taken_effect,
            };
            ensure!(is_stored, "{} is {status}: a late copy of {} (undo: {is_undo}) is answered {answer:?}", play.chain, part.name);
        }
    }
    ensure!(effects(stage, play, id).await? == before, "{} is {status}, and late copies changed something", play.chain);
    Ok(sent)
}
