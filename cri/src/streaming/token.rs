//! One-time tokens for streams that wait for their client.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;

/// How long a client may take to come for its stream.
const LIFETIME: Duration = Duration::from_mins(1);

/// How many streams may wait at once.
const CAPACITY: usize = 1000;

/// What waits for a client, by token.
#[derive(Debug)]
pub(super) struct TokenCache<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: HashMap<String, T>,
    /// In the order of expiry, since all tokens live equally long.
    expiry: VecDeque<(Instant, String)>,
}

impl<T> TokenCache<T> {
    pub(super) fn new() -> TokenCache<T> {
        TokenCache { inner: Mutex::new(Inner { waiting: HashMap::new(), expiry: VecDeque::new() }) }
    }

    /// Keeps `value` and returns the token for it: 128 random bits in hexadecimal.
    pub(super) fn insert(&self, value: T) -> Result<String, Error> {
        self.lock().insert(value, Instant::now())
    }

    /// Takes what `token` stands for, if it was neither taken before nor has expired.
    pub(super) fn take(&self, token: &str) -> Option<T> {
        self.lock().take(token, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Inner<T> {
    fn insert(&mut self, value: T, now: Instant) -> Result<String, Error> {
        self.forget_expired(now);
        if self.expiry.len() >= CAPACITY {
            return Err(Error::TooManyPending { limit: CAPACITY });
        }
        let token = hex::encode(rand::random::<[u8; 16]>());
        self.expiry.push_back((now + LIFETIME, token.clone()));
        self.waiting.insert(token.clone(), value);
        Ok(token)
    }

    fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        self.forget_expired(now);
        let value = self.waiting.remove(token)?;
        self.expiry.retain(|(_, waiting)| waiting != token);
        Some(value)
    }

    fn forget_expired(&mut self, now: Instant) {
        while self.expiry.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, token)) = self.expiry.pop_front() {
                self.waiting.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_once() {
        let cache = TokenCache::new();
        let token = cache.insert(7).unwrap();
        assert_eq!(cache.take(&token), Some(7));
        assert_eq!(cache.take(&token), None);
        assert_eq!(cache.take("never given"), None);
    }

    #[test]
    fn a_token_expires() {
        let cache = TokenCache::new();
        let now = Instant::now();
        let token = cache.lock().insert((), now).unwrap();
        assert_eq!(cache.lock().take(&token, now + LIFETIME), None);
    }

    #[test]
    fn the_cache_is_bounded_and_empties_with_time() {
        let cache = TokenCache::new();
        let now = Instant::now();
        for _ in 0..CAPACITY {
            cache.lock().insert((), now).unwrap();
        }
        assert!(matches!(cache.lock().insert((), now), Err(Error::TooManyPending { .. })));
        let later = now + LIFETIME;
        let token = cache.lock().insert((), later).unwrap();
        assert!(cache.lock().take(&token, later).is_some());
        assert!(cache.lock().waiting.is_empty() && cache.lock().expiry.is_empty());
    }
}
