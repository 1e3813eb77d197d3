//! An open loop: requests come at moments that are fixed in advance, whether or not earlier ones have been answered.
//!
//! Latencies count from the moment for which a request was meant. So a pause of the system is felt by all requests that
//! were meant for it, not only by those that happened to be under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{Rng, RngExt as _};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::interval,
};

use super::{
    closed_loop::{Caller, End, Sample, Span},
    live::Live,
};

/// The moments of a schedule that clients wait for, one each.
type Moments = Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>;

/// When requests are meant to be sent, from the start on: with random gaps whose mean fits the rate, as pgbench's `--rate`.
pub(super) fn schedule(rate: f64, length: Duration, random: &mut impl Rng) -> Vec<Duration> {
    let mut moments = Vec::with_capacity((rate * length.as_secs_f64() * 1.1) as usize);
    let mut moment = 0.0;
    loop {
        // Of (0, 1], whose logarithm is a number.
        let share: f64 = 1.0 - random.random::<f64>();
        moment += -share.ln() / rate;
        if moment >= length.as_secs_f64() {
            return moments;
        }
        moments.push(Duration::from_secs_f64(moment));
    }
}

/// Sends requests at this rate by these clients; a request that finds all of them busy waits, and its latency grows.
pub(super) async fn open_loop<C: Caller>(callers: Vec<C>, rate: f64, span: Span, live: &mut Live) -> anyhow::Result<Sample> {
    let schedule = schedule(rate, span.warm + span.measured, &mut rand::rng());
    let (tell, moments) = mpsc::unbounded_channel();
    let start = Instant::now();
    let pacer = tokio::task::spawn_blocking(move || pace(start, &schedule, &tell));
    let moments = Arc::new(Mutex::new(moments));
    let begin = start + span.warm;
    let end = begin + span.measured;
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(serve(caller, moments.clone(), begin, end, count.clone()));
    }
    let mut all = Sample { seconds: span.measured.as_secs_f64(), ..Sample::default() };
    let mut second = interval(Duration::from_secs(1));
    let result = loop {
        tokio::select! {
            part = tasks.join_next() => match part {
                Some(Ok(Ok(part))) => all.add(part),
                Some(Ok(Err(error))) => break Err(error),
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            },
            _ = second.tick() => live.show(count.load(Ordering::Relaxed)),
        }
    };
    // Without its receiver the pacer ends at the next moment.
    drop((tasks, moments));
    pacer.await?;
    all.latencies_us.sort_unstable();
    result.map(|()| all)
}

/// Tells each moment when it has come. A thread of its own: the runtime's timers know milliseconds only.
pub(super) fn pace(start: Instant, schedule: &[Duration], tell: &mpsc::UnboundedSender<Instant>) {
    for moment in schedule {
        let due = start + *moment;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if tell.send(due).is_err() {
            return;
        }
    }
}

async fn serve<C: Caller>(mut caller: C, moments: Moments, begin: Instant, end: Instant, count: Arc<AtomicU64>) -> anyhow::Result<Sample> {
    let mut part = Sample::default();
    loop {
        let Some(due) = moments.lock().await.recv().await else { return Ok(part) };
        match caller.once().await? {
            End::Done => {
                let answered = Instant::now();
                count.fetch_add(1, Ordering::Relaxed);
                part.done += 1;
                part.in_time += u64::from(answered >= begin && answered <= end);
                if due >= begin {
                    part.latencies_us.push(u64::try_from((answered - due).as_micros()).unwrap_or(u64::MAX));
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

    #[test]
    fn a_schedule_keeps_the_rate_with_random_gaps() {
        let moments = schedule(1_000.0, Duration::from_secs(20), &mut rand::rng());
        assert!((19_000..21_000).contains(&moments.len()), "{}", moments.len());
        assert!(moments.is_sorted() && moments.iter().all(|moment| *moment < Duration::from_secs(20)));
        let gaps: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let longer = gaps.iter().filter(|gap| **gap > 0.001).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.03, "a share of 1/e is longer than the mean: {longer}");
    }

    /// Stands still for 200 ms at its fifth request.
    struct Hiccup(u32);

    impl Caller for Hiccup {
        async fn once(&mut self) -> anyhow::Result<End> {
            self.0 += 1;
            anyhow::ensure!(self.0 < 1_000, "worn out");
            if self.0 == 5 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(End::Done)
        }
    }

    #[tokio::test]
    async fn a_pause_is_felt_by_all_requests_that_were_meant_for_it() {
        let span = Span { warm: Duration::ZERO, measured: Duration::from_millis(500) };
        let sample = open_loop(vec![Hiccup(0)], 200.0, span, &mut Live::silent()).await.expect("all answer");
        let late = sample.latencies_us.iter().filter(|latency| **latency > 20_000).count();
        assert!(late > 10, "one client with one pause of 200 ms at 200/s makes some 36 of them late, not {late}");
        assert!(sample.done > 50, "{sample:?}");
    }

    #[tokio::test]
    async fn a_client_that_fails_ends_the_loop() {
        let span = Span { warm: Duration::ZERO, measured: Duration::from_secs(60) };
        let fault = open_loop(vec![Hiccup(998), Hiccup(10)], 2_000.0, span, &mut Live::silent()).await.expect_err("it fails");
        assert_eq!(fault.to_string(), "worn out");
    }
}
