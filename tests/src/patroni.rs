//! A peer's PostgreSQL under Patroni, with etcd: three servers, of which Patroni makes one the primary and another one its synchronous standby.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rootward_cluster::{Binaries, Child, DeathSignal, Launcher, Spawn};
use serde_json::{Value as Json, json};

use crate::wait::until;

const PATRONI: &str = "/usr/bin/patroni";
const ETCD: &str = "/usr/bin/etcd";

/// How long the leader's key lives without it, in seconds; Patroni takes no less.
pub const TTL_S: u32 = 20;

/// The servers, with what watches over them. Dropping it ends all of it.
pub struct Patroni {
    nodes: Vec<Node>,
    _etcd: Child,
    etcd_port: u16,
    launcher: Launcher,
    user: Option<String>,
    superuser: String,
}

/// One server.
pub struct Node {
    /// What Patroni calls it.
    pub name: &'static str,
    /// PostgreSQL's, on 127.0.0.1.
    pub port: u16,
    rest: u16,
    data: PathBuf,
    /// Patroni; none while it is dead.
    process: Option<Child>,
}

impl Patroni {
    /// Whether the programs are there; what is missing is printed.
    pub fn is_there() -> bool {
        let missing: Vec<&str> = [PATRONI, ETCD].into_iter().filter(|program| !Path::new(program).exists()).collect();
        if !missing.is_empty() {
            eprintln!("SKIPPED: {} is missing: apt-get install patroni etcd-server", missing.join(", "));
        }
        missing.is_empty()
    }

    /// Takes over the data of a server that is shut down, and gives it two standbys.
    ///
    /// # Errors
    /// Whatever keeps them from running.
    pub async fn start(launcher: &Launcher, data: &Path, port: u16, superuser: &str) -> Result<Patroni> {
        use std::os::unix::fs::MetadataExt as _;
        let user = match nix::unistd::geteuid().is_root() {
            true => nix::unistd::User::from_uid(std::fs::metadata(data)?.uid().into())?.map(|user| user.name),
            false => None,
        };
        let folder = launcher.folder().path().to_owned();
        let etcd_port = free_port()?;
        let (client, peer) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{}", free_port()?));
        // Beside those of our own processes, which are to say nothing unexpected.
        let watch = folder.join("watch");
        std::fs::create_dir(&watch)?;
        own_folder(&folder.join("patroni"), data)?;
        let keys = own_folder(&folder.join("etcd"), data)?;
        let cluster = format!("default={peer}");
        let arguments = [
            "--data-dir",
            keys.to_str().context("UTF-8")?,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &cluster,
        ];
        let mut spawn = Spawn::new(ETCD, arguments, watch.join("etcd.log"));
        spawn.user.clone_from(&user);
        let etcd = launcher.spawn(spawn).await?;
        until("etcd answers", async || http(etcd_port, "GET", "/health").ok().filter(|(code, _)| *code == 200)).await?;
        let mut patroni =
            Patroni { nodes: Vec::new(), _etcd: etcd, etcd_port, launcher: launcher.clone(), user, superuser: superuser.to_owned() };
        let first = Node { name: "a", port, rest: free_port()?, data: data.to_owned(), process: None };
        patroni.nodes.push(first);
        patroni.start_node(0).await?;
        patroni.wait_for(|members| members.iter().any(is_leader)).await?;
        for (at, name) in [(1, "b"), (2, "c")] {
            let data = own_folder(&folder.join(format!("patroni-{name}")), data)?.join("data");
            patroni.nodes.push(Node { name, port: free_port()?, rest: free_port()?, data, process: None });
            patroni.start_node(at).await?;
        }
        patroni.wait_for(|members| members.len() == 3 && has_synchronous_standby(members)).await?;
        Ok(patroni)
    }

