//! The cached data directory that every embedded server starts from.
//!
//! `initdb` takes about a second and always makes the same; a copy takes a tenth of that. The cache holds one
//! directory for each version of PostgreSQL and of our own format, made under a lock and renamed when complete, so
//! one that is there is whole.
//!
//! It also has a spare database, which the first one asked for is made of by renaming it: `create database` writes and
//! flushes seven megabytes, which for several servers at once takes longer than all the rest of their start.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::process::{Launcher, Spawn};
use crate::server::ServerError;
use crate::settings::SUPERUSER;

/// Raised with every change of what `initdb` is asked for.
const FORMAT: u32 = 2;

/// The spare database.
pub(crate) const SPARE_DATABASE: &str = "rootward_spare";

/// How long `initdb` may take, and how long we wait for another process that runs it.
const LIMIT: Duration = Duration::from_secs(120);

const POLL: Duration = Duration::from_millis(20);

/// Copies the template to `data`, which must not exist, and gives it to `account`.
///
/// `is_synced` flushes every file: PostgreSQL trusts that what it finds was written before.
pub(crate) async fn copy_to(
    data: &Path,
    binaries: &Binaries,
    launcher: &Launcher,
    account: Option<&Account>,
    is_synced: bool,
) -> Result<(), ServerError> {
    let template = template(binaries, launcher, account).await?;
    copy(template, data.to_owned(), account.cloned(), is_synced).await
}

/// The cached template, made if there is none yet.
async fn template(binaries: &Binaries, launcher: &Launcher, account: Option<&Account>) -> Result<PathBuf, ServerError> {
    let cache = cache_directory().map_err(ServerError::file(Path::new("the cache directory")))?;
    let template = cache.join(format!("pg-{}-{FORMAT}", binaries.version));
    if template.is_dir() {
        return Ok(template);
    }
    let lock = lock(&cache.join("lock")).await?;
    if !template.is_dir() {
        let made = initdb(binaries, launcher, account).await?;
        let fresh = tempfile::Builder::new().prefix("new-").tempdir_in(&cache).map_err(ServerError::file(&cache))?;
        copy(made.path().join("data"), fresh.path().join("data"), None, true).await?;
        std::fs::rename(fresh.path().join("data"), &template).map_err(ServerError::file(&template))?;
    }
    drop(lock);
    Ok(template)
}

/// The first cache directory that can be had: `$ROOTWARD_CACHE`, `$XDG_CACHE_HOME/rootward`, `~/.cache/rootward`, or
/// one under the temporary directory for users without a home.
fn cache_directory() -> io::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = variable("ROOTWARD_CACHE") {
        make_private(&directory)?;
        return directory.canonicalize();
    }
    let candidates = [
        variable("XDG_CACHE_HOME").map(|cache| cache.join("rootward")),
        variable("HOME").map(|home| home.join(".cache/rootward")),
        Some(std::env::temp_dir().join(format!("rootward-cache-{}", geteuid()))),
    ];
    let mut last = io::Error::other("no candidate");
    for candidate in candidates.into_iter().flatten() {
        match make_private(&candidate) {
            Ok(()) => return candidate.canonicalize(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes the directory if it is missing. One of another user is refused: it could hold a server that isn't ours.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = std::fs::metadata(directory)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!("`{}` belongs to another user", directory.display())));
    }
    // Creating a file shows whether we may write, on read-only file systems too.
    tempfile::tempfile_in(directory).map(drop)
}

async fn lock(path: &Path) -> Result<File, ServerError> {
    let failed = ServerError::file(path);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) => return Err(failed(error)),
    };
    let deadline = Instant::now() + LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            Err(TryLockError::WouldBlock) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Makes a new template; its data directory is `data` in the folder.
async fn initdb(binaries: &Binaries, launcher: &Launcher, account: Option<&Account>) -> Result<tempfile::TempDir, ServerError> {
    let parent = launcher.folder().path();
    // In our folder and not in the cache: the account can't reach the home of root.
    let folder = tempfile::Builder::new().prefix("initdb-").tempdir_in(parent).map_err(ServerError::file(parent))?;
    if let Some(account) = account {
        account.own(folder.path()).map_err(ServerError::file(folder.path()))?;
    }
    let tool = Tool { binaries, launcher, account, folder: folder.path() };
    // C: one order of texts everywhere, and keys compare by their bytes, which is what their hash is made from.
    let options = ["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER, "--pgdata"];
    tool.run("initdb", &options, "").await?;
    // A server that reads statements from stdin instead of listening; it stops at the first error and at the end.
    let options = ["--single", "-F", "-c", "exit_on_error=on", "-D"];
    tool.run("postgres", &options, &format!("create database {SPARE_DATABASE} strategy = file_copy\n")).await?;
    Ok(folder)
}

/// What it takes to run PostgreSQL's programs on the data directory in `folder`.
struct Tool<'a> {
    binaries: &'a Binaries,
    launcher: &'a Launcher,
    account: Option<&'a Account>,
    folder: &'a Path,
}

impl Tool<'_> {
    /// Runs a program to its end; the data directory is the value of the last option.
    async fn run(&self, program: &str, options: &[&str], input: &str) -> Result<(), ServerError> {
        let log = self.folder.join("log");
        let statements = self.folder.join("input");
        std::fs::write(&statements, input).map_err(ServerError::file(&statements))?;
        let mut spawn = Spawn::new(self.binaries.program(program), options, &log);
        spawn.args.push(self.folder.join("data").into());
        spawn.input = Some(statements);
        spawn.user = self.account.map(|account| account.name.clone());
        spawn.directory = Some(self.folder.to_owned());
        spawn.env.push(("LC_ALL".into(), "C".into()));
        let child = self.launcher.spawn(spawn).await?;
        match tokio::time::timeout(LIMIT, child.wait()).await {
            Ok(status) if status.success() => Ok(()),
            _ => Err(ServerError::failed(program, &log)),
        }
    }
}

/// A copy of a running server's data, which follows that server: its data directory at `to`.
pub(crate) async fn copy_running(
    to: &Path,
    primary: &str,
    binaries: &Binaries,
    launcher: &Launcher,
    account: Option<&Account>,
) -> Result<(), ServerError> {
    let parent = launcher.folder().path();
    let folder = tempfile::Builder::new().prefix("standby-").tempdir_in(parent).map_err(ServerError::file(parent))?;
    if let Some(account) = account {
        account.own(folder.path()).map_err(ServerError::file(folder.path()))?;
    }
    let tool = Tool { binaries, launcher, account, folder: folder.path() };
    let options = ["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--dbname", primary, "--pgdata"];
    tool.run("pg_basebackup", &options, "").await?;
    std::fs::rename(folder.path().join("data"), to).map_err(ServerError::file(to))
}

async fn copy(from: PathBuf, to: PathBuf, account: Option<Account>, is_synced: bool) -> Result<(), ServerError> {
    let failed = ServerError::file(&to);
    let copied = tokio::task::spawn_blocking(move || copy_tree(&from, &to, account.as_ref(), is_synced)).await;
    copied.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(failed)
}

/// Copies a folder of plain files and folders.
fn copy_tree(from: &Path, to: &Path, account: Option<&Account>, is_synced: bool) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, account, is_synced)?;
            continue;
        }
        std::fs::copy(entry.path(), &target)?;
        if is_synced {
            File::open(&target)?.sync_all()?;
        }
        if let Some(account) = account {
            account.own(&target)?;
        }
    }
    if is_synced {
        File::open(to)?.sync_all()?;
    }
    account.map_or(Ok(()), |account| account.own(to))
}
