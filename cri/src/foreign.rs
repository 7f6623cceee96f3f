//! Steps on paths that are not the daemon's: a host path may be on a file server that does not answer, and then the
//! thread that looks at it hangs for as long. Such threads are few, and one for each asker.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};

/// Threads that may hang at a time. The pool that all else needs has 512.
const MOST: usize = 32;

/// The threads at work on foreign paths.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    permits: Arc<Semaphore>,
    /// For whom.
    keys: Arc<Mutex<HashSet<String>>>,
}

impl Default for Foreign {
    fn default() -> Foreign {
        Foreign { permits: Arc::new(Semaphore::new(MOST)), keys: Arc::default() }
    }
}

/// Kept by the thread until it is done, however long its asker waits.
struct Held {
    foreign: Foreign,
    key: String,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.foreign.lock().remove(&self.key);
    }
}

impl Foreign {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Engine::blocking`]. Refuses at once while an earlier step of the same `key` hangs, or too many do.
    pub(crate) async fn run<T, F>(&self, key: String, step: impl FnOnce() -> String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let step = step();
        let held = self.hold(key).context(Kind::Unavailable, || step.clone())?;
        Engine::blocking(
            || step,
            move || {
                let _held = held;
                work()
            },
        )
        .await
    }

    fn hold(&self, key: String) -> Result<Held> {
        let busy = |why: &str| Error::new(Kind::Unavailable, why);
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| busy("too many steps wait for the storage of host paths; is it there?"))?;
        if !self.lock().insert(key.clone()) {
            return Err(busy("an earlier attempt still waits for the storage of its host paths; is it there?"));
        }
        Ok(Held { foreign: self.clone(), key, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::{Foreign, MOST};
    use crate::error::Kind;

    fn step() -> String {
        "look".to_owned()
    }

    #[tokio::test]
    async fn threads_that_hang_are_one_for_each_asker_and_few() {
        let foreign = Foreign::default();
        let mut hung = Vec::new();
        for number in 0..MOST {
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let (begin, begun) = tokio::sync::oneshot::channel();
            let own = foreign.clone();
            hung.push((
                release,
                tokio::spawn(async move {
                    let work = move || {
                        begin.send(()).unwrap();
                        let _ = wait.recv();
                        Ok(())
                    };
                    own.run(number.to_string(), step, work).await
                }),
            ));
            begun.await.unwrap();
            let again = foreign.run(number.to_string(), step, || Ok(())).await;
            assert_eq!(again.unwrap_err().kind(), Kind::Unavailable);
        }
        assert_eq!(foreign.run("other".to_owned(), step, || Ok(())).await.unwrap_err().kind(), Kind::Unavailable);
        for (release, asker) in hung {
            drop(release);
            asker.await.unwrap().unwrap();
        }
        foreign.run("0".to_owned(), step, || Ok(())).await.unwrap();
    }
}
