//! Makes a peer's copy of the reference data anew: after its slot is gone, its subscription is broken, or somebody changed it.
//!
//! Readers go on meanwhile. They see the old copy until one commit makes it equal to the source; rows that are right are not touched,
//! so that a transaction that refers to them doesn't notice. Where the copy ends and the subscription begins is exact: a slot is made first;
//! then writes are held for a moment, in which one session fixes a snapshot and reads how far the log is. The copy is that snapshot, and the
//! slot is moved on to that place. So no change is lost and none comes twice. The hub's tables stay readable all the time.

use std::time::Duration;

use futures_util::{SinkExt as _, TryStreamExt as _, pin_mut};
use rootward_schema::quoted;
use tokio::time::Instant;
use tokio_postgres::{Client, Error, IsolationLevel, Transaction};

use crate::{
    deploy::{DeployError, at, connect},
    reference::{self, NAME},
    topology::{HUB, Topology},
};

/// How long a session that uses the old slot or subscription may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The peer.
    pub peer: String,
    /// The version that its copy said it had; none if it had none.
    pub from_version: Option<i64>,
    /// The version of the copy that was made; what was written since follows by the subscription.
    pub version: i64,
    /// Tables of the schema in which rows were missing, wrong or too many, and how many of them.
    pub repaired_rows: Vec<(String, u64)>,
}

/// One table of the publication.
struct Table {
    namespace: String,
    name: String,
    columns: Vec<String>,
    primary_key: Vec<String>,
}

impl Table {
    fn full_name(&self) -> String {
        format!("{}.{}", quoted(&self.namespace), quoted(&self.name))
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
    }
}

/// Makes the copy of one peer anew. Can be run again at any time, also after it failed half way.
///
/// # Errors
/// [`DeployError::NoNode`] if there is no such peer; else what a database refused. Until the last step has succeeded the peer shows what
/// it showed before, without anything new coming to it.
pub async fn repair_reference(topology: &Topology, peer: &str) -> Result<Repaired, DeployError> {
    let no_node = || DeployError::NoNode(peer.to_owned(), topology.peer.keys().cloned().collect::<Vec<_>>().join(", "));
    let node = topology.peer.get(peer).ok_or_else(no_node)?;
    let hub = connect(HUB, &topology.hub).await?;
    let mut source = connect(HUB, &topology.hub).await?;
    let mut locker = connect(HUB, &topology.hub).await?;
    let mut copy = connect(peer, node).await?;
    end_subscription(&copy).await.map_err(at(peer))?;
    let slot = reference::slot_name(&copy, peer).await.map_err(at(peer))?;
    renew_slot(&hub, &slot).await.map_err(at(HUB))?;
    let tables = tables(&hub).await.map_err(at(HUB))?;
    let snapshot = fix(&hub, &mut source, &mut locker, &tables, &slot).await.map_err(at(HUB))?;
    let sql = "select version from rootward.reference_version";
    let version = snapshot.query_one(sql, &[]).await.map_err(at(HUB))?.try_get(0).map_err(at(HUB))?;
    let from_version = copy.query_opt(sql, &[]).await.map_err(at(peer))?.map(|row| row.try_get(0)).transpose().map_err(at(peer))?;
    let transaction = copy.transaction().await.map_err(at(peer))?;
    // The rows are the hub's, and were checked there; here no trigger and no foreign key has a say.
    transaction.batch_execute("set local session_replication_role = replica; set local search_path = ''").await.map_err(at(peer))?;
    let mut repaired_rows = Vec::new();
    for table in &tables {
        fetch(&snapshot, &transaction, table, peer).await?;
        let changed = merge(&transaction, table).await.map_err(at(peer))?;
        if changed > 0 && table.namespace == "public" {
            repaired_rows.push((table.name.clone(), changed));
        }
    }
    let subscription = reference::subscription_sql(&topology.hub.replication, &slot, false);
    transaction.batch_execute(&subscription).await.map_err(at(peer))?;
    transaction.commit().await.map_err(at(peer))?;
    Ok(Repaired { peer: peer.to_owned(), from_version, version, repaired_rows })
}

/// Takes the subscription away, whatever state it is in. What it has applied stays.
async fn end_subscription(peer: &Client) -> Result<(), Error> {
    if !reference::is_subscribed(peer).await? {
        return Ok(());
    }
    // Without its slot's name it doesn't ask the hub, which may be another one by now.
    peer.batch_execute(&format!("alter subscription {NAME} disable")).await?;
    peer.batch_execute(&format!("alter subscription {NAME} set (slot_name = none)")).await?;
    peer.batch_execute(&format!("drop subscription {NAME}")).await
}

