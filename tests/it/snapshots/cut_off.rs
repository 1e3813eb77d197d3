//! A peer that the network cuts off while a snapshot is taken: refused by name, and nothing stays held.

use rootward_client::SnapshotOptions;
use tests::{Cluster, Cut, Pause, check_bank};
use uuid::Uuid;

use super::{Load, accounts, client, take, wrong_books};
use crate::shared::own_bank;

async fn deposit(bank: &Cluster, account: i64) {
    let key = account.to_string();
    let plain = bank.client().expect("a client");
    plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("its lane is not held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_refused_by_name_whichever_way_the_network_is_cut() {
    let mut bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 6).await;
    let detour = bank.detour("p2").await.expect("a detour");
    let client = client(&bank);
    let load = Load::start(&bank, &accounts, 6);
    let cuts = [
        ("snapshot_drained", Cut::Both),
        ("snapshot_take", Cut::Requests),
        ("snapshot_taken", Cut::Answers),
        ("snapshot_confirmed", Cut::Refused),
    ];
    for (point, cut) in cuts {
        let pause = Pause::new().expect("a folder");
        bank.restart_worker("p1", &[("ROOTWARD_FAIL_POINT", &pause.at(point, "snapshot"))]).await.expect("armed");
        let taking = tokio::spawn({
            let client = client.clone();
            async move { take(&client).await }
        });
        pause.reached().await.expect("the first peer is there");
        detour.cut(cut);
        pause.release().expect("released");
        let fault = taking.await.expect("no panic").expect_err("the second peer can't be asked");
        assert!(["RW5020", "RW5022"].contains(&fault.code()) && fault.message().contains("p2"), "{cut:?} at {point}: {fault}");
        // The peer that can be asked holds nothing, and can be read alone.
        deposit(&bank, accounts[0]).await;
        let partial = SnapshotOptions { partial: true, ..SnapshotOptions::default() };
        let partial = client.take_snapshot(partial).await;
        match partial {
            Ok(partial) => assert_eq!(partial.facts().missing_peers, ["p2"], "{cut:?} at {point}"),
            // Chains whose other root can't be asked are under way for as long as it takes.
            Err(fault) => assert_eq!(fault.code(), "RW5021", "{cut:?} at {point}: {fault}"),
        }
        detour.cut(Cut::None);
        deposit(&bank, accounts[11]).await;
        let whole = take(&client).await.unwrap_or_else(|fault| panic!("after {cut:?} at {point}: {fault}"));
        assert_eq!(wrong_books(&whole).await.expect("counted"), None, "after {cut:?} at {point}");
    }
    load.stop().await;
    check_bank(&bank).await.expect("every promise is kept");
}
