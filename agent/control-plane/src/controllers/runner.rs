//! What runs a controller: changes become keys, keys wait in a queue without doubles, and no key is worked on twice
//! at once. A failure is tried again after a delay that doubles.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::registry::resource::Resource;
use crate::registry::{Registry, name_of, namespace_of};
use crate::status::Status;
use crate::store::Key;

/// Keys worked on at once.
const WORKERS: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_mins(5);
/// However far off a key is due, it is looked at again by then.
const LATEST: Duration = Duration::from_hours(24);

/// A change of an object that a controller watches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) resource: &'static Resource,
    pub(super) object: &'a Value,
    pub(super) previous: Option<&'a Value>,
    pub(super) deleted: bool,
}

/// A controller.
pub(super) trait Reconciler: Send + Sync + 'static {
    /// For the log.
    const NAME: &'static str;

    /// What it watches.
    fn sources(&self) -> Vec<&'static Resource>;

    /// Which objects a change makes it look at.
    fn keys(&self, change: Change<'_>) -> Vec<Key>;

    /// Looks at one object; returns when to look again if nothing changes.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Option<Duration>, Status>> + Send;
}

/// The key of an object.
pub(super) fn key_of(resource: &'static Resource, object: &Value) -> Key {
    let (namespace, name) = (namespace_of(object).to_owned(), name_of(object).to_owned());
    Key { resource: resource.storage, namespace, name }
}

/// Runs a controller until told to stop.
pub(super) async fn run<R: Reconciler>(reconciler: R, registry: Arc<Registry>, stop: CancellationToken) {
    let reconciler = Arc::new(reconciler);
    let (sender, mut keys) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for resource in reconciler.sources() {
        watchers.spawn(follow(Arc::clone(&reconciler), Arc::clone(&registry), resource, sender.clone()));
    }
    let mut queue = Queue::default();
    let mut work: JoinSet<Result<Option<Duration>, Status>> = JoinSet::new();
    let mut running: HashMap<tokio::task::Id, Key> = HashMap::new();
    loop {
        while work.len() < WORKERS
            && let Some(key) = queue.take()
        {
            let (reconciler, own) = (Arc::clone(&reconciler), key.clone());
            let task = work.spawn(async move { reconciler.reconcile(&own).await });
            running.insert(task.id(), key);
        }
        tokio::select! {
            Some(key) = keys.recv() => {
                queue.add(key);
                while let Ok(key) = keys.try_recv() {
                    queue.add(key);
                }
            }
            Some(done) = work.join_next_with_id() => {
                let (id, result) = match done {
                    Ok((id, result)) => (id, result),
                    Err(error) => {
                        tracing::error!(controller = R::NAME, %error, "a reconciliation panicked");
                        (error.id(), Err(Status::internal(error)))
                    }
                };
                let Some(key) = running.remove(&id) else { continue };
                if let Err(error) = &result {
                    tracing::debug!(controller = R::NAME, name = key.name, namespace = key.namespace, %error, "will try again");
                }
                queue.done(key, result.map_err(drop));
            }
            () = queue.wait() => queue.wake(),
            () = stop.cancelled() => return,
        }
    }
}

async fn follow<R: Reconciler>(
    reconciler: Arc<R>,
    registry: Arc<Registry>,
    resource: &'static Resource,
    sender: mpsc::UnboundedSender<Key>,
) {
    let mut expired = false;
    loop {
        let listing = registry.store.list(resource.storage, None);
        let mut watcher = registry.store.watch(resource.storage, listing.revision);
        let mut all: HashSet<Key> = HashSet::new();
        let mut add = |resource, objects: &[Arc<Value>]| {
            for object in objects {
                all.extend(reconciler.keys(Change { resource, object, previous: None, deleted: false }));
            }
        };
        add(resource, &listing.items);
        if expired {
            // Nothing here speaks any more of what was deleted meanwhile, so whatever that was about is looked at.
            for other in reconciler.sources().into_iter().filter(|other| *other != resource) {
                add(other, &registry.list(other, None));
            }
        }
        for key in all {
            if sender.send(key).is_err() {
                return;
            }
        }
        while let Ok(events) = watcher.next().await {
            for event in events {
                let (object, previous) = (event.value(), event.previous());
                let (object, previous) = (&*object, previous.as_deref());
                for key in reconciler.keys(Change { resource, object, previous, deleted: event.deleted }) {
                    if sender.send(key).is_err() {
                        return;
                    }
                }
            }
        }
        // Too far behind: start over from a list.
        expired = true;
    }
}

