//! `rootward partition move`, `moves`, `cancel`, `accept` and `list --by`.

use std::{
    collections::HashMap,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use rootward_client::{Fault, v1};
use serde_json::{Value as Json, json};

use super::{
    Context, exit, fail,
    peer::{ranges, shortened},
};
use crate::output;

/// How often a move is looked at while it is followed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A hub that is away for longer than this many looks is reported; the move itself waits for it.
const MOST_MISSES: u32 = 150;

/// By what partitions are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// The bytes of their rows.
    Size,
    /// The number of their rows.
    Rows,
    /// What takes effect in them in a second, watched for a moment.
    Rate,
}

/// For how long partitions are watched to tell their rates.
const WATCHED: Duration = Duration::from_secs(2);

/// Which partitions move, and whither.
#[derive(Debug, Args)]
pub(crate) struct Move {
    /// Partitions and ranges of them, such as 17 or 40-43.
    #[arg(required = true, value_name = "PARTITION", value_parser = range)]
    partitions: Vec<(i32, i32)>,
    /// The peer that is to own them.
    #[arg(long, value_name = "PEER")]
    to: String,
    /// Only say what would be moved.
    #[arg(long)]
    dry_run: bool,
    /// Why, for the list of moves.
    #[arg(long, default_value = "")]
    reason: String,
    /// Don't follow the move; it goes on by itself.
    #[arg(long)]
    no_wait: bool,
}

/// `17` or `40-43`.
fn range(text: &str) -> Result<(i32, i32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number >= 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("`{text}` is no partition: write 17, or 40-43 for several")),
    }
}

/// Moves partitions.
pub(crate) async fn begin(context: &Context, what: Move) -> ExitCode {
    let request = v1::MovePartitionsRequest {
        partitions: what.partitions.iter().flat_map(|(first, last)| *first..=*last).collect(),
        target: what.to,
        dry_run: what.dry_run,
        reason: what.reason,
        request_id: String::new(),
    };
    let begun = match context.client.move_partitions(request).await {
        Ok(begun) => begun,
        Err(fault) => return fail(&fault, context.format),
    };
    finish(context, begun, what.dry_run, what.no_wait).await
}

/// Prints a plan, or follows moves to their end.
pub(crate) async fn finish(context: &Context, begun: v1::MovePartitionsResponse, is_plan: bool, is_left: bool) -> ExitCode {
    if is_plan || is_left || begun.moves.is_empty() {
        let there: Vec<usize> = begun.already_there.iter().filter_map(|partition| usize::try_from(*partition).ok()).collect();
        print(context, &begun.moves, json!({"already_there": begun.already_there, "dry_run": is_plan}), is_plan);
        if !there.is_empty() && !context.format.is_json() {
            output::print(&format!("already there: {}", ranges(&there)));
        }
        return ExitCode::SUCCESS;
    }
    let mut ended = Vec::new();
    for one in &begun.moves {
        match follow(context, &one.id).await {
            Ok(one) => ended.push(one),
            Err(fault) => return fail(&fault, context.format),
        }
    }
    print(context, &ended, json!({}), false);
    if ended.iter().all(|one| one.stage == "done") { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) }
}

