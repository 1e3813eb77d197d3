//! Reads that may be a little old: standbys answer them, say how old they are and never more than they may be, and nobody sees a root
//! older than before.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rootward_client::{Arguments, Client, v1};
use rootward_cluster::Standbys;
use tests::{Cluster, Reader, Shape, cents_of, check_bank, order_lines, text_of, until};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    moves::{carry_out, partitions_of},
    shared::exe,
};

const LONG: Duration = Duration::from_secs(60);

fn client(cluster: &Cluster) -> Client {
    Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30))
}

async fn bank(standbys: Standbys, peers: u32) -> Cluster {
    Cluster::bank(exe(), Shape { standbys, ..Shape::own(peers) }).await.expect("a bank with standbys starts")
}

/// Reads the standbys past everything that is tested.
fn standbys(cluster: &Cluster) -> Reader {
    let peers: Vec<String> = cluster.reader().peers().map(str::to_owned).collect();
    let address = |peer: &String| {
        let server = cluster.embedded.replica(peer).expect("a standby");
        (peer.clone(), server.conninfo(server.superuser(), peer))
    };
    Reader::new(peers.iter().map(address).collect())
}

/// What is known as the balance, in cents, and how fresh it is.
async fn balance(client: &Client, account: i64, most: Duration, not_before: Option<v1::ReadPosition>) -> (i64, v1::Freshness) {
    let call = client.call("balance", Arguments::new().with("account_id", account)).with_staleness(most);
    let call = match not_before {
        Some(position) => call.not_before(position),
        None => call,
    };
    let answer = call.send().await.expect("read");
    (cents_of(&answer, "balance").expect("a balance"), answer.freshness.expect("it says how fresh it is"))
}

async fn deposit(client: &Client, account: i64) {
    client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).send().await.expect("deposited");
}

