//! The owner of a partition changes while a chain's step is in flight there.

use anyhow::Result;
use tests::{Client, Cluster, Pause, Reader, Shape, check_workflow};
use uuid::Uuid;

use crate::shared::exe;

/// Neither term nor ownership is looked at.
const BEGIN_CHECKS_NOTHING: &str =
    "create or replace function rootward.begin_batch(secret bytea, term bigint, version bigint, partitions integer[], epochs bigint[]) returns void
  language plpgsql as $$ begin end $$";

/// A chain from `p1` to an item of `p2`, which pauses at this point of its second step.
struct InFlight {
    workflow: Cluster,
    client: Client,
    id: Uuid,
    item: i64,
    partition: i32,
    pause: Option<Pause>,
}

impl InFlight {
    async fn at(point: &str) -> InFlight {
        let mut workflow = Cluster::workflow(exe(), Shape::shared()).await.expect("a workflow starts");
        let client = workflow.client().expect("a client");
        let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
        let pause = Pause::new().expect("a folder");
        workflow.restart_worker("p2", &[("ROOTWARD_FAIL_POINT", &pause.at(point, "mark"))]).await.expect("armed");
        let id = Uuid::now_v7();
        client.begin("kept", &[("item", &items[0]), ("other", &items[1])], id).await.expect("begun");
        pause.reached().await.expect("its second step is under way");
        let item: i64 = items[1].parse().expect("a number");
        let partition = workflow.partition_of("item", item);
        InFlight { workflow, client, id, item, partition, pause: Some(pause) }
    }

    fn reader(&self) -> Reader {
        self.workflow.reader()
    }

    fn resume(&mut self) {
        self.pause.take().expect("it pauses").release().expect("released");
    }

    /// Takes the partition from `p2`, which waits for what is under way there.
    async fn release(&self) -> Result<()> {
        self.reader().run("p2", &format!("select rootward.release_partition({})", self.partition)).await
    }

    /// Moves all that lies in the partition to `p3` by hand, and gives it that.
    async fn own(&self) -> Result<()> {
        let (reader, partition, item) = (self.reader(), self.partition, self.item);
        let outcomes = format!("select jsonb_agg(o)::text from rootward.outcome o where partition = {partition}");
        let outcomes: Option<String> = reader.rows("p2", &outcomes, &[]).await?[0].get(0);
        let marks = format!("select jsonb_agg(m)::text from mark m where item_id = {item}");
        let marks: Option<String> = reader.rows("p2", &marks, &[]).await?[0].get(0);
        reader.run("p3", &format!("insert into item (item_id) values ({item})")).await?;
        for (table, rows) in [("rootward.outcome", outcomes), ("mark", marks)] {
            let rows = rows.unwrap_or_else(|| "[]".to_owned());
            let sql = format!("insert into {table} select * from jsonb_populate_recordset(null::{table}, $1::text::jsonb)");
            reader.rows("p3", &sql, &[&rows]).await?;
        }
        let gone = format!(
            "delete from mark where item_id = {item}; delete from item where item_id = {item}; \
             delete from rootward.outcome where partition = {partition}"
        );
        reader.run("p2", &gone).await?;
        reader.run("p3", &format!("select rootward.own_partition({partition}, 2)")).await?;
        reader.run("hub", &format!("update rootward_catalog.partition set peer = 'p3', epoch = 2 where partition = {partition}")).await
    }

    /// The marks of the chain and the outcomes of its second step, each by its peer.
    async fn left(&self) -> Result<(Vec<String>, Vec<String>)> {
        let marks = self.reader().all("select step || ' ' || kind from mark where chain_id = $1", &[&self.id]).await?;
        let outcomes = self.reader().outcomes(self.id).await?;
        let second = outcomes.iter().filter(|row| row.place.0 == 1).map(|row| format!("{} {}", row.peer, row.kind)).collect();
        Ok((marks.iter().map(|(peer, row)| format!("{peer} {}", row.get::<_, String>(0))).collect(), second))
    }
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| (*text).to_owned()).collect()
}

/// Gives the partition away before the step's batch begins, and lets it begin.
async fn lose_it_before_it_begins(flight: &mut InFlight) {
    flight.release().await.expect("nothing is under way in the database");
    flight.own().await.expect("moved");
    flight.resume();
}

#[tokio::test]
async fn a_step_that_comes_after_its_partition_has_gone_is_refused_and_runs_once_at_the_new_owner() {
    let mut flight = InFlight::at("before_begin").await;
    lose_it_before_it_begins(&mut flight).await;
    flight.client.wait_for(flight.id, &["completed"]).await.expect("it finds the new owner");
    assert_eq!(flight.left().await.expect("read"), (texts(&["p1 first done", "p3 second done"]), texts(&["p3 done"])));
    check_workflow(&flight.workflow).await.expect("every promise is kept");
}

/// The negative control: what the test above looks at changes when the old owner looks at nothing.
#[tokio::test]
async fn without_the_look_at_the_owner_the_step_is_decided_where_its_root_is_no_more() {
    let mut flight = InFlight::at("before_begin").await;
    flight.reader().run("p2", BEGIN_CHECKS_NOTHING).await.expect("switched off");
    lose_it_before_it_begins(&mut flight).await;
    flight.client.wait_for(flight.id, &["failed"]).await.expect("the old owner has no such item");
    assert_eq!(flight.left().await.expect("read"), (texts(&["p1 first done"]), texts(&["p2 failed"])));
}

#[tokio::test]
async fn a_change_of_owner_waits_for_a_step_that_is_under_way_and_its_outcome_moves_along() {
    let mut flight = InFlight::at("after_outcome").await;
    // Whoever sent it doesn't hear of its end: the next driver asks the new owner.
    flight.workflow.embedded.kill_worker("p1").await.expect("killed");
    let reader = flight.reader();
    let releasing = {
        let (reader, partition) = (reader.clone(), flight.partition);
        tokio::spawn(async move { reader.run("p2", &format!("select rootward.release_partition({partition})")).await })
    };
    let waits =
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%release_partition%' and pid <> pg_backend_pid()";
    let waiting =
        tests::until("the change of owner waits", async || reader.rows("p2", waits, &[]).await.ok().filter(|rows| !rows.is_empty()));
    waiting.await.expect("it waits for the batch");
    assert_eq!(flight.left().await.expect("read").1, texts(&[]), "nothing of the step is to be seen yet");
    flight.resume();
    releasing.await.expect("no panic").expect("released");
    assert_eq!(flight.left().await.expect("read").1, texts(&["p2 done"]), "the step was first");
    flight.own().await.expect("moved");
    flight.workflow.embedded.start_worker("p1", &[]).await.expect("a worker again");
    flight.client.wait_for(flight.id, &["completed"]).await.expect("it is answered from what has moved");
    assert_eq!(flight.left().await.expect("read"), (texts(&["p1 first done", "p3 second done"]), texts(&["p3 done"])));
    check_workflow(&flight.workflow).await.expect("every promise is kept");
}
