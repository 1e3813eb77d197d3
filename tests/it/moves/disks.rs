//! Disks that are full, or do not answer, while partitions move.

use std::time::Duration;

use rootward_proto::v1::RetryClass;
use tests::{Client, Cluster, Shape, check_bank, check_effects, check_money, eventually, until};
use uuid::Uuid;

use super::{begin, carry_out, client, command, load::Load, load::paid_in, look, nothing_is_left, partitions_of, wait_for};
use crate::{
    durability::{mount::Mount, small_disk::SmallDisk},
    shared::exe,
};

/// Accounts whose owners have long names, which no compression makes short.
async fn large_accounts(bank: &Cluster, client: &Client, count: usize) -> Vec<i64> {
    let accounts = bank.roots_on("account", "p1", None, count);
    for account in &accounts {
        let owner: String = (0..20_000).map(|_| char::from(rand::random_range(b' '..=b'~'))).collect();
        let given = [("account_id", &*account.to_string()), ("owner", &owner), ("amount", "100")];
        client.settle("open_account", &given, Uuid::now_v7()).await.expect("opened");
    }
    accounts
}

async fn deposit(client: &Client, account: i64) -> String {
    let given = [("account_id", &*account.to_string()), ("amount", "1")];
    client.settle("deposit", &given, Uuid::now_v7()).await.expect("acknowledged").peer
}

/// But for logs: PostgreSQL's says that there is no room, which it should.
async fn every_promise_is_kept(bank: &Cluster) {
    let reader = bank.reader();
    eventually(async || check_money(&reader).await).await.expect("the money is there");
    check_effects(&reader).await.expect("each effect is there once");
    let verified = bank.client().expect("a client").verify().await.expect("counted");
    assert!(verified.is_ok, "{verified:?}");
}

/// The rows have no room at the target, the log of its changes has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_a_full_disk_says_so_and_is_given_up_or_goes_on_when_there_is_room() {
    const SMALL: u64 = 256;
    let Some(disk) = SmallDisk::new(SMALL) else { return };
    let bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a bank starts");
    let (plain, client) = (bank.client().expect("a client"), client(&bank));
    let server = bank.embedded.server("p2").expect("a server");
    let space = disk.folder_of_owner(server.data_path());
    let reader = bank.reader();
    reader.run("p2", &format!("create tablespace small location '{}'", space.display())).await.expect("made");
    reader.run("p2", "alter table account set tablespace small").await.expect("it is there now");
    let accounts = large_accounts(&bank, &plain, 20).await;
    let partitions = partitions_of(&bank, &accounts);
    for goes_on in [false, true] {
        let id = begin(&client, &partitions, "p2").await;
        let full = async || look(&client, &id).await.filter(|one| one.stage == "copying" && one.error.contains("such as a full disk"));
        until("the move says what is wrong", full).await.expect("it does");
        let (_, shown) = command(&bank, &["partition", "moves"]).await;
        assert!(shown.contains("RW5042") && shown.contains("p2"), "{shown}");
        let log = std::fs::read_to_string(server.log_path()).expect("a log");
        assert!(log.contains("No space left on device"), "PostgreSQL's log says why");
        for account in &accounts {
            assert_eq!(deposit(&plain, *account).await, "p1", "the source serves");
        }
        if goes_on {
            disk.resize(64 * SMALL);
            let one = wait_for(&client, &id, &["done"]).await;
            assert!(one.is_verified && one.error.is_empty(), "{one:?}");
            assert_eq!(deposit(&plain, accounts[0]).await, "p2");
        } else {
            client.cancel_move(&id).await.expect("cancelled");
            wait_for(&client, &id, &["cancelled"]).await;
        }
        nothing_is_left(&bank).await;
    }
    assert_eq!(paid_in(&bank, &accounts).await, 20 * 102 + 1, "what was acknowledged is there once");
    every_promise_is_kept(&bank).await;
    drop(bank);
}

