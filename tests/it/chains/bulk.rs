//! Lists by every filter, counts, commands for many, and following one.

use std::time::Duration;

use futures_util::future::join_all;
use rootward_proto::v1::{self, ChainVerb};
use tests::{Client, Cluster, check_bank, check_workflow, command, labelled, start};
use tokio::time::Instant;
use uuid::Uuid;

use super::waits::in_ms;
use crate::shared::{bank, workflow};

/// So many transfers to a frozen account that are parked, with a label of their own; returns the account and the label.
async fn parked_transfers(bank: &Cluster, client: &Client, count: usize) -> (i64, String, Vec<Uuid>) {
    let to = bank.open_accounts(client, "p2", 1, 0).await.expect("opened")[0];
    let (to_key, label) = (to.to_string(), Uuid::now_v7().to_string());
    client.settle("freeze", &[("account_id", &to_key)], Uuid::now_v7()).await.expect("frozen");
    let mut from = bank.open_accounts(client, "p1", 2, 1000).await.expect("opened");
    from.extend(bank.open_accounts(client, "p3", 1, 1000).await.expect("opened"));
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    let starts = ids.iter().enumerate().map(async |(at, id)| {
        let input = [("from", from[at % 3].to_string()), ("to", to_key.clone()), ("amount", "1".to_owned())];
        let input = input.each_ref().map(|(name, value)| (*name, value.as_str()));
        let message = v1::StartChainRequest { labels: labelled("batch", &label).labels, ..start("transfer", &input, *id) };
        client.start(message).await.expect("begun");
        client.wait_for(*id, &["parked"]).await.expect("it parks");
    });
    join_all(starts).await;
    (to, label, ids)
}

fn bulk(verb: ChainVerb, label: &str) -> v1::ChangeChainsRequest {
    v1::ChangeChainsRequest { filter: Some(labelled("batch", label)), ..command(verb, Uuid::nil()) }
}