/// Waits until a standby answers, with what it should.
async fn at_the_standby(client: &Client, account: i64, wanted: i64) -> v1::Freshness {
    let read = async || Some(balance(client, account, LONG, None).await).filter(|read| read.0 == wanted && read.1.from_standby);
    until("the standby shows it", read).await.expect("it does").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_answers_until_it_is_too_old() {
    let mut bank = bank(Standbys::Asynchronous, 1).await;
    let client = client(&bank);
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 100).await.expect("opened")[0];
    let fresh = at_the_standby(&client, account, 10_000).await;
    assert!(fresh.lag_us < 60_000_000 && !fresh.server.is_empty(), "{fresh:?}");
    let other = standbys(&bank);
    other.run("p1", "select pg_wal_replay_pause()").await.expect("paused");
    let paused = "select 1 where pg_get_wal_replay_pause_state() = 'paused'";
    until("replay is paused", async || other.rows("p1", paused, &[]).await.ok().filter(|rows| !rows.is_empty())).await.expect("it is");
    deposit(&client, account).await;
    let acknowledged = Instant::now();
    // It does for who takes that much, and tells its age, which grows.
    let (old, first) = balance(&client, account, LONG, None).await;
    assert!((old, first.from_standby) == (10_000, true), "{old} {first:?}");
    let age = acknowledged.elapsed();
    let (_, second) = balance(&client, account, LONG, None).await;
    assert!(second.from_standby && second.lag_us >= u64::try_from(age.as_micros()).expect("short"), "{second:?} after {age:?}");
    // Who takes less is answered by the primary as soon as it is older than that.
    let most = Duration::from_millis(300);
    let passed_over = async || Some(balance(&client, account, most, None).await.1).filter(|freshness| !freshness.from_standby);
    until("the standby is too old", passed_over).await.expect("it is");
    for _ in 0..5 {
        let (new, freshness) = balance(&client, account, most, None).await;
        assert!((new, freshness.from_standby, freshness.lag_us) == (10_100, false, 0), "{new} {freshness:?}");
    }
    // Who has seen the deposit doesn't see the account without it, however old it may be.
    let (seen, at_primary) = balance(&client, account, Duration::ZERO, None).await;
    assert!((seen, at_primary.from_standby) == (10_100, false), "{seen} {at_primary:?}");
    assert_eq!(balance(&client, account, LONG, at_primary.position).await.0, 10_100);
    assert_eq!(balance(&client, account, LONG, None).await.0, 10_000, "the standby does not show it yet");
    other.run("p1", "select pg_wal_replay_resume()").await.expect("resumed");
    let at_standby = at_the_standby(&client, account, 10_100).await;
    let again = async || Some(balance(&client, account, LONG, at_primary.position).await).filter(|read| read.1.from_standby);
    assert_eq!(until("the standby has come so far", again).await.expect("it has").0, 10_100);
    assert!(at_standby.position.is_some());
    bank.embedded.kill_replica("p1").await.expect("killed");
    let (balance_without, freshness) = balance(&client, account, LONG, None).await;
    assert!((balance_without, freshness.from_standby) == (10_100, false), "{freshness:?}");
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_a_standby_stays_in_its_root_and_changes_nothing() {
    let bank = bank(Standbys::Asynchronous, 1).await;
    let client = client(&bank);
    let [account, other] = bank.open_accounts(&bank.client().expect("a client"), "p1", 2, 100).await.expect("opened")[..] else {
        panic!("two accounts")
    };
    at_the_standby(&client, other, 10_000).await;
    for most in [LONG, Duration::ZERO] {
        let key = account.to_string();
        let root = ("account", key.as_str());
        let all = client.read_at(root, "select account_id::text from account", most, None).await.expect("read");
        assert_eq!(
            all.rows.iter().map(|row| text_of(&row.values[0])).collect::<Vec<_>>(),
            std::slice::from_ref(&key),
            "its own root and no other"
        );
        assert_eq!(all.freshness.expect("told").from_standby, !most.is_zero());
        let looks = [
            format!("select rootward.enter(null, 'r_account {}')", hex(&other.to_string())),
            "select * from rootward.outcome".to_owned(),
            "select set_config('transaction_read_only', 'off', true)".to_owned(),
        ];
        for sql in looks {
            let fault = client.read_at(root, &sql, most, None).await.expect_err(&sql);
            assert_eq!(fault.code(), "RW2004", "{sql}: {fault}");
        }
        let writes = client.read_at(root, "update account set balance = 0", most, None).await.expect_err("it changes rows");
        assert_eq!(writes.code(), "RW2040", "{writes}");
        let session = client.read_at(root, "commit", most, None).await.expect_err("no statement that reads");
        assert_eq!(session.code(), "RW3101", "{session}");
        let deposit = client.call("deposit", Arguments::new().with("account_id", account).with("amount", 1)).with_staleness(most);
        assert_eq!(deposit.send().await.expect_err("it changes rows").code(), "RW2040");
    }
    let both = client.call("balance", Arguments::new().with("account_id", account)).with_staleness(LONG).with_min_reference_version(1);
    assert_eq!(both.send().await.expect_err("both").code(), "RW2041");
    let nobody = client.call("balance", Arguments::new().with("account_id", bank.roots_on("account", "p1", None, 1)[0]));
    assert_eq!(nobody.with_staleness(LONG).send().await.expect_err("refused").code(), "RW3101");
    let outcomes = bank.reader().sum("select count(*) from rootward.outcome where transaction in ('sql', 'balance')").await.expect("read");
    assert_eq!(outcomes, 0, "reads leave nothing behind");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_000));
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// A commit that waits for a standby's confirmation is shown by standbys before its own primary shows it. Who has seen it there doesn't see the
/// root without it at the primary: the read waits for the lane that is at the commit. Without that wait it would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_saw_a_commit_at_a_standby_sees_it_at_the_primary_that_does_not_show_it_yet() {
    for is_sound in [true, false] {
        let mut bank = bank(Standbys::Asynchronous, 1).await;
        let client = client(&bank);
        let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 100).await.expect("opened")[0];
        if !is_sound {
            bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", "without_lane/reads=control")]).await.expect("armed");
        }
        at_the_standby(&client, account, 10_000).await;
        let reader = bank.reader();
        reader.run("p1", "alter system set synchronous_standby_names = 'nobody'").await.expect("set");
        reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
        let waits = tokio::spawn({
            let client = client.clone();
            async move { deposit(&client, account).await }
        });
        let seen = at_the_standby(&client, account, 10_100).await;
        assert!(!waits.is_finished(), "the primary does not show it yet");
        bank.embedded.kill_replica("p1").await.expect("killed");
        let confirm = async {
            // A read that doesn't wait is answered long before.
            tokio::time::sleep(Duration::from_millis(300)).await;
            reader.run("p1", "alter system reset synchronous_standby_names").await.expect("reset");
            reader.run("p1", "select pg_reload_conf()").await.expect("loaded");
        };
        let ((shown, freshness), ()) = tokio::join!(balance(&client, account, LONG, seen.position), confirm);
        assert!(!freshness.from_standby, "{freshness:?}");
        assert_eq!(shown, if is_sound { 10_100 } else { 10_000 });
        waits.await.expect("acknowledged now");
    }
}