/// Keys that wait, that are worked on, and that are due later.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    /// Changed while they were worked on.
    again: HashSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    fn add(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: Key, result: Result<Option<Duration>, ()>) {
        self.running.remove(&key);
        let delay = if let Ok(delay) = result {
            self.failures.remove(&key);
            delay
        } else {
            let failures = self.failures.entry(key.clone()).or_default();
            *failures += 1;
            Some(LAST_RETRY.min(FIRST_RETRY.saturating_mul(1 << (*failures).min(16))))
        };
        if let Some(delay) = delay {
            self.later.retain(|(_, waiting)| *waiting != key);
            self.later.insert((Instant::now() + delay.min(LATEST), key.clone()));
        }
        if self.again.remove(&key) {
            self.add(key);
        }
    }

    /// Until a key is due; for ever when none will be.
    async fn wait(&self) {
        match self.later.first() {
            Some((due, _)) => tokio::time::sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::resource::{CONFIG_MAPS, NAMESPACES};
    use crate::store::{Durability, Expect, Write};

    fn key(name: &str) -> Key {
        Key { resource: "core/pods", namespace: String::new(), name: name.to_owned() }
    }

    #[tokio::test]
    async fn a_key_is_never_worked_on_twice_at_once_and_no_change_is_lost() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        let taken = queue.take().unwrap();
        assert_eq!(queue.take(), None, "added twice, queued once");
        queue.add(key("a"));
        assert_eq!(queue.take(), None, "not while it is worked on");
        queue.done(taken, Ok(None));
        assert_eq!(queue.take(), Some(key("a")), "but after");
    }

    #[tokio::test]
    async fn a_failure_is_tried_again_later_and_later() {
        let mut queue = Queue::default();
        let mut delays = Vec::new();
        for _ in 0..3 {
            queue.add(key("a"));
            let taken = queue.take().unwrap();
            let before = Instant::now();
            queue.done(taken, Err(()));
            assert_eq!(queue.later.len(), 1, "due once");
            delays.push(queue.later.first().unwrap().0 - before);
        }
        assert!(delays[0] < delays[1] && delays[1] < delays[2]);
        queue.add(key("a"));
        let taken = queue.take().unwrap();
        queue.done(taken, Ok(None));
        assert!(queue.failures.is_empty(), "a success starts the count anew");
    }

    #[tokio::test]
    async fn a_key_that_is_due_in_ages_is_no_trouble() {
        let mut queue = Queue::default();
        queue.add(key("a"));
        let taken = queue.take().unwrap();
        queue.done(taken, Ok(Some(Duration::from_secs(i64::MAX.unsigned_abs()))));
        assert_eq!(queue.later.len(), 1);
    }

    fn registry(dir: &std::path::Path) -> Arc<Registry> {
        let resources = [CONFIG_MAPS.storage, NAMESPACES.storage];
        let store = crate::store::Store::open(&dir.join("test.db"), &resources).unwrap();
        Arc::new(Registry::new(store, "10.96.0.0/16".parse().unwrap()))
    }

    async fn make(registry: &Registry, resource: &'static Resource, name: &str) {
        let key = Key { resource: resource.storage, namespace: String::new(), name: name.to_owned() };
        let value = Some(serde_json::json!({"metadata": {"name": name}}));
        let write = Write { key, expect: Expect::Absent, value, durability: Durability::Relaxed };
        registry.store.write(write).await.unwrap();
    }

    /// What should happen, happens within this time, or the test fails.
    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("what should happen, in time")
    }

    /// Panics at its first look.
    struct Clumsy(std::sync::atomic::AtomicBool, mpsc::UnboundedSender<Key>);

    impl Reconciler for Clumsy {
        const NAME: &'static str = "clumsy";

        fn sources(&self) -> Vec<&'static Resource> {
            vec![&NAMESPACES]
        }

        fn keys(&self, change: Change<'_>) -> Vec<Key> {
            vec![key_of(change.resource, change.object)]
        }

        async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
            assert!(self.0.swap(true, std::sync::atomic::Ordering::SeqCst), "the first look");
            self.1.send(key.clone()).unwrap();
            Ok(None)
        }
    }

    #[tokio::test]
    async fn a_look_that_panics_is_a_failure_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        make(&registry, &NAMESPACES, "n").await;
        let (sender, mut looks) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let controller = tokio::spawn(run(Clumsy(false.into(), sender), registry, stop.clone()));
        assert_eq!(soon(looks.recv()).await.unwrap().name, "n");
        stop.cancel();
        controller.await.unwrap();
    }

    /// Looks at a namespace when a config map goes, and is slow to hear of it.
    struct Slow(std::sync::Mutex<std::sync::mpsc::Receiver<()>>, mpsc::UnboundedSender<()>);

    impl Reconciler for Slow {
        const NAME: &'static str = "slow";

        fn sources(&self) -> Vec<&'static Resource> {
            vec![&NAMESPACES, &CONFIG_MAPS]
        }

        fn keys(&self, change: Change<'_>) -> Vec<Key> {
            if *change.resource == NAMESPACES {
                return vec![key_of(change.resource, change.object)];
            }
            let _ = self.1.send(());
            // Once the sender is gone, this waits no more.
            let _ = self.0.lock().unwrap().recv();
            Vec::new()
        }

        async fn reconcile(&self, _: &Key) -> Result<Option<Duration>, Status> {
            Ok(None)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn who_has_missed_changes_looks_at_everything() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        make(&registry, &NAMESPACES, "n").await;
        let (go, gate) = std::sync::mpsc::channel();
        let (reached, mut waiting) = mpsc::unbounded_channel();
        let (sender, mut keys) = mpsc::unbounded_channel();
        let slow = Arc::new(Slow(gate.into(), reached));
        let task = tokio::spawn(follow(slow, Arc::clone(&registry), &CONFIG_MAPS, sender));
        make(&registry, &CONFIG_MAPS, "first").await;
        waiting.recv().await.unwrap();
        // More than the log holds.
        let names: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        futures::future::join_all(names.iter().map(|name| make(&registry, &CONFIG_MAPS, name))).await;
        drop(go);
        assert_eq!(soon(keys.recv()).await.unwrap().name, "n", "what the lost changes were about");
        task.abort();
    }
}
