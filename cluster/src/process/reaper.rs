//! The process that cleans up after us.
//!
//! `rootward internal reap --dir DIR [--temporary]` runs in a session of its own, reads the identities of our
//! children from a pipe, and does nothing until the pipe is closed, which the kernel does however we end. Then it
//! waits for the children, kills those that stay, and removes the folder if it is temporary. A pipe and not a file:
//! nothing can be read half written, and nothing is left over for the next start.

use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::identity::{Identity, kill_tree, send};

/// Only a folder with this file in it is ever removed.
pub(super) const MARKER: &str = ".rootward-temporary";

/// How long children may take to end by themselves after the death signal: PostgreSQL's immediate shutdown kills
/// stubborn backends after five seconds.
const GRACE: Duration = Duration::from_secs(6);

/// How long the removal of the folder is tried, as long as dying processes still write into it.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(10);

/// Our end of the pipe. Dropping it closes the pipe and waits until the reaper has done its work.
#[derive(Debug)]
pub(super) struct Reaper {
    process: Child,
    /// None only while it is dropped.
    pipe: Option<ChildStdin>,
}

impl Reaper {
    pub(super) fn start(exe: &Path, folder: &Path, is_temporary: bool) -> std::io::Result<Reaper> {
        let mut command = Command::new(exe);
        command.args(["internal", "reap", "--dir"]).arg(folder).current_dir("/");
        if is_temporary {
            command.arg("--temporary");
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let pipe = process.stdin.take();
        Ok(Reaper { process, pipe })
    }

    /// Names a process that must not outlive us.
    pub(super) fn tell(&mut self, child: &Identity) -> std::io::Result<()> {
        self.pipe.as_mut().map_or(Ok(()), |pipe| pipe.write_all(child.to_line().as_bytes()))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.process.wait();
    }
}

/// Does what `internal reap` is for; `args` are those after it.
pub fn reap(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some((folder, is_temporary)) = parse(args) else { return ExitCode::from(2) };
    // Signals that a terminal or a supervisor sends to our group must not end the one who cleans up after it.
    let _ = nix::unistd::setsid();
    let children: Vec<Identity> =
        std::io::stdin().lock().lines().map_while(Result::ok).filter_map(|line| Identity::from_line(&line)).collect();
    end(&children);
    if is_temporary && !remove(&folder) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<(PathBuf, bool)> {
    let (mut folder, mut is_temporary) = (None, false);
    let mut args = args.into_iter();
    while let Some(argument) = args.next() {
        match argument.to_str()? {
            "--dir" => folder = Some(PathBuf::from(args.next()?)),
            "--temporary" => is_temporary = true,
            _ => return None,
        }
    }
    Some((folder?, is_temporary))
}

fn end(children: &[Identity]) {
    if !cfg!(target_os = "linux") {
        // No kernel has told them that we are gone.
        for child in children.iter().filter(|child| child.is_alive()) {
            let _ = send(child.pid, Signal::SIGQUIT);
        }
    }
    let all_gone = || !children.iter().any(Identity::is_alive);
    if wait_until(GRACE, all_gone) {
        return;
    }
    for child in children.iter().filter(|child| child.is_alive()) {
        let _ = kill_tree(child.pid);
    }
    wait_until(GRACE, all_gone);
}

fn remove(folder: &Path) -> bool {
    if !folder.join(MARKER).exists() {
        return !folder.exists();
    }
    wait_until(REMOVAL_LIMIT, || {
        // The marker goes last: an attempt that fails half-way must not take away the leave to go on.
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != MARKER);
        for entry in entries {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let _ = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
        std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().count() == 1) && std::fs::remove_dir_all(folder).is_ok()
    })
}

fn wait_until(limit: Duration, is_done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if is_done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_marker_is_never_removed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("precious"), "x").expect("written");
        assert!(!remove(folder.path()));
        assert!(folder.path().join("precious").exists());
    }

    #[test]
    fn a_folder_with_the_marker_is_removed_with_all_in_it() {
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        std::fs::create_dir_all(folder.join("a/b")).expect("made");
        std::fs::write(folder.join(MARKER), "").expect("written");
        assert!(remove(&folder));
        assert!(!folder.exists());
    }
}
