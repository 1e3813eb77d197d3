//! Two workers on one peer, and maps that are wrong.

use nix::sys::signal::Signal;
use rootward_proto::v1;
use tests::{Cluster, Pause, Shape, check_bank, eventually, send_to_worker, until};
use uuid::Uuid;

use crate::shared::{bank, exe, own_bank};

async fn state_of(address: &str) -> Option<String> {
    let mut worker = v1::worker_client::WorkerClient::connect(address.to_owned()).await.ok()?;
    Some(worker.get_peer_status(v1::GetPeerStatusRequest {}).await.ok()?.into_inner().status?.state)
}

#[tokio::test]
async fn a_standby_takes_over_from_a_killed_worker() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let standby = bank.embedded.start_standby("p1").await.expect("a standby");
    until("the second worker waits", async || state_of(&standby).await.filter(|state| state == "standby")).await.expect("standby");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.kill_worker("p1").await.expect("killed");
    let id = Uuid::now_v7();
    let given = [("account_id", account.as_str()), ("amount", "1")];
    client.settle("deposit", &given, id).await.expect("the standby does it");
    let status = bank.wait_until_serving("p1", term).await.expect("the router knows");
    assert_eq!(status.term, term + 1);
    assert_eq!(state_of(&standby).await.as_deref(), Some("serving"));
    assert!(client.settle("deposit", &given, id).await.expect("stored").from_stored_outcome);
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_worker_that_wakes_after_its_standby_took_over_writes_nothing() {
    let mut bank = own_bank(1).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let first = bank.embedded.worker_address("p1").expect("it listens").to_owned();
    let standby = bank.embedded.start_standby("p1").await.expect("a standby");
    until("the second worker waits", async || state_of(&standby).await.filter(|state| state == "standby")).await.expect("standby");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    bank.embedded.signal_worker("p1", Signal::SIGSTOP).expect("stopped");
    // What is sent to a stopped worker waits in its socket until it wakes.
    let asleep = tokio::spawn(async move { send_to_worker(&first, deposit(account)).await });
    // Its database loses the session that holds the lock, as it does when a machine is cut off.
    bank.cut_off_worker("p1").await.expect("cut off");
    let given = [("account_id", &*account.to_string()), ("amount", "1")];
    client.settle("deposit", &given, Uuid::now_v7()).await.expect("the standby does it");
    assert_eq!(bank.wait_until_serving("p1", term).await.expect("it serves").term, term + 1);
    bank.embedded.signal_worker("p1", Signal::SIGCONT).expect("awake");
    let fault = asleep.await.expect("no panic").expect("answered").expect_err("the zombie is refused");
    assert!(["RW5005", "RW5002"].contains(&fault.code()), "{fault}");
    assert_eq!(bank.reader().balance(account).await.expect("read"), Some(10_100), "one deposit, the standby's");
    client.settle("deposit", &given, Uuid::now_v7()).await.expect("the standby goes on");
    assert_eq!(bank.wait_until_serving("p1", 0).await.expect("it serves").term, term + 1, "the zombie didn't take the peer back");
    check_bank(&bank).await.expect("every promise is kept");
}

fn deposit(account: i64) -> v1::Execute {
    tests::deposit(account, Uuid::now_v7())
}

