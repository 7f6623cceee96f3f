//! A watcher: a cursor in a resource's event log.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::cache::{Cache, Event};

/// The changes after the cursor have left the log; list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired;

/// Follows the changes of one resource.
#[derive(Debug)]
pub(crate) struct Watcher {
    cache: Arc<RwLock<Cache>>,
    resource: &'static str,
    cursor: u64,
    wake: watch::Receiver<u64>,
}

impl Watcher {
    pub(super) fn new(
        cache: Arc<RwLock<Cache>>,
        resource: &'static str,
        cursor: u64,
        wake: watch::Receiver<u64>,
    ) -> Self {
        Self { cache, resource, cursor, wake }
    }

    /// The next changes, at least one; waits for them. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            self.wake.mark_unchanged();
            let events = self.poll()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.wake.changed().await.is_err() {
                // The store is closed: nothing will ever come.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The changes that are there already.
    pub(crate) fn poll(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        let (events, revision) = cache.events_after(self.resource, self.cursor).ok_or(Expired)?;
        self.cursor = revision;
        Ok(events)
    }

    /// Everything up to this revision has been returned.
    pub(crate) fn revision(&self) -> u64 {
        self.cursor
    }
}
