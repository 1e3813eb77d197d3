//! PostgreSQL servers that are lost, and standbys that take their place.

use std::{sync::Arc, time::Duration};

use rootward_client::{Arguments, Client, v1};
use rootward_cluster::Standbys;
use tests::{Cluster, Reader, Shape, check_bank, check_everything, until};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::shared::exe;

async fn bank(standbys: Standbys) -> Cluster {
    Cluster::bank(exe(), Shape { standbys, ..Shape::own(1) }).await.expect("a bank with standbys starts")
}

/// A client that goes on asking for as long as a failover takes.
fn patient(bank: &Cluster) -> Client {
    let limit = Duration::from_secs(60);
    Client::new([bank.embedded.router_address()]).expect("an address").with_deadline(limit).with_patience(limit)
}

/// Acknowledged when it returns.
async fn deposit(client: &Client, account: i64, id: Uuid) {
    let arguments = Arguments::new().with("account_id", account).with("amount", 1);
    client.call("deposit", arguments).with_request_id(id).send().await.expect("acknowledged");
}

async fn is_serving(bank: &Cluster) -> bool {
    let peers = bank.client().expect("a client").peers().await.expect("peers");
    peers.into_iter().any(|peer| peer.id == "p1" && peer.status.is_some_and(|status| status.state == "serving"))
}

/// Deposits by several clients, each sent until it is answered; what was acknowledged is noted.
struct Deposits {
    stop: Arc<Semaphore>,
    acknowledged: Arc<Mutex<Vec<Uuid>>>,
    clients: JoinSet<()>,
}

impl Deposits {
    fn start(bank: &Cluster, accounts: &[i64]) -> Deposits {
        let (stop, acknowledged) = (Arc::new(Semaphore::new(0)), Arc::<Mutex<Vec<Uuid>>>::default());
        let mut clients = JoinSet::new();
        for account in accounts {
            let (client, stop, acknowledged, account) = (patient(bank), stop.clone(), acknowledged.clone(), *account);
            clients.spawn(async move {
                while stop.available_permits() == 0 {
                    let id = Uuid::now_v7();
                    deposit(&client, account, id).await;
                    acknowledged.lock().await.push(id);
                }
            });
        }
        Deposits { stop, acknowledged, clients }
    }

    async fn count(&self) -> usize {
        self.acknowledged.lock().await.len()
    }

    async fn more(&self, than: usize) {
        until("more deposits are acknowledged", async || (self.count().await > than).then_some(())).await.expect("they are");
    }

    async fn stop(self) -> Vec<Uuid> {
        self.stop.add_permits(1);
        self.clients.join_all().await;
        Arc::into_inner(self.acknowledged).expect("nobody else has it").into_inner()
    }
}

