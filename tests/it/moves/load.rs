//! Load goes on while partitions move: nobody sees an error, and everything is there once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tests::{Client, Cluster, LIMIT, Shape, check_bank, eventually};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{carry_out, client, command, nothing_is_left, partitions_of};
use crate::shared::exe;

/// Deposits and transfers of one euro each, all of which must succeed.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    pub deposits: Arc<AtomicU64>,
    pub transfers: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<()>,
}

impl Load {
    /// Each client asks until it is answered if `is_patient`, else once.
    pub(super) fn start(cluster: &Cluster, accounts: &[i64], clients: usize, is_patient: bool) -> Load {
        let load = Load {
            stop: Arc::default(),
            deposits: Arc::default(),
            transfers: Arc::default(),
            failures: Arc::default(),
            clients: JoinSet::new(),
        };
        load.with(cluster, accounts, clients, is_patient)
    }

    fn with(mut self, cluster: &Cluster, accounts: &[i64], clients: usize, is_patient: bool) -> Load {
        for at in 0..clients {
            let (stop, deposits, transfers, failures) =
                (self.stop.clone(), self.deposits.clone(), self.transfers.clone(), self.failures.clone());
            let (client, accounts) = (cluster.client().expect("a client"), accounts.to_vec());
            self.clients.spawn(async move {
                for round in at.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let [from, to] =
                        [accounts[round % accounts.len()], accounts[(round * 7 + 3) % accounts.len()]].map(|key| key.to_string());
                    let id = Uuid::now_v7();
                    let until = Instant::now() + if is_patient { LIMIT } else { Duration::ZERO };
                    let failure = loop {
                        let ended = ask_once(&client, at % 2 == 0 || from == to, (&from, &to), id).await;
                        match ended {
                            Ok(End::Deposited) => deposits.fetch_add(1, Ordering::Relaxed),
                            Ok(End::Transferred) => transfers.fetch_add(1, Ordering::Relaxed),
                            Err(why) if Instant::now() >= until => break Some(format!("{id}: {why}")),
                            Err(_) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                                continue;
                            }
                        };
                        break None;
                    };
                    failures.lock().expect("whole").extend(failure);
                }
            });
        }
        self
    }

    /// What failed.
    pub(super) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        std::mem::take(&mut *self.failures.lock().expect("whole"))
    }
}

enum End {
    Deposited,
    Transferred,
}

/// The same id again asks for what became of it.
async fn ask_once(client: &Client, is_deposit: bool, (from, to): (&str, &str), id: Uuid) -> Result<End, String> {
    if is_deposit {
        let done = client.call("deposit", &[("account_id", from), ("amount", "1")], id).await;
        return done.map(|_| End::Deposited).map_err(|fault| fault.to_string());
    }
    let started = client.start_chain("transfer", &[("from", from), ("to", to), ("amount", "1")], id).await;
    match started.map(|started| started.chain.unwrap_or_default()) {
        Ok(chain) if chain.status == "completed" => Ok(End::Transferred),
        Ok(chain) => Err(format!("the transfer is {}", chain.status)),
        Err(fault) => Err(fault.to_string()),
    }
}

/// What was paid in, in euros, by the entries of all peers.
pub(crate) async fn paid_in(cluster: &Cluster, accounts: &[i64]) -> i64 {
    let list = accounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let sql = format!("select coalesce(sum(amount), 0)::bigint from entry where kind <> 'transfer' and account_id in ({list})");
    cluster.reader().sum(&sql).await.expect("read")
}

/// The partitions in which something takes effect, as the command tells.
async fn busiest(bank: &Cluster) -> Vec<i32> {
    let (_, listed) = command(bank, &["partition", "list", "--by", "rate", "-o", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let rated = told["partitions"].as_array().expect("a list").iter().filter(|one| one["committed_per_s"].as_f64() > Some(0.0));
    rated.map(|one| i32::try_from(one["partition"].as_i64().expect("a number")).expect("small")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_partitions_move() {
    let bank = Cluster::bank(exe(), Shape { peers: 3, ..Shape::shared() }).await.expect("a bank starts");
    let plain = bank.client().expect("a client");
    let first = bank.open_accounts(&plain, "p1", 6, 1_000).await.expect("opened");
    let second = bank.open_accounts(&plain, "p2", 3, 1_000).await.expect("opened");
    let all: Vec<i64> = first.iter().chain(&second).copied().collect();
    let (ones, others) = (partitions_of(&bank, &first), partitions_of(&bank, &second));
    let client = client(&bank);
    let load = Load::start(&bank, &all, 6, false);
    let mut switches = Vec::new();
    for (target, other) in [("p2", "p3"), ("p3", "p1"), ("p1", "p2")] {
        // Two at once, in the same direction and against each other.
        let (one, another) = tokio::join!(carry_out(&client, &ones, target), carry_out(&client, &others, other));
        assert!(one.is_verified && another.is_verified, "{one:?} {another:?}");
        switches.extend([(one.switches, one.held_us), (another.switches, another.held_us)]);
    }
    let busy = busiest(&bank).await;
    assert!(!busy.is_empty() && busy.iter().all(|partition| ones.contains(partition) || others.contains(partition)), "{busy:?}");
    let (deposits, transfers) = (load.deposits.clone(), load.transfers.clone());
    let failures = load.stop().await;
    let (deposits, transfers) = (deposits.load(Ordering::Relaxed), transfers.load(Ordering::Relaxed));
    assert!(failures.is_empty(), "{} of {} failed: {failures:?}; {switches:?}", failures.len(), deposits + transfers);
    assert!(deposits > 50 && transfers > 20, "hardly anything was done: {deposits} deposits, {transfers} transfers");
    assert_eq!(paid_in(&bank, &all).await, 9_000 + i64::try_from(deposits).expect("few"), "each acknowledged deposit is there once");
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
