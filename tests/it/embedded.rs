//! Embedded servers: they start fast, keep what was committed, and never outlive whoever started them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rootward_cluster::{Launcher, Server, ServerConfig, Shutdown, scratch_database};
use rootward_schema::{Type, partition_of, sql_partition_expression};
use tokio_postgres::{Client, NoTls};

const ROOTWARD: &str = env!("CARGO_BIN_EXE_rootward-test");
const HOLD_SERVER: &str = env!("CARGO_BIN_EXE_hold-server");
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_answers_on_socket_and_port_and_is_gone_after_a_stop() {
    let launcher = Launcher::temporary(ROOTWARD).expect("a folder");
    let config = ServerConfig::new("hub").database("bank").database("shop");
    let mut server = Server::start(&launcher, config).await.expect("a server");
    let pid = server.pid().expect("it runs");
    for conninfo in [server.conninfo("rootward", "bank"), server.conninfo("rootward", "shop"), server.tcp_conninfo("rootward", "bank")] {
        let client = connect(&conninfo).await.expect("a connection");
        assert_eq!(setting(&client, "fsync").await, "on");
        assert_eq!(setting(&client, "wal_level").await, "logical");
        assert_eq!(setting(&client, "TimeZone").await, "UTC");
    }
    let wrong = server.tcp_conninfo("rootward", "bank").replace(server.password(), "wrong");
    assert!(connect(&wrong).await.is_err(), "a password is asked for over TCP");
    server.stop(Shutdown::Fast).await.expect("stopped");
    assert!(!is_alive(pid));
    let folder = launcher.folder().path().to_owned();
    drop((server, launcher));
    assert!(!folder.exists());
}

#[tokio::test]
async fn four_servers_start_at_once() {
    let launcher = Launcher::temporary(ROOTWARD).expect("a folder");
    // Fills the cache, so that what is measured is what a second start takes.
    drop(Server::start(&launcher, ServerConfig::new("warm")).await.expect("a server"));
    let begin = Instant::now();
    let start = |name: &str| {
        let config = ServerConfig::new(name).database("bank");
        async { Server::start(&launcher, config).await }
    };
    let servers = tokio::try_join!(start("hub"), start("p1"), start("p2"), start("p3")).expect("four servers");
    eprintln!("four servers in {} ms", begin.elapsed().as_millis());
    let ports = [servers.0.port(), servers.1.port(), servers.2.port(), servers.3.port()];
    assert_eq!(std::collections::BTreeSet::from(ports).len(), 4);
    let client = connect(&servers.3.conninfo("rootward", "bank")).await.expect("a connection");
    assert_eq!(setting(&client, "cluster_name").await, "p3");
}

#[tokio::test]
async fn what_was_committed_survives_a_kill_of_postgresql() {
    let launcher = Launcher::temporary(ROOTWARD).expect("a folder");
    let mut server = Server::start(&launcher, ServerConfig::new("p1")).await.expect("a server");
    let conninfo = server.conninfo("rootward", "postgres");
    let client = connect(&conninfo).await.expect("a connection");
    client.batch_execute("create table kept as select 42 as answer").await.expect("created");
    let backend: i32 = client.query_one("select pg_backend_pid()", &[]).await.expect("a pid").get(0);
    let (postmaster, port) = (server.pid().expect("it runs"), server.port());

    server.kill_hard().await.expect("killed");
    assert!(!is_alive(postmaster));
    eventually("the backend is gone", || !is_alive(backend.unsigned_abs())).await;
    assert!(!server.is_running());
    // As if the number had been given to another process since.
    write_pid_file(server.data_path(), std::process::id());

    server.restart().await.expect("a server again");
    assert_eq!(server.port(), port);
    let client = connect(&conninfo).await.expect("a connection");
    let answer: i32 = client.query_one("select answer from kept", &[]).await.expect("the row").get(0);
    assert_eq!(answer, 42);
}

#[tokio::test]
async fn a_kept_folder_is_found_again_and_never_shared() {
    let parent = tempfile::Builder::new().prefix("kept-").permissions(mode(0o711)).tempdir().expect("a folder");
    // Too long for a socket, which then lies elsewhere.
    let path = parent.path().join("a-path-that-is-far-too-long-for-the-name-of-a-unix-socket-in-any-system/data");
    let launcher = Launcher::kept(ROOTWARD, &path).expect("a folder");
    let server = Server::start(&launcher, ServerConfig::new("hub")).await.expect("a server");
    let client = connect(&server.conninfo("rootward", "postgres")).await.expect("a connection");
    client.batch_execute("create table kept ()").await.expect("created");
    let error = Launcher::kept(ROOTWARD, &path).expect_err("the folder is taken");
    assert!(error.to_string().ends_with("is in use by another rootward process"), "{error}");
    drop((server, launcher));

    let launcher = Launcher::kept(ROOTWARD, &path).expect("the folder is free");
    let server = Server::start(&launcher, ServerConfig::new("hub")).await.expect("a server");
    let client = connect(&server.conninfo("rootward", "postgres")).await.expect("a connection");
    client.batch_execute("select from kept").await.expect("the table is there");
}

