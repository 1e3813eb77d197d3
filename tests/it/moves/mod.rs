//! Partitions move from one peer to another while they are in use: nobody sees an error, nothing is lost or doubled, nothing is left
//! behind.

mod cancels;
mod controls;
mod journals;
mod kills;
mod load;
mod peers;
mod plain;

use std::{collections::BTreeSet, time::Duration};

use rootward_client::{Client, v1};
use tests::{Cluster, until};

pub(crate) use load::paid_in;

/// The client that applications link.
pub(crate) fn client(cluster: &Cluster) -> Client {
    Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30))
}

/// The partitions of these accounts.
pub(crate) fn partitions_of(cluster: &Cluster, accounts: &[i64]) -> Vec<i32> {
    let all: BTreeSet<i32> = accounts.iter().map(|account| cluster.partition_of("account", *account)).collect();
    all.into_iter().collect()
}

/// Begins a move; returns its id.
pub(crate) async fn begin(client: &Client, partitions: &[i32], target: &str) -> String {
    let request =
        v1::MovePartitionsRequest { partitions: partitions.to_vec(), target: target.to_owned(), ..v1::MovePartitionsRequest::default() };
    let begun = client.move_partitions(request).await.expect("begun");
    assert_eq!(begun.moves.len(), 1, "they have one owner");
    begun.moves[0].id.clone()
}

/// The move as the catalog has it.
pub(crate) async fn look(client: &Client, id: &str) -> Option<v1::Move> {
    let request = v1::ListMovesRequest { id: id.to_owned(), ..v1::ListMovesRequest::default() };
    client.moves(request).await.ok()?.moves.pop()
}

/// Waits until a move is in one of these stages.
pub(crate) async fn wait_for(client: &Client, id: &str, stages: &[&str]) -> v1::Move {
    let reached = async || look(client, id).await.filter(|one| stages.contains(&one.stage.as_str()));
    match until("the move has come so far", reached).await {
        Ok(one) => one,
        Err(error) => panic!("{error}; {:?}", look(client, id).await),
    }
}

/// Moves partitions and waits for the end.
pub(crate) async fn carry_out(client: &Client, partitions: &[i32], target: &str) -> v1::Move {
    let id = begin(client, partitions, target).await;
    wait_for(client, &id, &["done"]).await
}

/// No slot, publication, subscription, row or note of a move is left at any peer, and each partition has one owner, the one that
/// the map names.
pub(crate) async fn nothing_is_left(cluster: &Cluster) {
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
        let mut found: Vec<String> = reader.rows(&peer, left, &[]).await.expect("read").iter().map(|row| row.get(0)).collect();
        let movable = "select format('%I.%I', namespace, name), partition_expression from rootward_move.movable";
        for row in reader.rows(&peer, movable, &[]).await.expect("read") {
            let sql = rows(row.get(0), row.get(1));
            found.extend(reader.rows(&peer, &sql, &[]).await.expect("read").iter().map(|row| row.get::<_, String>(0)));
        }
        assert!(found.is_empty(), "peer {peer}: {found:?}");
        let owned = reader.rows(&peer, "select partition, epoch from rootward.ownership", &[]).await.expect("read");
        owners.extend(owned.iter().map(|row| (row.get(0), row.get(1), peer.clone())));
    }
    owners.sort();
    let map = reader.rows("hub", "select partition, epoch, peer from rootward_catalog.partition order by 1", &[]).await.expect("read");
    let map: Vec<(i32, i64, String)> = map.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert!(owners == map, "owners and map differ: {:?}", owners.iter().zip(&map).find(|(one, other)| one != other));
}
