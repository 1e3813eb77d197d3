//! The independent reader: plain SQL as superuser on every database. It shares no code with what it judges.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio_postgres::{NoTls, types::ToSql};
use uuid::Uuid;

/// Reads every database of a cluster.
#[derive(Debug, Clone)]
pub struct Reader {
    databases: BTreeMap<String, String>,
}

/// One row of `rootward.outcome`, and the peer that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The peer.
    pub peer: String,
    /// The entity and the root key.
    pub root: (String, String),
    /// Step and element.
    pub place: (i32, i32),
    /// `do` or `undo`.
    pub direction: String,
    /// `done`, `failed` or `tombstone`.
    pub kind: String,
    /// The transaction's name.
    pub transaction: String,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Reader {
    /// A reader of these databases, by the id of their node.
    pub fn new(databases: BTreeMap<String, String>) -> Reader {
        Reader { databases }
    }

    /// The ids of the nodes that hold partitions.
    pub fn peers(&self) -> impl Iterator<Item = &str> {
        self.databases.keys().map(String::as_str).filter(|id| *id != "hub")
    }

    /// Runs statements on one node.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn run(&self, node: &str, sql: &str) -> Result<()> {
        Ok(self.connect(node).await?.batch_execute(sql).await?)
    }

    /// The rows of a query on one node.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn rows(&self, node: &str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<tokio_postgres::Row>> {
        Ok(self.connect(node).await?.query(sql, parameters).await?)
    }

    /// The rows of a query on every peer.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn all(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<(String, tokio_postgres::Row)>> {
        let mut all = Vec::new();
        for peer in self.peers() {
            all.extend(self.rows(peer, sql, parameters).await?.into_iter().map(|row| (peer.to_owned(), row)));
        }
        Ok(all)
    }

    /// The sum of a query's single number over all peers.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn sum(&self, sql: &str) -> Result<i64> {
        let rows = self.all(sql, &[]).await?;
        rows.iter().map(|(_, row)| Ok(row.try_get::<_, i64>(0)?)).sum()
    }

    /// An account's balance in cents; none if there is no such account anywhere.
    ///
    /// # Errors
    /// What PostgreSQL says, or an account that lies on two peers.
    pub async fn balance(&self, account: i64) -> Result<Option<i64>> {
        let rows = self.all("select (balance * 100)::bigint from account where account_id = $1", &[&account]).await?;
        anyhow::ensure!(rows.len() <= 1, "account {account} lies on {} peers", rows.len());
        Ok(rows.first().map(|(_, row)| row.try_get(0)).transpose()?)
    }

    /// How many entries an account has.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn entries(&self, account: i64) -> Result<i64> {
        self.sum(&format!("select count(*) from entry where account_id = {account}")).await
    }

    /// The outcomes under a request's or chain's id, on all peers.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn outcomes(&self, id: Uuid) -> Result<Vec<Outcome>> {
        let sql = "select entity, root_key, step, element, direction, kind, transaction from rootward.outcome \
                   where request_id = $1 order by step, element, direction";
        let rows = self.all(sql, &[&id]).await?;
        rows.into_iter().map(|(peer, row)| outcome_of(peer, &row)).collect()
    }

    /// The status of a chain's rows on all peers.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn chain_statuses(&self, id: Uuid) -> Result<Vec<String>> {
        let rows = self.all("select status from rootward.chain where id = $1", &[&id]).await?;
        rows.iter().map(|(_, row)| Ok(row.try_get(0)?)).collect()
    }

    /// What is on the shelf and what of it is reserved, by product.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn shelves(&self, products: &[i64]) -> Result<Vec<(i32, i32)>> {
        let mut found = Vec::new();
        for product in products {
            let rows = self.all("select on_hand, reserved from stock where product_id = $1", &[product]).await?;
            found.extend(rows.iter().map(|(_, row)| (row.get(0), row.get(1))));
        }
        Ok(found)
    }

    /// A session of its own on one node, as superuser.
    ///
    /// # Errors
    /// If there is no such node, or what PostgreSQL says.
    pub async fn connect(&self, node: &str) -> Result<tokio_postgres::Client> {
        let database = self.databases.get(node).with_context(|| format!("there is no node `{node}`"))?;
        let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

fn outcome_of(peer: String, row: &tokio_postgres::Row) -> Result<Outcome> {
    Ok(Outcome {
        peer,
        root: (row.try_get(0)?, row.try_get(1)?),
        place: (row.try_get(2)?, row.try_get(3)?),
        direction: row.try_get(4)?,
        kind: row.try_get(5)?,
        transaction: row.try_get(6)?,
    })
}
