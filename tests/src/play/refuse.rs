//! Each step refused in turn, by a trigger that nobody but the test knows of.

use anyhow::{Context as _, Result, ensure};
use rootward_schema::OnFailure;
use uuid::Uuid;

use super::{Example, Part, Play, Stage, check_effects_of};
use crate::cluster::Cluster;

/// Refuses what `public.refusal` names: the root, and a tag of the row that an effect writes.
const REFUSE: &str = "create table public.refusal (root bigint, tag text, sqlstate text, primary key (root, tag));
create function public.refuse() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
declare
  fields jsonb := to_jsonb(new);
  wanted text := (select string_agg(fields->>field, ' ') from unnest(string_to_array(TG_ARGV[1], ' ')) as field);
  told text;
begin
  if TG_TABLE_NAME = 'entry' then wanted := (fields->>'kind') || case when (fields->>'amount')::numeric < 0 then '-' else '+' end; end if;
  select r.sqlstate into told from public.refusal r where r.root = (fields->>TG_ARGV[0])::bigint and r.tag = coalesce(wanted, '');
  if told is not null then raise exception 'refused by the test' using errcode = told; end if;
  return new;
end $$;";

/// A refusal that is in force.
pub(super) struct Refusal {
    peer: String,
    root: i64,
    tag: String,
}

impl Example {
    /// By table: the column of the root, and those that say which effect it is.
    fn effects(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Example::Bank => &[("entry", "account_id", "")],
            Example::Shop => &[("orders", "customer_id", ""), ("reservation", "product_id", "line_no state")],
            Example::Workflow => &[("mark", "item_id", "step kind")],
        }
    }

    /// What the row of an effect is tagged with.
    fn tag(self, part: &Part, is_undo: bool) -> String {
        match (self, part.name.as_str()) {
            (Example::Workflow, step) => format!("{step} {}", if is_undo { "undone" } else { "done" }),
            (Example::Bank, step) => format!("transfer{}", if (step == "withdraw") != is_undo { "-" } else { "+" }),
            (Example::Shop, "create_order") => String::new(),
            (Example::Shop, "confirm") => format!("{} confirmed", part.element + 1),
            (Example::Shop, _) => format!("{} {}", part.element + 1, if is_undo { "released" } else { "open" }),
        }
    }
}

/// Makes every effect of an example one that can be refused.
pub(super) async fn arm(cluster: &Cluster, example: Example) -> Result<()> {
    let mut sql = REFUSE.to_owned();
    for (table, root, tag) in example.effects() {
        let trigger = format!(
            "create trigger refuse before insert or update on {table} for each row execute function public.refuse('{root}', '{tag}');"
        );
        sql.push_str(&trigger);
    }
    let reader = cluster.reader();
    for peer in reader.peers() {
        reader.run(peer, &sql).await?;
    }
    Ok(())
}

impl Stage {
    /// Lets the effect of one task fail with an SQLSTATE from now on, or what undoes it.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn refuse(&self, part: &Part, is_undo: bool, sqlstate: &str) -> Result<Refusal> {
        let (root, tag) = (part.root.1, self.example.tag(part, is_undo));
        self.cluster.reader().run(&part.peer, &format!("insert into public.refusal values ({root}, '{tag}', '{sqlstate}')")).await?;
        Ok(Refusal { peer: part.peer.clone(), root, tag })
    }

    /// Takes a refusal back.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn heal(&self, refusal: Refusal) -> Result<()> {
        let Refusal { peer, root, tag } = refusal;
        self.cluster.reader().run(&peer, &format!("delete from public.refusal where root = {root} and tag = '{tag}'")).await
    }
}

/// What becomes of a chain whose `part` is refused.
fn end_when_refused(play: &Play, part: &Part) -> &'static str {
    match part.on_failure {
        _ if play.parks(part) => "parked",
        // The first element opens the chain: without it there is none.
        _ if (part.step, part.element) == (0, 0) => "refused",
        OnFailure::Keep => "failed",
        _ => "compensated",
    }
}

/// Plays a chain once for each of its tasks, with that one refused. One that parks is healed and replayed.
///
/// # Errors
/// What was otherwise than the definition says.
pub async fn refuse_each_step(stage: &Stage, chain: &str) -> Result<u32> {
    let steps = stage.play(chain, 0).await?.parts.len();
    if stage.example == Example::Shop {
        // All plays are on the same goods: a refusal of one would be one of all.
        for at in 0..steps {
            refuse_step(stage, chain, at).await?;
        }
    } else {
        futures_util::future::try_join_all((0..steps).map(|at| refuse_step(stage, chain, at))).await?;
    }
    Ok(u32::try_from(steps)?)
}

async fn refuse_step(stage: &Stage, chain: &str, at: usize) -> Result<()> {
    let play = stage.play(chain, at).await?;
    let part = &play.parts[at];
    let case = format!("{chain}, step {}.{} refused", part.name, part.element);
    let refusal = stage.refuse(part, false, "P0001").await.context(case.clone())?;
    let id = Uuid::now_v7();
    let played = play.run(&stage.client, id).await.context(case.clone())?;
    let wanted = end_when_refused(&play, part);
    ensure!(played.status() == wanted, "{case}: it is {}, not {wanted}: {played:?}", played.status());
    check_effects_of(stage, &play, id, wanted).await.context(case.clone())?;
    stage.heal(refusal).await?;
    if wanted == "parked" {
        stage.client.replay(id).await.map_err(anyhow::Error::msg).context(case.clone())?;
        stage.client.wait_for(id, &["completed"]).await.context(case.clone())?;
        check_effects_of(stage, &play, id, "completed").await.context(case.clone())?;
    }
    // Asked for once more, with nothing in the way any more, it is what it was.
    let again = play.run(&stage.client, id).await.context(case.clone())?;
    let status = if wanted == "parked" { "completed" } else { wanted };
    ensure!(again.status() == status, "{case}: asked again it is {}", again.status());
    check_effects_of(stage, &play, id, status).await.context(case)
}
