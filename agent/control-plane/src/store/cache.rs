//! Every object in memory, and per resource the latest changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::{Contents, Key};

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
    /// The object after the change; a deleted one in its last state, with the revision of the deletion.
    pub(crate) value: Arc<Value>,
    /// The object before; none when created.
    pub(crate) previous: Option<Arc<Value>>,
    pub(crate) deleted: bool,
    at: Instant,
}

/// Objects and the revision they were read at.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) revision: u64,
}

#[derive(Debug)]
struct Resource {
    /// By namespace and name.
    objects: BTreeMap<(String, String), Arc<Value>>,
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
                resource.objects.insert((namespace.to_owned(), name.to_owned()), Arc::new(value));
            } else {
                tracing::warn!(key = path, "an object of an unknown resource stays unread in the database");
            }
        }
        Self { revision, resources }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        let objects = &self.resources.get(key.resource)?.objects;
        objects.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }

    pub(super) fn list(&self, resource: &str, namespace: Option<&str>) -> Listing {
        let items = self.resources.get(resource).map_or_else(Vec::new, |r| in_namespace(&r.objects, namespace));
        Listing { items, revision: self.revision }
    }

    pub(super) fn list_at(&self, resource: &str, namespace: Option<&str>, revision: u64) -> Option<Listing> {
        let resource = self.resources.get(resource)?;
        if revision < resource.floor || revision > self.revision {
            return None;
        }
        let mut objects = resource.objects.clone();
        for event in resource.log.iter().rev().take_while(|e| e.revision > revision) {
            let key = (event.namespace.clone(), event.name.clone());
            match &event.previous {
                Some(previous) => objects.insert(key, Arc::clone(previous)),
                None => objects.remove(&key),
            };
        }
        Some(Listing { items: in_namespace(&objects, namespace), revision })
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
        let previous =
            if deleted { resource.objects.remove(&place) } else { resource.objects.insert(place, Arc::clone(&value)) };
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        let at = Instant::now();
        resource.log.push_back(Arc::new(Event { revision, namespace, name, value, previous, deleted, at }));
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

fn in_namespace(objects: &BTreeMap<(String, String), Arc<Value>>, namespace: Option<&str>) -> Vec<Arc<Value>> {
    match namespace {
        None => objects.values().cloned().collect(),
        Some(namespace) => objects
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((n, _), _)| n == namespace)
            .map(|(_, value)| Arc::clone(value))
            .collect(),
    }
}
