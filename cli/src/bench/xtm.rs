//! `bench xtm`: transfers between random accounts of several databases while readers look at the total, which must always be 0.
//! The benchmark xtmbench with its options and its output; beside it the same load by postgres_fdw and two-phase commit.

mod load;
mod side;

use std::{collections::HashMap, path::Path};

use rootward_cluster::{Shards, ShardsError};
use serde_json::{Value as Json, json};

use super::{
    Report,
    figures::{Figures, Series, percentile},
    ground::{Ground, Site},
    live::Live,
    workload::Workload,
};
use crate::edge::Wrong;

use load::Ran;
pub(crate) use side::Rival;
use side::Side;
pub(super) use side::{Read, by_snapshot};

/// A rival can't be run.
pub(crate) const NO_RIVAL: &str = "RW1120";

/// What the command line says.
#[derive(Debug, Clone)]
pub(crate) struct XtmOptions {
    pub readers: u32,
    pub writers: u32,
    pub accounts: u64,
    /// Of each writer.
    pub iterations: u64,
    /// How many of a hundred iterations transfer; the others look at two accounts.
    pub update_percent: u32,
    pub shards: u32,
    pub against: Vec<Rival>,
    /// How often a worker or a PostgreSQL of ours is killed.
    pub kill: u32,
    pub rounds: u32,
}

/// Measures all sides in turns, Rootward last, and checks every account.
///
/// # Errors
/// If something can't be started, or a check does not hold for Rootward: then there are no figures.
pub(crate) async fn run(exe: &Path, options: &XtmOptions) -> anyhow::Result<Report> {
    let mut live = Live::new();
    let clients = usize::try_from(options.writers + options.readers).unwrap_or(usize::MAX);
    let site =
        Site { peers: options.shards, is_one_server: false, lanes: None, most_clients: clients, server_settings: &[], worker_settings: "" };
    let mut ground = Ground::start(exe, Workload::xtm(options.accounts), site, &mut live).await?;
    let machine = ground.machine()?;
    let mut sides = Vec::new();
    if !options.against.is_empty() {
        let shards = shards(&ground, options.accounts).await?;
        sides.extend(options.against.iter().map(|rival| Side::Rival(*rival, shards.clone())));
    }
    sides.push(Side::Rootward(ground.client.clone()));
    let mut rounds: Vec<Vec<Ran>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (side, ran) in sides.iter().zip(&mut rounds) {
            live.begin(format!("round {round} of {}: {}", options.rounds, side.name()));
            let victims = (matches!(side, Side::Rootward(_)) && options.kill > 0).then_some(&mut ground.cluster);
            ran.push(load::run(side, options, victims, &mut live).await?);
        }
    }
    live.begin("counting".to_owned());
    let ours = rounds.last().map(Vec::as_slice).unwrap_or_default();
    let mut checks = check(&ground, options, ours).await?;
    let mut figures = Figures::default();
    for (side, ran) in sides.iter().zip(&rounds) {
        figures_of(side, ran, &mut figures);
        if let Side::Rival(rival, shards) = side {
            let (total, prepared) = shards.books().await?;
            checks.push(format!("{}: the total in the end is {total}, {prepared} transactions are left prepared", rival.name()));
        }
    }
    for rival in &options.against {
        let ratio = figures.median("xtm_transfers_per_s") / figures.median(&format!("xtm_{}_transfers_per_s", rival.figure()));
        figures.add(format!("xtm_ratio_vs_{}", rival.figure()), "x", ratio);
    }
    let table = output(&sides, &rounds, options);
    let closing = rounds.last().and_then(|ran| ran.last()).map(|ran| summary(ran, options).to_string());
    let settings = settings(options);
    drop((live, sides));
    ground.cluster.stop().await?;
    Ok(Report { title: "bench xtm".to_owned(), machine, settings, figures, table, checks, charts: Vec::new(), closing })
}

async fn shards(ground: &Ground, accounts: u64) -> anyhow::Result<Shards> {
    Shards::set_up(&ground.cluster, accounts).await.map_err(|error| match error {
        ShardsError::NoExtension => {
            let help =
                "install PostgreSQL's contributed modules (Debian has them in its `postgresql` packages), or leave `fdw` and `2pc` out";
            Wrong::new(NO_RIVAL, "--against: this PostgreSQL has no extension postgres_fdw", help).into()
        }
        other => other.into(),
    })
}

