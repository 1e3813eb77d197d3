//! The clusters that tests share which kill nothing; each test works on roots of its own.

use std::path::Path;

use rootward_cluster::Compiled;
use tests::{Cluster, Shape};
use tokio::sync::OnceCell;

/// The program that clusters are made of.
pub fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rootward-test"))
}

/// One bank on one server, started by whoever comes first.
pub async fn bank() -> &'static Cluster {
    static BANK: OnceCell<Cluster> = OnceCell::const_new();
    BANK.get_or_init(async || Cluster::bank(exe(), Shape::shared()).await.expect("the shared bank starts")).await
}

/// One shop on one server.
pub async fn shop() -> &'static Cluster {
    static SHOP: OnceCell<Cluster> = OnceCell::const_new();
    SHOP.get_or_init(async || Cluster::shop(exe(), Shape::shared()).await.expect("the shared shop starts")).await
}

/// One workflow on one server.
pub async fn workflow() -> &'static Cluster {
    static WORKFLOW: OnceCell<Cluster> = OnceCell::const_new();
    WORKFLOW.get_or_init(async || Cluster::workflow(exe(), Shape::shared()).await.expect("the shared workflow starts")).await
}

/// A bank of the test's own, with a server for each peer.
pub async fn own_bank(peers: u32) -> Cluster {
    Cluster::bank(exe(), Shape::own(peers)).await.expect("a bank starts")
}

/// Compiles what a test has written.
async fn compiled(files: &[(&str, &str)]) -> Compiled {
    let source = rootward_schema::Source::from_texts(files.iter().copied());
    tests::compile(exe(), source).await.unwrap_or_else(|findings| panic!("{findings:#}"))
}

/// Starts what a test has written.
pub async fn own_cluster(files: &[(&str, &str)], shape: Shape) -> Cluster {
    Cluster::start(exe(), &compiled(files).await, shape).await.expect("the cluster starts")
}
