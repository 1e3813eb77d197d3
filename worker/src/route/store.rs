//! The SQL of a route's keeper. Decides nothing.

use tokio_postgres::{Client, Error};

use super::state::Source;

/// What the peer's own database says of its copy.
#[derive(Debug)]
pub(super) struct Here {
    /// The node that it copies from; none in a cluster that was set up before routes were noted.
    pub source: Option<String>,
    /// Whether there is a subscription.
    pub is_subscribed: bool,
    /// Whether it is switched on; somebody who switches it off has a reason.
    pub is_enabled: bool,
    /// Whether tables are being copied for the first time.
    pub is_copying: bool,
    /// The version that it shows.
    pub version: i64,
    /// The node and the name of every slot that may be there for this peer, and how it is reached.
    pub slots: Vec<(String, String, String)>,
}

/// A node that reference data can be copied from.
#[derive(Debug, Clone)]
pub(super) struct Reachable {
    pub source: Source,
    /// How PostgreSQL reaches it.
    pub connection: String,
}

pub(super) async fn here(client: &Client) -> Result<Here, Error> {
    let sql = "/* read_route */ select (select source from rootward_reference.route), s.oid is not null, coalesce(s.subenabled, false), \
               exists (select from pg_subscription_rel r where r.srsubid = s.oid and r.srsubstate <> 'r'), \
               coalesce((select version from rootward.reference_version), 0) \
               from pg_database d left join pg_subscription s on s.subdbid = d.oid and s.subname = 'rootward_reference' \
               where d.datname = current_database()";
    let row = client.query_one(sql, &[]).await?;
    let sql = "/* read_route_slots */ select source, slot, connection from rootward_reference.slot order by 1";
    let slots = client
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, Error>>()?;
    Ok(Here {
        source: row.try_get(0)?,
        is_subscribed: row.try_get(1)?,
        is_enabled: row.try_get(2)?,
        is_copying: row.try_get(3)?,
        version: row.try_get(4)?,
        slots,
    })
}

/// The version on the hub, and what can be copied from.
pub(super) async fn hub(client: &Client) -> Result<(i64, Vec<Reachable>), Error> {
    let sql = "/* read_sources */ select id, region, is_hub, is_relay, latitude, longitude, reference_source from rootward_catalog.peer \
               where reference_source <> '' and (is_hub or is_relay) and state <> 'removed' order by id";
    let reachable = |row: &tokio_postgres::Row| {
        let latitude: Option<f64> = row.try_get(4)?;
        let source = Source {
            id: row.try_get(0)?,
            region: row.try_get(1)?,
            is_hub: row.try_get(2)?,
            is_relay: row.try_get(3)?,
            position: latitude.zip(row.try_get(5)?),
        };
        Ok(Reachable { source, connection: row.try_get(6)? })
    };
    let sources = client.query(sql, &[]).await?.iter().map(reachable).collect::<Result<_, Error>>()?;
    Ok((version(client).await?, sources))
}

/// What a source shows; and whether it keeps what comes for this slot.
pub(super) async fn look(client: &Client, slot: &str) -> Result<(i64, bool), Error> {
    let sql =
        "/* look_at_source */ select exists (select from pg_replication_slots where slot_name = $1 and wal_status is distinct from 'lost')";
    let has_slot = client.query_one(sql, &[&slot]).await?.try_get(0)?;
    Ok((version(client).await?, has_slot))
}

/// Whether the hub has no slot, or a lost one, for a peer that is still part of the cluster; who is removed has lost it for good.
pub(super) async fn lacks_slot(hub: &Client, peer: &str, slot: &str) -> Result<bool, Error> {
    let sql = "/* look_at_hubs_slot */ select not exists (select from pg_replication_slots where slot_name = $2 and wal_status is distinct from 'lost') \
               and exists (select from rootward_catalog.peer where id = $1 and state <> 'removed')";
    hub.query_one(sql, &[&peer, &slot]).await?.try_get(0)
}

async fn version(client: &Client) -> Result<i64, Error> {
    let sql = "/* read_reference_version */ select coalesce((select version from rootward.reference_version), 0)";
    client.query_one(sql, &[]).await?.try_get(0)
}

/// A slot is gone, or its node is no part of the cluster any more.
pub(super) async fn forget_slot(client: &Client, source: &str) -> Result<(), Error> {
    client.execute("/* forget_slot */ delete from rootward_reference.slot where source = $1", &[&source]).await?;
    Ok(())
}

/// Slots on a relay for peers that were removed from the cluster. One of a peer whose id begins alike stays.
pub(super) async fn orphans(client: &Client, relay: &str, removed: &[String], others: &[String]) -> Result<Vec<String>, Error> {
    let sql = "/* list_orphaned_slots */ select slot_name::text from pg_replication_slots where database = current_database() \
               and exists (select from unnest($2::text[]) p where starts_with(slot_name::text, $1::text || p || '_')) \
               and not exists (select from unnest($3::text[]) p where starts_with(slot_name::text, $1::text || p || '_'))";
    let plain = |text: &str| -> String {
        text.chars().map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' }).collect()
    };
    let all = |ids: &[String]| ids.iter().map(|id| plain(id)).collect::<Vec<_>>();
    client
        .query(sql, &[&format!("rootward_{}_to_", plain(relay)), &all(removed), &all(others)])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect()
}

/// The node that a peer copies from; none on the hub.
pub(crate) async fn current(client: &Client) -> Result<Option<String>, Error> {
    let sql = "/* read_route_source */ select source from rootward_reference.route";
    client.query_opt(sql, &[]).await?.map(|row| row.try_get(0)).transpose()
}
