//! Starting children from one thread that never ends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};

use tokio::sync::oneshot;

use super::child::Child;
use super::exec::{DeathSignal, Exec};
use super::{Folder, ProcessError};

/// Starts children in a folder. Cheap to clone; the folder is let go (and removed if it is temporary) when the last
/// clone and the last child are dropped.
#[derive(Debug, Clone)]
pub struct Launcher {
    exe: Arc<Path>,
    folder: Arc<Folder>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Spawn {
    /// The program, by its full path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables to set.
    pub env: Vec<(OsString, OsString)>,
    /// The user to run as, if it is another than ours; needs root's rights.
    pub user: Option<String>,
    /// The signal that it gets when we die.
    pub death_signal: DeathSignal,
    /// The file that it reads as stdin; nothing if none.
    pub input: Option<PathBuf>,
    /// The file that its stdout and stderr are appended to.
    pub log: PathBuf,
    /// Its working directory; ours if none.
    pub directory: Option<PathBuf>,
}

impl Spawn {
    /// A program with arguments and a log, and nothing else said; it is killed when we die.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>, log: impl Into<PathBuf>) -> Spawn {
        Spawn {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            death_signal: DeathSignal::Kill,
            input: None,
            log: log.into(),
            directory: None,
        }
    }
}

impl Launcher {
    /// A launcher in a new temporary folder, which is gone when we are, in whatever way.
    ///
    /// `rootward_exe` is a program that answers to `internal exec` and `internal reap`.
    ///
    /// # Errors
    /// [`ProcessError`] if the folder can't be made or the reaper can't be started.
    pub fn temporary(rootward_exe: impl Into<PathBuf>) -> Result<Launcher, ProcessError> {
        let exe = rootward_exe.into();
        let folder = Arc::new(Folder::temporary(&exe)?);
        Ok(Launcher { exe: exe.into(), folder })
    }

    /// A launcher in a folder that stays; it is made if it is missing.
    ///
    /// # Errors
    /// [`ProcessError::InUse`] if another launcher works in it, another [`ProcessError`] if it can't be used.
    pub fn kept(rootward_exe: impl Into<PathBuf>, folder: &Path) -> Result<Launcher, ProcessError> {
        let exe = rootward_exe.into();
        let folder = Arc::new(Folder::kept(&exe, folder)?);
        Ok(Launcher { exe: exe.into(), folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The program that answers to `internal …`.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Starts a child. It leads a process group of its own, so that Ctrl-C in a terminal reaches us only.
    ///
    /// # Errors
    /// [`ProcessError`] if it can't be started. A program that can't be executed shows as a child that ends with
    /// code 126 and says why in its log.
    pub async fn spawn(&self, spawn: Spawn) -> Result<Child, ProcessError> {
        let failed = |source| ProcessError::Spawn { program: spawn.program.clone(), source };
        let command = self.command(&spawn).map_err(failed)?;
        let (answer, answered) = oneshot::channel();
        let gone = || failed(std::io::Error::other("the launcher's thread has ended"));
        let thread = launcher_thread().ok_or_else(gone)?;
        thread.send(Order { command, answer }).map_err(|_| gone())?;
        let process = answered.await.map_err(|_| gone())?.map_err(failed)?;
        Ok(Child::watch(process, spawn.death_signal, Arc::clone(&self.folder)))
    }

    fn command(&self, spawn: &Spawn) -> std::io::Result<Command> {
        use std::os::unix::process::CommandExt;
        let log = OpenOptions::new().create(true).append(true).open(&spawn.log)?;
        let exec = Exec {
            parent: std::process::id(),
            user: spawn.user.clone(),
            death_signal: spawn.death_signal,
            program: spawn.program.clone(),
            args: spawn.args.clone(),
        };
        let input = match &spawn.input {
            Some(path) => File::open(path)?.into(),
            None => Stdio::null(),
        };
        let mut command = Command::new(&*self.exe);
        // Our allocator gives memory back in pieces of a huge page where it may have those; the processes take none themselves.
        command.env("MIMALLOC_ALLOW_THP", "0");
        command.args(exec.to_args()).envs(spawn.env.iter().map(|(name, value)| (name, value)));
        command.stdin(input).stdout(log.try_clone()?).stderr(log).process_group(0);
        if let Some(directory) = &spawn.directory {
            command.current_dir(directory);
        }
        Ok(command)
    }
}

struct Order {
    command: Command,
    answer: oneshot::Sender<std::io::Result<std::process::Child>>,
}

/// The thread that starts all children. The kernel sends the death signal when the *thread* that started a child
/// ends, and the threads of a tokio runtime come and go; this one stays as long as the process.
fn launcher_thread() -> Option<&'static mpsc::Sender<Order>> {
    static THREAD: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let start = || {
        let (orders, inbox) = mpsc::channel::<Order>();
        let run = move || {
            for mut order in inbox {
                // Whoever asked may have given up; then the child is ended at once.
                if let Err(Ok(mut unwanted)) = order.answer.send(order.command.spawn()) {
                    let _ = unwanted.kill();
                    let _ = unwanted.wait();
                }
            }
        };
        std::thread::Builder::new().name("launcher".to_owned()).spawn(run).ok().map(|_| orders)
    };
    THREAD.get_or_init(start).as_ref()
}
