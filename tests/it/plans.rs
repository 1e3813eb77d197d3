//! Plans outlive the moment that they were made for: what was planned on an empty table must not read all of a full one.

use tests::{Cluster, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::exe;

const ACCOUNTS: usize = 400;
const TRANSFERS: usize = 300;

#[tokio::test]
async fn what_was_planned_on_empty_tables_reads_a_few_rows_when_they_are_full() {
    let bank = Cluster::bank(exe(), Shape { peers: 1, ..Shape::shared() }).await.expect("a bank starts");
    let client = bank.client().expect("a client");
    // That there is nothing is what the planner goes by from now on.
    bank.reader().run("p1", "vacuum analyze").await.expect("analyzed");
    let accounts = bank.open_accounts(&client, "p1", ACCOUNTS, 100).await.expect("opened");
    let transfer = async |at: usize| {
        let (from, to) = (accounts[at].to_string(), accounts[at + 1].to_string());
        client.run_chain("transfer", &[("from", &*from), ("to", &*to), ("amount", "1")], Uuid::now_v7()).await.expect("run");
    };
    for first in (0..TRANSFERS).step_by(50) {
        futures_util::future::join_all((first..first + 50).map(transfer)).await;
    }
    // A backend reports all that it has counted at once, when it has nothing to do: with the last entry the last look-up is there.
    let entries = i64::try_from(ACCOUNTS + 2 * TRANSFERS).expect("small");
    let reported = "select n_tup_ins from pg_stat_all_tables where schemaname = 'public' and relname = 'entry'";
    until("every backend has reported", async || {
        let count: i64 = bank.reader().rows("p1", reported, &[]).await.ok()?.first()?.get(0);
        (count >= entries).then_some(())
    })
    .await
    .expect("reported");
    let sql = "select sum(idx_tup_read)::bigint from pg_stat_all_indexes where schemaname in ('public', 'rootward')";
    let read: i64 = bank.reader().rows("p1", sql, &[]).await.expect("counted")[0].get(0);
    // A transfer is three units of work, with a few look-ups each.
    let each = read / i64::try_from(ACCOUNTS + 3 * TRANSFERS).expect("small");
    assert!(each < 20, "a unit of work reads {each} rows by index");
    check_bank(&bank).await.expect("every promise is kept");
}
