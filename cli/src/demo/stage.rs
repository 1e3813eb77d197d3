//! What every story needs: a running cluster, commands typed into it, checks, and a note of what failed.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rootward_cluster::{Compiled, EmbeddedCluster};

use super::Story;

/// What a router or worker may hold after a demo.
const MEMORY_LIMIT_MB: u64 = 60;

/// A cluster with an audience.
pub(crate) struct Stage {
    exe: PathBuf,
    pub(crate) cluster: EmbeddedCluster,
    failures: Vec<String>,
    checks: usize,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    pub code: i32,
    pub text: String,
}

impl Stage {
    pub(crate) fn new(exe: &Path, cluster: EmbeddedCluster) -> Stage {
        Stage { exe: exe.to_owned(), cluster, failures: Vec::new(), checks: 0 }
    }

    pub(crate) fn router(&self) -> &str {
        self.cluster.router_address()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        Ok(self.cluster.stop().await?)
    }

    pub(crate) fn header(&self, story: Story, compiled: &Compiled, took: Duration) {
        let version = self.cluster.server("hub").map(|server| server.version().to_string()).unwrap_or_default();
        let peers: Vec<&str> = self.cluster.topology().nodes().map(|(id, _)| id).collect();
        let name = format!("{story:?}").to_lowercase();
        self.say(&format!("rootward {} demo \"{name}\"   PostgreSQL {version}   not for production", env!("CARGO_PKG_VERSION")));
        self.say(&format!("  peers  {} (fsync on)   {} partitions", peers.join(" "), compiled.schema.partitions));
        self.say(&format!("  grpc   {}   schema schema/examples/{name}", self.router()));
        self.say(&format!("ready in {:.1} s\n", took.as_secs_f64()));
    }

    pub(crate) fn closing(&self, took: Duration) {
        for failure in &self.failures {
            self.say(&format!("CHECK FAILED: {failure}"));
        }
        let held = self.checks - self.failures.len();
        self.say(&format!("\n{held} of {} checks held, {:.1} s", self.checks, took.as_secs_f64()));
    }

    /// Prints a line; nobody reading is no error.
    pub(crate) fn say(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub(crate) fn heading(&self, text: &str) {
        self.say(&format!("-- {text}"));
    }

    /// Notes whether something that must hold does.
    pub(crate) fn check(&mut self, holds: bool, what: impl Into<String>) {
        self.checks += 1;
        if !holds {
            let what = what.into();
            self.say(&format!("CHECK FAILED: {what}"));
            self.failures.push(what);
        }
    }

    /// Types a command: prints it as a user would type it, runs the real program, prints what that prints.
    pub(crate) async fn type_in(&self, args: &[&str]) -> anyhow::Result<Typed> {
        let line: Vec<String> = args.iter().map(|arg| shell_word(arg)).collect();
        let typed = self.run(args).await?;
        self.say(&format!("$ rootward {}\n{}", line.join(" "), typed.text));
        Ok(typed)
    }

    /// The same, and it must end with this code and print this.
    pub(crate) async fn type_and_check(&mut self, args: &[&str], code: i32, contains: &str) -> anyhow::Result<Typed> {
        let typed = self.type_in(args).await?;
        let what = format!("`rootward {}` ends with code {code} and prints `{contains}`; it ended with {}", args.join(" "), typed.code);
        self.check(typed.code == code && typed.text.contains(contains), what);
        Ok(typed)
    }

    /// Runs a command without printing anything.
    pub(crate) async fn run(&self, args: &[&str]) -> anyhow::Result<Typed> {
        let output =
            tokio::process::Command::new(&self.exe).args(args).env("ROOTWARD_ROUTER", self.router()).kill_on_drop(true).output().await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(Typed { code: output.status.code().unwrap_or(-1), text })
    }

    /// Router and workers stay small; the kernel says how large they are.
    pub(crate) async fn memory(&mut self) -> anyhow::Result<()> {
        self.type_and_check(&["status"], 0, "serving").await?;
        let nodes: Vec<String> = self.cluster.topology().nodes().map(|(id, _)| id.to_owned()).collect();
        let workers = nodes.iter().filter_map(|id| Some((format!("worker of {id}"), self.cluster.worker_pid(id)?)));
        let processes: Vec<(String, u32)> = workers.chain(self.cluster.router_pid().map(|pid| ("router".to_owned(), pid))).collect();
        let sizes: Vec<String> = processes.iter().map(|(name, pid)| format!("{name} {} MB", resident_mb(*pid))).collect();
        self.say(&format!("   memory: {}", sizes.join(", ")));
        for (name, pid) in processes {
            self.check(resident_mb(pid) < MEMORY_LIMIT_MB, format!("{name} holds less than {MEMORY_LIMIT_MB} MB"));
        }
        Ok(())
    }

    /// Kills a peer's worker and its PostgreSQL with -9.
    pub(crate) async fn kill_peer(&mut self, id: &str) -> anyhow::Result<()> {
        let worker = self.cluster.worker_pid(id).unwrap_or_default();
        let postgres = self.cluster.server(id).and_then(rootward_cluster::Server::pid).unwrap_or_default();
        self.cluster.kill_worker(id).await?;
        self.cluster.kill_postgres(id).await?;
        self.say(&format!("   kill -9 {worker} (worker of {id})   kill -9 {postgres} (PostgreSQL of {id})"));
        Ok(())
    }

    /// Starts a killed peer again; returns how long it took until it served.
    pub(crate) async fn start_peer(&mut self, id: &str) -> anyhow::Result<Duration> {
        self.cluster.start_postgres(id).await?;
        let postgres_is_up = std::time::Instant::now();
        self.cluster.start_worker(id, &[]).await?;
        self.cluster.wait_until_serving(&[id.to_owned()]).await?;
        Ok(postgres_is_up.elapsed())
    }
}

/// The resident memory of a process in megabytes; 0 where there is no /proc.
fn resident_mb(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096 / 1_000_000
}

fn shell_word(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=.,:/%".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
