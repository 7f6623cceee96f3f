//! Calls that are made again while the first is in flight join it: no name is ever reserved, so none can stay
//! reserved.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::{Error, Result};

type Outcome<T> = Option<Result<T>>;

/// What is being made now, by key.
pub(crate) struct Joining<T, K = String> {
    flights: Mutex<HashMap<K, watch::Receiver<Outcome<T>>>>,
}

impl<T, K> Default for Joining<T, K> {
    fn default() -> Joining<T, K> {
        Joining { flights: Mutex::default() }
    }
}

impl<T, K> fmt::Debug for Joining<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").finish_non_exhaustive()
    }
}

/// Takes the key out however the work ends, a panic included.
struct Landing<'a, T, K: Hash + Eq> {
    joining: &'a Joining<T, K>,
    key: K,
}

impl<T, K: Hash + Eq> Drop for Landing<'_, T, K> {
    fn drop(&mut self) {
        self.joining.lock().remove(&self.key);
    }
}

impl<T, K> Joining<T, K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Outcome<T>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, K: Hash + Eq + Clone> Joining<T, K> {
    /// Does `work`, or waits for the outcome of the same work that is under way.
    pub(crate) async fn run<F: Future<Output = Result<T>>>(&self, key: K, work: F) -> Result<T> {
        let (sender, receiver) = watch::channel(None);
        let under_way = {
            let mut flights = self.lock();
            let under_way = flights.get(&key).cloned();
            if under_way.is_none() {
                flights.insert(key.clone(), receiver);
            }
            under_way
        };
        if let Some(mut flight) = under_way {
            return match flight.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(lost())),
                Err(_) => Err(lost()),
            };
        }
        let landing = Landing { joining: self, key };
        let outcome = work.await;
        sender.send_replace(Some(outcome.clone()));
        drop(landing);
        outcome
    }
}

fn lost() -> Error {
    Error::internal("the call that this one had joined ended without an outcome")
}

#[cfg(test)]
mod tests {
    use super::Joining;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn the_second_call_gets_the_outcome_of_the_first() {
        let joining = Joining::<usize>::default();
        let count = AtomicUsize::new(0);
        let work = || async {
            let number = count.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(number)
        };
        let (first, second, other) = tokio::join!(
            joining.run("a".to_owned(), work()),
            joining.run("a".to_owned(), work()),
            joining.run("b".to_owned(), work()),
        );
        assert_eq!((first.unwrap(), second.unwrap(), other.unwrap()), (0, 0, 1));
        assert_eq!(joining.run("a".to_owned(), work()).await.unwrap(), 2, "the key is free again");
    }
}
