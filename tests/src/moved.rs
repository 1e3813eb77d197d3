//! What moves of partitions leave behind: nothing.

use crate::{cluster::Cluster, invariants::Violation};

/// No slot, publication, subscription, row or note of a move is left at any peer, and each partition has one owner, the one that
/// the map names.
///
/// # Errors
/// What is left, or whose owner is another one.
pub async fn nothing_is_left(cluster: &Cluster) -> Result<(), Violation> {
    let reader = cluster.reader();
    let left = "select 'slot ' || slot_name from pg_replication_slots where slot_name not like 'rootward\\_p%' and database = current_database() \
                union all select 'publication ' || pubname from pg_publication where pubname like 'rootward\\_move%' \
                union all select 'subscription ' || subname from pg_subscription s join pg_database d on d.oid = s.subdbid \
                  where d.datname = current_database() and subname like 'rootward\\_move%' \
                union all select 'transit ' || partition || ' ' || state from rootward_move.transit \
                union all select 'released ' || partition from rootward.ownership where state <> 'owned'";
    let rows = |table: &str, partition: &str| {
        format!(
            "select '{table} of partition ' || p from (select distinct {partition} as p from {table}) t \
             where p not in (select partition from rootward.ownership where state = 'owned')"
        )
    };
    let mut owners: Vec<(i32, i64, String)> = Vec::new();
    for peer in reader.peers().map(str::to_owned).collect::<Vec<_>>() {
        let mut found: Vec<String> = reader.rows(&peer, left, &[]).await.map_err(Violation::unread)?.iter().map(|row| row.get(0)).collect();
        let movable = "select format('%I.%I', namespace, name), partition_expression from rootward_move.movable";
        for row in reader.rows(&peer, movable, &[]).await.map_err(Violation::unread)? {
            let sql = rows(row.get(0), row.get(1));
            found.extend(reader.rows(&peer, &sql, &[]).await.map_err(Violation::unread)?.iter().map(|row| row.get::<_, String>(0)));
        }
        if !found.is_empty() {
            return Err(Violation::new("left", format!("peer {peer}: {found:?}")));
        }
        let owned = reader.rows(&peer, "select partition, epoch from rootward.ownership", &[]).await.map_err(Violation::unread)?;
        owners.extend(owned.iter().map(|row| (row.get(0), row.get(1), peer.clone())));
    }
    owners.sort();
    let map = reader
        .rows("hub", "select partition, epoch, peer from rootward_catalog.partition order by 1", &[])
        .await
        .map_err(Violation::unread)?;
    let map: Vec<(i32, i64, String)> = map.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    match owners == map {
        true => Ok(()),
        false => Err(Violation::new(
            "owners",
            format!("they and the map differ: {:?}", owners.iter().zip(&map).find(|(one, other)| one != other)),
        )),
    }
}
