//! What the kernel says of this process.

use std::{fmt, fs};

use crate::Page;

/// Clock ticks a second in /proc; Linux has never shown another number there.
const TICKS: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// The processor time that this process has used, in seconds; 0 where there is no /proc.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program stands in parentheses and may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// The memory that this process holds, in bytes; 0 where there is no /proc.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// Writes what every process shows, under the names that Prometheus' own libraries give it.
///
/// # Errors
/// Those of the page.
pub fn write_process(page: &mut Page<'_>) -> fmt::Result {
    page.counters("process_cpu_seconds", "Processor time that this process has used, in seconds", [(Vec::new(), cpu_seconds())])?;
    let resident = i64::try_from(resident_bytes()).unwrap_or(i64::MAX);
    page.gauges("process_resident_memory_bytes", "Memory that this process holds, in bytes", [(Vec::new(), resident)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_this_process() {
        assert!(resident_bytes() > 1_000_000);
        let before = cpu_seconds();
        while cpu_seconds() <= before {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
    }
}
