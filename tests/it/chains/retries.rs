//! Transient errors, attempts that are used up, and errors that are not tried again.

use tests::{Cluster, check_workflow};
use uuid::Uuid;

use crate::shared::workflow;

/// Lets an item's `mark_brittle` fail so many times with an SQLSTATE before it works. A sequence counts through rollbacks.
async fn fail_for_a_while(workflow: &Cluster, item: &str, times: u32, sqlstate: &str) {
    let sql = format!(
        "create sequence public.tries_{item};
         create or replace function public.fail_{item}() returns trigger language plpgsql security definer set search_path = public as $$ begin
           if new.item_id <> {item} then return new; end if;
           if nextval('public.tries_{item}') <= {times} then raise exception 'not yet' using errcode = '{sqlstate}'; end if;
           return new; end $$;
         create trigger fail_{item} before insert on mark for each row execute function public.fail_{item}()"
    );
    let number: i64 = item.parse().expect("a number");
    workflow.reader().run(workflow.owner_of("item", number), &sql).await.expect("told");
}

async fn tries(workflow: &Cluster, item: &str) -> i64 {
    let number: i64 = item.parse().expect("a number");
    let rows = workflow.reader().rows(workflow.owner_of("item", number), &format!("select last_value from public.tries_{item}"), &[]).await;
    rows.expect("read")[0].get(0)
}

#[tokio::test]
async fn a_transient_error_is_tried_again_and_the_step_takes_effect_once() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    for (sqlstate, times) in [("40001", 3), ("40P01", 2), ("57P03", 2), ("08006", 2)] {
        let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
        fail_for_a_while(workflow, &items[1], times, sqlstate).await;
        let id = Uuid::now_v7();
        let ended = client.run_chain("eager", &[("item", &items[0]), ("other", &items[1])], id).await.expect("it ends");
        assert_eq!(ended.status, "completed", "{sqlstate}: {:?}", ended.failure);
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, second done, third done", "{sqlstate}");
        assert_eq!(tries(workflow, &items[1]).await, i64::from(times) + 2, "{sqlstate}: two steps succeeded at it");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn used_up_attempts_park_and_a_replay_begins_to_count_anew() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let id = Uuid::now_v7();
    client.tell_item(&items[1], "40001").await.expect("told");
    for _ in 0..2 {
        client.begin("eager", &[("item", &items[0]), ("other", &items[1])], id).await.expect("begun");
        let parked = client.wait_for(id, &["parked"]).await.expect("it parks");
        assert_eq!((parked.step.as_str(), parked.attempts), ("2/3 second", 8));
        let failure = parked.failure.expect("why");
        assert_eq!(failure.sqlstate, "40001", "{failure:?}");
        assert_eq!(workflow.reader().outcomes(id).await.expect("read").len(), 1, "nothing stands at the root");
        client.replay(id).await.expect("replayed");
    }
    client.wait_for(id, &["parked"]).await.expect("it parks again");
    // Not to be tried again, it parks after one attempt.
    client.tell_item(&items[1], "55P03").await.expect("told");
    client.replay(id).await.expect("replayed");
    let parked = tests::until("it parks for the other reason", async || {
        client
            .chain(id)
            .await
            .ok()
            .filter(|chain| chain.status == "parked" && chain.failure.as_ref().is_some_and(|failure| failure.sqlstate == "55P03"))
    });
    assert_eq!(parked.await.expect("it parks").attempts, 1);
    client.calm_item(&items[1]).await.expect("calm");
    client.replay(id).await.expect("replayed");
    client.wait_for(id, &["completed"]).await.expect("it ends");
    assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, second done, third done");
    check_workflow(workflow).await.expect("every promise is kept");
}

#[tokio::test]
async fn used_up_attempts_turn_a_chain_back_where_its_definition_says_so() {
    let workflow = workflow().await;
    let client = workflow.client().expect("a client");
    for (sqlstate, at_once) in [("40001", false), ("55P03", true), ("P0001", true)] {
        let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
        let id = Uuid::now_v7();
        client.tell_item(&items[1], sqlstate).await.expect("told");
        let ended = client.run_chain("brittle", &[("item", &items[0]), ("other", &items[1])], id).await.expect("it ends");
        assert_eq!(ended.status, "compensated", "{sqlstate}: {:?}", ended.failure);
        assert_eq!(ended.failure.map(|failure| failure.sqlstate).as_deref(), Some(sqlstate));
        assert_eq!(workflow.reader().marks_text(id).await.expect("read"), "first done, first undone", "{sqlstate}");
        let kind = workflow.reader().outcomes(id).await.expect("read").into_iter().find(|row| row.place.0 == 1).map(|row| row.kind);
        let wanted = if sqlstate == "P0001" { "failed" } else { "tombstone" };
        assert_eq!(kind.as_deref(), Some(wanted), "{sqlstate}, {at_once}");
    }
    check_workflow(workflow).await.expect("every promise is kept");
}