#[tokio::test]
async fn a_kill_of_the_launcher_leaves_no_process_and_no_folder() {
    let (mut holder, pid, folder) = hold_server();
    assert!(is_alive(pid) && folder.join("held/data/PG_VERSION").exists());
    holder.kill().expect("killed with -9");
    holder.wait().expect("collected");
    eventually("the server is gone", || !is_alive(pid)).await;
    eventually("the folder is gone", || !folder.exists()).await;
    assert!(!mentions(&folder), "a process still mentions the folder");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let launcher = Launcher::temporary(ROOTWARD).expect("a folder");
    let config = ServerConfig::new("hub").setting("shared_buffers", "plenty");
    let error = Server::start(&launcher, config).await.expect_err("that is no size");
    assert!(error.to_string().contains("invalid value for parameter \"shared_buffers\": \"plenty\""), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_closed_to_postgresql_is_named() {
    if !nix::unistd::geteuid().is_root() {
        // Only root has PostgreSQL run as somebody else.
        return;
    }
    let closed = tempfile::Builder::new().permissions(mode(0o700)).tempdir().expect("a folder");
    let launcher = Launcher::kept(ROOTWARD, &closed.path().join("data")).expect("a folder");
    let error = Server::start(&launcher, ServerConfig::new("hub")).await.expect_err("the folder is root's");
    assert!(error.to_string().contains(&format!("can't enter `{}`", closed.path().display())), "{error}");
}

#[tokio::test]
async fn postgresql_that_is_missing_is_named_with_the_cure() {
    let output = Command::new(HOLD_SERVER).arg(ROOTWARD).env("ROOTWARD_PG_BIN", "/nonexistent").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("PostgreSQL's server programs") && text.contains("`/nonexistent` doesn't hold all three"), "{text}");
}

#[tokio::test]
async fn a_scratch_database_is_empty_and_leaves_nothing() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let client = connect(&scratch.conninfo()).await.expect("a connection");
    let tables = client.query_one("select count(*) from pg_class where relnamespace = 'public'::regnamespace", &[]).await.expect("a count");
    assert_eq!(tables.get::<_, i64>(0), 0);
    let data = scratch.server().data_path().to_owned();
    drop(scratch);
    assert!(!data.exists());
}

#[tokio::test]
async fn the_database_places_keys_as_the_router_does() {
    let scratch = scratch_database(ROOTWARD).await.expect("a database");
    let client = connect(&scratch.conninfo()).await.expect("a connection");
    for (key_type, keys) in [
        (Type::Smallint, vec!["0", "-1", "32767"]),
        (Type::Integer, vec!["0", "-2147483648", "1007"]),
        (Type::Bigint, vec!["0", "1007", "-1007", "9223372036854775807", "-9223372036854775808", "4294967296"]),
        (Type::Text, vec!["", "a", "twelve bytes", "thirteen byte", "Zürich", "東京都 🌳", "it's"]),
        (Type::Varchar, vec!["a", "twelve bytes"]),
        (Type::Uuid, vec!["0198f3a0-0000-7000-8000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ] {
        for partitions in [1, 1024, 65536] {
            let expression = sql_partition_expression(&key_type, &format!("$1::text::{}", key_type.name()), partitions);
            for key in &keys {
                let row = client.query_one(&format!("select {expression}"), &[key]).await.expect("a number");
                let placed = partition_of(&key_type, key, partitions).map(i64::from);
                assert_eq!(placed, Ok(i64::from(row.get::<_, i32>(0))), "{key_type:?} {key:?} of {partitions}");
            }
        }
    }
}

async fn connect(conninfo: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn setting(client: &Client, name: &str) -> String {
    client.query_one("select current_setting($1)", &[&name]).await.expect("a setting").get(0)
}

/// A process that holds a server: itself, the postmaster's id, the temporary folder.
fn hold_server() -> (std::process::Child, u32, PathBuf) {
    let mut holder = Command::new(HOLD_SERVER).arg(ROOTWARD).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let (pid, folder) = line.trim().split_once(' ').expect("a pid and a folder");
    (holder, pid.parse().expect("a number"), folder.into())
}

/// Puts another process's id into `postmaster.pid`, as a number used again would.
fn write_pid_file(data: &Path, pid: u32) {
    let file = data.join("postmaster.pid");
    let text = std::fs::read_to_string(&file).expect("a killed server leaves its file");
    let rest = text.split_once('\n').expect("more lines").1;
    std::fs::write(&file, format!("{pid}\n{rest}")).expect("written");
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// Whether any process has the folder in its command line.
fn mentions(folder: &Path) -> bool {
    let name = folder.to_str().expect("a plain path");
    let entries = std::fs::read_dir("/proc").expect("a Linux system").flatten();
    entries
        .map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default())
        .any(|line| String::from_utf8_lossy(&line).contains(name))
}

fn mode(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
