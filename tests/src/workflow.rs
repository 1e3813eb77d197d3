//! The workflow example: items, and the marks that each step of a chain leaves.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, Shape},
    invariants::{Violation, check_everything},
    reader::Reader,
    schemas,
};

impl Cluster {
    /// The workflow example, with chains that only tests want.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn workflow(exe: &Path, shape: Shape) -> Result<Cluster> {
        Cluster::start(exe, &schemas::compile_workflow(exe).await?, shape).await
    }

    /// Adds one fresh item on each of these peers.
    ///
    /// # Errors
    /// If one can't be added.
    pub async fn add_items(&self, client: &Client, peers: &[&str]) -> Result<Vec<String>> {
        let mut items = Vec::new();
        for peer in peers {
            let item = self.roots_on("item", peer, None, 1)[0].to_string();
            client.settle("add_item", &[("item_id", &item)], Uuid::now_v7()).await?;
            items.push(item);
        }
        Ok(items)
    }
}

impl Client {
    /// Lets an item refuse marks.
    ///
    /// # Errors
    /// The fault.
    pub async fn close_item(&self, item: &str) -> crate::Ended<()> {
        self.settle("close_item", &[("item_id", item)], Uuid::now_v7()).await.map(|_| ())
    }

    /// Lets an item take marks again.
    ///
    /// # Errors
    /// The fault.
    pub async fn open_item(&self, item: &str) -> crate::Ended<()> {
        self.settle("open_item", &[("item_id", item)], Uuid::now_v7()).await.map(|_| ())
    }

    /// Lets an item raise an SQLSTATE.
    ///
    /// # Errors
    /// The fault.
    pub async fn tell_item(&self, item: &str, sqlstate: &str) -> crate::Ended<()> {
        self.settle("tell_item", &[("item_id", item), ("sqlstate", sqlstate)], Uuid::now_v7()).await.map(|_| ())
    }

    /// Lets an item raise nothing any more.
    ///
    /// # Errors
    /// The fault.
    pub async fn calm_item(&self, item: &str) -> crate::Ended<()> {
        let nothing = rootward_proto::v1::Value { kind: Some(rootward_proto::v1::value::Kind::Null(true)) };
        let mut given = crate::arguments(&[("item_id", item)]);
        given.insert("sqlstate".to_owned(), nothing);
        let message = rootward_proto::v1::CallRequest {
            transaction: "tell_item".to_owned(),
            arguments: given,
            request_id: Uuid::now_v7().to_string(),
            issued_at_ms: 0,
            ..rootward_proto::v1::CallRequest::default()
        };
        self.send(message).await.map(|_| ())
    }
}

impl Reader {
    /// The marks of a chain on all peers: how often each step is done and undone.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn marks(&self, chain: Uuid) -> Result<BTreeMap<(String, String), i64>> {
        let mut marks = BTreeMap::new();
        for (_, row) in self.all("select step, kind, count(*) from mark where chain_id = $1 group by 1, 2", &[&chain]).await? {
            *marks.entry((row.try_get(0)?, row.try_get(1)?)).or_default() += row.try_get::<_, i64>(2)?;
        }
        Ok(marks)
    }

    /// The same as text, such as `first done, left done, left undone`; a mark that stands twice has its number.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn marks_text(&self, chain: Uuid) -> Result<String> {
        let text = |((step, kind), count): ((String, String), i64)| match count {
            1 => format!("{step} {kind}"),
            count => format!("{step} {kind} {count} times"),
        };
        Ok(self.marks(chain).await?.into_iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

/// Everything about a cluster that runs the workflow; the load must have ended.
///
/// # Errors
/// The first promise that is broken.
pub async fn check_workflow(cluster: &Cluster) -> Result<(), Violation> {
    check_marks(&cluster.reader()).await?;
    check_everything(cluster).await
}

/// Each step of a chain stands once, and only what was done is undone, after it was done.
///
/// # Errors
/// The marks that are wrong.
pub async fn check_marks(reader: &Reader) -> Result<(), Violation> {
    let doubled = "select item_id::text || ' ' || step || ' ' || kind from mark group by item_id, chain_id, step, kind having count(*) > 1";
    let undone = "select u.item_id::text || ' ' || u.step from mark u where kind = 'undone' and not exists (select from mark d \
                  where d.item_id = u.item_id and d.chain_id = u.chain_id and d.step = u.step and d.kind = 'done')";
    for (what, sql) in [("doubled", doubled), ("undone", undone)] {
        let rows = reader.all(sql, &[]).await.map_err(Violation::unread)?;
        if let Some((peer, row)) = rows.first() {
            return Err(Violation::new(what, format!("{} marks, such as {} on {peer}", rows.len(), row.get::<_, String>(0))));
        }
    }
    Ok(())
}