#[tokio::test]
async fn two_drivers_of_one_chain_come_to_one_end() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0];
    let to = bank.open_accounts(&client, "p2", 1, 0).await.expect("opened")[0];
    let (from_key, to_key, id) = (from.to_string(), to.to_string(), Uuid::now_v7());
    let input = [("from", from_key.as_str()), ("to", &to_key), ("amount", "10")];
    let pause = Pause::new().expect("a folder");
    bank.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at("before_begin", "transfer_in"))]).await.expect("armed");
    let standby = bank.embedded.start_standby("p1").await.expect("a standby");
    until("the second worker waits", async || state_of(&standby).await.filter(|state| state == "standby")).await.expect("standby");
    let term = bank.wait_until_serving("p1", 0).await.expect("it serves").term;
    let drive = async {
        // The first driver has sent the second step, which waits; then its process sleeps, and another one takes the chain.
        pause.reached().await.expect("the second step is under way");
        bank.embedded.signal_worker("p1", Signal::SIGSTOP).expect("stopped");
        bank.cut_off_worker("p1").await.expect("cut off");
        assert_eq!(bank.wait_until_serving("p1", term).await.expect("the standby serves").term, term + 1);
        pause.release().expect("released");
    };
    let (ended, ()) = tokio::join!(client.run_chain("transfer", &input, id), drive);
    assert_eq!(ended.expect("it ends").status, "completed");
    bank.embedded.signal_worker("p1", Signal::SIGCONT).expect("awake");
    until("the first worker has found itself out", async || {
        let address = bank.embedded.worker_address("p1")?.to_owned();
        state_of(&address).await.filter(|state| state == "standby")
    })
    .await
    .expect("it waits as a standby");
    let reader = bank.reader();
    assert_eq!((reader.balance(from).await.expect("read"), reader.balance(to).await.expect("read")), (Some(9_000), Some(1_000)));
    let kinds: Vec<String> = reader.outcomes(id).await.expect("read").into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, ["done", "done"]);
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_worker_refuses_what_another_peer_owns() {
    let bank = bank().await;
    let account = bank.roots_on("account", "p1", None, 1)[0];
    let other = bank.embedded.worker_address("p2").expect("it listens");
    let fault = send_to_worker(other, deposit(account)).await.expect("answered").expect_err("refused");
    assert_eq!((fault.code(), fault.retry_class()), ("RW2005", v1::RetryClass::Reroute), "{fault}");
}

#[tokio::test]
async fn a_partition_that_changes_its_owner_is_found_by_every_client_without_an_error() {
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    let moved = bank.roots_on("account", "p1", None, 1)[0];
    let partition = bank.partition_of("account", moved);
    // Nothing is moved with it: there is no row of these roots yet.
    let roots: Vec<i64> = std::iter::repeat_with(|| bank.roots_on("account", "p1", None, 1)[0])
        .filter(|root| bank.partition_of("account", *root) == partition)
        .take(2)
        .collect();
    let reader = bank.reader();
    let load = bank.open_accounts(&client, "p1", 1, 100).await.expect("opened")[0].to_string();
    let release = format!("select rootward.release_partition({partition})");
    let own = format!("select rootward.own_partition({partition}, 2)");
    let map = format!("update rootward_catalog.partition set peer = 'p2', epoch = 2 where partition = {partition}");
    reader.run("p1", &release).await.expect("released");
    // Neither the map nor the worker has heard of it: whoever asks now is sent round until the new owner knows.
    let early = async { bank.open_account(&client, roots[0], 5).await.expect("no error") };
    let change = async {
        reader.run("p2", &own).await.expect("owned");
        reader.run("hub", &map).await.expect("mapped");
    };
    let meanwhile = async {
        for _ in 0..20 {
            let given = [("account_id", load.as_str()), ("amount", "1")];
            client.call("deposit", &given, Uuid::now_v7()).await.expect("other partitions of the peer go on");
        }
    };
    tokio::join!(early, change, meanwhile);
    bank.open_account(&client, roots[1], 5).await.expect("no error");
    for root in &roots {
        let sql = "select account_id from account where account_id = $1";
        assert_eq!(reader.rows("p2", sql, &[root]).await.expect("read").len(), 1, "it lies at the new owner");
        assert_eq!(reader.rows("p1", sql, &[root]).await.expect("read").len(), 0);
    }
    let old = bank.embedded.worker_address("p1").expect("it listens");
    let fault = send_to_worker(old, deposit(roots[0])).await.expect("answered").expect_err("refused");
    assert_eq!(fault.code(), "RW2005", "{fault}");
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
