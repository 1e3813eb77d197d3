//! One embedded PostgreSQL server: a direct child of ours on a copied data directory.

mod connect;
mod files;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::account::Account;
use crate::binaries::{Binaries, NotFound, Version};
use crate::process::{Child, DeathSignal, Launcher, ProcessError, Spawn};
use crate::settings::{SUPERUSER, conninfo};

pub use files::Files;

/// How long a start may take, crash recovery included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a stop may take before the server is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often another port is tried if somebody took ours between our choice and PostgreSQL's bind.
const PORT_ATTEMPTS: u32 = 5;

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The server's name: its folder inside the launcher's, and what `ps` shows.
    pub name: String,
    /// Databases that must exist when the start is done.
    pub databases: Vec<String>,
    /// The TCP port on 127.0.0.1; a free one if none.
    pub port: Option<u16>,
    /// Settings that override ours.
    pub settings: Vec<(String, String)>,
}

impl ServerConfig {
    /// A server with no database of its own on a free port.
    pub fn new(name: impl Into<String>) -> ServerConfig {
        ServerConfig { name: name.into(), databases: Vec::new(), port: None, settings: Vec::new() }
    }

    /// With a database.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> ServerConfig {
        self.databases.push(name.into());
        self
    }

    /// With a setting that overrides ours.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> ServerConfig {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers from the WAL.
    Immediate,
}

/// A running server. Dropping it ends it at once, as [`Shutdown::Immediate`] does.
#[derive(Debug)]
pub struct Server {
    // First, so that it is gone before its files are.
    child: Option<Child>,
    config: ServerConfig,
    binaries: Binaries,
    launcher: Launcher,
    account: Option<Account>,
    files: Files,
    port: u16,
    password: String,
}

/// Why a server isn't there.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// PostgreSQL isn't installed.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A process couldn't be handled.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file couldn't be made or changed.
    #[error("`{path}` could not be prepared")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A program of PostgreSQL's failed.
    #[error("`{program}` failed; the end of its log:\n{log}")]
    Failed {
        /// The program.
        program: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// The server runs but didn't answer in time.
    #[error("`{name}` was not ready after {} s; its log is `{log}`", START_LIMIT.as_secs())]
    NotReady {
        /// The server.
        name: String,
        /// Its log.
        log: PathBuf,
        /// What the last attempt to connect got.
        source: Option<tokio_postgres::Error>,
    },
    /// Another server works on the data directory.
    #[error("`{data}` is in use by a running PostgreSQL")]
    InUse {
        /// The data directory.
        data: PathBuf,
    },
    /// We are root, PostgreSQL refuses to run as root, and the user that it runs as instead can't reach its folder.
    #[error("PostgreSQL runs as user `{user}`, who can't enter `{barrier}`; choose another folder or `chmod o+x` this one")]
    Unreachable {
        /// The user.
        user: String,
        /// The folder on the way that is closed.
        barrier: PathBuf,
    },
    /// A statement of the set-up failed.
    #[error("`{name}` could not be set up")]
    SetUp {
        /// The server.
        name: String,
        /// PostgreSQL's reason.
        source: tokio_postgres::Error,
    },
}

impl ServerError {
    pub(crate) fn file(path: &Path) -> impl Fn(std::io::Error) -> ServerError + use<> {
        let path = path.to_owned();
        move |source| ServerError::File { path: path.clone(), source }
    }

    pub(crate) fn failed(program: &str, log: &Path) -> ServerError {
        ServerError::Failed { program: program.to_owned(), log: files::tail(log) }
    }
}

impl Server {
    /// Starts a server in the launcher's folder and waits until it answers. A data directory that is there already
    /// is used, whatever ended its last server.
    ///
    /// Not cancel safe in that the work is lost, but nothing is left over: dropping the future kills the server.
    ///
    /// # Errors
    /// [`ServerError`]; the end of PostgreSQL's log is part of the message where it has one.
    pub async fn start(launcher: &Launcher, config: ServerConfig) -> Result<Server, ServerError> {
        Server::start_as(launcher, config, None).await
    }

