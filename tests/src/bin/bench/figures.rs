//! Times, and what is said of them.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Times of one operation, in the order they were taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Runs `work` and keeps how long it took.
    pub(crate) fn take<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let value = work()?;
        self.add(start.elapsed());
        Ok(value)
    }

    /// Keeps a time.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that `percent` of all are not above, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    /// The median, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }
}

/// A line with the median and the 95th percentile.
pub(crate) fn line(name: &str, times: &Times) {
    println!("{name:<44} p50 {:>8.2} ms   p95 {:>8.2} ms   n={}", times.median(), times.percentile(95), times.0.len());
}

/// A figure beside its target.
pub(crate) fn against(name: &str, value: f64, unit: &str, target: f64) {
    let verdict = if value <= target { "met" } else { "MISSED" };
    println!("{name:<44} {value:>12.2} {unit:<3} target {target} {unit}: {verdict}");
}
