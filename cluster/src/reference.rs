//! Reference data: published on the hub, passed on by relays, subscribed by every peer, with PostgreSQL's own logical replication.

use std::{collections::BTreeMap, time::Duration};

use rootward_schema::{Schema, quoted};
use rootward_worker::{ROUTE_LOCK, slot_name};
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

use crate::{
    deploy::{DeployError, at},
    topology::{HUB, Topology},
};

/// The name of the publication and of the subscriptions.
const NAME: &str = "rootward_reference";
/// How long the first copy of a peer may take before set-up says that it is still going on.
const COPY_LIMIT: Duration = Duration::from_secs(60);

/// Publishes the reference tables and the counter of their version, on the hub.
pub(crate) async fn publish(hub: &Client, schema: &Schema) -> Result<(), Error> {
    hub.batch_execute("insert into rootward.reference_version values (true, 0) on conflict do nothing").await?;
    let mut tables = vec!["rootward.reference_version".to_owned()];
    tables.extend(schema.reference.iter().map(|table| format!("public.{}", quoted(&table.name))));
    publish_tables(hub, &tables.join(", ")).await
}

/// Publishes on a relay what the hub publishes. Its rows, the counter among them, come from there.
pub(crate) async fn publish_as(hub: &Client, relay: &Client) -> Result<(), Error> {
    let sql = "select string_agg(format('%I.%I', schemaname, tablename), ', ') from pg_publication_tables where pubname = $1";
    let tables: String = hub.query_one(sql, &[&NAME]).await?.try_get(0)?;
    publish_tables(relay, &tables).await
}

async fn publish_tables(node: &Client, tables: &str) -> Result<(), Error> {
    let exists = node.query_opt("select from pg_publication where pubname = $1", &[&NAME]).await?.is_some();
    let sql = if exists {
        format!("alter publication {NAME} set table {tables}")
    } else {
        format!("create publication {NAME} for table {tables}")
    };
    node.batch_execute(&sql).await
}

/// Subscribes a peer to the relay of its region or the hub, or makes its subscription follow a changed publication, by whatever way it
/// comes now.
///
/// The slot is made first, by a statement of its own: CREATE SUBSCRIPTION waits for itself where both are databases
/// of one PostgreSQL cluster. Where nothing was written yet there is nothing to copy, which saves a worker for each table.
pub(crate) async fn subscribe(topology: &Topology, clients: &BTreeMap<String, Client>, id: &str) -> Result<(), DeployError> {
    let (Some(peer), Some(hub)) = (clients.get(id), clients.get(HUB)) else { return Ok(()) };
    // Its worker, if one runs already, would take what is half done for a route that is lost.
    peer.query_one("/* lock_route */ select pg_advisory_lock($1)", &[&ROUTE_LOCK]).await.map_err(at(id))?;
    let subscribed = subscribe_locked(topology, clients, (peer, hub), id).await;
    // If this fails, so did the session, and the lock is gone with it.
    let _ = peer.query_one("/* unlock_route */ select pg_advisory_unlock($1)", &[&ROUTE_LOCK]).await;
    subscribed
}

async fn subscribe_locked(
    topology: &Topology,
    clients: &BTreeMap<String, Client>,
    (peer, hub): (&Client, &Client),
    id: &str,
) -> Result<(), DeployError> {
    if is_subscribed(peer).await.map_err(at(id))? {
        return follow(topology, peer, id).await.map_err(at(id));
    }
    let source = topology.source_of(id);
    let (Some(node), Some(origin)) = (topology.node(source), clients.get(source)) else { return Ok(()) };
    let is_empty: i64 = hub.query_one("select version from rootward.reference_version", &[]).await.map_err(at(HUB))?.get(0);
    let is_empty = is_empty == 0;
    let slot = slot_name(peer, id, source, source == HUB).await.map_err(at(id))?;
    note(peer, source, &slot, &node.replication).await.map_err(at(id))?;
    let sql = "select pg_create_logical_replication_slot($1, 'pgoutput') where not exists (select from pg_replication_slots where slot_name = $1)";
    origin.execute(sql, &[&slot]).await.map_err(at(source))?;
    if is_empty {
        let sql = "insert into rootward.reference_version values (true, 0) on conflict do nothing";
        peer.batch_execute(sql).await.map_err(at(id))?;
    }
    let connection = escaped(&node.replication);
    let sql = format!(
        "create subscription {NAME} connection '{connection}' publication {NAME} with (create_slot = false, slot_name = '{slot}', copy_data = {})",
        !is_empty
    );
    peer.batch_execute(&sql).await.map_err(at(id))
}

/// The subscription follows what its source publishes now.
async fn follow(topology: &Topology, peer: &Client, id: &str) -> Result<(), Error> {
    let sql = "select subconninfo, coalesce(subslotname, ''), (select source from rootward_reference.route) from pg_subscription \
               where subname = $1 and subdbid = (select oid from pg_database where datname = current_database())";
    let row = peer.query_one(sql, &[&NAME]).await?;
    let (current, slot, source): (String, String, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let source = source.unwrap_or_else(|| HUB.to_owned());
    // What may not be its source any more, the peer's worker leaves by itself.
    let Some(node) = topology.node(&source).filter(|_| topology.may_copy_from(id, &source)) else { return Ok(()) };
    note(peer, &source, &slot, &node.replication).await?;
    // The source may have moved: an embedded one has another port after a restart.
    if current != node.replication {
        peer.batch_execute(&format!("alter subscription {NAME} connection '{}'", escaped(&node.replication))).await?;
    }
    peer.batch_execute(&format!("alter subscription {NAME} refresh publication")).await
}

/// Notes the way of a peer, and the slot that is made for it.
async fn note(peer: &Client, source: &str, slot: &str, connection: &str) -> Result<(), Error> {
    let sql = "insert into rootward_reference.slot (source, slot, connection) values ($1, $2, $3) \
               on conflict (source) do update set slot = excluded.slot, connection = excluded.connection";
    peer.execute(sql, &[&source, &slot, &connection]).await?;
    let sql = "insert into rootward_reference.route as r (source) values ($1) on conflict (only_row) do update set source = excluded.source \
               where r.source <> excluded.source";
    peer.execute(sql, &[&source]).await?;
    Ok(())
}

/// Whether the peer has a subscription, whatever state it is in.
async fn is_subscribed(peer: &Client) -> Result<bool, Error> {
    let sql = "select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database() and subname = $1";
    Ok(peer.query_opt(sql, &[&NAME]).await?.is_some())
}

fn escaped(text: &str) -> String {
    text.replace('\'', "''")
}

/// Waits until a peer has its first copy; false if it is still going on when the limit is over.
pub(crate) async fn wait_for_copy(peer: &Client) -> Result<bool, Error> {
    let deadline = Instant::now() + COPY_LIMIT;
    loop {
        let sql = "select count(*) from pg_subscription_rel where srsubstate <> 'r'";
        if peer.query_one(sql, &[]).await?.try_get::<_, i64>(0)? == 0 {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