/// Every account holds what the transfers that were acknowledged leave there, no reader saw a wrong total, and `verify` agrees.
async fn check(ground: &Ground, options: &XtmOptions, ours: &[Ran]) -> anyhow::Result<Vec<String>> {
    let wrong: u64 = ours.iter().map(|ran| ran.reads.wrong).sum();
    let reads: u64 = ours.iter().map(|ran| ran.reads.count).sum();
    anyhow::ensure!(
        wrong == 0,
        "{wrong} of {reads} totals were wrong: {:?}",
        ours.iter().flat_map(|ran| &ran.reads.lines).collect::<Vec<_>>()
    );
    ground.wait_for_chains().await?;
    let mut expected: HashMap<u64, i64> = HashMap::new();
    for (account, change) in ours.iter().flat_map(|ran| &ran.expected) {
        *expected.entry(*account).or_default() += change;
    }
    let gauge = Ground::gauge(&ground.cluster).await?;
    let found = gauge.texts("select u || ' ' || v from t").await?;
    anyhow::ensure!(found.len() as u64 == options.accounts, "{} accounts are left of {}", found.len(), options.accounts);
    for text in &found {
        let (account, value) = text.split_once(' ').unwrap_or_default();
        let wanted = account.parse().ok().and_then(|account: u64| expected.get(&account).copied()).unwrap_or(0);
        anyhow::ensure!(
            value == wanted.to_string(),
            "account {account} holds {value}, and the transfers that were acknowledged leave {wanted}"
        );
    }
    let verified = ground.client.verify().await?;
    let failed: Vec<&str> = verified.checks.iter().filter(|check| !check.is_ok).map(|check| check.name.as_str()).collect();
    anyhow::ensure!(failed.is_empty(), "`verify` finds something wrong: {}", failed.join(", "));
    let transfers: u64 = ours.iter().map(|ran| ran.transfers).sum();
    let kills: u32 = ours.iter().map(|ran| ran.kills).sum();
    let after = if kills > 0 { format!(" after {kills} kills") } else { String::new() };
    Ok(vec![
        format!("every total of {reads} was 0"),
        format!("each of {transfers} transfers was done once{after}: every account holds what they leave"),
        "verify: OK".to_owned(),
    ])
}

fn figures_of(side: &Side, all: &[Ran], figures: &mut Figures) {
    let prefix = side.prefix();
    let series = |of: &dyn Fn(&Ran) -> f64| {
        let mut series = Series::default();
        all.iter().for_each(|ran| series.push(of(ran)));
        series
    };
    let sum = |of: &dyn Fn(&Ran) -> u64| all.iter().map(of).sum::<u64>() as f64;
    let (reads, wrong) = (sum(&|ran| ran.reads.count), sum(&|ran| ran.reads.wrong));
    let (aborts, done) = (sum(&|ran| ran.aborts), sum(&|ran| ran.transfers + ran.looks));
    figures.add(format!("{prefix}transfers_per_s"), "transfers/s", series(&Ran::transfers_per_second));
    figures.add(format!("{prefix}reads_per_s"), "reads/s", series(&|ran| ran.reads.count as f64 / ran.seconds));
    figures.add(format!("{prefix}reads"), "reads", reads);
    figures.add(format!("{prefix}wrong_totals"), "reads", wrong);
    figures.add(format!("{prefix}wrong_totals_percent"), "%", 100.0 * wrong / reads.max(1.0));
    figures.add(format!("{prefix}refused_reads"), "reads", sum(&|ran| ran.reads.refused));
    figures.add(format!("{prefix}aborts"), "aborts", aborts);
    figures.add(format!("{prefix}abort_percent"), "%", 100.0 * aborts / (aborts + done).max(1.0));
    if matches!(side, Side::Rootward(_)) {
        figures.add("xtm_repeats", "requests", sum(&|ran| ran.repeats));
        figures.add("xtm_reads_in_flight", "reads", sum(&|ran| ran.reads.in_flight));
        figures.add("xtm_kills", "kills", sum(&|ran| u64::from(ran.kills)));
        for (name, of) in [("pause", pauses as fn(&Ran) -> &[u64]), ("drain", drains)] {
            let mut all: Vec<u64> = all.iter().flat_map(|ran| of(ran).iter().copied()).collect();
            all.sort_unstable();
            figures.add(format!("xtm_{name}_p50_us"), "us", percentile(&all, 0.5) as f64);
            figures.add(format!("xtm_{name}_p99_us"), "us", percentile(&all, 0.99) as f64);
        }
    }
}

