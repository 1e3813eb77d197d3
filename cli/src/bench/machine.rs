//! What it was measured on: without that no number means anything.

use std::{
    io::{Seek as _, Write as _},
    path::Path,
    time::Instant,
};

use serde_json::{Value as Json, json};

use super::figures::percentile;

/// How often a flush is tried.
const FLUSHES: usize = 100;
/// What PostgreSQL writes at once.
const PAGE: [u8; 8192] = [0x5a; 8192];

/// The machine, and the build that was measured.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub cpu_count: usize,
    pub cpu_model: String,
    pub memory_mb: u64,
    pub postgres_version: String,
    pub kernel: String,
    /// How long a page takes to the disk that holds the databases, the median of a hundred; less than some 20 us is no disk.
    pub fdatasync_us: u64,
    pub is_release_build: bool,
}

impl Machine {
    /// Looks at this machine; `data` is where the databases lie.
    pub(crate) fn look(data: &Path, postgres_version: String) -> std::io::Result<Machine> {
        let cpus = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let kilobytes = value_of(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Machine {
            cpu_count: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            cpu_model: value_of(&cpus, "model name").unwrap_or("unknown").to_owned(),
            memory_mb: kilobytes.unwrap_or_default() / 1024,
            postgres_version,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            fdatasync_us: fdatasync_us(data)?,
            is_release_build: !cfg!(debug_assertions),
        })
    }

    pub(crate) fn to_json(&self) -> Json {
        json!({
            "cpu_count": self.cpu_count, "cpu_model": self.cpu_model, "memory_mb": self.memory_mb,
            "postgres_version": self.postgres_version, "kernel": self.kernel, "fdatasync_us": self.fdatasync_us,
            "build": if self.is_release_build { "release" } else { "debug" },
        })
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The value behind `name :` in a file of /proc.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn fdatasync_us(folder: &Path) -> std::io::Result<u64> {
    Ok(percentile(&some_flushes_us(folder, FLUSHES)?, 0.5))
}

/// How long flushes of a page take, one after the other, with nothing else to do: so many that 99 of 100 mean something. Sorted.
pub(crate) fn flushes_us(folder: &Path) -> std::io::Result<Vec<u64>> {
    some_flushes_us(folder, 10 * FLUSHES)
}

fn some_flushes_us(folder: &Path, count: usize) -> std::io::Result<Vec<u64>> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&PAGE)?;
    file.sync_all()?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        // The same page again, as in WAL that has been allocated.
        file.rewind()?;
        let began = Instant::now();
        file.write_all(&PAGE)?;
        file.sync_data()?;
        took.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    took.sort_unstable();
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name() {
        assert_eq!(value_of("MemFree: 1 kB\nMemTotal:       24 kB\n", "MemTotal"), Some("24 kB"));
        assert_eq!(value_of("model name\t: A CPU @ 2: fast\n", "model name"), Some("A CPU @ 2: fast"));
        assert_eq!(value_of("", "x"), None);
    }
}
