//! Partitions move from one peer to another while they are in use: nobody sees an error, nothing is lost or doubled, nothing is left
//! behind.

mod cancels;
mod controls;
mod disks;
mod journals;
mod kills;
mod load;
mod paced;
mod peers;
mod plain;
mod schema;

use std::{collections::BTreeSet, time::Duration};

use rootward_client::{Client, v1};
use tests::{Cluster, until};

pub(crate) use load::paid_in;

use crate::shared::exe;

/// The client that applications link.
pub(crate) fn client(cluster: &Cluster) -> Client {
    Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(Duration::from_secs(30))
}

/// The partitions of these accounts.
pub(crate) fn partitions_of(cluster: &Cluster, accounts: &[i64]) -> Vec<i32> {
    let all: BTreeSet<i32> = accounts.iter().map(|account| cluster.partition_of("account", *account)).collect();
    all.into_iter().collect()
}

/// What a command of `rootward` prints, and whether it says that all is well.
pub(crate) async fn command(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new(exe());
    command.args(arguments).env("ROOTWARD_ROUTER", cluster.embedded.router_address());
    let output = command.output().await.expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Begins a move; returns its id.
pub(crate) async fn begin(client: &Client, partitions: &[i32], target: &str) -> String {
    let request =
        v1::MovePartitionsRequest { partitions: partitions.to_vec(), target: target.to_owned(), ..v1::MovePartitionsRequest::default() };
    let begun = client.move_partitions(request).await.expect("begun");
    assert_eq!(begun.moves.len(), 1, "they have one owner, who is not {target}: {partitions:?}, {begun:?}");
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
    tests::nothing_is_left(cluster).await.unwrap_or_else(|violation| panic!("{violation}"));
}
