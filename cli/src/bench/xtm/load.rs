//! The load of `bench xtm`: writers that each do so many iterations, readers that look at the total until the writers end.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::RngExt as _;
use rootward_cluster::EmbeddedCluster;
use tokio::task::JoinSet;

use super::{
    XtmOptions,
    side::{Ended, Read, Side, SideClient},
};
use crate::bench::live::Live;

/// So many lines `Total=…` are kept; all are counted.
const MOST_LINES: usize = 1_000;

/// What a side did.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub seconds: f64,
    /// Iterations that were done: transfers, and looks at two accounts.
    pub transfers: u64,
    pub looks: u64,
    /// Iterations that were undone by the database and done again.
    pub aborts: u64,
    /// Transfers that were sent again with their own ids.
    pub repeats: u64,
    pub reads: Reads,
    /// What each account must hold now, if every transfer was done once.
    pub expected: HashMap<u64, i64>,
    /// How often something was killed.
    pub kills: u32,
}

/// What the readers saw.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub count: u64,
    pub wrong: u64,
    pub refused: u64,
    /// Totals at which chains were in flight, waiting for a peer that was killed: they say so, and are not judged.
    pub in_flight: u64,
    /// `Total=…`, whenever a reader's total differs from its one before.
    pub lines: Vec<String>,
    pub changes: u64,
    pub pauses_us: Vec<u64>,
    pub drains_us: Vec<u64>,
}

/// One reader's last total; it begins with 0.
#[derive(Debug, Default)]
struct Last(i64);

impl Last {
    /// The line to print, if the total is another one than before.
    fn look(&mut self, total: i64) -> Option<String> {
        let line = (total != self.0).then(|| format!("Total={total}"));
        self.0 = total;
        line
    }
}

impl Reads {
    fn add(&mut self, read: Read, last: &mut Last) {
        if read.in_flight > 0 {
            self.in_flight += 1;
            return;
        }
        self.count += 1;
        self.wrong += u64::from(read.total != 0);
        self.pauses_us.push(read.pause_us);
        self.drains_us.push(read.drain_us);
        if let Some(line) = last.look(read.total) {
            self.changes += 1;
            if self.lines.len() < MOST_LINES {
                self.lines.push(line);
            }
        }
    }

    fn merge(&mut self, other: Reads) {
        self.count += other.count;
        self.wrong += other.wrong;
        self.refused += other.refused;
        self.in_flight += other.in_flight;
        self.changes += other.changes;
        self.lines.extend(other.lines);
        self.lines.truncate(MOST_LINES);
        self.pauses_us.extend(other.pauses_us);
        self.drains_us.extend(other.drains_us);
    }
}

/// Runs one side to its end. `victims` die in turns, so often that the last one dies before the end.
pub(super) async fn run(side: &Side, options: &XtmOptions, victims: Option<&mut EmbeddedCluster>, live: &mut Live) -> anyhow::Result<Ran> {
    let done = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    // Sessions are opened before the clock runs.
    let mut of_writers = Vec::new();
    for _ in 0..options.writers {
        of_writers.push(side.client().await?);
    }
    for _ in 0..options.readers {
        readers.spawn(read(side.client().await?, is_over.clone()));
    }
    let began = Instant::now();
    for client in of_writers {
        writers.spawn(write(client, options.clone(), done.clone()));
    }
    let mut ran = Ran::default();
    let load = async {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                part = writers.join_next() => match part {
                    Some(part) => ran.add(part??),
                    None => break anyhow::Ok(()),
                },
                _ = second.tick() => live.show(done.load(Ordering::Relaxed)),
            }
        }
    };
    let kills = async {
        match victims {
            Some(cluster) => kill(cluster, options, &done).await,
            None => Ok(0),
        }
    };
    let (load, kills) = tokio::join!(load, kills);
    is_over.store(true, Ordering::Relaxed);
    load?;
    ran.kills = kills?;
    ran.seconds = began.elapsed().as_secs_f64();
    while let Some(part) = readers.join_next().await {
        ran.reads.merge(part??);
    }
    Ok(ran)
}

