//! Memory of router and workers under lasting load: a second a sample, and whether it grows.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{figures::Figures, meter::Meter};

/// What each may hold, and how much it may grow, once caches are full.
const GOAL_MB: f64 = 150.0;
const GOAL_MB_PER_MINUTE: f64 = 1.0;

/// What was seen each second.
#[derive(Debug, Default)]
pub(super) struct Memory {
    router_mb: Vec<f64>,
    /// Of the largest worker.
    worker_mb: Vec<f64>,
}

impl Memory {
    /// Looks each second until it is dropped.
    pub(super) async fn watch(&mut self, meter: &Meter) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            second.tick().await;
            let (router, worker) = meter.memory_mib();
            let mb = |mib: f64| mib * f64::from(1 << 20) / 1e6;
            self.router_mb.push(mb(router));
            self.worker_mb.push(mb(worker));
        }
    }

    /// The most that was seen, start, middle and end, and the growth in the second half.
    pub(super) fn add_to(&self, figures: &mut Figures) {
        for (name, samples) in [("router", &self.router_mb), ("worker", &self.worker_mb)] {
            let at = |place: usize| samples.get(place).copied().unwrap_or_default();
            figures.add(format!("{name}_rss_mb"), "MB", samples.iter().copied().fold(0.0, f64::max));
            figures.add(format!("{name}_rss_mb_start"), "MB", at(0));
            figures.add(format!("{name}_rss_mb_middle"), "MB", at(samples.len() / 2));
            figures.add(format!("{name}_rss_mb_end"), "MB", at(samples.len().saturating_sub(1)));
            figures.add(format!("{name}_rss_mb_per_min"), "MB/min", slope(&samples[samples.len() / 2..]) * 60.0);
        }
    }

    /// In words, from the figures.
    pub(super) fn table(figures: &Figures) -> String {
        let line = |name: &str| {
            let of = |what: &str| figures.median(&format!("{name}_rss_mb{what}"));
            let (most, growth) = (of(""), of("_per_min"));
            let is_held = most <= GOAL_MB && growth <= GOAL_MB_PER_MINUTE;
            format!(
                "\nmemory of {name}: {:.1} MB at the start, {:.1} in the middle, {:.1} at the end, {most:.1} at most, {growth:+.2} a minute in \
                 the second half; goal {GOAL_MB:.0} MB, flat: {}",
                of("_start"),
                of("_middle"),
                of("_end"),
                if is_held { "held" } else { "missed" }
            )
        };
        line("router") + &line("worker")
    }
}

/// The growth from one sample to the next, by least squares.
fn slope(samples: &[f64]) -> f64 {
    let count = samples.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, samples.iter().sum::<f64>() / count);
    let offsets = samples.iter().enumerate().map(|(at, sample)| (at as f64 - middle, sample - mean));
    let (product, square) = offsets.fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x * y, sum.1 + x * x));
    if square > 0.0 { product / square } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_second_half() {
        assert_eq!((slope(&[]), slope(&[5.0]), slope(&[1.0, 3.0, 5.0])), (0.0, 0.0, 2.0));
        let grown: Vec<f64> = (0..60).map(|at| if at < 30 { f64::from(at) } else { 30.0 }).collect();
        let leaking: Vec<f64> = (0..60).map(|at| 100.0 + f64::from(at)).collect();
        let mut figures = Figures::default();
        Memory { router_mb: grown, worker_mb: leaking }.add_to(&mut figures);
        assert_eq!((figures.median("router_rss_mb_per_min"), figures.median("router_rss_mb_end")), (0.0, 30.0));
        assert_eq!((figures.median("worker_rss_mb_per_min"), figures.median("worker_rss_mb")), (60.0, 159.0));
        let text = Memory::table(&figures);
        assert!(
            text.contains("memory of router: 0.0 MB at the start") && text.contains("flat: held") && text.contains("flat: missed"),
            "{text}"
        );
    }
}
