//! The handle of a running child.

use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::identity::{Identity, kill_tree, send};
use super::{DeathSignal, Folder, ProcessError};

/// How long a dropped child may take to vanish after SIGKILL.
const DROP_LIMIT: Duration = Duration::from_secs(5);

/// How long a dropped child may take to end by its death signal.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// A running child. Dropping it sends its death signal, kills it and its descendants if that doesn't end it soon, and waits until it is gone.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    /// A PostgreSQL that is killed outright leaves a segment of shared memory behind, of which a system has a few thousand.
    death_signal: DeathSignal,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<ExitStatus>>,
    // Held until the child is gone, so that its folder isn't removed under it.
    _folder: Arc<Folder>,
}

/// Written by the child's watching thread, read by whoever signals.
#[derive(Debug)]
struct Shared {
    /// True once the child was collected; from then on its number may mean another process.
    is_collected: Mutex<bool>,
    changed: Condvar,
}

impl Child {
    pub(super) fn watch(mut process: std::process::Child, death_signal: DeathSignal, folder: Arc<Folder>) -> Child {
        let pid = process.id();
        if let Some(identity) = Identity::of(pid) {
            folder.record(&identity);
        }
        let shared = Arc::new(Shared { is_collected: Mutex::new(false), changed: Condvar::new() });
        let (tell, ended) = watch::channel(None);
        let watched = Arc::clone(&shared);
        let watch = move || {
            let status = watched.collect(&mut process);
            // Nobody may be listening any more.
            let _ = tell.send(status);
        };
        // Without a thread nobody would collect the child; the process has run out of everything then.
        std::thread::Builder::new().name(format!("child-{pid}")).spawn(watch).expect("a thread to watch a child");
        Child { pid, death_signal, shared, ended, _folder: folder }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !*self.shared.lock()
    }

    /// Waits for its end. Cancel safe.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        // The sender goes only after it has told, unless collecting failed; then the child was not ours to wait for.
        status.unwrap_or_default()
    }

    /// Sends a signal; a child that has ended gets none.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] if the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        self.unless_collected(|pid| send(pid, signal))
    }

    /// SIGKILL to this one process. PostgreSQL's backends outlive their postmaster for a moment; see [`Child::kill_group`].
    ///
    /// # Errors
    /// [`ProcessError::Signal`] if the system refuses.
    pub fn kill_hard(&self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGKILL)
    }

    /// SIGKILL to the process and all its descendants.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] if the system refuses.
    pub fn kill_group(&self) -> Result<(), ProcessError> {
        self.unless_collected(kill_tree)
    }

    /// Asks it to end with `signal`, and kills it with its descendants if it hasn't within `grace`.
    ///
    /// # Errors
    /// [`ProcessError::Signal`] if the system refuses.
    pub async fn terminate(&self, signal: Signal, grace: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(signal)?;
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return Ok(status);
        }
        self.kill_group()?;
        Ok(self.wait().await)
    }

    fn unless_collected(&self, act: impl FnOnce(u32) -> Result<(), nix::Error>) -> Result<(), ProcessError> {
        let is_collected = self.shared.lock();
        match if *is_collected { Ok(()) } else { act(self.pid) } {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(source) => Err(ProcessError::Signal { pid: self.pid, source }),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A failure leaves the child to the kernel's death signal and the reaper.
        if !matches!(self.death_signal, DeathSignal::Kill) {
            let _ = self.signal(self.death_signal.signal());
            if self.shared.is_gone_within(DROP_GRACE) {
                return;
            }
        }
        let _ = self.kill_group();
        self.shared.is_gone_within(DROP_LIMIT);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        // A flag is never half written.
        self.is_collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone_within(&self, limit: Duration) -> bool {
        match self.changed.wait_timeout_while(self.lock(), limit, |is_collected| !*is_collected) {
            Ok((is_collected, _)) => *is_collected,
            Err(poisoned) => *poisoned.into_inner().0,
        }
    }

    /// Waits for the end and collects the child under the lock, so that nobody signals a number that is free again.
    fn collect(&self, process: &mut std::process::Child) -> Option<ExitStatus> {
        wait_without_collecting(process.id());
        loop {
            let mut is_collected = self.lock();
            let status = process.try_wait();
            if !matches!(status, Ok(None)) {
                *is_collected = true;
                self.changed.notify_all();
                return status.ok().flatten();
            }
            drop(is_collected);
            // Only where the system has no call to wait without collecting.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(target_os = "linux")]
fn wait_without_collecting(pid: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let Ok(raw) = i32::try_from(pid) else { return };
    let pid = nix::unistd::Pid::from_raw(raw);
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::Error::EINTR) {}
}

#[cfg(not(target_os = "linux"))]
fn wait_without_collecting(_pid: u32) {}
