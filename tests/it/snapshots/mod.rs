//! Consistent cuts over all peers: exact totals and causality under load, whoever is killed; what waits is listed; nothing is held
//! longer than it may be; and what may be asked of one.

mod consistency;
mod cut_off;
mod in_flight;
mod kills;
mod leases;
mod queries;
mod storms;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rootward_client::{Client, Fault, Snapshot, SnapshotOptions};
use tests::{Cluster, text_of};
use tokio::task::JoinSet;
use uuid::Uuid;

/// A client that waits for a snapshot as long as a slow machine may need.
fn client(cluster: &Cluster) -> Client {
    Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30))
}

/// Takes a snapshot with all peers.
async fn take(client: &Client) -> Result<Snapshot, Fault> {
    client.take_snapshot(SnapshotOptions::default()).await
}

/// The values of each column, added up over all rows of all peers.
async fn sums(snapshot: &Snapshot, sql: &str) -> Result<Vec<i64>, Fault> {
    let rows = snapshot.rows_by_peer(sql).await?;
    let mut sums = vec![0; rows.columns.len()];
    for row in rows.all() {
        for (sum, value) in sums.iter_mut().zip(&row.values) {
            *sum += text_of(value).parse::<i64>().unwrap_or_else(|_| panic!("`{}` is no number", text_of(value)));
        }
    }
    Ok(sums)
}

/// All balances, what came from outside, and what transfers moved, in cents.
const BOOKS: &str = "select (select coalesce(sum(balance), 0) * 100 from account)::bigint, \
    (select coalesce(sum(amount), 0) * 100 from entry where kind <> 'transfer')::bigint, \
    (select coalesce(sum(amount), 0) * 100 from entry where kind = 'transfer')::bigint";

/// Why the books at a snapshot are wrong; none if they are right: what transfers have taken and not given is what those in flight
/// hold, by what is listed with the snapshot. Each moves one euro.
async fn wrong_books(snapshot: &Snapshot) -> Result<Option<String>, Fault> {
    let books = sums(snapshot, BOOKS).await?;
    let [balances, outside, moved] = books[..] else { panic!("three sums: {books:?}") };
    let steps = snapshot.facts().in_flight.iter().flat_map(|chain| &chain.steps).filter(|step| step.outcome == "done");
    let held: i64 = steps.map(|step| if step.name == "withdraw" && step.direction == "do" { 100 } else { -100 }).sum();
    let is_right = balances == outside + moved && moved == -held;
    Ok((!is_right).then(|| format!("balances {balances}, paid in {outside}, transfers {moved}, of it held {held}")))
}

/// Transfers and deposits between accounts on all peers, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    transfers: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Load {
    /// Of accounts that were opened before.
    fn start(cluster: &Cluster, accounts: &[i64], clients: usize) -> Load {
        let (stop, transfers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for at in 0..clients {
            let (stop, transfers, accounts) = (stop.clone(), transfers.clone(), accounts.to_vec());
            let client = cluster.client().expect("a client");
            tasks.spawn(async move {
                for round in at.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let [from, to] =
                        [accounts[round % accounts.len()], accounts[(round * 7 + 3) % accounts.len()]].map(|key| key.to_string());
                    if at % 4 == 0 {
                        let _ = client.call("deposit", &[("account_id", &from), ("amount", "1")], Uuid::now_v7()).await;
                    } else {
                        let input = [("from", from.as_str()), ("to", &to), ("amount", "1")];
                        // What becomes of one whose answer is lost, its chain decides.
                        if client.start_chain("transfer", &input, Uuid::now_v7()).await.is_ok() {
                            transfers.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        Load { stop, transfers, clients: tasks }
    }

    fn transfers(&self) -> u64 {
        self.transfers.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

/// Opens accounts on each of these peers.
async fn accounts(cluster: &Cluster, peers: &[&str], count: usize) -> Vec<i64> {
    let client = cluster.client().expect("a client");
    let mut accounts = Vec::new();
    for peer in peers {
        accounts.extend(cluster.open_accounts(&client, peer, count, 1_000).await.expect("opened"));
    }
    accounts
}

/// Waits until a peer has fixed its part of a snapshot that goes no further.
async fn has_taken(cluster: &Cluster, peer: &str) {
    let reader = cluster.reader();
    let fixed = "select 1 from pg_stat_activity where application_name = 'rootward snapshot' and query like '%fix_snapshot%' \
                 and state = 'idle in transaction'";
    let fixed = tests::until("its part is fixed", async || reader.rows(peer, fixed, &[]).await.ok().filter(|rows| !rows.is_empty()));
    fixed.await.expect("fixed");
}
