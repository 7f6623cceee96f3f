//! Rates out of two readings of a counter.

use std::sync::{Mutex, PoisonError};

/// Readings closer than this, in nanoseconds, give no useful rate: the last one is told again.
const SHORTEST: i64 = 100_000_000;

#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    at: i64,
    value: u64,
    rate: Option<u64>,
}

/// The last reading of a CPU counter.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    last: Mutex<Reading>,
}

impl Rate {
    /// Takes a reading, in nanoseconds of CPU time at nanoseconds since the epoch; the use since the last one, in
    /// billionths of a core. None for the first.
    pub(crate) fn next(&self, at: i64, value: u64) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = at - last.at;
        if last.at != 0 && passed < SHORTEST {
            return last.rate;
        }
        let rate = (last.at != 0 && value >= last.value)
            .then(|| (u128::from(value - last.value) * 1_000_000_000 / u128::from(passed.unsigned_abs())) as u64);
        *last = Reading { at, value, rate };
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn a_rate_needs_two_readings_with_time_between() {
        let rate = Rate::default();
        let second = 1_000_000_000;
        assert_eq!(rate.next(second, 5), None);
        assert_eq!(rate.next(2 * second, 5 + 500_000_000), Some(500_000_000));
        assert_eq!(rate.next(2 * second + 1, u64::MAX), Some(500_000_000));
        assert_eq!(rate.next(4 * second, 0), None, "the counter began anew");
    }
}
