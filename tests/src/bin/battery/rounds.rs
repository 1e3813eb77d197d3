//! Random kills of anything, under a load of transfers and deposits whose answers are all kept and compared.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tests::{Client, Cluster, Shape, check_bank};
use uuid::Uuid;

const PEERS: [&str; 3] = ["p1", "p2", "p3"];
const WRITERS: u64 = 12;
const KILLS_PER_ROUND: u32 = 4;

/// What the answers say that each account has gained, in cents.
type Gains = BTreeMap<i64, i64>;

pub async fn run(exe: &Path, seed: u64, rounds: u32) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bank = Cluster::bank(exe, Shape::own(3)).await?;
    let client = bank.client()?;
    let mut accounts = Vec::new();
    for peer in PEERS {
        accounts.extend(bank.open_accounts(&client, peer, 4, 100).await?);
    }
    let mut expected: Gains = accounts.iter().map(|account| (*account, 10_000)).collect();
    for round in 1..=rounds {
        let is_over = AtomicBool::new(false);
        let seeds: Vec<u64> = (0..WRITERS).map(|_| rng.random()).collect();
        let writers = seeds.into_iter().map(|seed| write(&client, &accounts, StdRng::seed_from_u64(seed), &is_over));
        let kills = async {
            let killed = kill_some(&mut bank, &mut rng).await;
            is_over.store(true, Ordering::Relaxed);
            killed
        };
        let (gained, killed) = tokio::join!(join_all(writers), kills);
        let killed = killed.with_context(|| format!("round {round}"))?;
        let mut requests = 0;
        for part in gained {
            let (gains, count) = part.with_context(|| format!("round {round}"))?;
            requests += count;
            gains.into_iter().for_each(|(account, cents)| *expected.entry(account).or_default() += cents);
        }
        for (account, cents) in &expected {
            let balance = bank.reader().balance(*account).await?;
            ensure!(balance == Some(*cents), "round {round}: account {account} has {balance:?}, its answers add up to {cents}");
        }
        check_bank(&bank).await.with_context(|| format!("round {round}"))?;
        eprintln!("round {round}: {requests} requests, killed {}", killed.join(", "));
    }
    Ok(())
}

/// One client that sends, again and again with one id, until it knows how each request ended.
async fn write(client: &Client, accounts: &[i64], mut rng: StdRng, is_over: &AtomicBool) -> Result<(Gains, u32)> {
    let (mut gains, mut count) = (Gains::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let pick = |rng: &mut StdRng| accounts[rng.random_range(0..accounts.len())];
        let (from, to, cents) = (pick(&mut rng), pick(&mut rng), rng.random_range(1..3_000_i64));
        let (from_key, to_key, amount) = (from.to_string(), to.to_string(), format!("{}.{:02}", cents / 100, cents % 100));
        let id = Uuid::now_v7();
        let is_transfer = rng.random_range(0..3) > 0;
        let ended = if is_transfer {
            let input = [("from", from_key.as_str()), ("to", &to_key), ("amount", &amount)];
            client.run_chain("transfer", &input, id).await.map(|chain| chain.status)
        } else {
            let given = [("account_id", to_key.as_str()), ("amount", &amount)];
            client.settle("deposit", &given, id).await.map(|_| "completed".to_owned())
        };
        match ended {
            Ok(status) if status == "completed" => {
                *gains.entry(to).or_default() += cents;
                if is_transfer {
                    *gains.entry(from).or_default() -= cents;
                }
            }
            Err(fault) if fault.message().contains("insufficient funds") => {}
            Ok(status) => bail!("transfer {id} is {status}"),
            Err(fault) => bail!("{id}: {fault}"),
        }
        count += 1;
    }
    Ok((gains, count))
}

async fn kill_some(bank: &mut Cluster, rng: &mut StdRng) -> Result<Vec<String>> {
    let mut killed = Vec::new();
    for _ in 0..KILLS_PER_ROUND {
        // The load decides what is under way at that moment.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..700))).await;
        let peer = PEERS[rng.random_range(0..PEERS.len())];
        match rng.random_range(0..4) {
            0 => {
                bank.embedded.kill_postgres(peer).await?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
                bank.embedded.start_postgres(peer).await?;
                killed.push(format!("PostgreSQL of {peer}"));
            }
            1 => {
                // It may be recovering from the kill before.
                if bank.kill_lane_backends(peer).await.is_ok() {
                    killed.push(format!("backends of {peer}"));
                }
            }
            2 => {
                bank.embedded.restart_router().await?;
                killed.push("the router".to_owned());
            }
            _ => {
                bank.embedded.kill_worker(peer).await?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
                bank.embedded.start_worker(peer, &[]).await?;
                killed.push(format!("the worker of {peer}"));
            }
        }
    }
    Ok(killed)
}
