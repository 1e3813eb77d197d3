//! A move that is given up at any stage before the decision leaves everything as it was.

use rootward_client::v1;
use tests::{Pause, check_bank, eventually};
use uuid::Uuid;

use super::{begin, client, command, load::Load, nothing_is_left, partitions_of, wait_for};
use crate::shared::own_bank;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_can_be_cancelled_until_the_hub_has_decided() {
    let mut bank = own_bank(2).await;
    let plain = bank.client().expect("a client");
    let accounts = bank.open_accounts(&plain, "p1", 4, 1_000).await.expect("opened");
    let (partitions, key) = (partitions_of(&bank, &accounts), accounts[0].to_string());
    let client = client(&bank);
    let points =
        ["mover_preparing", "mover_publishing", "mover_copying", "mover_fixed", "mover_compared", "mover_switching", "mover_released"];
    for (point, is_early) in points.into_iter().map(|point| (point, true)).chain([("mover_decided", false)]) {
        let pause = Pause::new().expect("a folder");
        bank.restart_worker("hub", &[("ROOTWARD_FAIL_POINT", &pause.at(point, "mover"))]).await.expect("armed");
        let load = Load::start(&bank, &accounts, 3, true);
        let id = begin(&client, &partitions, "p2").await;
        pause.reached().await.expect("it comes there");
        let cancelled = if point == "mover_copying" {
            // The command waits until everything is undone. Repeated, it is the same.
            let release = async {
                wait_for(&client, &id, &["cancelling"]).await;
                pause.release().expect("released");
            };
            let words = ["partition", "cancel", &id];
            let ((is_success, shown), ()) = tokio::join!(command(&bank, &words), release);
            assert!(is_success && shown.contains(&id) && shown.contains("cancelled"), "{shown}");
            client.cancel_move(&id).await
        } else {
            let cancelled = client.cancel_move(&id).await;
            pause.release().expect("released");
            cancelled
        };
        let one = match is_early {
            true => {
                assert!(cancelled.is_ok(), "{point}: {cancelled:?}");
                wait_for(&client, &id, &["cancelled"]).await
            }
            false => {
                assert_eq!(cancelled.expect_err("too late").code(), "RW5043");
                wait_for(&client, &id, &["done"]).await
            }
        };
        let failures = load.stop().await;
        assert!(failures.is_empty(), "{point}: {failures:?}");
        let answer = plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("served");
        assert_eq!(answer.peer, if is_early { "p1" } else { "p2" }, "{point}: {one:?}");
        nothing_is_left(&bank).await;
    }
    let fault = client.cancel_move(&Uuid::now_v7().to_string()).await.expect_err("unknown");
    assert_eq!((fault.code(), fault.retry_class()), ("RW5040", v1::RetryClass::NotFound));
    eventually(async || check_bank(&bank).await).await.expect("every promise is kept");
}