/// What was acknowledged and is not there exactly once.
async fn wrong(bank: &Cluster, acknowledged: &[Uuid]) -> Vec<Uuid> {
    let rows = bank.reader().rows("p1", "select entry_id::text, count(*) from entry group by 1", &[]).await.expect("read");
    let times: std::collections::HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    acknowledged.iter().copied().filter(|id| times.get(&id.to_string()) != Some(&1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_synchronous_standby_confirmed_outlives_its_primary() {
    let mut bank = bank(Standbys::Synchronous).await;
    let client = bank.client().expect("a client");
    let accounts = bank.open_accounts(&client, "p1", 4, 100).await.expect("opened");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    let deposits = Deposits::start(&bank, &accounts);
    deposits.more(50).await;
    bank.embedded.kill_postgres("p1").await.expect("killed");
    bank.embedded.promote("p1").await.expect("promoted");
    // The new primary has no standby yet: nothing is served, for it could be lost.
    let log = bank.embedded.folder().join("worker-p1.log");
    until("the worker says why it serves nothing", async || {
        std::fs::read_to_string(&log).ok().filter(|text| text.contains("synchronous_standby_names is empty"))
    })
    .await
    .expect("it says so");
    assert!(!is_serving(&bank).await);
    bank.embedded.replace_primary("p1").await.expect("a standby of the new one");
    bank.wait_until_serving("p1", term).await.expect("served again");
    deposits.more(deposits.count().await + 20).await;
    let acknowledged = deposits.stop().await;
    assert_eq!(wrong(&bank, &acknowledged).await, Vec::<Uuid>::new(), "of {} acknowledged", acknowledged.len());
    check_bank(&bank).await.expect("every promise is kept");
}

/// Waits until the standby has replayed all of its primary.
async fn caught_up(bank: &Cluster) {
    let sql = "select 1 from pg_stat_replication where application_name = 'p1-standby' and replay_lsn >= pg_current_wal_flush_lsn()";
    let is_there = async || bank.reader().rows("p1", sql, &[]).await.ok().filter(|rows| !rows.is_empty());
    until("the standby has all of it", is_there).await.expect("it has");
}

/// What the worker of the peer knows of the last promotion.
async fn promotion(bank: &Cluster) -> Option<v1::Promotion> {
    let peers = bank.client().expect("a client").peers().await.expect("peers");
    peers.into_iter().find(|peer| peer.id == "p1")?.status?.promotion
}

/// Readers of the two servers of the peer, whichever is the primary.
fn servers(bank: &Cluster) -> (Reader, Reader) {
    let reader = |server: &rootward_cluster::Server| Reader::new([("p1".to_owned(), server.conninfo(server.superuser(), "p1"))].into());
    (reader(bank.embedded.server("p1").expect("a server")), reader(bank.embedded.replica("p1").expect("a standby")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_replaced_is_passed_over() {
    let mut bank = bank(Standbys::Asynchronous).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    // Many outcomes, and many of them that the worker will look for.
    let many = "insert into rootward.outcome (partition, entity, root_key, request_id, step, element, direction, kind, transaction, fingerprint, reply, \
                in_chain, issued_at) select partition, 'account', 'none', gen_random_uuid(), 0, 0, 'do', 'done', 'deposit', '', '', false, now() \
                from rootward.ownership, generate_series(1, 10)";
    bank.reader().run("p1", many).await.expect("written");
    bank.reader().run("p1", "analyze rootward.outcome").await.expect("analyzed");
    let looked_for = 200;
    let patient = patient(&bank);
    futures_util::future::join_all((0..looked_for).map(|_| deposit(&patient, account, Uuid::now_v7()))).await;
    caught_up(&bank).await;
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.kill_postgres("p1").await.expect("killed");
    bank.embedded.promote("p1").await.expect("promoted");
    let served = bank.wait_until_serving("p1", term).await.expect("the new primary is served").term;
    let found = promotion(&bank).await.expect("it was seen");
    assert!(found.timeline == 2 && found.checked.is_some_and(|checked| checked > 0) && found.lost == 0, "{found:?}");
    client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("deposited");
    // The old one comes back, takes writes, and is the first that a worker finds. Nothing goes there, neither from the worker that serves
    // nor from the next one.
    bank.embedded.start_postgres("p1").await.expect("the old one runs");
    bank.embedded.kill_worker("p1").await.expect("killed");
    // Each was looked up by the primary key; the table, which may be large while the peer waits, was not read.
    let (_, new) = servers(&bank);
    let by_key = "select idx_scan from pg_stat_all_indexes where indexrelname = 'outcome_pkey'";
    until("each was looked up", async || {
        let scans: i64 = new.rows("p1", by_key, &[]).await.ok()?.first()?.get(0);
        (scans >= looked_for).then_some(())
    })
    .await
    .expect("they were");
    bank.embedded.start_worker("p1", &[]).await.expect("started");
    bank.wait_until_serving("p1", served).await.expect("it goes on to the new one");
    let log = std::fs::read_to_string(bank.embedded.folder().join("worker-p1.log")).expect("a log");
    assert!(log.contains("it was replaced; rebuild it as a standby"), "{log}");
    client.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("deposited");
    let (old, new) = servers(&bank);
    let sessions = "select application_name from pg_stat_activity where application_name like 'rootward%' and datname = current_database() \
                    and application_name <> 'rootward claim'";
    until("nothing of the worker is connected to the old one", async || {
        old.rows("p1", sessions, &[]).await.ok().filter(|rows| rows.is_empty())
    })
    .await
    .expect("nothing is");
    assert_eq!((old.entries(account).await.expect("read"), new.entries(account).await.expect("read")), (1 + looked_for, 3 + looked_for));
    bank.embedded.kill_postgres("p1").await.expect("killed");
    let balance = bank.reader().balance(account).await.expect("read");
    assert_eq!(balance, Some(10_200 + 100 * looked_for), "in cents, all deposits and nothing lost");
    check_everything(&bank).await.expect("every promise is kept");
}

/// So many that reading them all costs more than looking for a few.
const MANY_OUTCOMES: &str = "with one as (select * from rootward.outcome limit 1)
    insert into rootward.outcome select partition, entity, root_key, gen_random_uuid(), step, element, direction, kind, transaction, fingerprint, reply,
      answer, in_chain, issued_at from one, generate_series(1, 20000)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_asynchronous_standby_lacks_is_told() {
    let mut bank = bank(Standbys::Asynchronous).await;
    let client = patient(&bank);
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 100).await.expect("opened")[0];
    let given = async |count: usize| {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            deposit(&client, account, *id).await;
        }
        ids
    };
    let kept = given(5).await;
    bank.reader().run("p1", MANY_OUTCOMES).await.expect("there are many more");
    caught_up(&bank).await;
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.kill_replica("p1").await.expect("killed");
    let lost = given(7).await;
    bank.embedded.kill_postgres("p1").await.expect("killed");
    bank.embedded.start_replica("p1").await.expect("it starts without its primary");
    bank.embedded.promote("p1").await.expect("promoted");
    bank.wait_until_serving("p1", term).await.expect("the new primary is served");
    let found = promotion(&bank).await.expect("it was seen");
    assert!(found.checked.is_some_and(|checked| checked >= 12) && found.lost == 7, "{found:?}");
    // The table, which may be large, was not read for that. A backend reports all that it has counted at once, when it has nothing to do.
    let sql = "select t.seq_scan, i.idx_tup_read from pg_stat_all_tables t join pg_stat_all_indexes i using (relid)
      where t.schemaname = 'rootward' and t.relname = 'outcome' and i.idx_scan >= 12";
    let looked_up = async || bank.reader().rows("p1", sql, &[]).await.ok()?.first().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    let (scans, read) = until("each was looked up by index", looked_up).await.expect("and that is reported");
    assert!(scans == 0 && read < 100, "all outcomes were read {scans} times, and {read} by index");
    let named: std::collections::BTreeSet<String> = found.examples.into_iter().collect();
    assert_eq!(named, lost.iter().map(Uuid::to_string).collect());
    let log = std::fs::read_to_string(bank.embedded.folder().join("worker-p1.log")).expect("a log");
    assert!(log.contains("RW5031") && log.contains(&lost[0].to_string()), "{log}");
    assert_eq!(wrong(&bank, &kept).await, Vec::<Uuid>::new(), "the others are there");
    // Each can be sent again with its own id, and is then done once.
    for id in &lost {
        deposit(&client, account, *id).await;
    }
    assert_eq!(wrong(&bank, &lost).await, Vec::<Uuid>::new());
    // A worker that has not served the peer before does not know what was acknowledged.
    bank.embedded.replace_primary("p1").await.expect("a standby of the new one");
    bank.embedded.kill_worker("p1").await.expect("killed");
    bank.embedded.kill_postgres("p1").await.expect("killed");
    bank.embedded.promote("p1").await.expect("promoted");
    bank.embedded.start_worker("p1", &[]).await.expect("started");
    bank.wait_until_serving("p1", 0).await.expect("served");
    let found = promotion(&bank).await.expect("it was seen");
    assert_eq!((found.timeline, found.checked), (3, None), "{found:?}");
    let log = std::fs::read_to_string(bank.embedded.folder().join("worker-p1.log")).expect("a log");
    assert!(log.contains("RW5032"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_wait_for_the_standby_was_broken_off_is_not_acknowledged() {
    let mut bank = bank(Standbys::Synchronous).await;
    let client = patient(&bank);
    let plain = bank.client().expect("a client");
    let account = bank.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.kill_replica("p1").await.expect("killed");
    let id = Uuid::now_v7();
    let told = tokio::spawn(async move { deposit(&client, account, id).await });
    let waiting = "select pid from pg_stat_activity where usename = 'rootward_lane' and wait_event = 'SyncRep'";
    let reader = bank.reader();
    let waits =
        until("the commit waits for the standby", async || reader.rows("p1", waiting, &[]).await.ok().filter(|rows| !rows.is_empty()));
    let pid: i32 = waits.await.expect("it waits")[0].get(0);
    reader.run("p1", &format!("select pg_cancel_backend({pid})")).await.expect("broken off");
    until("the term is over", async || (!is_serving(&bank).await).then_some(())).await.expect("it is");
    assert!(!told.is_finished(), "nobody was told that it is done");
    bank.embedded.start_replica("p1").await.expect("the standby is back");
    bank.wait_until_serving("p1", term).await.expect("served again");
    told.await.expect("acknowledged now");
    assert_eq!(bank.reader().entries(account).await.expect("read"), 2, "the opening and the deposit, once");
    check_bank(&bank).await.expect("every promise is kept");
}

/// PostgreSQL warns in every connection to a database that was made with another version of the system's collations. That says nothing
/// about standbys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_that_has_nothing_to_do_with_a_commit_keeps_nobody_from_serving() {
    let mut bank = crate::shared::own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    bank.reader().run("p1", "update pg_database set datcollversion = 'another' where datname = current_database()").await.expect("changed");
    bank.restart_worker("p1", &[]).await.expect("it serves");
    client.settle("deposit", &[("account_id", &account), ("amount", "1")], Uuid::now_v7()).await.expect("deposited");
}
