//! pgbouncer in front of one database, as people put it there: transaction pooling over unix sockets.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::session::Session;
use crate::{Child, Launcher, ProcessError, Spawn, account::Account};

/// The only thing that the number means is the socket's name.
const PORT: &str = "6432";
const START_LIMIT: Duration = Duration::from_secs(10);
/// Distributions put a daemon where users don't look.
const PLACES: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
/// The first version that knows a client's prepared statements while it pools transactions.
const FIRST_WITH_PREPARED: (u32, u32) = (1, 21);
/// Sessions to PostgreSQL. More than PostgreSQL has cores for makes it slower, not faster.
const POOL_SIZE: usize = 20;

/// A running pgbouncer. Dropping it ends it.
#[derive(Debug)]
pub struct Pgbouncer {
    // First, so that it is gone before its files are.
    _child: Child,
    _folder: tempfile::TempDir,
    database: String,
    protocol: &'static str,
    settings: String,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum PgbouncerError {
    /// It could not be started.
    #[error("pgbouncer")]
    Process(#[from] ProcessError),
    /// A file of its could not be written.
    #[error("can't use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not answer.
    #[error("pgbouncer did not answer within {START_LIMIT:?}; what it said:\n{0}")]
    NotUp(String),
}

impl Pgbouncer {
    /// The program, if it is installed.
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
        places.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
    }

    /// Starts it in front of a database and waits until it answers.
    ///
    /// # Errors
    /// [`PgbouncerError`]; nothing is left over.
    pub async fn start(launcher: &Launcher, program: &Path, database: &str, most_clients: usize) -> Result<Pgbouncer, PgbouncerError> {
        let version = version(program);
        let knows_prepared = version >= FIRST_WITH_PREPARED;
        let folder = tempfile::tempdir_in(launcher.folder().path()).map_err(failed(launcher.folder().path()))?;
        let account = Account::to_switch_to();
        let settings = settings(most_clients, knows_prepared);
        let path = folder.path().join("pgbouncer.ini");
        let sockets = folder.path().display().to_string();
        std::fs::write(&path, configuration(database, &sockets, &settings)).map_err(failed(&path))?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).map_err(failed(folder.path()))?;
        for owned in [folder.path(), &path] {
            account.as_ref().map_or(Ok(()), |account| account.own(owned)).map_err(failed(owned))?;
        }
        let log = folder.path().join("output");
        let mut spawn = Spawn::new(program, ["-q".into(), path.into_os_string()], &log);
        spawn.user = account.map(|account| account.name);
        let child = launcher.spawn(spawn).await?;
        let bouncer = Pgbouncer {
            _child: child,
            database: crate::settings::conninfo(&[("host", &sockets), ("port", PORT), ("user", "bench"), ("dbname", "bench")]),
            protocol: if knows_prepared { "prepared" } else { "simple" },
            settings: format!("{}.{}: {}", version.0, version.1, settings.join(", ")),
            _folder: folder,
        };
        bouncer.until_ready(&log).await?;
        Ok(bouncer)
    }

    /// libpq's connection string through it.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How pgbench should send its statements: prepared if pgbouncer knows them while it pools transactions; if not, as plain
    /// text, of which each statement is one message to pass on.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Its version and settings, for people.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    async fn until_ready(&self, log: &Path) -> Result<(), PgbouncerError> {
        let deadline = Instant::now() + START_LIMIT;
        while Session::open(&self.database, "rootward bench").await.is_err() {
            if Instant::now() >= deadline {
                return Err(PgbouncerError::NotUp(std::fs::read_to_string(log).unwrap_or_default()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn settings(most_clients: usize, knows_prepared: bool) -> Vec<String> {
    let mut settings = vec![
        "pool_mode = transaction".to_owned(),
        format!("default_pool_size = {POOL_SIZE}"),
        format!("max_client_conn = {}", most_clients + 10),
        "server_reset_query =".to_owned(),
        "log_connections = 0".to_owned(),
        "log_disconnections = 0".to_owned(),
    ];
    if knows_prepared {
        settings.push("max_prepared_statements = 100".to_owned());
    }
    settings
}

/// `auth_type = any` lets everybody in who may enter the socket's folder, which is its owner.
fn configuration(database: &str, sockets: &str, settings: &[String]) -> String {
    let settings = settings.join("\n");
    format!(
        "[databases]\nbench = {database}\n[pgbouncer]\nunix_socket_dir = {sockets}\nlisten_port = {PORT}\nauth_type = any\n\
         ignore_startup_parameters = extra_float_digits\n{settings}\n"
    )
}

/// 1.18 of `PgBouncer 1.18.0`; 0.0 if it doesn't tell.
fn version(program: &Path) -> (u32, u32) {
    let output = std::process::Command::new(program).arg("--version").output();
    parse_version(&output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()).unwrap_or_default()
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> PgbouncerError + use<> {
    let path = path.to_owned();
    move |source| PgbouncerError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_statements_are_asked_for_where_they_are_known() {
        assert_eq!(parse_version("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n"), Some((1, 18)));
        assert!(parse_version("PgBouncer 1.24.1").is_some_and(|version| version >= FIRST_WITH_PREPARED));
        assert_eq!(parse_version("no version"), None);
        let text = configuration("host='/s' dbname='p1'", "/b", &settings(128, true));
        assert!(text.contains("bench = host='/s' dbname='p1'\n") && text.contains("pool_mode = transaction\n"), "{text}");
        assert!(text.contains("max_client_conn = 138\n") && text.contains("max_prepared_statements"), "{text}");
    }
}
