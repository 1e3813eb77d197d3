//! Processor time by process, as the system counts it.

use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};

/// Processor time since the processes began, user and system, in microseconds. It comes in ticks of mostly 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessorTime(f64);

impl ProcessorTime {
    /// One process, its threads, and the children that it has waited for. 0 if there is no such process, and where the
    /// system has no `/proc`.
    pub fn of(pid: u32) -> ProcessorTime {
        sum(&read_all(), |process| process.pid == pid, true)
    }

    /// One process and its threads, without its children.
    pub fn of_alone(pid: u32) -> ProcessorTime {
        sum(&read_all(), |process| process.pid == pid, false)
    }

    /// A process with its direct children, those that ended included: PostgreSQL's postmaster with its backends.
    pub fn of_family(pid: u32) -> ProcessorTime {
        sum(&read_all(), |process| process.pid == pid || process.parent == pid, true)
    }

    /// In microseconds, since an earlier moment.
    pub fn since(self, earlier: ProcessorTime) -> f64 {
        self.0 - earlier.0
    }
}

impl std::iter::Sum for ProcessorTime {
    fn sum<I: Iterator<Item = ProcessorTime>>(all: I) -> ProcessorTime {
        ProcessorTime(all.map(|time| time.0).sum())
    }
}

/// How much memory a process holds, in bytes; 0 where the system doesn't tell.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    pid: u32,
    parent: u32,
    own_ticks: u64,
    children_ticks: u64,
}

fn sum(processes: &[Process], counts: impl Fn(&Process) -> bool, with_children: bool) -> ProcessorTime {
    let ticks = processes.iter().filter(|process| counts(process));
    let ticks: u64 = ticks.map(|process| process.own_ticks + if with_children { process.children_ticks } else { 0 }).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
    ProcessorTime(ticks as f64 * 1e6 / per_second as f64)
}

fn read_all() -> Vec<Process> {
    let entries = std::fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// A line of `/proc/PID/stat`; the second field, the name, may hold blanks and brackets.
fn parse(line: &str) -> Option<Process> {
    let (head, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(Process {
        pid: head.split(' ').next()?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: number(11)? + number(12)?,
        children_ticks: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_behind_a_name_with_brackets() {
        let line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 5 6 20 0 1 0 99 1000 200\n";
        assert_eq!(parse(line), Some(Process { pid: 42, parent: 7, own_ticks: 120, children_ticks: 11 }));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn a_family_is_a_process_with_its_children() {
        let process = |pid, parent| Process { pid, parent, own_ticks: 10, children_ticks: 1 };
        let all = [process(1, 0), process(2, 1), process(3, 1), process(4, 9)];
        let ticks = |time: ProcessorTime| time.since(sum(&all, |_| false, true)) / sum(&all[..1], |_| true, false).0 * 10.0;
        assert_eq!(ticks(sum(&all, |process| process.pid == 1, false)).round(), 10.0);
        assert_eq!(ticks(sum(&all, |process| process.pid == 1 || process.parent == 1, true)).round(), 33.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn we_use_time_and_memory() {
        let before = ProcessorTime::of(std::process::id());
        let began = std::time::Instant::now();
        let mut sum = 0_u64;
        while began.elapsed() < std::time::Duration::from_millis(60) {
            sum = sum.wrapping_add(began.elapsed().as_nanos() as u64);
        }
        assert!(ProcessorTime::of(std::process::id()).since(before) > 0.0, "{sum}");
        assert!(resident_bytes(std::process::id()) > 100_000);
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
