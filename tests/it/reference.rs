//! Reference data: written on the hub, the same everywhere, also for a peer that was away.

use tests::{check_bank, until};
use uuid::Uuid;

use crate::shared::own_bank;

#[tokio::test]
async fn a_peer_that_was_down_catches_up_and_serves_what_was_written_meanwhile() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p2", 1, 10).await.expect("opened")[0].to_string();
    bank.embedded.kill_postgres("p2").await.expect("killed");
    let currency = |code: &'static str| [("code", code), ("name", "money"), ("minor_digits", "2")];
    let first = client.settle("add_currency", &currency("CHF"), Uuid::now_v7()).await.expect("the hub takes it");
    let rename = [("code", "EUR"), ("name", "the euro")];
    let second = client.settle("rename_currency", &rename, Uuid::now_v7()).await.expect("and this");
    assert_eq!(second.reference_version, first.reference_version + 1, "each write is a version");
    let exists = client.settle("add_currency", &currency("CHF"), Uuid::now_v7()).await.expect_err("refused");
    assert!(exists.message().contains("currency exists already"), "{exists}");
    // The other peer has them long before this one is back.
    let reader = bank.reader();
    let name = "select name from currency where code = 'EUR' and exists (select from currency where code = 'CHF')";
    let seen_on = async |peer: &str| reader.rows(peer, name, &[]).await.ok()?.first().map(|row| row.get::<_, String>(0));
    until("p1 has the new name", async || seen_on("p1").await.filter(|seen| seen == "the euro")).await.expect("copied");
    bank.embedded.start_postgres("p2").await.expect("up again");
    until("p2 catches up", async || seen_on("p2").await.filter(|seen| seen == "the euro")).await.expect("caught up");
    // A transaction joins with the copy beside it.
    let joined = client.settle("balance", &[("account_id", &account)], Uuid::now_v7()).await.expect("served again");
    let names: Vec<String> = joined.rows[0].values.iter().map(tests::text_of).collect();
    assert!(names.contains(&"the euro".to_owned()), "{names:?}");
    check_bank(&bank).await.expect("every promise is kept");
}
