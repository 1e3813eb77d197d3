//! Reference data: published on the hub, subscribed by every peer, with PostgreSQL's own logical replication.

use std::time::Duration;

use rootward_schema::{Schema, quoted};
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

/// The name of the publication and of the subscriptions.
pub(crate) const NAME: &str = "rootward_reference";
/// How long the first copy of a peer may take before set-up says that it is still going on.
const COPY_LIMIT: Duration = Duration::from_secs(60);

/// Publishes the reference tables and the counter of their version.
pub(crate) async fn publish(hub: &Client, schema: &Schema) -> Result<(), Error> {
    hub.batch_execute("insert into rootward.reference_version values (true, 0) on conflict do nothing").await?;
    let mut tables = vec!["rootward.reference_version".to_owned()];
    tables.extend(schema.reference.iter().map(|table| format!("public.{}", quoted(&table.name))));
    let tables = tables.join(", ");
    let exists = hub.query_opt("select from pg_publication where pubname = $1", &[&NAME]).await?.is_some();
    let sql = if exists {
        format!("alter publication {NAME} set table {tables}")
    } else {
        format!("create publication {NAME} for table {tables}")
    };
    hub.batch_execute(&sql).await
}

/// Subscribes a peer, or makes its subscription follow a changed publication.
///
/// The slot is made first, by a statement of its own: CREATE SUBSCRIPTION waits for itself where hub and peer are databases
/// of one PostgreSQL cluster. On an empty hub there is nothing to copy, which saves a worker for each table.
pub(crate) async fn subscribe(hub: &Client, peer: &Client, id: &str, replication: &str) -> Result<(), Error> {
    let connection = escaped(replication);
    if is_subscribed(peer).await? {
        // The hub may have moved: an embedded one has another port after a restart.
        let current: String = peer.query_one("select subconninfo from pg_subscription where subname = $1 and subdbid = (select oid from pg_database where datname = current_database())", &[&NAME]).await?.try_get(0)?;
        if current != replication {
            peer.batch_execute(&format!("alter subscription {NAME} connection '{connection}'")).await?;
        }
        return peer.batch_execute(&format!("alter subscription {NAME} refresh publication")).await;
    }
    let is_empty: bool = hub.query_one("select version = 0 from rootward.reference_version", &[]).await?.try_get(0)?;
    let slot = slot_name(peer, id).await?;
    let sql = "select pg_create_logical_replication_slot($1, 'pgoutput') where not exists (select from pg_replication_slots where slot_name = $1)";
    hub.execute(sql, &[&slot]).await?;
    if is_empty {
        peer.batch_execute("insert into rootward.reference_version values (true, 0) on conflict do nothing").await?;
    }
    peer.batch_execute(&subscription_sql(replication, &slot, !is_empty)).await
}

/// Whether the peer has a subscription, whatever state it is in.
pub(crate) async fn is_subscribed(peer: &Client) -> Result<bool, Error> {
    let sql = "select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database() and subname = $1";
    Ok(peer.query_opt(sql, &[&NAME]).await?.is_some())
}

/// The name of a peer's slot on the hub.
pub(crate) async fn slot_name(peer: &Client, id: &str) -> Result<String, Error> {
    let database: String = peer.query_one("select current_database()::text", &[]).await?.try_get(0)?;
    let plain = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' };
    Ok(format!("rootward_{id}_{database}").chars().map(plain).take(63).collect())
}

/// Subscribes by a slot that is there already.
pub(crate) fn subscription_sql(replication: &str, slot: &str, copies: bool) -> String {
    let connection = escaped(replication);
    format!(
        "create subscription {NAME} connection '{connection}' publication {NAME} with (create_slot = false, slot_name = '{slot}', copy_data = {copies})"
    )
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
