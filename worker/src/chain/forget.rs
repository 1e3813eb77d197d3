//! Forgetting an ended chain: first at the roots of its steps, then at home, and never before its last message has expired.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rootward_proto::{Fault, FaultResult, v1};
use rootward_schema::Text;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    attempt::step_message,
    commands::{no_chain, unread},
    drivers::{ChainHome, identity_of, plan_of},
    plan::Resolved,
    state::Task,
    store::{self, ChainRow},
};
use crate::{
    clock,
    collect::purgeable_before,
    lane::{After, Share},
    pg::Call,
};

const FORGET_LIMIT: Duration = Duration::from_secs(10);

impl ChainHome {
    /// Collects one chain if it ended before this moment; false if it didn't, or a root can't be told.
    ///
    /// # Errors
    /// What kept a root from it; what is forgotten stays forgotten, and the next time goes on from there.
    pub(crate) async fn collect_chain(self: &Arc<Self>, id: Uuid, ended_before_ms: i64) -> FaultResult<bool> {
        let Some(row) = store::get(&self.pool, id).await.map_err(|error| unread(&error))? else { return Ok(false) };
        // Marked first: nobody opens it again while its roots forget it.
        if !self.collect_row(&row, ended_before_ms, false).await? {
            return Ok(false);
        }
        let plan = plan_of(&row)?;
        let schema = self.routing.catalog()?.schema.clone();
        let looked = self.look_at_steps(&row, &plan, &schema).await;
        if looked.unknown().is_some() {
            return Ok(false);
        }
        let mut roots = std::collections::BTreeSet::from([(row.entity.clone(), row.root_key.clone())]);
        for task in plan.shape().all_tasks() {
            // A step whose root can't be told never began: it hangs on the answer of one that was never given.
            roots.extend(plan.root_of(&schema, task, &looked.results));
        }
        for done in join_all(roots.into_iter().map(|(entity, root_key)| self.forget_at(&row, entity, root_key))).await {
            done?;
        }
        self.collect_row(&row, ended_before_ms, true).await
    }

    async fn forget_at(&self, row: &ChainRow, entity: String, root_key: String) -> FaultResult<()> {
        let resolved = Resolved { transaction: String::new(), entity, root_key, arguments: Default::default(), parks_on_refusal: false };
        let task = Task { step: 0, element: 0 };
        let execute = v1::Execute {
            is_forgotten: true,
            expires_at_ms: row.expires_at_ms,
            ..step_message(&identity_of(row), task, v1::Direction::Do, &resolved)
        };
        self.routing.execute(Box::new(execute), Instant::now() + FORGET_LIMIT).await.map(|_| ())
    }

    async fn collect_row(&self, row: &ChainRow, ended_before_ms: i64, is_last: bool) -> FaultResult<bool> {
        let call = Call::prepared(
            "select rootward.collect_chain($1, $2, $3, $4, $5, $6, $7)",
            vec![
                self.serving.secret.clone(),
                Some(row.partition.to_string()),
                Some(row.entity.clone()),
                Some(row.root_key.clone()),
                Some(row.id.to_string()),
                Some(clock::timestamp(ended_before_ms)),
                Some(is_last.to_string()),
            ],
        );
        if is_last {
            self.serving.floors.raise_issued(row.issued_at_ms + 1);
        }
        let text: Text = self.own_work(row.partition, "collection", After::Call(call), Share::Lazy).await?;
        Ok(text.as_deref() == Some("t"))
    }

    /// Collects one ended chain because a person asks, as soon as no duplicate can come any more.
    ///
    /// # Errors
    /// RW4003 if it is open or too young.
    pub(super) async fn purge(self: &Arc<Self>, id: Uuid) -> FaultResult<()> {
        let row = store::get(&self.pool, id).await.map_err(|error| unread(&error))?.ok_or_else(|| no_chain(id))?;
        let before = purgeable_before(id, self.retention)?;
        if row.status.is_ended() && row.expires_at_ms < clock::now_ms() && self.collect_chain(id, before).await? {
            return Ok(());
        }
        let why = if row.status.is_ended() {
            format!("it ended {} and is kept until no duplicate of it can come any more", row.ended_at.unwrap_or_default())
        } else {
            format!("it is {}", row.status.name())
        };
        let hours = self.retention.as_secs() / 3600;
        Err(Fault::refused(
            "RW4003",
            format!("chain {id} can't be purged: {why}"),
            format!("`retention_hours` is {hours}; later it goes by itself"),
        ))
    }
}
