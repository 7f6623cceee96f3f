//! Every object in memory, and per resource the latest changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::kept::Kept;
use super::{Contents, Key};

/// Many, and read by people only.
const SHELVED: &str = "core/events";
/// So many of the latest changes are likely to be on their way to watchers.
const LOG_WARM: usize = 32;
/// A resource keeps at most so many changes for watchers…
const LOG_EVENTS: usize = 512;
/// …and beyond this many, none older than this.
const LOG_EVENTS_OLD: usize = 32;
const LOG_AGE: Duration = Duration::from_mins(5);

/// One change.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) namespace: String,
    pub(crate) name: String,
    value: Kept,
    previous: Option<Kept>,
    pub(crate) deleted: bool,
    at: Instant,
}

impl Event {
    /// The object after the change; a deleted one in its last state, with the revision of the deletion.
    pub(crate) fn value(&self) -> Arc<Value> {
        self.value.value()
    }

    /// The object before; none when created.
    pub(crate) fn previous(&self) -> Option<Arc<Value>> {
        self.previous.as_ref().map(Kept::value)
    }

    /// What this change made history is hardly read any more.
    fn shelve(&self) {
        self.previous.iter().for_each(Kept::shelve);
        if self.deleted {
            self.value.shelve();
        }
    }
}

/// By namespace and name.
type Objects = BTreeMap<(String, String), Kept>;

#[derive(Debug)]
struct Resource {
    objects: Objects,
    log: VecDeque<Arc<Event>>,
    /// Changes up to this revision are no longer in the log.
    floor: u64,
    wake: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) revision: u64,
    resources: HashMap<&'static str, Resource>,
}

impl Cache {
    /// Fills the cache. Rows of resources that this program does not know stay on disk, untouched.
    pub(super) fn load(contents: Contents, resources: &[&'static str]) -> Self {
        let revision = contents.ceiling;
        let empty = || Resource {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            floor: revision,
            wake: watch::Sender::new(revision),
        };
        let mut resources: HashMap<&'static str, Resource> = resources.iter().map(|r| (*r, empty())).collect();
        for (path, _, value) in contents.objects {
            let mut parts = path.splitn(4, '/').skip(2);
            let (Some(group), Some(rest)) = (parts.next(), parts.next()) else { continue };
            let Some((resource, rest)) = rest.split_once('/') else { continue };
            let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
            let storage = format!("{group}/{resource}");
            if let Some(resource) = resources.get_mut(storage.as_str()) {
                let kept = kept(&storage, Arc::new(value));
                resource.objects.insert((namespace.to_owned(), name.to_owned()), kept);
            } else {
                tracing::warn!(key = path, "an object of an unknown resource stays unread in the database");
            }
        }
        Self { revision, resources }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        let objects = &self.resources.get(key.resource)?.objects;
        objects.get(&(key.namespace.clone(), key.name.clone())).map(Kept::value)
    }

    /// The objects, and the revision they are of. What is shelved is better parsed without the cache's lock.
    pub(super) fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Kept>, u64) {
        let items = self.resources.get(resource).map_or_else(Vec::new, |r| in_namespace(&r.objects, namespace));
        (items, self.revision)
    }

    pub(super) fn list_at(&self, resource: &str, namespace: Option<&str>, revision: u64) -> Option<(Vec<Kept>, u64)> {
        let resource = self.resources.get(resource)?;
        if revision < resource.floor || revision > self.revision {
            return None;
        }
        let mut objects = resource.objects.clone();
        for event in resource.log.iter().rev().take_while(|e| e.revision > revision) {
            let key = (event.namespace.clone(), event.name.clone());
            match &event.previous {
                Some(previous) => objects.insert(key, previous.clone()),
                None => objects.remove(&key),
            };
        }
        Some((in_namespace(&objects, namespace), revision))
    }

    /// Changes after `revision`, and the revision up to which these are all; `None` when some are gone.
    pub(super) fn events_after(&self, resource: &str, revision: u64) -> Option<(Vec<Arc<Event>>, u64)> {
        let resource = self.resources.get(resource)?;
        if revision < resource.floor {
            return None;
        }
        let start = resource.log.partition_point(|e| e.revision <= revision);
        Some((resource.log.range(start..).cloned().collect(), self.revision))
    }

    pub(super) fn subscribe(&self, resource: &str) -> watch::Receiver<u64> {
        match self.resources.get(resource) {
            Some(resource) => resource.wake.subscribe(),
            None => watch::Sender::new(0).subscribe(),
        }
    }

    /// Makes a committed change visible and wakes watchers.
    pub(super) fn apply(&mut self, key: &Key, revision: u64, value: Arc<Value>, deleted: bool) {
        self.revision = revision;
        let Some(resource) = self.resources.get_mut(key.resource) else { return };
        let place = (key.namespace.clone(), key.name.clone());
        let value = kept(key.resource, value);
        let previous =
            if deleted { resource.objects.remove(&place) } else { resource.objects.insert(place, value.clone()) };
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        let at = Instant::now();
        resource.log.push_back(Arc::new(Event { revision, namespace, name, value, previous, deleted, at }));
        if let Some(cold) = resource.log.len().checked_sub(1 + LOG_WARM) {
            resource.log[cold].shelve();
        }
        resource.trim(at);
        resource.wake.send_replace(revision);
    }
}

impl Resource {
    fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.log.front() {
            let old = self.log.len() > LOG_EVENTS_OLD && now.duration_since(oldest.at) > LOG_AGE;
            if !old && self.log.len() <= LOG_EVENTS {
                return;
            }
            self.floor = oldest.revision;
            self.log.pop_front();
        }
    }
}

fn kept(resource: &str, value: Arc<Value>) -> Kept {
    let kept = Kept::new(value);
    if resource == SHELVED {
        kept.shelve();
    }
    kept
}

fn in_namespace(objects: &Objects, namespace: Option<&str>) -> Vec<Kept> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(namespace) => objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((n, _), _)| n == namespace)
            .map(|(_, kept)| kept.clone())
            .collect(),
    }
}
