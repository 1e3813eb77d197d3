//! What a chain left behind, read from the users' tables alone.

use std::collections::BTreeMap;

use anyhow::Result;
use uuid::Uuid;

use super::{Example, Part, Play, Stage};
use crate::invariants::Violation;

/// How often each task took effect, and how often it was undone.
pub type Effects = BTreeMap<(String, u32), (i64, i64)>;

/// The effects of a chain.
///
/// # Errors
/// What PostgreSQL says.
pub async fn effects(stage: &Stage, play: &Play, id: Uuid) -> Result<Effects> {
    let reader = stage.cluster.reader();
    let mut found = Effects::new();
    for part in &play.parts {
        let (done, undone) = match stage.example {
            Example::Workflow => {
                let count = async |kind: &str| {
                    let sql = "select count(*) from mark where chain_id = $1 and step = $2 and kind = $3";
                    let rows = reader.all(sql, &[&id, &part.name, &kind]).await?;
                    anyhow::Ok(rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>())
                };
                (count("done").await?, count("undone").await?)
            }
            Example::Bank => {
                let count = async |direction: &str| {
                    let entry = Uuid::new_v5(&id, format!("{}/{}/{direction}", part.step, part.element).as_bytes());
                    let rows = reader.all("select count(*) from entry where entry_id = $1", &[&entry]).await?;
                    anyhow::Ok(rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum::<i64>())
                };
                (count("do").await?, count("undo").await?)
            }
            Example::Shop => shop_effects(stage, part, id).await?,
        };
        found.insert((part.name.clone(), part.element), (done, undone));
    }
    Ok(found)
}

async fn shop_effects(stage: &Stage, part: &Part, id: Uuid) -> Result<(i64, i64)> {
    let reader = stage.cluster.reader();
    if part.name == "create_order" {
        let rows = reader.all("select count(*) from orders where order_id = $1", &[&id]).await?;
        return Ok((rows.iter().map(|(_, row)| row.get::<_, i64>(0)).sum(), 0));
    }
    let line = i32::try_from(part.element + 1)?;
    let sql = "select state from reservation where chain_id = $1 and line_no = $2";
    let states: Vec<String> = reader.all(sql, &[&id, &line]).await?.iter().map(|(_, row)| row.get(0)).collect();
    let count = |wanted: &str| i64::try_from(states.iter().filter(|state| *state == wanted).count()).unwrap_or(i64::MAX);
    let all = i64::try_from(states.len())?;
    Ok(if part.name == "confirm" { (count("confirmed"), 0) } else { (all, count("released")) })
}

/// Each effect exactly once where the chain ended well, undone exactly once where it went back, and never anything between.
///
/// # Errors
/// The first task that is otherwise.
pub async fn check_effects_of(stage: &Stage, play: &Play, id: Uuid, status: &str) -> Result<(), Violation> {
    let found = effects(stage, play, id).await.map_err(Violation::unread)?;
    for part in &play.parts {
        let (done, undone) = found[&(part.name.clone(), part.element)];
        let is_right = match status {
            "completed" => (done, undone) == (1, 0),
            "compensated" | "cancelled" if part.undo.is_some() => done == undone && done <= 1,
            // A deadline may turn a chain back behind a step that nothing undoes; its check warns of it.
            "compensated" | "cancelled" => done == 0 || play.is_hasty,
            "refused" => (done, undone) == (0, 0),
            // What was to be kept stays.
            "failed" => undone == 0 && done <= 1,
            _ => done <= 1 && undone <= done,
        };
        if !is_right {
            let what = format!(
                "{} {id} is {status}, its step {}.{} is done {done} times and undone {undone} times",
                play.chain, part.name, part.element
            );
            return Err(Violation::new("effects", what));
        }
    }
    let outcomes = stage.cluster.reader().outcomes(id).await.map_err(Violation::unread)?;
    let mut seen = std::collections::BTreeSet::new();
    for outcome in outcomes {
        if !seen.insert((outcome.place, outcome.direction.clone())) {
            return Err(Violation::new("outcomes", format!("{} {id} has two of {outcome:?}", play.chain)));
        }
    }
    Ok(())
}
