//! A journal moves with its partition: its numbers and hashes go on at the new owner, and whoever reads it misses nothing.

use std::collections::BTreeMap;

use rootward_client::v1;
use tests::Shape;
use uuid::Uuid;

use super::{carry_out, client, nothing_is_left, partitions_of};
use crate::journal::{bank, check_books, heads, verify};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_goes_on_at_the_new_owner_and_a_subscriber_follows_it() {
    let (cluster, plain) = bank(Shape { peers: 2, ..Shape::shared() }).await;
    let account = cluster.open_accounts(&plain, "p1", 1, 100).await.expect("opened")[0];
    let key = account.to_string();
    let mover = client(&cluster);
    let request = v1::SubscribeRequest { entity: "account".to_owned(), root_key: key.clone(), from_start: true, ..Default::default() };
    let mut subscription = mover.subscribe(request);
    let mut numbers = Vec::new();
    let mut done = 1;
    for target in ["p2", "p1", "p2"] {
        for _ in 0..5 {
            plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("done");
            done += 1;
        }
        let moved = carry_out(&mover, &partitions_of(&cluster, &[account]), target).await;
        assert!(moved.is_verified, "{moved:?}");
        plain.settle("deposit", &[("account_id", &key), ("amount", "1")], Uuid::now_v7()).await.expect("done there");
        done += 1;
        // Behind a move some may come again; none is passed over.
        let reading = async {
            while numbers.iter().max() != Some(&done) {
                let events = subscription.next().await.expect("it goes on").events;
                numbers.extend(events.into_iter().map(|event| event.sequence));
            }
        };
        tokio::time::timeout(tests::LIMIT, reading).await.unwrap_or_else(|_| panic!("after the move to {target}: {numbers:?} of {done}"));
        let mut highest = 0;
        for number in &numbers {
            assert!(*number <= highest + 1, "{number} came behind {highest}");
            highest = highest.max(*number);
        }
    }
    assert_eq!(check_books(&cluster).await.expect("the books agree"), done, "each effect has its row, at one peer");
    let verified = verify(&plain, heads(&plain).await).await;
    assert_eq!((verified.rows, verified.faults.as_slice()), (u64::try_from(done).expect("positive"), &[][..]));
    let by_peer: BTreeMap<String, i64> = cluster
        .reader()
        .all("select count(*) from rootward.journal", &[])
        .await
        .expect("read")
        .into_iter()
        .map(|(peer, row)| (peer, row.get(0)))
        .collect();
    assert_eq!(by_peer, BTreeMap::from([("p1".to_owned(), 0), ("p2".to_owned(), done)]));
    nothing_is_left(&cluster).await;
}