impl Ran {
    fn add(&mut self, part: Ran) {
        self.transfers += part.transfers;
        self.looks += part.looks;
        self.aborts += part.aborts;
        self.repeats += part.repeats;
        for (account, change) in part.expected {
            *self.expected.entry(account).or_default() += change;
        }
    }

    /// Iterations a second.
    pub(super) fn per_second(&self) -> f64 {
        (self.transfers + self.looks) as f64 / self.seconds
    }

    pub(super) fn transfers_per_second(&self) -> f64 {
        self.transfers as f64 / self.seconds
    }
}

async fn write(mut client: SideClient, options: XtmOptions, done: Arc<AtomicU64>) -> anyhow::Result<Ran> {
    let mut ran = Ran::default();
    for _ in 0..options.iterations {
        let (from, to, moves) = {
            let mut random = rand::rng();
            let mut account = || random.random_range(1..=options.accounts);
            (account(), account(), random.random_range(0..100) < options.update_percent)
        };
        loop {
            let ended = if moves { client.transfer(from, to, &mut ran.repeats).await? } else { client.look(from, to).await? };
            if ended == Ended::Done {
                break;
            }
            ran.aborts += 1;
        }
        done.fetch_add(1, Ordering::Relaxed);
        if moves {
            ran.transfers += 1;
            *ran.expected.entry(from).or_default() -= 1;
            *ran.expected.entry(to).or_default() += 1;
        } else {
            ran.looks += 1;
        }
    }
    Ok(ran)
}

async fn read(mut client: SideClient, is_over: Arc<AtomicBool>) -> anyhow::Result<Reads> {
    let mut reads = Reads::default();
    let mut last = Last::default();
    while !is_over.load(Ordering::Relaxed) {
        match client.total().await? {
            Some(read) => reads.add(read, &mut last),
            None => {
                reads.refused += 1;
                // Who is away is not there sooner for being asked without a pause.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(reads)
}

/// Kills workers and PostgreSQL servers in turns, spread over the run, and starts them again.
async fn kill(cluster: &mut EmbeddedCluster, options: &XtmOptions, done: &AtomicU64) -> anyhow::Result<u32> {
    let all = u64::from(options.writers) * options.iterations;
    let ids: Vec<String> = cluster.topology().peer.keys().cloned().collect();
    for number in 0..options.kill {
        let at = all * u64::from(number + 1) / u64::from(options.kill + 1);
        while done.load(Ordering::Relaxed) < at {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let place = usize::try_from(number).unwrap_or(0);
        let id = &ids[place / 2 % ids.len()];
        if place.is_multiple_of(2) {
            cluster.kill_worker(id).await?;
            cluster.start_worker(id, &[]).await?;
        } else {
            cluster.kill_postgres(id).await?;
            cluster.start_postgres(id).await?;
        }
    }
    Ok(options.kill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_told_when_it_changes_and_only_then() {
        let mut last = Last::default();
        let lines: Vec<Option<String>> = [0, 0, -1, -1, 0, 2].map(|total| last.look(total)).into();
        assert_eq!(lines, [None, None, Some("Total=-1".to_owned()), None, Some("Total=0".to_owned()), Some("Total=2".to_owned())]);
        let mut reads = Reads::default();
        let mut last = Last::default();
        for total in [0, -1, -1, 0] {
            reads.add(Read { total, in_flight: 0, pause_us: 0, drain_us: 0 }, &mut last);
        }
        reads.add(Read { total: -1, in_flight: 1, pause_us: 0, drain_us: 0 }, &mut last);
        assert_eq!((reads.count, reads.wrong, reads.changes, reads.in_flight), (4, 2, 2, 1));
    }
}
