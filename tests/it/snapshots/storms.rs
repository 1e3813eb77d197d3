//! Far more chains than drivers, and more readers than one: each snapshot is exact, and chains go on.

use tests::check_bank;

use super::{Load, accounts, client, take, wrong_books};
use crate::shared::own_bank;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_in_a_storm_of_chains_are_exact_and_hold_nobody_up_for_ever() {
    let bank = own_bank(2).await;
    let accounts = accounts(&bank, &["p1", "p2"], 3).await;
    let load = Load::start(&bank, &accounts, 96);
    let readers = (0..4).map(|_| async {
        let client = client(&bank);
        for _ in 0..5 {
            let transfers = load.transfers();
            let snapshot = take(&client).await.expect("taken in the storm");
            assert_eq!(wrong_books(&snapshot).await.expect("counted"), None);
            snapshot.release().await.expect("released");
            tests::until("chains go on between snapshots", async || (load.transfers() > transfers).then_some(())).await.expect("they do");
        }
    });
    futures_util::future::join_all(readers).await;
    load.stop().await;
    check_bank(&bank).await.expect("every promise is kept");
}
