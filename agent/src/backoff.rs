//! Delays that double: for crashing containers and for failing pulls. Pure: time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    raised: Timestamp,
}

/// The kubelet's back-off table: 10 s, doubled up to 300 s, forgotten after twice the cap without failure.
#[derive(Debug)]
pub(crate) struct Backoff<K> {
    first: Duration,
    cap: Duration,
    entries: HashMap<K, Entry>,
}

impl<K: Eq + Hash> Default for Backoff<K> {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), cap: Duration::from_mins(5), entries: HashMap::new() }
    }
}

/// A wait that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The delay that applies, as messages tell it.
    pub(crate) delay: Duration,
    /// What is left of it.
    pub(crate) left: Duration,
}

impl<K: Eq + Hash> Backoff<K> {
    /// Whether `key`, which failed at `failed`, still has to wait.
    pub(crate) fn waiting(&self, key: &K, failed: Timestamp, now: Timestamp) -> Option<Waiting> {
        let entry = self.entries.get(key).filter(|e| !self.expired(e, failed))?;
        let passed = now.duration_since(failed).max(SignedDuration::ZERO).unsigned_abs();
        let left = entry.delay.checked_sub(passed).filter(|left| !left.is_zero())?;
        Some(Waiting { delay: entry.delay, left })
    }

    /// Notes another attempt after the failure at `failed`: the next wait is longer.
    pub(crate) fn raise(&mut self, key: K, failed: Timestamp, now: Timestamp) {
        let old = self.entries.get(&key).filter(|e| !self.expired(e, failed));
        let delay = old.map_or(self.first, |e| (e.delay * 2).min(self.cap));
        self.entries.insert(key, Entry { delay, raised: now });
    }

    fn expired(&self, entry: &Entry, failed: Timestamp) -> bool {
        let quiet = failed.duration_since(entry.raised);
        quiet > SignedDuration::try_from(self.cap * 2).unwrap_or(SignedDuration::MAX)
    }
}

/// A duration as Go prints it in whole seconds: `10s`, `2m40s`, `5m0s`.
pub(crate) fn go_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn doubles_to_the_cap_and_is_forgotten() {
        let mut backoff = Backoff::default();
        let mut now = 1000;
        assert_eq!(backoff.waiting(&"c", at(now), at(now)), None);
        for delay in [10, 20, 40, 80, 160, 300, 300] {
            backoff.raise("c", at(now), at(now));
            let wait = backoff.waiting(&"c", at(now), at(now)).expect("a wait");
            assert_eq!(wait.delay.as_secs(), delay);
            let nearly = backoff.waiting(&"c", at(now), at(now + delay as i64 - 1));
            assert_eq!(nearly.expect("a wait").left, Duration::from_secs(1));
            assert_eq!(backoff.waiting(&"c", at(now), at(now + delay as i64)), None);
            now += delay as i64;
        }
        let later = now + 601;
        assert_eq!(backoff.waiting(&"c", at(later), at(later)), None);
        backoff.raise("c", at(later), at(later));
        let wait = backoff.waiting(&"c", at(later), at(later)).expect("a wait");
        assert_eq!(wait.delay.as_secs(), 10);
    }

    #[test]
    fn go_text() {
        let text = |s| go_seconds(Duration::from_secs(s));
        assert_eq!([text(10), text(80), text(300)], ["10s", "1m20s", "5m0s"]);
    }
}
