//! pgbench as a process of its own: the baseline of `bench bank` and its like.
//!
//! Nothing of ours takes part in what it measures: the script, the driver and the clock are PostgreSQL's.

mod output;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Binaries, Child, Launcher, ProcessError, Spawn};

use output::{log_latencies, measured_rate, processed, progress};

/// In shorter runs every transaction is logged; else a tenth, so that writing the log costs little.
const ALL_LOGGED_BELOW: Duration = Duration::from_secs(2);
const SAMPLING: &str = "0.1";
/// How much of its output an error shows.
const TAIL_LINES: usize = 6;

/// One run.
#[derive(Debug, Clone)]
pub struct PgbenchRun {
    /// The program.
    pub program: PathBuf,
    /// libpq's connection string.
    pub database: String,
    /// pgbench's own language.
    pub script: String,
    /// How statements are sent: `simple`, `extended` or `prepared`.
    pub protocol: &'static str,
    /// How many sessions at once.
    pub clients: usize,
    /// Not measured.
    pub warm: Duration,
    /// pgbench counts whole seconds, so it is rounded up.
    pub measured: Duration,
    /// Transactions a second whose moments pgbench fixes in advance; as fast as it goes if none.
    pub rate: Option<f64>,
    /// What a script finds in `:scale`, if it asks.
    pub scale: Option<u32>,
}

/// What a run gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PgbenchResult {
    /// Transactions that were committed, warm-up included.
    pub processed: u64,
    /// Transactions a second in the measured time.
    pub per_second: f64,
    /// Latencies in the measured time, in microseconds, sorted; a tenth of all in longer runs.
    pub latencies_us: Vec<u64>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum PgbenchError {
    /// Not installed.
    #[error("`pgbench` was not found, neither beside PostgreSQL's other programs nor in PATH")]
    NotFound,
    /// It could not be started or ended.
    #[error("pgbench")]
    Process(#[from] ProcessError),
    /// A file of its could not be written or read.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with an error, or a client of it did.
    #[error("pgbench failed; the end of what it said:\n{0}")]
    Failed(String),
}

/// A run under way. Dropping it ends pgbench.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
    folder: tempfile::TempDir,
    run: PgbenchRun,
}

impl Pgbench {
    /// The program: beside PostgreSQL's other programs, or in PATH.
    ///
    /// # Errors
    /// [`PgbenchError::NotFound`].
    pub fn find() -> Result<PathBuf, PgbenchError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = Binaries::find().ok().map(|binaries| binaries.directory);
        let mut places = beside.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join("pgbench"));
        places.find(|program| program.is_file()).ok_or(PgbenchError::NotFound)
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`PgbenchError`] if it can't be started.
    pub async fn start(launcher: &Launcher, run: PgbenchRun) -> Result<Pgbench, PgbenchError> {
        let folder = tempfile::tempdir_in(launcher.folder().path()).map_err(failed(launcher.folder().path()))?;
        let script = folder.path().join("script.sql");
        std::fs::write(&script, &run.script).map_err(failed(&script))?;
        let args = run.args(&script, &folder.path().join("log"));
        let mut spawn = Spawn::new(&run.program, args, folder.path().join("output"));
        spawn.env.push(("LC_ALL".into(), "C".into()));
        let child = launcher.spawn(spawn).await?;
        Ok(Pgbench { child, folder, run })
    }

    /// How many transactions it has reported so far; it reports each second.
    pub fn reported(&self) -> u64 {
        progress(&self.output()).iter().map(|part| part.count()).sum::<f64>() as u64
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// [`PgbenchError::Failed`] if a client of it met an error: a baseline that leaves something out is none.
    pub async fn finish(&self) -> Result<PgbenchResult, PgbenchError> {
        let status = self.child.wait().await;
        let output = self.output();
        let Some(processed) = processed(&output).filter(|_| status.success() && !output.contains("aborted")) else {
            return Err(PgbenchError::Failed(tail(&output)));
        };
        let (warm, log) = (self.run.warm.as_secs_f64().ceil(), self.log()?);
        Ok(PgbenchResult { processed, per_second: measured_rate(&output, warm), latencies_us: log_latencies(&log, warm) })
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// What all threads logged; each writes a file of its own.
    fn log(&self) -> Result<String, PgbenchError> {
        let folder = self.folder.path();
        let mut text = String::new();
        for entry in std::fs::read_dir(folder).map_err(failed(folder))?.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with("log.") {
                text += &std::fs::read_to_string(entry.path()).map_err(failed(&entry.path()))?;
            }
        }
        Ok(text)
    }
}

impl PgbenchRun {
    /// The whole seconds that it runs.
    pub fn seconds(&self) -> u64 {
        (self.warm.as_secs_f64().ceil() + self.measured.as_secs_f64().ceil()) as u64
    }

    fn args(&self, script: &Path, log: &Path) -> Vec<String> {
        let mut args: Vec<String> = ["-n", "-M", self.protocol, "-P", "1", "-l"].map(str::to_owned).into();
        args.extend(["-c".to_owned(), self.clients.to_string(), "-j".to_owned(), self.clients.min(2).to_string()]);
        args.extend(["-T".to_owned(), self.seconds().to_string(), "-f".to_owned(), script.display().to_string()]);
        args.push(format!("--log-prefix={}", log.display()));
        if self.measured >= ALL_LOGGED_BELOW {
            args.push(format!("--sampling-rate={SAMPLING}"));
        }
        if let Some(rate) = self.rate {
            args.push(format!("--rate={rate}"));
        }
        if let Some(scale) = self.scale {
            args.push(format!("--scale={scale}"));
        }
        args.push(self.database.clone());
        args
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("progress:")).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> PgbenchError + use<> {
    let path = path.to_owned();
    move |source| PgbenchError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_in_pgbenchs_words() {
        let run = PgbenchRun {
            program: "pgbench".into(),
            database: "host='/s'".to_owned(),
            script: String::new(),
            protocol: "prepared",
            clients: 8,
            warm: Duration::from_secs(1),
            measured: Duration::from_millis(2_500),
            rate: Some(500.0),
            scale: Some(3),
        };
        let told = run.args(Path::new("/script"), Path::new("/log")).join(" ");
        let wanted =
            "-n -M prepared -P 1 -l -c 8 -j 2 -T 4 -f /script --log-prefix=/log --sampling-rate=0.1 --rate=500 --scale=3 host='/s'";
        assert_eq!(told, wanted);
        let short = PgbenchRun { clients: 1, warm: Duration::ZERO, measured: Duration::from_millis(300), rate: None, scale: None, ..run };
        let told = short.args(Path::new("/script"), Path::new("/log")).join(" ");
        assert_eq!(told, "-n -M prepared -P 1 -l -c 1 -j 1 -T 1 -f /script --log-prefix=/log host='/s'");
    }
}
