//! Why containers wait, remembered between two looks at the runtime.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The reason and message of a container's waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// How long after its time an entry still counts.
const STALE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    retry_at: Instant,
}

/// Containers that could not be started, with when to try again.
#[derive(Debug, Default)]
pub(super) struct Reasons(HashMap<String, Entry>);

impl Reasons {
    pub(super) fn set(&mut self, container: &str, waiting: Waiting, retry_in: Duration) {
        let retry_at = Instant::now() + retry_in;
        self.0.insert(container.to_owned(), Entry { waiting, retry_at });
    }

    pub(super) fn clear(&mut self, container: &str) {
        self.0.remove(container);
    }

    pub(super) fn get(&self, container: &str) -> Option<&Waiting> {
        self.0.get(container).map(|e| &e.waiting)
    }

    /// Whether the container's time has not come yet.
    pub(super) fn holds_back(&self, container: &str) -> bool {
        self.0.get(container).is_some_and(|e| Instant::now() < e.retry_at)
    }

    /// Something outside changed (an object, the specification): what failed for configuration is tried anew.
    pub(super) fn retry_configuration(&mut self) {
        let now = Instant::now();
        for entry in self.0.values_mut() {
            if entry.waiting.reason == "CreateContainerConfigError" {
                entry.retry_at = now;
            }
        }
    }

    /// How long until the next container may be tried.
    pub(super) fn next_try(&self) -> Option<Duration> {
        let now = Instant::now();
        // One long past is of a container that will not be started again.
        let near = self.0.values().map(|e| e.retry_at).filter(|at| *at + STALE > now);
        near.min().map(|at| at.saturating_duration_since(now))
    }
}
