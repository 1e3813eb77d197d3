//! Progress that is written lazily and comes to home after a firm change.

use anyhow::Result;
use tests::{Client, Cluster, PEER_SQL, Shape, check_workflow};
use uuid::Uuid;

use crate::shared::exe;

/// Every status that a chain's row takes, in order.
const WATCH: &str = "create table public.told (number bigint generated always as identity, id uuid, status text);
    create function public.tell() returns trigger language plpgsql security definer set search_path = public as $$ begin
      insert into told (id, status) values (new.id, new.status); return null; end $$;
    create trigger tell after insert or update on rootward.chain for each row execute function public.tell()";

/// The second step's undoing and the third step are refused, all at `p2`: so home writes nothing between the lazy note that the
/// chain goes back and the firm one that it is stuck.
const REFUSE: &str = "create function public.refuse() returns trigger language plpgsql as $$ begin
      if new.step = 'third' or new.kind = 'undone' then raise exception 'refused'; end if; return new; end $$;
    create trigger refuse before insert on mark for each row execute function public.refuse()";

/// What a chain's row said, from its start until it was stuck and another chain was too.
async fn statuses(workflow: &Cluster, client: &Client, items: &[String]) -> Result<Vec<String>> {
    let input = [("item", items[0].as_str()), ("other", items[1].as_str())];
    let id = Uuid::now_v7();
    // With the second one's firm note whatever was late of the first one has come.
    for id in [id, Uuid::now_v7()] {
        client.begin("patient", &input, id).await?;
        client.wait_for(id, &["stuck"]).await?;
    }
    let told = "select status from told where id = $1 order by number";
    Ok(workflow.reader().rows("p1", told, &[&id]).await?.iter().map(|row| row.get(0)).collect())
}

/// `note_chains` as it is installed, but without a look at what the note's writer knew.
fn without_revisions() -> String {
    let (_, from) = PEER_SQL.split_once("create or replace function rootward.note_chains(").expect("it is there");
    let (body, _) = from.split_once("end $$;").expect("it ends");
    let guard = "and c.revision = n.revision";
    assert!(body.contains(guard));
    format!("create or replace function rootward.note_chains({}end $$;", body.replace(guard, ""))
}

#[tokio::test]
async fn a_lazy_note_that_comes_late_leaves_what_was_written_firmly_and_without_the_revision_it_would_not() {
    let workflow = Cluster::workflow(exe(), Shape { peers: 2, ..Shape::shared() }).await.expect("a workflow starts");
    let client = workflow.client().expect("a client");
    let items = workflow.add_items(&client, &["p1", "p2"]).await.expect("added");
    let reader = workflow.reader();
    reader.run("p1", WATCH).await.expect("watched");
    reader.run("p2", REFUSE).await.expect("refused");
    for _ in 0..5 {
        let told = statuses(&workflow, &client, &items).await.expect("it gets stuck");
        assert_eq!(told.iter().filter(|status| *status == "stuck").count(), 1, "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("stuck"), "{told:?}");
    }
    check_workflow(&workflow).await.expect("every promise is kept");

    // The control: the notes do come late, and only the revision keeps them from opening what is stuck.
    reader.run("p1", &without_revisions()).await.expect("switched off");
    let overwritten = tests::until("a lazy note comes late", async || {
        let told = statuses(&workflow, &client, &items).await.ok()?;
        let stuck = told.iter().position(|status| status == "stuck")?;
        told[stuck..].iter().any(|status| status == "compensating").then_some(told)
    });
    overwritten.await.expect("the stuck chain is opened again behind everybody's back");
}