/// No cut can be had of standbys, so none is promised: it is refused by name before anything is asked.
#[test]
fn a_query_over_all_peers_takes_no_staleness_and_says_why() {
    for more in [&[][..], &["--per-peer"]] {
        let mut command = std::process::Command::new(exe());
        command.args(["query", "--all", "--staleness", "5s", "--router", "http://127.0.0.1:1", "select 1"]).args(more);
        let output = command.output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("error[RW2042]") && error.contains("one consistent cut"), "{error}");
    }
}

/// One client pays in, and notes when each payment was acknowledged; others read with a staleness, while replay stops and goes on.
/// Each answer must show what was acknowledged as long before it was asked for as it says, and what its reader saw before. Returns the
/// answers that don't, and how many standby and primary gave.
async fn wrong_answers(bank: &Cluster) -> (Vec<String>, [u32; 2]) {
    let client = client(bank);
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 0).await.expect("opened")[0];
    at_the_standby(&client, account, 0).await;
    let seed: u64 = rand::random();
    let acknowledged = Arc::<Mutex<Vec<Instant>>>::default();
    let is_over = Arc::<AtomicBool>::default();
    let writer = {
        let (client, acknowledged, is_over) = (client.clone(), acknowledged.clone(), is_over.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                deposit(&client, account).await;
                acknowledged.lock().expect("whole").push(Instant::now());
            }
        })
    };
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..3_u64 {
        let (client, acknowledged, is_over) = (client.clone(), acknowledged.clone(), is_over.clone());
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(reader));
        readers.spawn(async move {
            let (mut before, mut seen, mut counts, mut wrong) = (None, 0, [0, 0], Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                let most = Duration::from_millis([0, 5, 50, 200, 2_000][random.random_range(0..5)]);
                let asked = Instant::now();
                let (shown, freshness) = balance(&client, account, most, before).await;
                let lag = Duration::from_micros(freshness.lag_us);
                let must = acknowledged.lock().expect("whole").iter().filter(|at| **at + lag < asked).count();
                if lag > most || shown < i64::try_from(must).expect("few") * 100 {
                    wrong.push(format!("seed {seed}: {shown} of {must}, at most {most:?}: {freshness:?}"));
                }
                if shown < seen {
                    wrong.push(format!("seed {seed}: {shown} after {seen}: {freshness:?}"));
                }
                (before, seen) = (freshness.position, shown);
                counts[usize::from(!freshness.from_standby)] += 1;
            }
            (wrong, counts)
        });
    }
    let other = standbys(bank);
    let count = || acknowledged.lock().expect("whole").len();
    for _ in 0..4 {
        for sql in ["select pg_wal_replay_pause()", "select pg_wal_replay_resume()"] {
            let now = count();
            other.run("p1", sql).await.expect("done");
            until("more is paid in", async || (count() > now + 60).then_some(())).await.expect("it is");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    writer.await.expect("no panic");
    let (mut all, mut counts) = (Vec::new(), [0, 0]);
    for (wrong, [at_standby, at_primary]) in readers.join_all().await {
        all.extend(wrong);
        counts = [counts[0] + at_standby, counts[1] + at_primary];
    }
    (all, counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_it_says_or_than_the_one_before() {
    let mut bank = bank(Standbys::Asynchronous, 1).await;
    let (wrong, [at_standby, at_primary]) = wrong_answers(&bank).await;
    assert!(wrong.is_empty(), "{} answers, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    assert!(at_standby > 20 && at_primary > 20, "{at_standby} answers of the standby, {at_primary} of the primary");
    // Without either of the two, the same load shows wrong answers.
    for (point, sign) in [("without_lag/reads=skip", "at most"), ("without_position/reads=skip", "after")] {
        bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", point)]).await.expect("armed");
        let (wrong, _) = wrong_answers(&bank).await;
        assert!(wrong.iter().any(|answer| answer.contains(sign)), "{point}: nothing was wrong");
    }
    check_bank(&bank).await.expect("every promise is kept");
}

/// A standby of the partition's old owner is not asked, though it still shows the partition; what was seen there is seen at the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_follows_its_root_to_another_peer() {
    let bank = bank(Standbys::Asynchronous, 2).await;
    let client = client(&bank);
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 100).await.expect("opened")[0];
    let before = at_the_standby(&client, account, 10_000).await;
    let other = standbys(&bank);
    other.run("p1", "select pg_wal_replay_pause()").await.expect("paused");
    assert!(carry_out(&client, &partitions_of(&bank, &[account]), "p2").await.is_verified);
    deposit(&client, account).await;
    let (seen, freshness) = balance(&client, account, LONG, before.position).await;
    let (epoch_before, epoch) = (before.position.expect("told").epoch, freshness.position.expect("told").epoch);
    assert!(seen == 10_100 || freshness.from_standby, "{seen} {freshness:?}");
    assert!(epoch > epoch_before, "{epoch_before} {epoch}");
    let after = at_the_standby(&client, account, 10_100).await;
    assert_eq!(after.position.expect("told").epoch, epoch);
    other.run("p1", "select pg_wal_replay_resume()").await.expect("resumed");
    check_bank(&bank).await.expect("every promise is kept");
}

/// Commits wait for the standby, and what it shows is only told when it would outlive the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_answers_too() {
    let bank = bank(Standbys::Synchronous, 1).await;
    let client = client(&bank);
    let account = bank.open_accounts(&bank.client().expect("a client"), "p1", 1, 100).await.expect("opened")[0];
    let at_standby = at_the_standby(&client, account, 10_000).await;
    deposit(&client, account).await;
    let read = async || Some(balance(&client, account, LONG, at_standby.position).await).filter(|read| read.1.from_standby);
    assert!(until("the standby answers", read).await.expect("it does").0 >= 10_000);
    at_the_standby(&client, account, 10_100).await;
}

/// The shop's three orders, read on the standbys: the same figures as at the primaries, with the lag shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shops_figures_are_equal_on_a_standby() {
    let shop = Cluster::shop(exe(), Shape { standbys: Standbys::Asynchronous, ..Shape::own(1) }).await.expect("a shop starts");
    let (plain, client) = (shop.client().expect("a client"), client(&shop));
    let settle = async |name: &str, given: &[(&str, &str)]| {
        plain.settle(name, given, Uuid::now_v7()).await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    };
    for (product, warehouse, quantity) in [("1", "main", "100"), ("2", "main", "150"), ("3", "second", "200")] {
        settle("add_catalogue_item", &[("product_id", product), ("name", "thing"), ("price", "5")]).await;
        shop.wait_for_reference(&format!("select count(*) from catalogue where product_id = {product}"), 1).await.expect("shown");
        settle("add_product", &[("product_id", product)]).await;
        settle("add_stock", &[("product_id", product), ("warehouse", warehouse), ("quantity", quantity)]).await;
    }
    for customer in ["1", "2"] {
        settle("add_customer", &[("customer_id", customer), ("name", "buyer")]).await;
    }
    for (customer, product, quantity, price) in [("1", 2, 1, "100.00"), ("2", 1, 2, "100.00"), ("1", 1, 1, "150.00")] {
        let lines = order_lines(&[product], &[quantity]).replace("5.00", price);
        let ended = plain.run_chain("place_order", &[("customer_id", customer), ("lines", &lines)], Uuid::now_v7()).await;
        assert_eq!(ended.expect("ordered").status, "completed");
    }
    // Everything that was acknowledged by now, and how old it was.
    let figures = async |most: Duration| {
        let (mut figures, mut freshness) = (Vec::new(), Vec::new());
        for (entity, key, sql) in [
            ("product", "1", "select sum(on_hand)::text from stock"),
            ("product", "2", "select sum(on_hand)::text from stock"),
            ("product", "3", "select sum(on_hand)::text from stock"),
            ("customer", "1", "select count(*) || ' orders, ' || sum(total) from orders"),
            ("customer", "2", "select count(*) || ' orders, ' || sum(total) from orders"),
        ] {
            let answer = client.read_at((entity, key), sql, most, None).await.expect("read");
            figures.push(text_of(&answer.rows[0].values[0]));
            freshness.push(answer.freshness.expect("told"));
        }
        (figures, freshness)
    };
    let wanted = ["97", "149", "200", "2 orders, 250.00", "1 orders, 200.00"];
    let (at_primary, told) = figures(Duration::ZERO).await;
    assert_eq!(at_primary, wanted);
    assert!(told.iter().all(|freshness| !freshness.from_standby));
    let read = async || {
        let (figures, told) = figures(LONG).await;
        (figures == wanted && told.iter().all(|freshness| freshness.from_standby)).then_some(told)
    };
    let told = until("the standbys show the same", read).await.expect("they do");
    assert!(told.iter().all(|freshness| freshness.lag_us > 0), "{told:?}");
}