    /// The servers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts Patroni for a node, which starts PostgreSQL.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn start_node(&mut self, at: usize) -> Result<()> {
        let node = self.nodes.get_mut(at).context("a node")?;
        let folder = self.launcher.folder().path();
        let own = folder.join("patroni");
        // Links to some of PostgreSQL's programs don't do: Patroni needs all of them.
        let server = std::fs::canonicalize(Binaries::find()?.program("postgres"))?;
        let programs = server.parent().context("a folder above")?.display().to_string();
        let settings = json!({
            "scope": "rootward", "name": node.name,
            "restapi": { "listen": format!("127.0.0.1:{}", node.rest), "connect_address": format!("127.0.0.1:{}", node.rest) },
            "etcd3": { "host": format!("127.0.0.1:{}", self.etcd_port) },
            "bootstrap": { "dcs": {
                "ttl": TTL_S, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 1_048_576,
                "primary_start_timeout": 0, "master_start_timeout": 0,
                "synchronous_mode": true, "synchronous_mode_strict": true,
                // A move's slot is none of Patroni's: without this it would be dropped.
                "ignore_slots": [{ "type": "logical", "plugin": "pgoutput" }],
                "postgresql": { "use_pg_rewind": true, "parameters": {
                    "wal_level": "logical", "wal_log_hints": "on", "max_connections": 100, "max_worker_processes": 32,
                    "max_wal_senders": 20, "max_replication_slots": 20, "max_logical_replication_workers": 20,
                } },
            } },
            "postgresql": {
                "listen": format!("127.0.0.1:{}", node.port), "connect_address": format!("127.0.0.1:{}", node.port),
                "data_dir": node.data.display().to_string(), "bin_dir": programs,
                "basebackup": [{ "checkpoint": "fast" }],
                "pgpass": own.join(format!("pgpass-{}", node.name)).display().to_string(),
                "authentication": {
                    "superuser": { "username": self.superuser }, "replication": { "username": self.superuser },
                    "rewind": { "username": self.superuser },
                },
                "parameters": { "unix_socket_directories": "", "fsync": "on", "wal_retrieve_retry_interval": "200ms" },
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
            },
        });
        // JSON is YAML.
        let file = folder.join(format!("patroni-{}.yml", node.name));
        std::fs::write(&file, settings.to_string())?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let mut spawn = Spawn::new(PATRONI, [file.as_os_str()], folder.join(format!("watch/patroni-{}.log", node.name)));
        spawn.user.clone_from(&self.user);
        spawn.death_signal = DeathSignal::Term;
        spawn.env.push(("HOME".into(), own.clone().into_os_string()));
        spawn.directory = Some(own);
        node.process = Some(self.launcher.spawn(spawn).await?);
        Ok(())
    }

    /// Kills a node's PostgreSQL with all its processes; and Patroni first, as if the machine were gone, if `with_patroni`.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self, at: usize, with_patroni: bool) -> Result<()> {
        let node = self.nodes.get_mut(at).context("a node")?;
        if with_patroni && let Some(process) = node.process.take() {
            process.kill_hard()?;
            process.wait().await;
        }
        node.kill_postgres()
    }

    /// Which node is the leader, by what the others say; none if there is none.
    pub fn leader(&self) -> Option<usize> {
        let members = self.members()?;
        let leader = members.iter().find(|member| is_leader(member))?;
        self.nodes.iter().position(|node| leader["name"] == node.name)
    }

    /// Waits until all three run, one of them a synchronous standby.
    ///
    /// # Errors
    /// If they don't in time.
    pub async fn wait_until_whole(&self) -> Result<()> {
        self.wait_for(|members| {
            members.len() == 3
                && members.iter().all(|member| ["running", "streaming"].iter().any(|state| member["state"] == *state))
                && has_synchronous_standby(members)
        })
        .await
    }

    async fn wait_for(&self, is_so: impl Fn(&[Json]) -> bool) -> Result<()> {
        let mut last = None;
        let waited = until("Patroni has come so far", async || {
            last = self.members();
            last.as_ref().is_some_and(|members| is_so(members)).then_some(())
        });
        let waited = waited.await;
        waited.with_context(|| {
            let log = |node: &Node| std::fs::read_to_string(self.launcher.folder().path().join(format!("watch/patroni-{}.log", node.name)));
            let last_lines = |text: String| text.lines().rev().take(8).collect::<Vec<_>>().join("\n");
            let logs: Vec<String> =
                self.nodes.iter().filter_map(|node| Some(format!("{}: {}", node.name, last_lines(log(node).ok()?)))).collect();
            format!("{last:?}\n{}", logs.join("\n"))
        })
    }

    /// What the first node that answers says of all.
    fn members(&self) -> Option<Vec<Json>> {
        let living = self.nodes.iter().filter(|node| node.process.as_ref().is_some_and(Child::is_running));
        let (_, body) = living.into_iter().find_map(|node| http(node.rest, "GET", "/cluster").ok().filter(|(code, _)| *code == 200))?;
        let cluster: Json = serde_json::from_str(&body).ok()?;
        cluster["members"].as_array().cloned()
    }
}

impl Node {
    fn kill_postgres(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let postmaster: i32 = text.lines().next().context("a process id")?.trim().parse()?;
        // What a crash left in the file may be another process by now.
        if std::fs::read_link(format!("/proc/{postmaster}/cwd")).ok() != Some(std::fs::canonicalize(&self.data)?) {
            return Ok(());
        }
        let mut all = vec![postmaster];
        all.extend(children_of(postmaster));
        for process in all {
            // One that has ended is as dead as it should be.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        Ok(())
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It would start PostgreSQL again. PostgreSQL is no child of it, nor of ours.
            if let Some(process) = node.process.take() {
                let _ = process.kill_hard();
            }
            let _ = node.kill_postgres();
        }
    }
}

fn is_leader(member: &Json) -> bool {
    member["role"] == "leader" && member["state"] == "running"
}

fn has_synchronous_standby(members: &[Json]) -> bool {
    members.iter().any(is_leader) && members.iter().any(|member| member["role"] == "sync_standby")
}

fn children_of(parent: i32) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |process: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()) == Some(parent)
    };
    processes.filter(is_child).collect()
}

/// Makes a folder that belongs to whom another one belongs to.
fn own_folder(folder: &Path, like: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::create_dir(folder)?;
    let owner = std::fs::metadata(like)?;
    std::os::unix::fs::chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(folder.to_owned())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A request without a body; the code and the body of its answer.
fn http(port: u16, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).context("a status")?.parse()?;
    Ok((code, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}
