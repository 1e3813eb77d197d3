//! What people do to one chain: every verb in every status, and what it leaves behind.

use rootward_proto::v1::{self, ChainVerb};
use tests::{Client, Cluster, check_workflow, command, start};
use uuid::Uuid;

use super::waits::in_ms;
use crate::shared::workflow;

/// A chain of `by_hand` that is parked at its second step; returns its id and its items.
async fn parked(workflow: &Cluster, client: &Client) -> (Uuid, Vec<String>) {
    let items = workflow.add_items(client, &["p1", "p2", "p3"]).await.expect("added");
    client.close_item(&items[1]).await.expect("closed");
    let id = Uuid::now_v7();
    client.begin("by_hand", &[("item", &items[0]), ("other", &items[1]), ("end", &items[2])], id).await.expect("begun");
    client.wait_for(id, &["parked"]).await.expect("it parks");
    (id, items)
}

/// Lets the marks that undo something at an item fail, with an SQLSTATE.
async fn spoil_undoing(workflow: &Cluster, item: &str, sqlstate: &str) {
    let sql = format!(
        "create or replace function public.spoil_{item}() returns trigger language plpgsql as $$ begin
           if new.kind = 'undone' and new.item_id = {item} then raise exception 'spoilt' using errcode = '{sqlstate}'; end if;
           return new; end $$;
         create or replace trigger spoil_{item} before insert on mark for each row execute function public.spoil_{item}()"
    );
    let number: i64 = item.parse().expect("a number");
    workflow.reader().run(workflow.owner_of("item", number), &sql).await.expect("spoilt");
}

/// Takes that back.
async fn heal_undoing(workflow: &Cluster, item: &str) {
    let number: i64 = item.parse().expect("a number");
    let sql = format!("drop trigger spoil_{item} on mark");
    workflow.reader().run(workflow.owner_of("item", number), &sql).await.expect("healed");
}

/// A chain that goes back and can't; returns its id and its items.
async fn stuck(workflow: &Cluster, client: &Client) -> (Uuid, Vec<String>) {
    let (id, items) = parked(workflow, client).await;
    spoil_undoing(workflow, &items[0], "P0001").await;
    client.command(command(ChainVerb::Cancel, id)).await.expect("cancelled");
    let stuck = client.wait_for(id, &["stuck"]).await.expect("it can't");
    assert!(stuck.failure.is_some_and(|failure| failure.message.contains("spoilt")));
    (id, items)
}

async fn skip(client: &Client, id: Uuid, step: &str, result: &[(&str, &str)]) -> tests::Ended<v1::Chain> {
    let message = v1::ChangeChainsRequest { step: step.to_owned(), result: tests::arguments(result), ..command(ChainVerb::Skip, id) };
    client.command(message).await
}

