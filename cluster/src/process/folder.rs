//! The folder in which children keep their files, with the reaper that outlives us.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::ProcessError;
use super::identity::Identity;
use super::reaper::{MARKER, Reaper};

/// Others may pass through but not look: an unprivileged PostgreSQL must reach its own folders inside.
const MODE: u32 = 0o711;

/// A longer temporary directory leaves no room for the names of sockets, which the system limits to 103 bytes.
const LONGEST_TEMPORARY: usize = 40;

/// A folder of ours. Dropping it ends what still runs in it, and removes it if it is temporary.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_temporary: bool,
    reaper: Mutex<Reaper>,
    // The lock is on the open file, so it goes with us however we end.
    _lock: File,
}

impl Folder {
    pub(super) fn temporary(exe: &Path) -> Result<Folder, ProcessError> {
        let parent = short_temporary_directory();
        let failed = |source| ProcessError::Folder { path: parent.clone(), source };
        let made = tempfile::Builder::new().prefix("rootward-").permissions(Permissions::from_mode(MODE)).tempdir_in(&parent);
        let made = made.map_err(failed)?;
        // The mode of the call above is cut by the umask.
        std::fs::set_permissions(made.path(), Permissions::from_mode(MODE)).map_err(failed)?;
        std::fs::write(made.path().join(MARKER), "").map_err(failed)?;
        Folder::open(exe, made.keep(), true)
    }

    pub(super) fn kept(exe: &Path, path: &Path) -> Result<Folder, ProcessError> {
        let failed = |source| ProcessError::Folder { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(MODE).create(path).map_err(failed)?;
        Folder::open(exe, path.canonicalize().map_err(failed)?, false)
    }

    fn open(exe: &Path, path: PathBuf, is_temporary: bool) -> Result<Folder, ProcessError> {
        let failed = |source| ProcessError::Folder { path: path.clone(), source };
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ProcessError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let reaper = Reaper::start(exe, &path, is_temporary).map_err(|source| ProcessError::Spawn { program: exe.to_owned(), source })?;
        Ok(Folder { path, is_temporary, reaper: Mutex::new(reaper), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it goes when we go.
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// Tells the reaper of a process that must not outlive us.
    pub(super) fn record(&self, identity: &Identity) {
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = reaper.tell(identity) {
            // The death signal and the drop still end the child.
            tracing::warn!(%error, pid = identity.pid, "the reaper doesn't answer");
        }
    }
}

/// The system's temporary directory, or `/tmp` if that is too long for sockets.
pub(crate) fn short_temporary_directory() -> PathBuf {
    let directory = std::env::temp_dir();
    if directory.as_os_str().len() <= LONGEST_TEMPORARY { directory } else { PathBuf::from("/tmp") }
}
