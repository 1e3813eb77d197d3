//! Real deployments: PostgreSQL by connection string, with several hosts, `target_session_attrs`, passwords and TLS.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command},
};

use nix::unistd::{User, chown, geteuid};
use rootward_client::{Arguments, Client};
use rootward_cluster::EmbeddedOptions;
use tests::until;

use crate::shared::exe;

/// A worker that ends with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A certificate for `localhost` that signs itself, readable by the server only.
fn write_certificate(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a folder of ours");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("server.crt"), certified.cert.pem()).expect("a file");
    fs::write(folder.join("server.key"), certified.signing_key.serialize_pem()).expect("a file");
    fs::set_permissions(folder.join("server.key"), fs::Permissions::from_mode(0o600)).expect("a file of ours");
    if geteuid().is_root() {
        let named = |name| User::from_name(name).ok().flatten();
        let user = named("postgres").or_else(|| named("nobody")).expect("an unprivileged user");
        for file in ["server.crt", "server.key"] {
            chown(&folder.join(file), Some(user.uid), Some(user.gid)).expect("we are root");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reaches_its_database_over_tls_by_the_host_that_takes_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    write_certificate(folder.path());
    let compiled = tests::compile_example(exe(), "bank").await.expect("the bank is right");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut options = EmbeddedOptions::new(exe());
    options.peers = 1;
    options.server_settings = vec![
        ("ssl".to_owned(), "on".to_owned()),
        ("ssl_cert_file".to_owned(), file("server.crt")),
        ("ssl_key_file".to_owned(), file("server.key")),
    ];
    let mut cluster = rootward_cluster::EmbeddedCluster::start(options, &compiled).await.expect("a cluster starts");
    let (superuser, connection) =
        tokio_postgres::connect(&cluster.database("p1"), tokio_postgres::NoTls).await.expect("the database of p1");
    tokio::spawn(connection);
    superuser
        .batch_execute("alter role rootward_system password 'one'; alter role rootward_lane password 'two'")
        .await
        .expect("a superuser");
    let port = cluster.server("p1").expect("p1").port();
    // Nobody listens on port 1: the second host is tried, and it takes writes.
    let database = |user: &str, password: &str| {
        format!(
            "host=127.0.0.1,localhost port=1,{port} user={user} password={password} dbname=p1 sslmode=require target_session_attrs=read-write"
        )
    };
    let hub = cluster.server("hub").expect("the hub").conninfo("rootward_system", "hub");
    let settings = format!(
        "peer = \"p1\"\nlisten = \"127.0.0.1:0\"\ndatabase = {:?}\nlane_database = {:?}\nhub_database = {hub:?}\ntls_ca_file = {:?}\n",
        database("rootward_system", "one"),
        database("rootward_lane", "two"),
        file("server.crt"),
    );
    fs::write(folder.path().join("worker.toml"), settings).expect("a file");
    let child = Command::new(exe()).args(["worker", "--config", &file("worker.toml")]).spawn().expect("a worker");
    let _worker = Worker(child);
    cluster.kill_worker("p1").await.expect("the first worker runs");
    cluster.wait_until_serving(&["p1".to_owned()]).await.expect("the second worker takes over");
    let client = Client::new([cluster.router_address()]).expect("an address");
    let euro = Arguments::new().with("code", "EUR").with("name", "Euro").with("minor_digits", 2);
    client.call("add_currency", euro).send().await.expect("a currency");
    // An account refers to its currency, whose copy arrives a moment later.
    let open = || Arguments::new().with("account_id", 1).with("owner", "a").with("amount", "1.00");
    until("an account is opened over TLS", async || client.call("open_account", open()).send().await.ok()).await.expect("it is opened");
    let balance = client.call("balance", Arguments::new().with("account_id", 1)).send().await.expect("it is there");
    assert_eq!(balance.rows.len(), 1);
    let sql = "select count(*), count(*) filter (where s.ssl) from pg_stat_activity a join pg_stat_ssl s using (pid) where a.usename in ('rootward_lane', 'rootward_system') and a.backend_type = 'client backend'";
    let row = superuser.query_one(sql, &[]).await.expect("a superuser");
    let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 3 && all == encrypted, "{encrypted} of {all} connections are encrypted");
}
