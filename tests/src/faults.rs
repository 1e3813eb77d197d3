//! Rounds of faults while money is paid in and transferred and partitions move: what is sent is lost or refused on the way, processes are
//! restarted, killed or frozen, and workers are cut off from each other. Peers that have no fault go on meanwhile; after each round everything
//! is there once, and nothing is left behind.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rootward_proto::v1;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, Shape},
    detour::{Cut, Detour},
    invariants::check_bank,
    moved::nothing_is_left,
    wait::{eventually, until},
};

const PEERS: [&str; 3] = ["p1", "p2", "p3"];
const WRITERS: u64 = 6;
/// What each survivor commits while a fault is there.
const SURVIVORS_COMMIT: usize = 3;

/// What is done to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// What is sent to its worker, or answered, or both, is lost on the way, and nobody is told.
    Drop,
    /// Connections to its worker end and are refused.
    Reject,
    /// Its worker drains, and its PostgreSQL is shut down; both are started again.
    Restart,
    /// Its worker and its PostgreSQL are killed.
    Kill,
    /// Its worker sleeps.
    Freeze,
    /// Other workers don't reach its worker; routers do.
    CutBetweenWorkers,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 6] =
        [FaultKind::Drop, FaultKind::Reject, FaultKind::Restart, FaultKind::Kill, FaultKind::Freeze, FaultKind::CutBetweenWorkers];
}

/// A bank for it.
pub struct Rounds {
    cluster: Cluster,
    detours: BTreeMap<&'static str, Detour>,
    client: Client,
    random: StdRng,
    /// Whose partitions move.
    movers: Vec<i64>,
    /// On each peer one whose partition stays.
    stayers: BTreeMap<&'static str, i64>,
    /// What answers say that each account has, in cents.
    expected: BTreeMap<i64, i64>,
}

/// What a round did.
#[derive(Debug)]
pub struct Round {
    /// To whom.
    pub victim: &'static str,
    /// Requests whose end is known.
    pub requests: u32,
    /// How the move ended.
    pub stage: String,
}

