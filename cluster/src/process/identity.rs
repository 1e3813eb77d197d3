//! Which process a number means, who its descendants are, and where it works.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process beyond doubt: numbers are used again, but not with the same start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub pid: u32,
    /// When it started, in the system's own words.
    started: String,
}

impl Identity {
    /// The identity of a process that runs; none if there is no such process.
    pub(super) fn of(pid: u32) -> Option<Identity> {
        started(pid).map(|started| Identity { pid, started })
    }

    pub(super) fn is_alive(&self) -> bool {
        Identity::of(self.pid).as_ref() == Some(self)
    }

    /// One line of text, for the reaper.
    pub(super) fn to_line(&self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    pub(super) fn from_line(line: &str) -> Option<Identity> {
        let (pid, started) = line.split_once(' ')?;
        Some(Identity { pid: pid.parse().ok()?, started: started.to_owned() })
    }
}

/// Sends a signal to one process.
pub(super) fn send(pid: u32, signal: Signal) -> Result<(), nix::Error> {
    kill(Pid::from_raw(i32::try_from(pid).map_err(|_| nix::Error::ESRCH)?), signal)
}

/// Kills a process and its descendants with SIGKILL.
///
/// PostgreSQL's backends lead process groups of their own, so a signal to the postmaster's group doesn't reach them.
/// The process is stopped first: a stopped one starts no further children and collects none that ended, so none of
/// the numbers can come to mean another process in between. The caller makes sure that `pid` is a child of ours.
pub(super) fn kill_tree(pid: u32) -> Result<(), nix::Error> {
    send(pid, Signal::SIGSTOP)?;
    wait_until_stopped(pid);
    let processes = parents();
    let mut doomed = vec![pid];
    let mut next = 0;
    while let Some(parent) = doomed.get(next).copied() {
        doomed.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    // One that is gone already is what we want.
    for descendant in doomed.iter().skip(1) {
        let _ = send(*descendant, Signal::SIGKILL);
    }
    send(pid, Signal::SIGKILL)
}

/// The signal is sent, not yet heeded, when `kill` returns. A few looks suffice; one that doesn't stop is dying.
fn wait_until_stopped(pid: u32) {
    for _ in 0..1000 {
        if is_stopped(pid) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Whether any process works in `directory`; PostgreSQL's postmaster and backends do in their data directory.
///
/// False where the system doesn't tell.
pub(crate) fn works_in(directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else { return false };
    numbers().any(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
}

#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    // A zombie has ended; its parent just doesn't know yet.
    let fields = stat(pid)?;
    if fields.first().is_some_and(|state| state == "Z" || state == "X") { None } else { fields.get(19).cloned() }
}

/// The processes of the machine with their parents.
#[cfg(target_os = "linux")]
fn parents() -> Vec<(u32, u32)> {
    numbers().filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect()
}

#[cfg(target_os = "linux")]
fn is_stopped(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| fields.first().is_none_or(|state| ["T", "t", "Z", "X"].contains(&state.as_str())))
}

/// The fields of `/proc/PID/stat` from the third on; the second, the name, may hold blanks and brackets.
#[cfg(target_os = "linux")]
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

fn numbers() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<String> {
    let pid = pid.to_string();
    let line = ps(&["-o", "lstart=", "-p", &pid]);
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// The processes of the machine with their parents.
#[cfg(not(target_os = "linux"))]
fn parents() -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    ps(&["-axo", "pid=,ppid="]).lines().filter_map(line).collect()
}

#[cfg(not(target_os = "linux"))]
fn is_stopped(pid: u32) -> bool {
    !ps(&["-o", "state=", "-p", &pid.to_string()]).starts_with(['R', 'S', 'I', 'U'])
}

#[cfg(not(target_os = "linux"))]
fn ps(args: &[&str]) -> String {
    let output = std::process::Command::new("ps").args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = Identity::of(std::process::id()).expect("we run");
        assert!(me.is_alive());
        assert_eq!(Identity::from_line(me.to_line().trim_end()).as_ref(), Some(&me));
        let other = Identity { pid: me.pid, started: "1".to_owned() };
        assert!(!other.is_alive());
    }
}
