//! A flood: each request is sent at its moment, however many are under way. Nothing holds it back but the machine, so it can offer many
//! times more than is taken.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rootward_client::{Call, Fault, v1::RetryClass};
use tokio::{sync::mpsc, task::JoinSet, time::interval};

use super::{
    closed_loop::Span,
    live::Live,
    open_loop::{pace, schedule},
};

/// How many moments are taken at once when several have passed.
const MOST_AT_ONCE: usize = 1024;

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    /// With this code: it was not executed.
    Refused(&'static str),
    /// Nobody knows, and whoever asked has left.
    Unknown,
}

/// What a flood did.
#[derive(Debug, Default)]
pub(super) struct Flooded {
    /// Requests that were made, warm-up included; a request that is tried again is one.
    pub requests: u64,
    /// By request id, warm-up included.
    pub ends: Ends,
    /// Requests that were sent within the measured time.
    pub offered: u64,
    /// Requests that were answered as done within the measured time and their deadline.
    pub in_time: u64,
    /// Requests that were refused in the end within the measured time, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Requests of whose outcome nobody was told in time.
    pub unknown: u64,
    /// Of those that were done and meant for the measured time, in microseconds, sorted.
    pub latencies_us: Vec<u64>,
    pub seconds: f64,
}

/// What became of requests, by their ids.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub done: Vec<String>,
    /// Refused before they were executed; with the code.
    pub refused: Vec<(String, &'static str)>,
    pub unknown: Vec<String>,
}

/// Sends the requests that `call` makes at this rate, each with this deadline. A failure that is no refusal ends it.
pub(super) async fn flood(
    mut call: impl FnMut() -> anyhow::Result<Call>,
    rate: f64,
    deadline: Duration,
    span: Span,
    live: &mut Live,
) -> anyhow::Result<Flooded> {
    let schedule = schedule(rate, span.warm + span.measured, &mut rand::rng());
    let (tell, mut moments) = mpsc::unbounded_channel();
    let start = Instant::now();
    let pacer = tokio::task::spawn_blocking(move || pace(start, &schedule, &tell));
    let begin = start + span.warm;
    let measured = begin..=begin + span.measured;
    let mut flooded = Flooded { seconds: span.measured.as_secs_f64(), ..Flooded::default() };
    let mut tasks = JoinSet::new();
    let mut due = Vec::new();
    let mut second = interval(Duration::from_secs(1));
    let mut is_open = true;
    while is_open || !tasks.is_empty() {
        tokio::select! {
            count = moments.recv_many(&mut due, MOST_AT_ONCE), if is_open => {
                is_open = count > 0;
                flooded.requests += count as u64;
                for due in due.drain(..) {
                    flooded.offered += u64::from(measured.contains(&Instant::now()));
                    tasks.spawn(once(call()?.with_deadline(deadline), due));
                }
            }
            Some(ended) = tasks.join_next() => flooded.add(ended??, deadline, &measured),
            _ = second.tick() => live.show(flooded.ends.done.len() as u64),
        }
    }
    pacer.await?;
    flooded.latencies_us.sort_unstable();
    Ok(flooded)
}

struct Ended {
    id: String,
    end: End,
    due: Instant,
    answered: Instant,
}

async fn once(call: Call, due: Instant) -> anyhow::Result<Ended> {
    let id = call.request_id().to_owned();
    let sent = call.send().await;
    let end = match sent {
        Ok(_) => End::Done,
        Err(fault) => refused(fault)?,
    };
    Ok(Ended { id, end, due, answered: Instant::now() })
}

fn refused(fault: Fault) -> anyhow::Result<End> {
    match fault.retry_class() {
        RetryClass::Retry | RetryClass::Reroute => {
            let known = rootward_schema::codes::find(fault.code());
            Ok(End::Refused(known.map_or("unknown code", |entry| entry.code)))
        }
        RetryClass::OutcomeUnknown => Ok(End::Unknown),
        _ => Err(fault.into()),
    }
}