    /// Starts a standby that follows this server by streaming replication, with the same settings. It is known to its primary by its name.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_standby(&self, name: &str) -> Result<Server, ServerError> {
        let config = ServerConfig { name: name.to_owned(), databases: Vec::new(), port: None, settings: self.config.settings.clone() };
        let mut primary = self.conninfo(SUPERUSER, "postgres");
        primary.push_str(&format!(" application_name='{name}'"));
        let mut standby = Server::start_as(&self.launcher, config, Some(&primary)).await?;
        standby.password.clone_from(&self.password);
        Ok(standby)
    }

    /// From now on commits wait until a standby has flushed them.
    ///
    /// # Errors
    /// [`ServerError::SetUp`] if the server doesn't take the setting.
    pub async fn wait_for_standbys(&self) -> Result<(), ServerError> {
        let wait = async |client: &tokio_postgres::Client| {
            client.batch_execute("alter system set synchronous_standby_names = '*'").await?;
            client.batch_execute("select pg_reload_conf()").await
        };
        let failed = |source| ServerError::SetUp { name: self.config.name.clone(), source };
        connect::with_connection(&self.superuser_config(), wait).await.map_err(failed)
    }

    /// Makes a standby a primary, and waits until it is.
    ///
    /// # Errors
    /// [`ServerError::SetUp`] if it is none, or doesn't become one.
    pub async fn promote(&self) -> Result<(), ServerError> {
        let promote = async |client: &tokio_postgres::Client| client.query_one("select pg_promote(true, 30)", &[]).await.map(drop);
        let failed = |source| ServerError::SetUp { name: self.config.name.clone(), source };
        connect::with_connection(&self.superuser_config(), promote).await.map_err(failed)
    }

    /// libpq's connection string for whichever of two servers is the primary.
    pub fn conninfo_with(&self, standby: &Server, user: &str, database: &str) -> String {
        let sockets = format!("{},{}", self.files.sockets.display(), standby.files.sockets.display());
        let ports = format!("{},{}", self.port, standby.port);
        let primary = ("target_session_attrs", "read-write");
        conninfo(&[("host", &sockets), ("port", &ports), ("user", user), ("dbname", database), primary])
    }

    async fn start_as(launcher: &Launcher, config: ServerConfig, primary: Option<&str>) -> Result<Server, ServerError> {
        let find = tokio::task::spawn_blocking(Binaries::find).await;
        let binaries = find.map_err(|panic| ServerError::file(Path::new("PATH"))(std::io::Error::other(panic)))??;
        let account = Account::to_switch_to();
        let files = Files::prepare(launcher, &config.name, &binaries, account.as_ref(), primary).await?;
        let mut server = Server {
            port: 0,
            password: uuid::Uuid::new_v4().simple().to_string(),
            child: None,
            launcher: launcher.clone(),
            config,
            binaries,
            account,
            files,
        };
        server.launch().await?;
        Ok(server)
    }

    /// Starts the server again on its data and, if it can be had, its port; one that still runs is stopped first.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.stop(Shutdown::Fast).await?;
        self.launch().await
    }

    /// Stops the server and waits for its end; one that doesn't end in time is killed. Does nothing if it has ended.
    ///
    /// # Errors
    /// [`ServerError::Process`] if the system refuses.
    pub async fn stop(&mut self, how: Shutdown) -> Result<(), ServerError> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let signal = match how {
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
        };
        child.terminate(signal, STOP_LIMIT).await?;
        Ok(())
    }

    /// Kills postmaster and backends with SIGKILL, as a crash would, and waits until they are gone.
    ///
    /// # Errors
    /// [`ServerError::Process`] if the system refuses.
    pub async fn kill_hard(&self) -> Result<(), ServerError> {
        if let Some(child) = &self.child {
            child.kill_group()?;
            child.wait().await;
        }
        Ok(())
    }

    /// Waits until the server ends, for whatever reason. Cancel safe.
    pub async fn wait(&self) -> Option<ExitStatus> {
        match &self.child {
            Some(child) => Some(child.wait().await),
            None => None,
        }
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        self.child.as_ref().is_some_and(Child::is_running)
    }

    /// The postmaster's process id; none after a stop.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// PostgreSQL's version.
    pub fn version(&self) -> Version {
        self.binaries.version
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &'static str {
        SUPERUSER
    }

    /// The superuser's password over TCP, chosen anew for each [`Server::start`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The file that PostgreSQL logs to.
    pub fn log_path(&self) -> &Path {
        &self.files.log
    }

    /// The data directory.
    pub fn data_path(&self) -> &Path {
        &self.files.data
    }

    /// libpq's connection string for the unix socket, where no password is asked.
    pub fn conninfo(&self, user: &str, database: &str) -> String {
        let sockets = self.files.sockets.display().to_string();
        conninfo(&[("host", &sockets), ("port", &self.port.to_string()), ("user", user), ("dbname", database)])
    }

    /// libpq's connection string for TCP; with the password if `user` is the superuser.
    pub fn tcp_conninfo(&self, user: &str, database: &str) -> String {
        let port = self.port.to_string();
        let mut pairs = vec![("host", "127.0.0.1"), ("port", &port), ("user", user), ("dbname", database)];
        if user == SUPERUSER {
            pairs.push(("password", &self.password));
        }
        conninfo(&pairs)
    }

    async fn launch(&mut self) -> Result<(), ServerError> {
        self.files.wait_until_free().await?;
        let mut attempt = 1;
        let log_start = self.files.log_length();
        loop {
            // The port of the last run first, so that a restarted server is found where it was.
            if attempt > 1 || self.port == 0 {
                self.port = self.config.port.map_or_else(files::free_port, Ok).map_err(ServerError::file(Path::new("127.0.0.1")))?;
            }
            self.files.configure(&self.config, self.port, self.account.as_ref())?;
            let child = self.launcher.spawn(self.spawn_options()).await?;
            match self.until_ready(&child).await {
                Ok(()) => {
                    self.child = Some(child);
                    // A standby takes nothing but what its primary sends.
                    return if self.files.is_standby() { Ok(()) } else { self.set_up().await };
                }
                Err(ServerError::Failed { .. })
                    if attempt < PORT_ATTEMPTS && self.config.port.is_none() && self.files.lost_port(log_start) =>
                {
                    attempt += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn_options(&self) -> Spawn {
        let mut spawn =
            Spawn::new(self.binaries.program("postgres"), ["-D".into(), self.files.data.clone().into_os_string()], &self.files.log);
        spawn.user = self.account.as_ref().map(|account| account.name.clone());
        spawn.death_signal = DeathSignal::Quit;
        spawn.directory = Some(self.files.data.clone());
        spawn.env.push(("LC_ALL".into(), "C".into()));
        spawn
    }
}