/// Takes the old slot away, and makes one that keeps everything from now on.
async fn renew_slot(hub: &Client, slot: &str) -> Result<(), Error> {
    let deadline = Instant::now() + END_LIMIT;
    let end = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null";
    loop {
        hub.execute(end, &[&slot]).await?;
        let dropped =
            hub.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", &[&slot]).await;
        match dropped {
            // Its session has not ended yet.
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            dropped => {
                dropped?;
                break;
            }
        }
    }
    hub.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
    Ok(())
}

async fn tables(hub: &Client) -> Result<Vec<Table>, Error> {
    let sql = "select p.schemaname::text, p.tablename::text, \
                 array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
                   and a.attgenerated = '' order by a.attnum), \
                 array(select a.attname::text from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey) \
                   where i.indrelid = c.oid and i.indisprimary) \
               from pg_publication_tables p join pg_namespace n on n.nspname = p.schemaname \
               join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename where p.pubname = $1 order by 1, 2";
    let rows = hub.query(sql, &[&NAME]).await?;
    let table = |row: &tokio_postgres::Row| {
        Ok(Table { namespace: row.try_get(0)?, name: row.try_get(1)?, columns: row.try_get(2)?, primary_key: row.try_get(3)? })
    };
    rows.iter().map(table).collect()
}

/// A snapshot of the source, and the slot moved on to exactly what is not in it.
async fn fix<'s>(
    hub: &Client,
    source: &'s mut Client,
    locker: &mut Client,
    tables: &[Table],
    slot: &str,
) -> Result<Transaction<'s>, Error> {
    // Whoever writes has ended before the lock is there, and begins after the place in the log has been read. Whoever reads doesn't notice.
    let lock = locker.transaction().await?;
    let names: Vec<String> = tables.iter().map(Table::full_name).collect();
    lock.batch_execute(&format!("set local lock_timeout = '10s'; lock table {} in share mode", names.join(", "))).await?;
    let snapshot = source.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    snapshot.query_one("select pg_current_snapshot()::text", &[]).await?;
    // A slot moves as far as the log is flushed: this flushes all that was written before.
    hub.execute("select pg_logical_emit_message(true, 'rootward', 'repair')", &[]).await?;
    let place: String = hub.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
    lock.commit().await?;
    hub.execute(&format!("select pg_replication_slot_advance($1, '{place}')"), &[&slot]).await?;
    Ok(snapshot)
}

/// Brings the source's rows into a table of the session's own.
async fn fetch(snapshot: &Transaction<'_>, peer: &Transaction<'_>, table: &Table, id: &str) -> Result<(), DeployError> {
    let (name, columns) = (table.full_name(), table.column_list());
    let sql = format!("create temporary table incoming (like {name}) on commit drop");
    peer.batch_execute(&sql).await.map_err(at(id))?;
    let rows = snapshot.copy_out(&format!("copy {name} ({columns}) to stdout")).await.map_err(at(HUB))?;
    let sink = peer.copy_in(&format!("copy pg_temp.incoming ({columns}) from stdin")).await.map_err(at(id))?;
    pin_mut!(rows, sink);
    while let Some(chunk) = rows.try_next().await.map_err(at(HUB))? {
        sink.send(chunk).await.map_err(at(id))?;
    }
    sink.finish().await.map_err(at(id))?;
    Ok(())
}

/// Makes a table equal to what came, touching only rows that differ. Returns how many did.
async fn merge(peer: &Transaction<'_>, table: &Table) -> Result<u64, Error> {
    let (name, columns) = (table.full_name(), table.column_list());
    let is_same = table.primary_key.iter().map(|column| format!("t.{0} = i.{0}", quoted(column))).collect::<Vec<_>>().join(" and ");
    let deleted = format!("delete from {name} t where not exists (select from pg_temp.incoming i where {is_same})");
    let values = table.columns.iter().map(|column| format!("{0} = i.{0}", quoted(column))).collect::<Vec<_>>().join(", ");
    let updated = format!("update {name} t set {values} from pg_temp.incoming i where {is_same} and t::text <> i::text");
    let inserted = format!(
        "insert into {name} ({columns}) select {columns} from pg_temp.incoming i where not exists (select from {name} t where {is_same})"
    );
    let mut changed = 0;
    for sql in [deleted, updated, inserted] {
        changed += peer.execute(&sql, &[]).await?;
    }
    peer.batch_execute("drop table pg_temp.incoming").await?;
    Ok(changed)
}