impl Rounds {
    /// Starts the cluster.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn start(exe: &Path, seed: u64) -> Result<Rounds> {
        let mut cluster = Cluster::bank(exe, Shape { worker_settings: "move_hold_ms = 5000\n", ..Shape::own(3) }).await?;
        let client = cluster.client()?;
        let (mut movers, mut stayers, mut detours) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for peer in PEERS {
            let mut opened = cluster.open_accounts(&client, peer, 3, 1_000).await?;
            stayers.insert(peer, opened.pop().context("an account")?);
            movers.extend(opened);
        }
        for peer in PEERS {
            detours.insert(peer, cluster.detour(peer).await?);
        }
        let expected = movers.iter().chain(stayers.values()).map(|account| (*account, 100_000)).collect();
        Ok(Rounds { cluster, detours, client, random: StdRng::seed_from_u64(seed), movers, stayers, expected })
    }

    /// The faults of so many rounds: all of them in each six, in an order of their own.
    pub fn plan(&mut self, rounds: usize) -> Vec<FaultKind> {
        let mut plan = Vec::new();
        while plan.len() < rounds {
            let mut all = FaultKind::ALL;
            all.shuffle(&mut self.random);
            plan.extend(all);
        }
        plan.truncate(rounds);
        plan
    }

    /// One fault at one peer, with a move under way.
    ///
    /// # Errors
    /// The promise that was broken.
    pub async fn run(&mut self, fault: FaultKind) -> Result<Round> {
        let victim = PEERS[self.random.random_range(0..PEERS.len())];
        let id = self.begin_move().await?;
        let is_over = AtomicBool::new(false);
        let seeds: Vec<u64> = (0..WRITERS).map(|_| self.random.random()).collect();
        let (client, movers) = (self.client.clone(), self.movers.clone());
        let writers = seeds.into_iter().map(|seed| write(&client, &movers, StdRng::seed_from_u64(seed), &is_over));
        let faulty = async {
            let done = self.strike(fault, victim).await;
            is_over.store(true, Ordering::Relaxed);
            done
        };
        let (written, struck) = tokio::join!(join_all(writers), faulty);
        struck.with_context(|| format!("{fault:?} at {victim}"))?;
        let mut requests = 0;
        for part in written {
            let (gains, count) = part.with_context(|| format!("{fault:?} at {victim}"))?;
            requests += count;
            gains.into_iter().for_each(|(account, cents)| *self.expected.entry(account).or_default() += cents);
        }
        let stage = self.end_of_move(&id).await.with_context(|| format!("{fault:?} at {victim}"))?;
        check_balances(&self.cluster, &self.expected).await.with_context(|| format!("{fault:?} at {victim}, move {stage}"))?;
        Ok(Round { victim, requests, stage })
    }

    /// Moves the partition of one account to another peer.
    async fn begin_move(&mut self) -> Result<String> {
        let account = self.movers[self.random.random_range(0..self.movers.len())];
        let partition = self.cluster.partition_of("account", account);
        let at = usize::try_from(partition)?;
        let map = self.client.raw().list_partitions(v1::ListPartitionsRequest {}).await?.into_inner();
        let owner = &map.peers[usize::try_from(map.owners[at])?];
        let targets: Vec<&str> = PEERS.into_iter().filter(|peer| peer != owner).collect();
        let target = targets[self.random.random_range(0..targets.len())].to_owned();
        let request = v1::MovePartitionsRequest { partitions: vec![partition], target, ..v1::MovePartitionsRequest::default() };
        let begun = self.client.raw().move_partitions(request).await?.into_inner();
        Ok(begun.moves.first().context("a move")?.id.clone())
    }

    async fn end_of_move(&self, id: &str) -> Result<String> {
        let request = || v1::ListMovesRequest { id: id.to_owned(), ..v1::ListMovesRequest::default() };
        let mut last = String::new();
        let ended = until("the move ends", async || {
            let found = self.client.raw().list_moves(request()).await.ok()?.into_inner().moves.pop()?;
            last = format!("{found:?}");
            matches!(found.stage.as_str(), "done" | "cancelled").then_some(found.stage)
        });
        let ended = ended.await;
        ended.with_context(|| last)
    }

    /// Does it, sees that the others go on, and undoes it.
    async fn strike(&mut self, fault: FaultKind, victim: &'static str) -> Result<()> {
        let detour = &self.detours[victim];
        match fault {
            FaultKind::Drop => detour.cut([Cut::Both, Cut::Requests, Cut::Answers][self.random.random_range(0..3)]),
            FaultKind::Reject => detour.cut(Cut::Refused),
            FaultKind::CutBetweenWorkers => detour.cut(Cut::AllBut(self.cluster.embedded.router_pid().context("a router")?)),
            FaultKind::Restart => self.cluster.embedded.drain_worker(victim).await?,
            FaultKind::Kill => {
                self.cluster.embedded.kill_worker(victim).await?;
                self.cluster.embedded.kill_postgres(victim).await?;
            }
            FaultKind::Freeze => self.cluster.embedded.signal_worker(victim, Signal::SIGSTOP)?,
        }
        let survivors = self.survivors_commit(fault, victim).await;
        match fault {
            FaultKind::Drop | FaultKind::Reject | FaultKind::CutBetweenWorkers => self.detours[victim].cut(Cut::None),
            FaultKind::Restart | FaultKind::Kill => {
                // Shut down first if it runs.
                self.cluster.embedded.start_postgres(victim).await?;
                self.cluster.embedded.start_worker(victim, &[]).await?;
            }
            FaultKind::Freeze => self.cluster.embedded.signal_worker(victim, Signal::SIGCONT)?,
        }
        survivors?;
        self.cluster.wait_until_serving(victim, 0).await?;
        Ok(())
    }

    /// The partitions of peers without a fault commit while it is there; all of them do if only workers are cut off from each other.
    async fn survivors_commit(&mut self, fault: FaultKind, victim: &str) -> Result<()> {
        let goes_on = |peer: &str| peer != victim || fault == FaultKind::CutBetweenWorkers;
        let survivors: Vec<i64> = self.stayers.iter().filter(|(peer, _)| goes_on(peer)).map(|(_, account)| *account).collect();
        for account in survivors {
            for _ in 0..SURVIVORS_COMMIT {
                let given = [("account_id", &*account.to_string()), ("amount", "1")];
                let paid = self.client.settle("deposit", &given, Uuid::now_v7()).await;
                paid.map_err(|fault| anyhow::anyhow!("account {account} of a peer without a fault: {fault}"))?;
                *self.expected.entry(account).or_default() += 100;
            }
        }
        Ok(())
    }
}

/// Every account has what its answers add up to, in cents, everything is there once and nothing is left.
pub(crate) async fn check_balances(cluster: &Cluster, expected: &BTreeMap<i64, i64>) -> Result<()> {
    for (account, cents) in expected {
        let balance = cluster.reader().balance(*account).await?;
        anyhow::ensure!(balance == Some(*cents), "account {account} has {balance:?}, its answers add up to {cents}");
    }
    nothing_is_left(cluster).await?;
    eventually(async || check_bank(cluster).await).await?;
    Ok(())
}

/// One client that sends, again and again with one id, until it knows how each request ended. Returns what accounts gained, in cents.
pub(crate) async fn write(
    client: &Client,
    accounts: &[i64],
    mut random: StdRng,
    is_over: &AtomicBool,
) -> Result<(BTreeMap<i64, i64>, u32)> {
    let (mut gains, mut count) = (BTreeMap::<i64, i64>::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let mut pick = || accounts[random.random_range(0..accounts.len())];
        let (from, to, id) = (pick(), pick(), Uuid::now_v7());
        let (from_key, to_key) = (from.to_string(), to.to_string());
        let is_transfer = random.random_range(0..2) == 0;
        if is_transfer {
            let ended = client.run_chain("transfer", &[("from", &from_key), ("to", &to_key), ("amount", "1")], id).await;
            match ended {
                Ok(chain) if chain.status == "completed" => *gains.entry(from).or_default() -= 100,
                Ok(chain) => bail!("transfer {id} is {}", chain.status),
                Err(fault) => bail!("transfer {id}: {fault}"),
            }
        } else if let Err(fault) = client.settle("deposit", &[("account_id", &to_key), ("amount", "1")], id).await {
            bail!("deposit {id}: {fault}");
        }
        *gains.entry(to).or_default() += 100;
        count += 1;
    }
    Ok((gains, count))
}
