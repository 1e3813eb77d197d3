//! Reference data: written on the hub, the same everywhere, also for a peer that was away.

use std::time::Duration;

use rootward_proto::{Fault, v1};
use tests::{Cluster, Shape, check_bank, until};
use uuid::Uuid;

use crate::shared::{exe, own_bank};

#[tokio::test]
async fn a_peer_that_was_down_catches_up_and_serves_what_was_written_meanwhile() {
    let mut bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p2", 1, 10).await.expect("opened")[0].to_string();
    bank.embedded.kill_postgres("p2").await.expect("killed");
    let currency = |code: &'static str| [("code", code), ("name", "money"), ("minor_digits", "2")];
    let id = Uuid::now_v7();
    let first = client.settle("add_currency", &currency("CHF"), id).await.expect("the hub takes it");
    let rename = [("code", "EUR"), ("name", "the euro")];
    let second = client.settle("rename_currency", &rename, Uuid::now_v7()).await.expect("and this");
    assert_eq!(second.reference_version, first.reference_version + 1, "each write is a version");
    let again = client.settle("add_currency", &currency("CHF"), id).await.expect("the same request");
    assert_eq!((again.from_stored_outcome, again.reference_version), (true, first.reference_version));
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

const STOP: &str = "alter subscription rootward_reference disable";
const GO_ON: &str = "alter subscription rootward_reference enable";

fn rename(name: &str) -> [(&str, &str); 2] {
    [("code", "EUR"), ("name", name)]
}

/// A write that answers when all peers show it, or the limit is near.
async fn shown_rename(client: &tests::Client, name: &str, limit: Duration) -> v1::CallResponse {
    let message = v1::CallRequest {
        transaction: "rename_currency".to_owned(),
        arguments: tests::arguments(&rename(name)),
        request_id: Uuid::now_v7().to_string(),
        reference_wait: v1::ReferenceWait::All.into(),
        ..v1::CallRequest::default()
    };
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    client.raw().call(request).await.expect("the hub takes it").into_inner()
}

async fn name_on(bank: &tests::Cluster, node: &str) -> String {
    bank.reader().rows(node, "select name from currency where code = 'EUR'", &[]).await.expect("read")[0].get(0)
}

#[tokio::test]
async fn a_write_that_waits_for_all_is_on_every_peer_when_it_is_answered_or_names_who_lacks_it() {
    let mut bank = own_bank(3).await;
    let client = bank.client().expect("a client");
    for round in 0..20 {
        let name = format!("euro {round}");
        let answer = shown_rename(&client, &name, Duration::from_secs(30)).await;
        assert_eq!(answer.lagging_peers, [], "all are up");
        for peer in ["p1", "p2", "p3"] {
            assert_eq!(name_on(&bank, peer).await, name, "{peer} shows it at once");
        }
    }
    // One that is behind is named with the version that it shows, one that is gone with the reason; the write stays.
    bank.reader().run("p1", STOP).await.expect("stopped");
    bank.embedded.kill_worker("p2").await.expect("killed");
    let answer = shown_rename(&client, "the last one", Duration::from_secs(2)).await;
    let behind: Vec<(&str, i64)> = answer.lagging_peers.iter().map(|peer| (peer.peer.as_str(), peer.reference_version)).collect();
    assert_eq!(behind, [("p1", answer.reference_version - 1), ("p2", -1)], "{:?}", answer.lagging_peers);
    assert_eq!(name_on(&bank, "hub").await, "the last one");
    let fault = client.send(v1::CallRequest {
        transaction: "balance".to_owned(),
        arguments: tests::arguments(&[("account_id", "1")]),
        reference_wait: v1::ReferenceWait::All.into(),
        ..v1::CallRequest::default()
    });
    assert_eq!(fault.await.expect_err("no write").code(), "RW2009");
}

#[tokio::test]
async fn a_transaction_waits_for_the_version_that_it_must_see_and_is_refused_by_name_without() {
    let bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    let account = bank.open_accounts(&client, "p1", 1, 10).await.expect("opened")[0].to_string();
    bank.reader().run("p1", STOP).await.expect("stopped");
    let written = client.settle("rename_currency", &rename("the euro"), Uuid::now_v7()).await.expect("written");
    let balance = |limit: Duration, min_reference_version: i64, id: Uuid| {
        let message = v1::CallRequest {
            transaction: "balance".to_owned(),
            arguments: tests::arguments(&[("account_id", &account)]),
            request_id: id.to_string(),
            min_reference_version: Some(min_reference_version),
            ..v1::CallRequest::default()
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(limit);
        let mut router = client.raw();
        async move { router.call(request).await.map(tonic::Response::into_inner).map_err(|status| Fault::from_status(&status)) }
    };
    let id = Uuid::now_v7();
    let fault = balance(Duration::from_secs(1), written.reference_version, id).await.expect_err("it can't see it");
    assert_eq!((fault.code(), fault.retry_class()), ("RW3109", v1::RetryClass::Retry), "{fault}");
    assert!(fault.message().contains("peer p1 shows version") && fault.message().contains("waits for version"), "{fault}");
    assert!(bank.reader().outcomes(id).await.expect("read").is_empty(), "nothing was executed");
    // What needs no newer version than the peer shows is not held up by those that wait.
    let waiting = tokio::spawn(balance(Duration::from_secs(30), written.reference_version, id));
    let old = balance(Duration::from_secs(30), written.reference_version - 1, Uuid::now_v7()).await.expect("served");
    assert_eq!(old.reference_version, written.reference_version - 1, "it tells what it may have seen");
    bank.reader().run("p1", GO_ON).await.expect("it goes on");
    let seen = waiting.await.expect("no panic").expect("served");
    let names: Vec<String> = seen.rows[0].values.iter().map(tests::text_of).collect();
    assert!(names.contains(&"the euro".to_owned()), "{names:?}");
    assert_eq!(seen.reference_version, written.reference_version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chains_start_and_each_of_its_steps_wait_for_the_version_that_they_must_see() {
    let mut bank = Cluster::bank(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("it starts");
    let client = bank.client().expect("a client");
    let from = bank.open_accounts(&client, "p1", 1, 10).await.expect("opened")[0].to_string();
    let to = bank.open_accounts(&client, "p2", 1, 10).await.expect("opened")[0].to_string();
    bank.reader().run("p2", STOP).await.expect("stopped");
    let written = client.settle("rename_currency", &rename("the euro"), Uuid::now_v7()).await.expect("written").reference_version;
    until("p1 shows it", async || (name_on(&bank, "p1").await == "the euro").then_some(())).await.expect("copied");
    let start = |from: &str, to: &str, id: Uuid, limit: Duration| {
        let message = v1::StartChainRequest {
            chain: "transfer".to_owned(),
            input: tests::arguments(&[("from", from), ("to", to), ("amount", "1")]),
            chain_id: id.to_string(),
            wait: v1::ChainWait::Accepted.into(),
            min_reference_version: Some(written),
            ..v1::StartChainRequest::default()
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(limit);
        let mut router = client.raw();
        async move { router.start_chain(request).await.map(|_| ()).map_err(|status| Fault::from_status(&status)) }
    };
    // A start whose first step would not see it is refused, and there is no chain.
    let id = Uuid::now_v7();
    let fault = start(&to, &from, id, Duration::from_secs(1)).await.expect_err("it can't see it");
    assert!(fault.code() == "RW3109" && fault.message().contains("peer p2 shows version"), "{fault}");
    assert!(bank.reader().outcomes(id).await.expect("read").is_empty(), "nothing was executed");
    // Elsewhere its first step runs, and the second waits, beside the lane: others of the same root go on.
    let waiting = Uuid::now_v7();
    start(&from, &to, waiting, Duration::from_secs(30)).await.expect("accepted");
    let is_held = async |bank: &Cluster| {
        let plain = [("from", from.as_str()), ("to", to.as_str()), ("amount", "1")];
        let chain = bank.client().expect("a client").run_chain("transfer", &plain, Uuid::now_v7()).await.expect("it ends");
        assert_eq!(chain.status, "completed", "one that waits for nothing");
        assert_eq!(bank.reader().outcomes(waiting).await.expect("read").len(), 1, "its second step ran without what it must see");
    };
    is_held(&bank).await;
    // Whoever drives it next knows what it waits for.
    bank.restart_worker("p1", &[]).await.expect("serves again");
    is_held(&bank).await;
    bank.reader().run("p2", GO_ON).await.expect("it goes on");
    let done = async || Some(client.chain(waiting).await.ok()?).filter(|chain| chain.status == "completed");
    until("the chain ends", done).await.expect("completed");
    check_bank(&bank).await.expect("every promise is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_monotonically_never_sees_an_older_version_on_another_peer() {
    let bank = own_bank(2).await;
    let test_client = bank.client().expect("a client");
    let accounts = [
        bank.open_accounts(&test_client, "p1", 1, 10).await.expect("opened")[0],
        bank.open_accounts(&test_client, "p2", 1, 10).await.expect("opened")[0],
    ];
    let plain = rootward_client::Client::new([bank.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30));
    let client = plain.clone().with_monotonic_reference();
    let name = async |client: &rootward_client::Client, account: i64| {
        let answer = client.call("balance", rootward_client::Arguments::new().with("account_id", account)).send().await.expect("served");
        let at = answer.columns.iter().position(|column| column.name == "currency_name").expect("the currency's name is a column");
        tests::text_of(&answer.rows[0].values[at])
    };
    bank.reader().run("p2", STOP).await.expect("stopped");
    let write = rootward_client::Arguments::new().with("code", "EUR").with("name", "new");
    plain.call("rename_currency", write).wait_for_all_peers().with_deadline(Duration::from_secs(1)).send().await.expect("written");
    assert_eq!(name(&client, accounts[0]).await, "new");
    // Without the promise the other peer answers with what it has.
    assert_eq!(name(&plain, accounts[1]).await, "euro");
    let other = tokio::spawn({
        let client = client.clone();
        async move { name(&client, accounts[1]).await }
    });
    bank.reader().run("p2", GO_ON).await.expect("it goes on");
    assert_eq!(other.await.expect("no panic"), "new");
}

#[tokio::test]
async fn what_trees_refer_to_is_neither_deleted_nor_given_another_key_whoever_asks() {
    let bank = own_bank(1).await;
    for (harm, word) in [
        ("delete from currency where code = 'EUR'", "never deleted"),
        ("truncate currency cascade", "never deleted"),
        ("update currency set code = 'XXX' where code = 'EUR'", "never changes"),
        ("set role rootward_owner; delete from currency where code = 'EUR'", "never deleted"),
    ] {
        let refused = bank.reader().run("hub", harm).await.expect_err(harm);
        let told = refused.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error).expect("the server's word");
        assert!(told.message().contains(word) && told.hint().is_some(), "{harm}: {told}");
    }
    bank.reader()
        .run("hub", "update currency set name = 'still allowed', code = code where code = 'EUR'")
        .await
        .expect("the rest may change");
}

#[tokio::test]
async fn verify_waits_for_a_copy_that_is_behind_and_names_one_that_stays_behind() {
    let bank = own_bank(2).await;
    let client = bank.client().expect("a client");
    bank.reader().run("p1", STOP).await.expect("stopped");
    client.settle("rename_currency", &rename("the euro"), Uuid::now_v7()).await.expect("written");
    let check = async || {
        let mut request = tonic::Request::new(v1::VerifyRequest::default());
        request.set_timeout(Duration::from_secs(60));
        let counted = client.raw().verify(request).await.expect("it counts").into_inner();
        counted.checks.into_iter().find(|check| check.name == "reference").expect("it is checked")
    };
    let behind = check().await;
    assert!(!behind.is_ok && behind.examples.iter().any(|example| example.contains("peer p1 is at version")), "{behind:?}");
    let (waited, _) = tokio::join!(check(), async { bank.reader().run("p1", GO_ON).await.expect("it goes on") });
    assert!(waited.is_ok, "{waited:?}");
}