/// Not even the log has room: PostgreSQL stops, and doesn't come up before there is some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_log_has_no_room_stops_and_the_move_goes_on_when_it_is_back() {
    const SMALL: u64 = 160 << 10;
    let Some(disk) = SmallDisk::new(SMALL) else { return };
    let folder = tempfile::Builder::new().prefix("rw-full-").tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    for folder in [folder.path(), &data] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("open");
    }
    std::os::unix::fs::symlink(disk.path(), data.join("p2")).expect("a link");
    let mut bank = Cluster::bank(exe(), Shape { data: Some(data), ..Shape::own(2) }).await.expect("a bank starts");
    let (plain, client) = (bank.client().expect("a client"), client(&bank));
    let moved = bank.open_accounts(&plain, "p1", 4, 1_000).await.expect("opened");
    let stays = bank.open_accounts(&plain, "p2", 2, 1_000).await.expect("opened");
    let all: Vec<i64> = moved.iter().chain(&stays).copied().collect();
    let pause = tests::Pause::new().expect("a folder");
    bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at("mover_copying", "mover"))]).await.expect("armed");
    let id = begin(&client, &partitions_of(&bank, &moved), "p2").await;
    pause.reached().await.expect("it comes there");
    let load = Load::start(&bank, &all, 4, true);
    disk.fill();
    pause.release().expect("released");
    // The next segment of the log has no room.
    let reader = bank.reader();
    until("the server has stopped", async || {
        let _ = reader.run("p2", "select pg_switch_wal(), pg_logical_emit_message(true, 'test', 'more')").await;
        bank.embedded.server("p2").is_none_or(|server| !server.is_running()).then_some(())
    })
    .await
    .expect("it stops");
    until("the move says what is wrong", async || look(&client, &id).await.filter(|one| one.error.contains("p2"))).await.expect("it does");
    assert_eq!(deposit(&plain, moved[0]).await, "p1", "the source serves");
    disk.resize(4 * SMALL);
    bank.embedded.start_postgres("p2").await.expect("it comes up where there is room");
    assert!(wait_for(&client, &id, &["done"]).await.is_verified);
    let deposits = load.deposits.clone();
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{failures:?}");
    let deposits = i64::try_from(deposits.load(std::sync::atomic::Ordering::Relaxed)).expect("few");
    assert_eq!(paid_in(&bank, &all).await, 6_001 + deposits, "each acknowledged deposit is there once");
    nothing_is_left(&bank).await;
    every_promise_is_kept(&bank).await;
}

/// What requests to a peer with a slow disk were told.
#[derive(Default)]
struct Told {
    acknowledged: usize,
    unsettled: Vec<Uuid>,
}

/// The file system of p1 lets nobody write or flush for a while, again and again, as a disk does that is about to fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stalls_holds_up_its_own_peer_only_and_partitions_can_leave_it() {
    let Some(mount) = Mount::new(500) else { return };
    let folder = tempfile::Builder::new().prefix("rw-slow-").tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    for folder in [folder.path(), &data] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("open");
    }
    std::os::unix::fs::symlink(mount.path(), data.join("p1")).expect("a link");
    let bank = Cluster::bank(exe(), Shape { data: Some(data), fsync: true, ..Shape::own(2) }).await.expect("a bank starts");
    let (plain, client) = (bank.client().expect("a client"), client(&bank));
    let slow = bank.open_accounts(&plain, "p1", 2, 100).await.expect("opened");
    let other = bank.open_accounts(&plain, "p2", 1, 100).await.expect("opened")[0];
    let mut told = Told::default();
    let key = slow[0].to_string();
    let given = [("account_id", key.as_str()), ("amount", "1")];
    for _ in 0..3 {
        let stalled = mount.stall();
        for _ in 0..3 {
            // Its deadline bounds it, and nobody is told that it failed: it may still take effect.
            let id = Uuid::now_v7();
            match plain.call_within(Duration::from_millis(200), "deposit", &given, id).await {
                Ok(_) => told.acknowledged += 1,
                Err(fault) => {
                    assert!([RetryClass::OutcomeUnknown, RetryClass::Retry].contains(&fault.retry_class()), "{fault}");
                    told.unsettled.push(id);
                }
            }
            assert_eq!(deposit(&plain, other).await, "p2", "the other peer goes on");
        }
        drop(stalled);
        deposit(&plain, slow[0]).await;
        told.acknowledged += 1;
    }
    assert!(told.unsettled.len() >= 6, "the disk stalled: {} requests were held up", told.unsettled.len());
    for id in &told.unsettled {
        plain.settle("deposit", &given, *id).await.expect("its outcome is known now");
    }
    let entries = bank.reader().entries(slow[0]).await.expect("read");
    assert_eq!(entries, i64::try_from(1 + told.acknowledged + told.unsettled.len()).expect("few"), "the opening, and each deposit once");
    // And away from there, while it stalls for most of the time.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let stalls = async {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let stalled = mount.stall();
            tokio::time::sleep(Duration::from_millis(150)).await;
            drop(stalled);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let moved = async {
        let one = carry_out(&client, &partitions_of(&bank, &slow), "p2").await;
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        one
    };
    let (one, ()) = tokio::join!(moved, stalls);
    assert!(one.is_verified, "{one:?}");
    assert_eq!(deposit(&plain, slow[0]).await, "p2");
    nothing_is_left(&bank).await;
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
    drop(bank);
}