#[tokio::test]
async fn each_filter_finds_its_chains_and_no_others() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3"]).await.expect("added");
    client.close_item(&items[2]).await.expect("closed");
    let label = Uuid::now_v7().to_string();
    let begin = async |chain: &str, other: &str, colour: &str, status: &str| {
        let id = Uuid::now_v7();
        let mut labels = labelled("set", &label).labels;
        labels.insert("colour".to_owned(), colour.to_owned());
        let message = v1::StartChainRequest { labels, ..start(chain, &[("item", &items[0]), ("other", other)], id) };
        client.start(message).await.expect("begun");
        client.wait_for(id, &[status]).await.expect("it comes there");
        id
    };
    let done = begin("kept", &items[1], "red", "completed").await;
    let failed = begin("kept", &items[2], "blue", "failed").await;
    tests::until("a millisecond passes", async || (in_ms(0) > 0).then_some(())).await.expect("it does");
    let between = in_ms(1);
    tests::until("it is later", async || (in_ms(0) > between + 1).then_some(())).await.expect("it does");
    let waiting = begin("long_wait", &items[1], "red", "waiting").await;
    let set = || labelled("set", &label);
    let with = |change: &dyn Fn(&mut v1::ChainFilter)| {
        let mut filter = set();
        change(&mut filter);
        filter
    };
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cases: Vec<(&str, v1::ChainFilter, Vec<Uuid>)> = vec![
        ("all", set(), vec![done, failed, waiting]),
        ("status", with(&|filter| filter.statuses = texts(&["failed"])), vec![failed]),
        ("two statuses", with(&|filter| filter.statuses = texts(&["failed", "waiting"])), vec![failed, waiting]),
        ("no such status now", with(&|filter| filter.statuses = texts(&["stuck"])), vec![]),
        ("type", with(&|filter| filter.definition = "kept".to_owned()), vec![done, failed]),
        ("error", with(&|filter| filter.error = "%item is closed%".to_owned()), vec![failed]),
        ("error's code", with(&|filter| filter.error = "RW3101%".to_owned()), vec![failed]),
        ("another error", with(&|filter| filter.error = "%08006%".to_owned()), vec![]),
        ("id", with(&|filter| filter.id = done.to_string()), vec![done]),
        ("label", with(&|filter| drop(filter.labels.insert("colour".to_owned(), "red".to_owned()))), vec![done, waiting]),
        ("label's value", with(&|filter| drop(filter.labels.insert("colour".to_owned(), "re".to_owned()))), vec![]),
        ("entity", with(&|filter| filter.entity = "item".to_owned()), vec![done, failed, waiting]),
        ("another entity", with(&|filter| filter.entity = "account".to_owned()), vec![]),
        ("root", with(&|filter| (filter.entity, filter.root_key) = ("item".to_owned(), items[0].clone())), vec![done, failed, waiting]),
        ("another root", with(&|filter| (filter.entity, filter.root_key) = ("item".to_owned(), items[1].clone())), vec![]),
        ("since", with(&|filter| filter.since_ms = between), vec![waiting]),
        ("until", with(&|filter| filter.until_ms = between), vec![done, failed]),
        ("never", with(&|filter| (filter.since_ms, filter.until_ms) = (between, between)), vec![]),
    ];
    for (what, filter, wanted) in cases {
        assert_eq!(client.ids(filter.clone()).await.expect("listed"), wanted, "{what}");
        let counted: u64 = client.count(filter).await.expect("counted").values().sum();
        assert_eq!(counted, wanted.len() as u64, "{what}");
    }
    let limited = client.list(set(), 2).await.expect("listed");
    let newest: Vec<&str> = limited.chains.iter().map(|chain| chain.id.as_str()).collect();
    assert_eq!((limited.matched, newest), (3, vec![waiting.to_string().as_str(), failed.to_string().as_str()]));
    let counts = client.count(set()).await.expect("counted");
    assert_eq!((counts["completed"], counts["failed"], counts["waiting"]), (1, 1, 1));
    let fault = client.list(with(&|filter| filter.statuses = texts(&["sleeping"])), 0).await.expect_err("no status");
    assert_eq!(fault.code(), "RW4004", "{fault}");
    assert_eq!(client.list(with(&|filter| filter.id = "x".to_owned()), 0).await.expect_err("no id").code(), "RW4004");
    client.command(command(ChainVerb::Cancel, waiting)).await.expect("cancelled");
    client.wait_for(waiting, &["compensated"]).await.expect("it goes back");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_bulk_command_says_what_it_would_do_and_does_it_at_its_pace() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let (to, label, ids) = parked_transfers(bank, &client, 30).await;
    let told = client.change(v1::ChangeChainsRequest { dry_run: true, ..bulk(ChainVerb::Replay, &label) }).await.expect("told");
    assert_eq!((told.matched, told.changed, told.chains.len(), told.is_final), (30, 0, 30, true));
    assert_eq!(told.steps.into_iter().collect::<Vec<_>>(), [("2/2 deposit".to_owned(), 30)]);
    assert!(bank.reader().outcomes(ids[0]).await.expect("read").len() == 1, "nothing was done");

    // The cause is still there: each is tried and parks again.
    let again = client.change(bulk(ChainVerb::Replay, &label)).await.expect("replayed");
    assert_eq!((again.matched, again.changed, again.refused, again.is_final), (30, 30, 0, true));
    assert_eq!(again.statuses.into_iter().collect::<Vec<_>>(), [("parked".to_owned(), 30)]);

    client.settle("unfreeze", &[("account_id", &to.to_string())], Uuid::now_v7()).await.expect("unfrozen");
    let began = Instant::now();
    let replayed = client.change(v1::ChangeChainsRequest { per_second: 60.0, ..bulk(ChainVerb::Replay, &label) }).await.expect("replayed");
    // A third of them lies on p3, two thirds on p1: at a quarter of the rate these take more than a second.
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((replayed.changed, replayed.statuses.get("completed")), (30, Some(&30)), "{replayed:?}");
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(3_000));
    let nothing = client.change(bulk(ChainVerb::Replay, &label)).await.expect("nothing to do");
    assert_eq!((nothing.matched, nothing.changed, nothing.is_final), (0, 0, true));
    check_bank(bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_bulk_command_ends_though_its_client_goes_away() {
    let bank = bank().await;
    let client = bank.client().expect("a client");
    let (to, label, ids) = parked_transfers(bank, &client, 24).await;
    client.settle("unfreeze", &[("account_id", &to.to_string())], Uuid::now_v7()).await.expect("unfrozen");
    let slow = v1::ChangeChainsRequest { per_second: 60.0, ..bulk(ChainVerb::Replay, &label) };
    let mut answers = client.raw().change_chains(slow).await.expect("begun").into_inner();
    let first = answers.message().await.expect("told").expect("how far it is");
    assert!(!first.is_final);
    drop(answers);
    for id in ids {
        client.wait_for(id, &["completed"]).await.expect("it goes on");
    }
    assert_eq!(bank.reader().balance(to).await.expect("read"), Some(2_400));
    check_bank(bank).await.expect("every promise is kept");
}

#[tokio::test]
async fn many_are_paused_resumed_and_cancelled_by_filter() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3"]).await.expect("added");
    let label = Uuid::now_v7().to_string();
    let mut ids = Vec::new();
    for at in 0..12 {
        let id = Uuid::now_v7();
        let input = [("item", items[at % 3].as_str()), ("other", items[(at + 1) % 3].as_str())];
        client
            .start(v1::StartChainRequest { labels: labelled("batch", &label).labels, ..start("long_wait", &input, id) })
            .await
            .expect("begun");
        ids.push(id);
    }
    for id in &ids {
        client.wait_for(*id, &["waiting"]).await.expect("it waits");
    }
    for (verb, status) in [(ChainVerb::Pause, "paused"), (ChainVerb::Resume, "waiting"), (ChainVerb::Cancel, "compensated")] {
        let told = client.change(bulk(verb, &label)).await.expect("changed");
        assert_eq!((told.changed, told.refused), (12, 0), "{verb:?}: {told:?}");
        tests::until(status, async || (client.count(labelled("batch", &label)).await.ok()?.get(status) == Some(&12)).then_some(()))
            .await
            .expect("all of them");
    }
    // `skip` is for one, and an abandon wants a reason even for many.
    assert_eq!(client.change(bulk(ChainVerb::Skip, &label)).await.expect_err("for one").code(), "RW4004");
    for id in ids {
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, first undone");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn who_watches_a_chain_sees_each_step_and_its_end() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let (input, id) = ([("item", items[0].as_str()), ("other", &items[1])], Uuid::now_v7());
    client.begin("long_wait", &input, id).await.expect("begun");
    client.wait_for(id, &["waiting"]).await.expect("it waits");
    let watch = async |id: Uuid| client.raw().watch_chain(v1::WatchChainRequest { id: id.to_string() }).await;
    let mut stream = watch(id).await.expect("watched").into_inner();
    let mut seen = Vec::new();
    let mut has_signalled = false;
    while let Some(told) = stream.message().await.expect("told") {
        let chain = told.chain.expect("the chain");
        let done: Vec<&str> = chain.steps.iter().filter(|step| step.outcome == "done").map(|step| step.name.as_str()).collect();
        seen.push((chain.status.clone(), done.join(" ")));
        if !has_signalled {
            has_signalled = true;
            client.signal(id, "go", &[("note", "x")]).await.expect("taken");
        }
    }
    assert_eq!(seen.first(), Some(&("waiting".to_owned(), "first".to_owned())), "{seen:?}");
    assert_eq!(seen.last(), Some(&("completed".to_owned(), "first go last".to_owned())), "{seen:?}");
    // One that has ended is told once.
    let mut stream = watch(id).await.expect("watched").into_inner();
    assert!(stream.message().await.expect("told").is_some());
    assert!(stream.message().await.expect("the end").is_none());
    let none = watch(Uuid::now_v7()).await.expect_err("there is none");
    assert_eq!(rootward_proto::Fault::from_status(&none).code(), "RW4001");
}
