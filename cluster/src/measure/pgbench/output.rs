//! What pgbench prints and logs.

/// A line `progress: …`: what was done since the line before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Progress {
    /// Seconds since the start.
    pub until: f64,
    /// Seconds since the line before.
    pub took: f64,
    pub per_second: f64,
}

impl Progress {
    pub(super) fn count(self) -> f64 {
        self.per_second * self.took
    }
}

/// All progress lines.
pub(super) fn progress(output: &str) -> Vec<Progress> {
    let mut last = 0.0;
    let one = |line: &str| {
        let (until, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
        let until: f64 = until.parse().ok()?;
        let per_second = rest.split_once(" tps")?.0.parse().ok()?;
        let took = until - std::mem::replace(&mut last, until);
        Some(Progress { until, took, per_second })
    };
    output.lines().filter_map(one).collect()
}

/// How many transactions were committed, from the report at the end.
pub(super) fn processed(output: &str) -> Option<u64> {
    let line = output.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "))?;
    line.split('/').next()?.trim().parse().ok()
}

/// Transactions a second after the first `warm` seconds. What pgbench says of the whole run if it printed no progress after them.
pub(super) fn measured_rate(output: &str, warm: f64) -> f64 {
    let progress = progress(output);
    // A line that is printed a little early or late still belongs to its second.
    let measured = progress.iter().filter(|part| part.until - part.took > warm - 0.5);
    let (count, seconds) = measured.fold((0.0, 0.0), |(count, seconds), part| (count + part.count(), seconds + part.took));
    if seconds > 0.0 { count / seconds } else { whole_rate(output).unwrap_or_default() }
}

fn whole_rate(output: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix("tps = "))?.split(' ').next()?.parse().ok()
}

/// The latencies of the transactions that ended more than `warm` seconds after the first one, in microseconds, sorted.
///
/// A line is: client, number, latency, script, seconds and microseconds since 1970, and perhaps more. With a rate the
/// latency counts from the moment for which the transaction was scheduled.
pub(super) fn log_latencies(log: &str, warm: f64) -> Vec<u64> {
    let one = |line: &str| {
        let mut words = line.split(' ');
        let latency: u64 = words.nth(2)?.parse().ok()?;
        let seconds: u64 = words.nth(1)?.parse().ok()?;
        let micros: u64 = words.next()?.parse().ok()?;
        Some((seconds * 1_000_000 + micros, latency))
    };
    let all: Vec<(u64, u64)> = log.lines().filter_map(one).collect();
    let begin = all.iter().map(|(ended, latency)| ended.saturating_sub(*latency)).min().unwrap_or_default() + (warm * 1e6) as u64;
    let mut latencies: Vec<u64> = all.into_iter().filter(|(ended, _)| *ended >= begin).map(|(_, latency)| latency).collect();
    latencies.sort_unstable();
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "pgbench (15.18 (Debian 15.18-0+deb12u1))
progress: 1.0 s, 1000.0 tps, lat 0.150 ms stddev 0.100, 0 failed
progress: 2.0 s, 6000.0 tps, lat 0.150 ms stddev 0.100, 0 failed
progress: 4.0 s, 9000.0 tps, lat 0.150 ms stddev 0.100, 0 failed
transaction type: /script
number of transactions actually processed: 25123
number of failed transactions: 0 (0.000%)
latency average = 0.245 ms
initial connection time = 9.102 ms
tps = 6280.750000 (without initial connection time)
";

    #[test]
    fn the_rate_is_of_what_came_after_the_warm_up() {
        assert!((measured_rate(OUTPUT, 1.0) - 8000.0).abs() < 1e-9, "{}", measured_rate(OUTPUT, 1.0));
        assert!((measured_rate(OUTPUT, 0.0) - 6250.0).abs() < 1e-9);
        let short = OUTPUT.lines().filter(|line| !line.starts_with("progress")).collect::<Vec<_>>().join("\n");
        assert!((measured_rate(&short, 1.0) - 6280.75).abs() < 1e-9, "without progress it is that of the whole run");
        assert_eq!(processed(OUTPUT), Some(25_123));
        assert_eq!(processed("number of transactions actually processed: 20/20"), Some(20));
        assert_eq!((processed("pgbench: error: connection to server failed"), measured_rate("", 0.0)), (None, 0.0));
        assert_eq!(progress(OUTPUT).iter().map(|part| part.count()).sum::<f64>(), 25_000.0);
    }

    #[test]
    fn latencies_are_those_after_the_warm_up() {
        let log = "0 0 500 0 1700000000 500\n1 0 900 0 1700000000 900\n0 1 300 0 1700000001 700\n1 1 200 0 1700000002 0 50\nbroken\n";
        assert_eq!(log_latencies(log, 1.0), [200, 300]);
        assert_eq!(log_latencies(log, 0.0), [200, 300, 500, 900]);
        assert_eq!(log_latencies("", 1.0), Vec::<u64>::new());
    }
}