impl Flooded {
    fn add(&mut self, ended: Ended, deadline: Duration, measured: &std::ops::RangeInclusive<Instant>) {
        let Ended { id, end, due, answered } = ended;
        let is_measured = measured.contains(&answered);
        match end {
            End::Done => {
                let took = answered.saturating_duration_since(due);
                self.in_time += u64::from(is_measured && took <= deadline);
                if measured.contains(&due) {
                    self.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                }
                self.ends.done.push(id);
            }
            End::Refused(code) => {
                *self.refused.entry(code).or_default() += u64::from(is_measured);
                self.ends.refused.push((id, code));
            }
            End::Unknown => {
                self.unknown += u64::from(is_measured);
                self.ends.unknown.push(id);
            }
        }
    }
}

impl Ends {
    pub(super) fn extend(&mut self, other: Ends) {
        self.done.extend(other.done);
        self.refused.extend(other.refused);
        self.unknown.extend(other.unknown);
    }

    /// Compares with the ids of what is in the database; gives the number of requests that were done though their client had left.
    ///
    /// # Errors
    /// If something that was refused has been done, something done is missing or there twice, or something is there that nobody sent.
    pub(super) fn check(&self, applied: &[String]) -> anyhow::Result<usize> {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        applied.iter().for_each(|id| *times.entry(id).or_default() += 1);
        let of = |id: &String| times.get(id.as_str()).copied().unwrap_or_default();
        let refused: Vec<&(String, &str)> = self.refused.iter().filter(|(id, _)| of(id) > 0).collect();
        if let Some((id, code)) = refused.first() {
            anyhow::bail!("{} requests were refused and have been done all the same, {id} among them ({code})", refused.len());
        }
        let wrong = self.done.iter().filter(|id| of(id) != 1).count();
        anyhow::ensure!(wrong == 0, "{wrong} requests that were answered as done are not there once each");
        let twice = self.unknown.iter().filter(|id| of(id) > 1).count();
        anyhow::ensure!(twice == 0, "{twice} requests were done twice");
        let late = self.unknown.iter().filter(|id| of(id) == 1).count();
        anyhow::ensure!(
            applied.len() == self.done.len() + late,
            "{} requests are there that nobody sent",
            applied.len() - self.done.len() - late
        );
        Ok(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn what_was_refused_must_not_be_there_and_what_was_done_must_be_once() {
        let ends = Ends { done: ids(&["a", "b"]), refused: vec![("r".to_owned(), "RW3103")], unknown: ids(&["u", "v"]) };
        assert_eq!(ends.check(&ids(&["a", "b"])).expect("right"), 0);
        assert_eq!(ends.check(&ids(&["u", "b", "a"])).expect("right"), 1);
        for (applied, said) in [
            (&["a", "b", "r"][..], "r among them (RW3103)"),
            (&["a"], "1 requests that were answered as done"),
            (&["a", "b", "b"], "1 requests that were answered as done"),
            (&["a", "b", "u", "u"], "1 requests were done twice"),
            (&["a", "b", "x"], "that nobody sent"),
        ] {
            let wrong = ends.check(&ids(applied)).expect_err(said).to_string();
            assert!(wrong.contains(said), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_answered_within_its_deadline_counts() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut flooded = Flooded::default();
        let measured = at(1_000)..=at(2_000);
        let deadline = Duration::from_millis(500);
        for (end, due, answered) in [
            (End::Done, 900, 1_100),
            (End::Done, 1_100, 1_500),
            (End::Done, 1_100, 1_700),
            (End::Done, 1_900, 2_100),
            (End::Refused("RW3001"), 900, 950),
            (End::Refused("RW3001"), 1_100, 1_101),
            (End::Unknown, 1_100, 1_200),
        ] {
            flooded.add(Ended { id: String::new(), end, due: at(due), answered: at(answered) }, deadline, &measured);
        }
        flooded.latencies_us.sort_unstable();
        assert_eq!((flooded.in_time, flooded.unknown, flooded.refused["RW3001"]), (2, 1, 1));
        assert_eq!(flooded.latencies_us, [200_000, 400_000, 600_000]);
        assert_eq!((flooded.ends.done.len(), flooded.ends.refused.len()), (4, 2));
    }
}