/// Looks at a move until it has ended, or waits for a person; on a terminal its progress is shown.
async fn follow(context: &Context, id: &str) -> Result<v1::Move, Fault> {
    let is_shown = std::io::stderr().is_terminal() && !context.format.is_json();
    let mut misses = 0;
    loop {
        let request = v1::ListMovesRequest { id: id.to_owned(), ..v1::ListMovesRequest::default() };
        match context.client.moves(request).await {
            Ok(response) => {
                misses = 0;
                let one = response.moves.into_iter().next().unwrap_or_default();
                if is_shown {
                    eprint!("\r\x1b[K{}", progress(&one));
                }
                if !one.ended_at.is_empty() || one.stage == "differing" {
                    if is_shown {
                        eprintln!();
                    }
                    return Ok(one);
                }
            }
            Err(fault) if misses >= MOST_MISSES || fault.retry_class() == v1::RetryClass::NotFound => return Err(fault),
            Err(_) => misses += 1,
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// One line about a move under way.
fn progress(one: &v1::Move) -> String {
    let mut text = format!("{} {} rows of {}", one.stage, one.rows_copied, one.rows_total);
    if one.stage == "copying" && one.rows_copied > 0 && one.copy_s > 0.0 {
        let rate = one.rows_copied as f64 / one.copy_s;
        let left = one.rows_total.saturating_sub(one.rows_copied) as f64 / rate;
        text += &format!(", {rate:.0} rows/s, about {} left", output::age(left));
    }
    if !one.error.is_empty() {
        text += &format!("; {}", one.error);
    }
    text
}

/// Lists moves.
pub(crate) async fn list(context: &Context, all: bool, limit: u32) -> ExitCode {
    match context.client.moves(v1::ListMovesRequest { id: String::new(), all, limit }).await {
        Ok(response) => {
            print(context, &response.moves, json!({}), false);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, context.format),
    }
}

/// Gives a move up and waits until everything is undone.
pub(crate) async fn cancel(context: &Context, id: &str) -> ExitCode {
    let cancelled = async {
        context.client.cancel_move(id).await?;
        follow(context, id).await
    };
    match cancelled.await {
        Ok(one) => {
            print(context, &[one], json!({}), false);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, context.format),
    }
}

/// Goes on with a move whose sides differed, and waits for its end.
pub(crate) async fn accept(context: &Context, id: &str) -> ExitCode {
    let accepted = async {
        context.client.accept_move(id).await?;
        follow(context, id).await
    };
    match accepted.await {
        Ok(one) => {
            print(context, &[one], json!({}), false);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, context.format),
    }
}

fn print(context: &Context, moves: &[v1::Move], more: Json, is_plan: bool) {
    if context.format.is_json() {
        output::print_list(context.format, "moves", moves.iter().map(move_json).collect(), more);
        return;
    }
    if moves.is_empty() {
        output::print("no moves");
        return;
    }
    let partitions = |one: &v1::Move| {
        let sorted: Vec<usize> = one.partitions.iter().filter_map(|partition| usize::try_from(*partition).ok()).collect();
        shortened(&ranges(&sorted))
    };
    if is_plan {
        let row = |one: &v1::Move| {
            vec![one.source.clone(), one.target.clone(), one.rows_total.to_string(), one.bytes.to_string(), partitions(one)]
        };
        output::print(&output::table(&["FROM", "TO", "ROWS", "BYTES", "PARTITIONS"], &moves.iter().map(row).collect::<Vec<_>>()));
        return;
    }
    let row = |one: &v1::Move| {
        let held = if one.held_us > 0 { output::duration(one.held_us) } else { "-".to_owned() };
        vec![
            one.id.clone(),
            one.stage.clone(),
            one.source.clone(),
            one.target.clone(),
            format!("{}/{}", one.rows_copied, one.rows_total),
            output::age(one.age_s),
            held,
            partitions(one),
            one.error.clone(),
        ]
    };
    let headings = ["MOVE", "STAGE", "FROM", "TO", "ROWS", "AGE", "HELD", "PARTITIONS", "ERROR"];
    output::print(&output::table(&headings, &moves.iter().map(row).collect::<Vec<_>>()));
}

/// A move for programs. The form is a promise: fields are added, never renamed.
fn move_json(one: &v1::Move) -> Json {
    json!({
        "id": one.id, "stage": one.stage, "source": one.source, "target": one.target, "partitions": one.partitions, "reason": one.reason,
        "error": one.error, "rows_total": one.rows_total, "rows_copied": one.rows_copied, "rows_cleaned": one.rows_cleaned,
        "bytes": one.bytes, "tables": one.tables, "tables_ready": one.tables_ready, "switches": one.switches, "held_us": one.held_us,
        "is_verified": one.is_verified, "started_at": one.started_at, "ended_at": one.ended_at, "age_s": one.age_s, "copy_s": one.copy_s,
    })
}

/// What takes effect in each partition in a second, from two looks.
async fn rates(context: &Context) -> Result<Vec<(i32, f64)>, Fault> {
    let before = context.client.partition_loads().await?.sizes;
    let began = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let now = context.client.partition_loads().await?.sizes;
    let seconds = began.elapsed().as_secs_f64();
    let before: HashMap<i32, u64> = before.into_iter().map(|size| (size.partition, size.committed)).collect();
    // A worker that was started in between, or a partition that moved, begins with nothing.
    let since = |size: &v1::PartitionSize| {
        size.committed.checked_sub(before.get(&size.partition).copied().unwrap_or_default()).unwrap_or(size.committed)
    };
    Ok(now.iter().map(|size| (size.partition, since(size) as f64 / seconds)).collect())
}

async fn by_rate(context: &Context, peer: Option<&str>, limit: usize) -> ExitCode {
    let asked = async { Ok::<_, Fault>((rates(context).await?, context.client.partitions().await?)) };
    let (rates, map) = match asked.await {
        Ok(answers) => answers,
        Err(fault) => return fail(&fault, context.format),
    };
    let mut rates: Vec<(String, i32, f64)> = rates
        .into_iter()
        .filter(|(partition, rate)| *partition >= 0 && *rate > 0.0)
        .map(|(partition, rate)| (owner(&map, partition), partition, rate))
        .collect();
    rates.retain(|(owner, _, _)| peer.is_none_or(|wanted| wanted == owner));
    rates.sort_by(|one, other| other.2.total_cmp(&one.2).then(one.1.cmp(&other.1)));
    rates.truncate(limit);
    if context.format.is_json() {
        let item = |(owner, partition, rate): &(String, i32, f64)| json!({"partition": partition, "peer": owner, "committed_per_s": rate});
        output::print_list(context.format, "partitions", rates.iter().map(item).collect(), json!({}));
    } else {
        let row = |(owner, partition, rate): &(String, i32, f64)| vec![partition.to_string(), owner.clone(), format!("{rate:.1}")];
        output::print(&output::table(&["PARTITION", "PEER", "COMMITTED/S"], &rates.iter().map(row).collect::<Vec<_>>()));
    }
    ExitCode::SUCCESS
}

fn owner(map: &v1::ListPartitionsResponse, partition: i32) -> String {
    let at = usize::try_from(partition).ok().and_then(|at| map.owners.get(at)).and_then(|owner| usize::try_from(*owner).ok());
    at.and_then(|at| map.peers.get(at)).cloned().unwrap_or_default()
}

/// Lists the largest or busiest partitions with their owners.
pub(crate) async fn sizes(context: &Context, peer: Option<&str>, by: By, limit: usize) -> ExitCode {
    if by == By::Rate {
        return by_rate(context, peer, limit).await;
    }
    let asked = async { Ok::<_, Fault>((context.client.partitions().await?, context.client.partition_sizes().await?)) };
    let (map, sizes) = match asked.await {
        Ok(answers) => answers,
        Err(fault) => return fail(&fault, context.format),
    };
    let mut sizes: Vec<(String, v1::PartitionSize)> = sizes.sizes.into_iter().map(|size| (owner(&map, size.partition), size)).collect();
    // Reference data have a number below those of partitions, and don't move.
    sizes.retain(|(owner, size)| size.partition >= 0 && peer.is_none_or(|wanted| wanted == owner));
    sizes.sort_by_key(|(_, size)| (std::cmp::Reverse(if by == By::Size { size.bytes } else { size.rows }), size.partition));
    sizes.truncate(limit);
    if context.format.is_json() {
        let item = |(owner, size): &(String, v1::PartitionSize)| json!({"partition": size.partition, "peer": owner, "rows": size.rows, "bytes": size.bytes});
        output::print_list(context.format, "partitions", sizes.iter().map(item).collect(), json!({}));
    } else {
        let row = |(owner, size): &(String, v1::PartitionSize)| {
            vec![size.partition.to_string(), owner.clone(), size.rows.to_string(), size.bytes.to_string()]
        };
        output::print(&output::table(&["PARTITION", "PEER", "ROWS", "BYTES"], &sizes.iter().map(row).collect::<Vec<_>>()));
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_one_by_one_or_in_ranges() {
        assert_eq!((range("17"), range("40-43")), (Ok((17, 17)), Ok((40, 43))));
        for wrong in ["", "a", "-1", "3-2", "1-", "1-2-3"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn progress_tells_the_rate_and_what_is_left() {
        let one = v1::Move {
            stage: "copying".into(),
            rows_copied: 500,
            rows_total: 2_000,
            copy_s: 2.0,
            error: "slow".into(),
            ..v1::Move::default()
        };
        assert_eq!(progress(&one), "copying 500 rows of 2000, 250 rows/s, about 6s left; slow");
    }

    #[test]
    fn a_move_for_programs_keeps_its_form() {
        let one = v1::Move { id: "x".into(), stage: "done".into(), partitions: vec![1, 2], is_verified: true, ..v1::Move::default() };
        let wanted = concat!(
            r#"{"age_s":0.0,"bytes":0,"copy_s":0.0,"ended_at":"","error":"","held_us":0,"id":"x","is_verified":true,"partitions":[1,2],"#,
            r#""reason":"","rows_cleaned":0,"rows_copied":0,"rows_total":0,"source":"","stage":"done","started_at":"","switches":0,"#,
            r#""tables":0,"tables_ready":0,"target":""}"#
        );
        assert_eq!(move_json(&one).to_string(), wanted);
    }
}
