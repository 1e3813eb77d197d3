//! A limit on how many units a second a worker takes on, over all its lanes; or how many rows a second are copied when partitions move.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// For how long unused capacity is saved up.
const SAVED: Duration = Duration::from_millis(50);
/// Batches wait until this much time's units may run, so that a limit doesn't mean a flush for each of them.
const GRAIN: Duration = Duration::from_millis(10);

/// A bucket of tokens, one a unit. What a lane takes beyond what is there, everybody waits for.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    /// What may be taken, and as of when; below zero after a lane took more.
    state: Mutex<(f64, Instant)>,
}

impl Pace {
    /// None if there is no limit.
    pub(crate) fn new(per_second: u32) -> Option<Pace> {
        (per_second > 0).then(|| Pace { per_second: f64::from(per_second), state: Mutex::new((0.0, Instant::now())) })
    }

    /// How many units may be taken now, or how long to wait for some.
    pub(crate) fn room(&self, now: Instant) -> Result<usize, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let most = (self.per_second * SAVED.as_secs_f64()).max(1.0);
        let came = now.saturating_duration_since(state.1).as_secs_f64() * self.per_second;
        *state = ((state.0 + came).min(most), now);
        let wanted = (self.per_second * GRAIN.as_secs_f64()).max(1.0);
        if state.0 >= wanted {
            return Ok(state.0 as usize);
        }
        Err(Duration::from_secs_f64((wanted - state.0) / self.per_second).max(Duration::from_millis(1)))
    }

    /// Takes the units that a batch has, or the rows of a copy.
    pub(crate) fn spend(&self, units: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 -= units as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn as_many_units_run_as_the_limit_says_whoever_takes_them() {
        let pace = Pace::new(1_000).expect("a limit");
        let (began, mut taken) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(2) {
            match pace.room(Instant::now()) {
                // Two lanes that look at once both take what one of them may.
                Ok(room) => {
                    pace.spend(room * 2);
                    taken += room * 2;
                }
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        assert!((1_950..=2_050).contains(&taken), "{taken}");
        assert!(Pace::new(0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_below_one_batch_a_grain_is_kept_too() {
        let pace = Pace::new(2).expect("a limit");
        assert!(pace.room(Instant::now()).is_err(), "nothing is saved up yet");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pace.room(Instant::now()), Ok(1));
        pace.spend(1);
        assert_eq!(pace.room(Instant::now()), Err(Duration::from_millis(500)));
    }
}
