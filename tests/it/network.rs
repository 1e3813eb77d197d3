//! A worker whose packets are dropped, in a network of the kernel's.

use tests::{
    cuts::{Cuts, From},
    network::Way,
};

use crate::shared::exe;

/// The battery plays all twelve; here are the one that only the socket can tell, and one between workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_loses_nothing_and_half_open_connections_are_found() {
    let Some(mut cuts) = Cuts::start(exe()).await.expect("a bank in networks of its own starts") else { return };
    for (from, way) in [(From::Database, Way::In), (From::Worker, Way::Both)] {
        let seed: u64 = rand::random();
        let requests = cuts.run(from, way, seed).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        assert!(requests > 0, "seed {seed}: {from:?} {way:?}");
    }
}
