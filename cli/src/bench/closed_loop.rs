//! A closed loop: each client sends its next request when it has the answer to the last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use super::{figures::percentile, live::Live};

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    /// By the business logic.
    Refused,
    /// By the database, which may be asked again: a lock waited for too long.
    Aborted,
}

/// One client.
pub(super) trait Caller: Send + 'static {
    /// Sends one request and waits for its answer.
    fn once(&mut self) -> impl Future<Output = anyhow::Result<End>> + Send;
}

/// How long a loop runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Not measured: connections, caches and plans warm up.
    pub warm: Duration,
    pub measured: Duration,
}

/// What a loop did.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Requests that were done, warm-up and last answers included.
    pub done: u64,
    /// Requests whose answer came within the measured time.
    pub in_time: u64,
    pub refused: u64,
    pub aborted: u64,
    /// Of those that were done and began within the measured time, in microseconds, sorted.
    pub latencies_us: Vec<u64>,
    pub seconds: f64,
    /// As another program measured it; else it follows from the count.
    pub per_second: Option<f64>,
}

impl Span {
    /// A measured time with a warm-up of a fifth of it, a second at most.
    pub(super) fn warmed(measured: Duration) -> Span {
        Span { warm: (measured / 5).min(Duration::from_secs(1)), measured }
    }
}

impl Sample {
    pub(super) fn per_second(&self) -> f64 {
        self.per_second.unwrap_or_else(|| self.in_time as f64 / self.seconds)
    }

    pub(super) fn percentile_us(&self, share: f64) -> f64 {
        percentile(&self.latencies_us, share) as f64
    }

    pub(super) fn add(&mut self, part: Sample) {
        self.done += part.done;
        self.in_time += part.in_time;
        self.refused += part.refused;
        self.aborted += part.aborted;
        self.latencies_us.extend(part.latencies_us);
    }
}

/// Runs all clients at once. The first that fails ends the loop.
pub(super) async fn closed_loop<C: Caller>(callers: Vec<C>, span: Span, live: &mut Live) -> anyhow::Result<Sample> {
    let begin = Instant::now() + span.warm;
    let end = begin + span.measured;
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(repeat(caller, begin, end, count.clone()));
    }
    let mut all = Sample { seconds: span.measured.as_secs_f64(), ..Sample::default() };
    let mut second = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            part = tasks.join_next() => match part {
                Some(part) => all.add(part??),
                None => break,
            },
            _ = second.tick() => live.show(count.load(Ordering::Relaxed)),
        }
    }
    all.latencies_us.sort_unstable();
    Ok(all)
}

async fn repeat<C: Caller>(mut caller: C, begin: Instant, end: Instant, count: Arc<AtomicU64>) -> anyhow::Result<Sample> {
    let mut part = Sample::default();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(part);
        }
        let answer = caller.once().await?;
        let answered = Instant::now();
        match answer {
            End::Done => {
                count.fetch_add(1, Ordering::Relaxed);
                part.done += 1;
                part.in_time += u64::from(answered >= begin && answered <= end);
                if sent >= begin {
                    part.latencies_us.push(u64::try_from((answered - sent).as_micros()).unwrap_or(u64::MAX));
                }
            }
            End::Refused => part.refused += 1,
            End::Aborted => part.aborted += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes 10 ms; every fourth request is refused.
    struct Sleeper(u64);

    impl Caller for Sleeper {
        async fn once(&mut self) -> anyhow::Result<End> {
            self.0 += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            anyhow::ensure!(self.0 < 1_000, "worn out");
            Ok(if self.0.is_multiple_of(4) { End::Refused } else { End::Done })
        }
    }

    #[tokio::test]
    async fn a_loop_counts_what_was_done_in_time() {
        let span = Span { warm: Duration::from_millis(100), measured: Duration::from_millis(400) };
        let sample = closed_loop(vec![Sleeper(0), Sleeper(0)], span, &mut Live::silent()).await.expect("all answer");
        assert!(sample.in_time > 0 && sample.in_time < sample.done, "{sample:?}");
        assert!(sample.refused > 0 && sample.refused * 2 < sample.done, "{sample:?}");
        assert!(sample.percentile_us(0.5) >= 10_000.0, "{sample:?}");
        assert!((sample.per_second() - sample.in_time as f64 / 0.4).abs() < 1e-9);
    }

    #[tokio::test]
    async fn a_client_that_fails_ends_the_loop() {
        let span = Span::warmed(Duration::from_secs(60));
        let fault = closed_loop(vec![Sleeper(0), Sleeper(998)], span, &mut Live::silent()).await.expect_err("it fails");
        assert_eq!(fault.to_string(), "worn out");
    }
}