#[tokio::test]
async fn a_skipped_steps_result_is_used_and_it_is_not_undone() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let (id, items) = parked(workflow, &client).await;
    for step in ["first", "after", "none"] {
        assert_eq!(skip(&client, id, step, &[]).await.expect_err("it doesn't stand there").code(), "RW4004", "{step}");
    }
    let silent = v1::ChangeChainsRequest { reason: " ".to_owned(), step: "count".to_owned(), ..command(ChainVerb::Skip, id) };
    assert_eq!(client.command(silent).await.expect_err("no reason").code(), "RW4004");
    skip(&client, id, "count", &[("marks", "7")]).await.expect("skipped");
    let completed = client.wait_for(id, &["completed"]).await.expect("it goes on");
    assert_eq!(completed.result, r#"{"marks":"7"}"#);
    assert_eq!(completed.steps.iter().map(|step| step.outcome.as_str()).collect::<Vec<_>>(), ["done", "skipped", "done", "done"]);
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "after done, end done, first done");
    let notes = workflow.reader().all("select note from mark where chain_id = $1 and step = 'after'", &[&id]).await.expect("read");
    assert_eq!(notes[0].1.get::<_, String>(0), "7");

    // A fork would do what was done by hand before.
    let fork = v1::ForkChainRequest { id: id.to_string(), new_id: Uuid::now_v7().to_string(), dry_run: true, ..Default::default() };
    let listed = client.fork(fork).await.expect("listed").repeated_effects;
    assert_eq!(listed.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["first", "count", "after", "end"]);

    // Refused later, it undoes what took effect, and not what was skipped.
    let (id, other) = parked(workflow, &client).await;
    client.close_item(&other[2]).await.expect("closed");
    skip(&client, id, "count", &[("marks", "8")]).await.expect("skipped");
    client.wait_for(id, &["compensated"]).await.expect("it goes back");
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "after done, after undone, first done, first undone");
    let _ = items;
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_stuck_chain_goes_back_when_it_is_healed_or_its_compensation_skipped_or_is_given_up() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let (healed, items) = stuck(workflow, &client).await;
    client.replay(healed).await.expect("replayed");
    client.wait_for(healed, &["stuck"]).await.expect("still stuck");
    heal_undoing(workflow, &items[0]).await;
    client.replay(healed).await.expect("replayed");
    client.wait_for(healed, &["compensated"]).await.expect("it goes back");
    assert_eq!(workflow.reader().marks_text(healed).await.expect("read"), "first done, first undone");

    let (skipped, items) = stuck(workflow, &client).await;
    assert_eq!(skip(&client, skipped, "count", &[]).await.expect_err("nothing of it is to be undone").code(), "RW4004");
    skip(&client, skipped, "first", &[]).await.expect("skipped");
    let ended = client.wait_for(skipped, &["compensated"]).await.expect("it goes back");
    assert!(ended.steps.iter().any(|step| step.direction == "undo" && step.outcome == "skipped"), "{:?}", ended.steps);
    assert_eq!(workflow.reader().marks_text(skipped).await.expect("read"), "first done");
    heal_undoing(workflow, &items[0]).await;

    let (given_up, items) = stuck(workflow, &client).await;
    let silent = v1::ChangeChainsRequest { reason: String::new(), ..command(ChainVerb::Abandon, given_up) };
    assert_eq!(client.command(silent).await.expect_err("no reason").code(), "RW4004");
    let ended = client.command(command(ChainVerb::Abandon, given_up)).await.expect("abandoned");
    assert_eq!(ended.status, "abandoned");
    let event = ended.events.last().expect("it is written down");
    assert_eq!((event.event.as_str(), event.reason.as_str(), event.by.as_str()), ("abandon", "the test decided so", "the test"));
    assert!(ended.failure.is_some(), "why it was stuck is still to be read");
    heal_undoing(workflow, &items[0]).await;
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_kept_chain_is_undone_when_a_person_wants_it() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    client.close_item(&items[1]).await.expect("closed");
    let id = Uuid::now_v7();
    client.begin("kept", &[("item", &items[0]), ("other", &items[1])], id).await.expect("begun");
    let failed = client.wait_for(id, &["failed"]).await.expect("it fails");
    assert!(failed.failure.is_some_and(|failure| failure.message.contains("item is closed")));
    assert_eq!(failed.verbs, ["compensate", "fork"]);
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done");
    client.compensate(id).await.expect("compensated");
    client.wait_for(id, &["compensated"]).await.expect("it goes back");
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, first undone");
    assert_eq!(client.compensate(id).await.expect_err("once").code(), "RW4003");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn past_its_pivot_a_chain_only_goes_forward() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2", "p3", "p1", "p2"]).await.expect("added");
    let names = ["first", "left", "right", "decide", "last"];
    let input: Vec<(&str, &str)> = names.into_iter().zip(items.iter().map(String::as_str)).collect();
    client.close_item(&items[4]).await.expect("closed");
    let id = Uuid::now_v7();
    // Its deadline counts no more either.
    client.start(v1::StartChainRequest { deadline_ms: in_ms(60_000), ..start("side_by_side", &input, id) }).await.expect("begun");
    let parked = client.wait_for(id, &["parked"]).await.expect("it parks");
    assert_eq!(parked.step, "5/5 last");
    for verb in [ChainVerb::Cancel, ChainVerb::Compensate] {
        let fault = client.change_one(verb, id).await.expect_err("too late");
        assert_eq!(fault.code(), "RW4003");
        assert!(fault.message().contains("`decide`"), "{fault}");
    }
    assert_eq!(client.chain(id).await.expect("shown").status, "parked");
    client.open_item(&items[4]).await.expect("opened");
    client.replay(id).await.expect("replayed");
    client.wait_for(id, &["completed"]).await.expect("it ends");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_cancelled_chain_undoes_what_it_did_wherever_it_stands() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let (waiting, paused, resting, timer) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    client.tell_item(&items[1], "40001").await.expect("told");
    for (id, chain) in [(waiting, "long_wait"), (paused, "long_wait"), (timer, "long_timer"), (resting, "patient")] {
        client.begin(chain, &input, id).await.expect("begun");
    }
    for id in [waiting, paused, timer] {
        client.wait_for(id, &["waiting"]).await.expect("it waits");
    }
    client.command(command(ChainVerb::Pause, paused)).await.expect("paused");
    let tried = tests::until("its second step was tried", async || client.chain(resting).await.ok().filter(|chain| chain.attempts > 0));
    let tried = tried.await.expect("tried");
    assert_eq!((tried.status.as_str(), tried.step.as_str(), tried.attempts), ("running", "2/3 second", 1));
    assert!(!tried.next_attempt_at.is_empty());
    let (parked, _) = parked(workflow, &client).await;
    for id in [waiting, paused, timer, resting, parked] {
        let silent = v1::ChangeChainsRequest { reason: String::new(), ..command(ChainVerb::Cancel, id) };
        assert_eq!(client.command(silent).await.expect_err("no reason").code(), "RW4004");
        client.command(command(ChainVerb::Cancel, id)).await.expect("cancelled");
        let ended = client.wait_for(id, &["compensated"]).await.expect("it goes back");
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, first undone", "{}", ended.definition);
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn a_fork_says_what_it_repeats_and_starts_anew() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let input = [("item", items[0].as_str()), ("other", &items[1])];
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    client.begin("long_wait", &input, old).await.expect("begun");
    client.wait_for(old, &["waiting"]).await.expect("it waits");
    let fork = v1::ForkChainRequest { id: old.to_string(), new_id: new.to_string(), reason: "again".to_owned(), ..Default::default() };
    assert_eq!(client.fork(fork.clone()).await.expect_err("it is open").code(), "RW4003");
    client.signal(old, "go", &[("note", "x")]).await.expect("taken");
    client.wait_for(old, &["completed"]).await.expect("it ends");
    let listed = client.fork(v1::ForkChainRequest { dry_run: true, ..fork.clone() }).await.expect("listed");
    assert!(listed.chain.is_none());
    assert_eq!(listed.repeated_effects.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["first", "last"]);
    let silent = v1::ForkChainRequest { reason: String::new(), ..fork.clone() };
    assert_eq!(client.fork(silent).await.expect_err("no reason").code(), "RW4004");
    let forked = client.fork(fork.clone()).await.expect("forked").chain.expect("the new chain");
    assert_eq!((forked.id.as_str(), forked.labels["forked_from"].as_str()), (new.to_string().as_str(), old.to_string().as_str()));
    // Asked for twice, it is one chain.
    client.fork(fork).await.expect("the same one");
    client.wait_for(new, &["waiting"]).await.expect("it waits for a signal of its own");
    client.signal(new, "go", &[("note", "y")]).await.expect("taken");
    client.wait_for(new, &["completed"]).await.expect("it ends");
    for id in [old, new] {
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, last done");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

/// The verbs that the table allows, by status; what isn't here is illegal.
const LEGAL: [(&str, &[ChainVerb]); 12] = [
    ("scheduled", &[ChainVerb::Cancel]),
    ("running", &[ChainVerb::Pause, ChainVerb::Cancel]),
    ("waiting", &[ChainVerb::Pause, ChainVerb::Cancel]),
    ("paused", &[ChainVerb::Resume, ChainVerb::Cancel, ChainVerb::Abandon]),
    ("parked", &[ChainVerb::Replay, ChainVerb::Skip, ChainVerb::Cancel, ChainVerb::Compensate, ChainVerb::Abandon]),
    ("compensating", &[]),
    ("stuck", &[ChainVerb::Replay, ChainVerb::Skip, ChainVerb::Abandon]),
    ("completed", &[]),
    ("failed", &[ChainVerb::Compensate]),
    ("compensated", &[]),
    ("cancelled", &[]),
    ("abandoned", &[]),
];

const VERBS: [ChainVerb; 7] =
    [ChainVerb::Replay, ChainVerb::Compensate, ChainVerb::Skip, ChainVerb::Pause, ChainVerb::Resume, ChainVerb::Cancel, ChainVerb::Abandon];

/// One chain in each status that stays there.
async fn one_of_each(workflow: &Cluster, client: &Client) -> Vec<(&'static str, Uuid)> {
    let items = workflow.add_items(client, &["p1", "p2", "p3"]).await.expect("added");
    let [calm, told, closed] = [&*items[0], &*items[1], &*items[2]];
    client.tell_item(told, "40001").await.expect("told");
    client.close_item(closed).await.expect("closed");
    let begin = async |chain: &str, input: [(&str, &str); 2], status: &str| {
        let id = Uuid::now_v7();
        client.begin(chain, &input, id).await.expect("begun");
        client.wait_for(id, &[status]).await.expect("it comes there");
        id
    };
    let scheduled = async || {
        let (id, input) = (Uuid::now_v7(), [("item", calm), ("other", calm)]);
        client.start(v1::StartChainRequest { start_at_ms: in_ms(600_000), ..start("kept", &input, id) }).await.expect("scheduled");
        id
    };
    let mut all = vec![
        ("scheduled", scheduled().await),
        ("running", begin("patient", [("item", calm), ("other", told)], "running").await),
        ("waiting", begin("long_wait", [("item", calm), ("other", calm)], "waiting").await),
        ("paused", begin("long_wait", [("item", calm), ("other", calm)], "waiting").await),
        ("parked", parked(workflow, client).await.0),
        ("stuck", stuck(workflow, client).await.0),
        ("completed", begin("kept", [("item", calm), ("other", calm)], "completed").await),
        ("failed", begin("kept", [("item", calm), ("other", closed)], "failed").await),
        ("cancelled", scheduled().await),
        ("abandoned", parked(workflow, client).await.0),
        ("compensated", parked(workflow, client).await.0),
    ];
    // A compensation that is to be tried again in half a minute.
    let items = workflow.add_items(client, &["p1", "p2"]).await.expect("added");
    client.tell_item(&items[1], "40001").await.expect("told");
    let compensating = begin("patient", [("item", &items[0]), ("other", &items[1])], "running").await;
    tests::until("it rests", async || client.chain(compensating).await.ok().filter(|chain| chain.attempts > 0)).await.expect("it rests");
    spoil_undoing(workflow, &items[0], "40001").await;
    client.command(command(ChainVerb::Cancel, compensating)).await.expect("cancelled");
    all.push(("compensating", compensating));
    let last = [
        ("paused", ChainVerb::Pause),
        ("cancelled", ChainVerb::Cancel),
        ("abandoned", ChainVerb::Abandon),
        ("compensated", ChainVerb::Cancel),
    ];
    for (status, verb) in last {
        let id = all.iter().find(|(name, _)| *name == status).expect("it is there").1;
        client.command(command(verb, id)).await.expect("it does so");
        client.wait_for(id, &[status]).await.expect("it comes there");
    }
    all
}

#[tokio::test]
async fn every_verb_in_every_status_is_what_the_table_says() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let all = one_of_each(workflow, &client).await;
    assert_eq!(all.len(), LEGAL.len());
    for (status, legal) in LEGAL {
        let id = all.iter().find(|(name, _)| *name == status).expect("one of each").1;
        let shown = client.chain(id).await.expect("shown");
        assert_eq!(shown.status, status);
        let names: Vec<String> = legal.iter().map(|verb| name_of(*verb)).collect();
        let told: Vec<&String> = shown.verbs.iter().filter(|verb| !["signal", "fork"].contains(&verb.as_str())).collect();
        assert_eq!(told.len(), names.len(), "{status}: {told:?}");
        assert!(names.iter().all(|name| told.contains(&name)), "{status}: {told:?}");
        for verb in VERBS.into_iter().filter(|verb| !legal.contains(verb)) {
            let fault = client.change_one(verb, id).await.expect_err("illegal");
            assert_eq!(fault.code(), "RW4003", "{status}, {verb:?}: {fault}");
            assert!(fault.message().contains(&format!("is {status} since")), "{verb:?}: {fault}");
            for name in &names {
                let goes_by_itself = ["running", "compensating"].contains(&status);
                assert!(goes_by_itself || fault.help().contains(name.as_str()), "{status}, {verb:?}: {}", fault.help());
            }
        }
        assert_eq!(client.chain(id).await.expect("shown").status, status, "nothing was changed");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

fn name_of(verb: ChainVerb) -> String {
    verb.as_str_name().trim_start_matches("CHAIN_VERB_").to_lowercase()
}

/// What a driver writes down lazily while a chain runs may reach home after a person has decided something.
#[tokio::test]
async fn a_lazy_note_that_comes_after_a_firm_one_changes_nothing() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let (id, _) = parked(workflow, &client).await;
    let peers = workflow.reader().all("select revision from rootward.chain where id = $1", &[&id]).await.expect("read");
    let (peer, revision): (&str, i32) = (&peers[0].0, peers[0].1.get(0));
    assert!(revision > 0, "that it is parked was written down firmly");
    // As a lane of this peer would write it, in a transaction that is taken back.
    let (mut home, connection) =
        tokio_postgres::connect(&workflow.embedded.database(peer), tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    let note =
        "select n.value from rootward.chain c, rootward.note_chains('\\x6d696e65', array[row(c.partition, c.entity, c.root_key, c.id, $2::integer,
          false, 'completed', null, null, null, null, '{}', 0, 0, now(), now() + interval '1 hour', now(), null, null, null)::rootward.chain_note]) as n
          where c.id = $1";
    for (known, wanted) in [(revision - 1, "parked"), (revision, "completed"), (revision + 1, "parked")] {
        let transaction = home.transaction().await.expect("begun");
        let guard = "create or replace function rootward.check_secret(secret bytea) returns boolean language sql stable return true";
        transaction.execute(guard, &[]).await.expect("any secret will do");
        transaction.query(note, &[&id, &known]).await.expect("noted");
        let status: String = transaction.query_one("select status from rootward.chain where id = $1", &[&id]).await.expect("read").get(0);
        assert_eq!(status, wanted, "a note that knows of {known}, where {revision} stands");
        transaction.rollback().await.expect("taken back");
    }
    client.command(command(ChainVerb::Abandon, id)).await.expect("abandoned");
}