fn pauses(ran: &Ran) -> &[u64] {
    &ran.reads.pauses_us
}

fn drains(ran: &Ran) -> &[u64] {
    &ran.reads.drains_us
}

/// What xtmbench prints for each side in turn.
fn output(sides: &[Side], rounds: &[Vec<Ran>], options: &XtmOptions) -> String {
    let mut lines = Vec::new();
    for (side, all) in sides.iter().zip(rounds) {
        for ran in all {
            lines.push(format!("{}:", side.name()));
            lines.push(format!("{} accounts inserted", options.accounts));
            lines.extend(ran.reads.lines.iter().cloned());
            if ran.reads.changes > ran.reads.lines.len() as u64 {
                lines.push(format!("… {} lines Total= in all", ran.reads.changes));
            }
            lines.push(format!(
                "{:.0} transfers/s; {} of {} totals were wrong, {} reads were refused, {} had chains in flight; {} aborts",
                ran.transfers_per_second(),
                ran.reads.wrong,
                ran.reads.count,
                ran.reads.refused,
                ran.reads.in_flight,
                ran.aborts
            ));
            if matches!(side, Side::Rival(..)) {
                lines.push(summary(ran, options).to_string());
            }
            lines.push(String::new());
        }
    }
    lines.join("\n").trim_end().to_owned()
}

/// The line of xtmbench, by its names; what it counts twice there is counted once.
fn summary(ran: &Ran, options: &XtmOptions) -> Json {
    let done = ran.transfers + ran.looks;
    json!({
        "tps": (ran.per_second() * 100.0).round() / 100.0,
        "transactions": done,
        "selects": ran.reads.count + 2 * ran.looks,
        "updates": 2 * ran.transfers,
        "aborts": ran.aborts,
        "abort_percent": 100 * ran.aborts / (ran.aborts + done).max(1),
        "readers": options.readers,
        "writers": options.writers,
        "update_percent": options.update_percent,
        "accounts": options.accounts,
        "iterations": options.iterations,
        "shards": options.shards,
    })
}

fn settings(options: &XtmOptions) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        (
            "cluster",
            format!(
                "a hub and {} peers, each with a PostgreSQL server and a worker of its own, one router, all on this machine",
                options.shards
            ),
        ),
        (
            "load",
            format!(
                "{} writers with {} iterations each over {} accounts, {} % of them transfers; {} readers; all sides in turns, {} rounds",
                options.writers, options.iterations, options.accounts, options.update_percent, options.readers, options.rounds
            ),
        ),
        (
            "rootward",
            "a transfer is a chain of two steps, waited for to its end; a read is a snapshot of its own: taken, `select sum(v) from t` \
             over all peers, released; the Rust client, outcomes and row security on"
                .to_owned(),
        ),
    ];
    for rival in &options.against {
        settings.push(match rival {
            Rival::Fdw => (
                "fdw",
                "a partitioned table of foreign tables in a database of the hub's server, READ COMMITTED; a transfer is four messages, \
                 BEGIN, two updates and COMMIT, as xtmbench sends them; a read `select sum(v) from t` whose rows come in one trip from each shard; superuser, unix sockets"
                    .to_owned(),
            ),
            Rival::FdwOneMessage => ("fdw-one-message", "the same, but a transfer is one message with all four statements".to_owned()),
            Rival::TwoPhase => (
                "2pc",
                "a transfer is one message to each of its two shards at once (BEGIN, update, PREPARE TRANSACTION), then COMMIT PREPARED; \
                 one message if both accounts lie on one; a read asks all shards at once; no record of the decision; superuser, unix sockets"
                    .to_owned(),
            ),
        });
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> XtmOptions {
        XtmOptions {
            readers: 1,
            writers: 10,
            accounts: 10_000,
            iterations: 100,
            update_percent: 90,
            shards: 2,
            against: Vec::new(),
            kill: 0,
            rounds: 1,
        }
    }

    #[test]
    fn the_last_line_counts_each_transaction_once() {
        let ran = Ran { seconds: 2.0, transfers: 900, looks: 100, aborts: 50, ..Ran::default() };
        let wanted = json!({
            "tps": 500.0, "transactions": 1000, "selects": 200, "updates": 1800, "aborts": 50, "abort_percent": 4, "readers": 1,
            "writers": 10, "update_percent": 90, "accounts": 10000, "iterations": 100, "shards": 2,
        });
        assert_eq!(summary(&ran, &options()), wanted);
    }
}
