//! The ConfigMaps and Secrets that pods refer to: one watch for each object, shared by its pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{DefaultBackoff, watch_object};
use kube::{Api, Client, Resource};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::resources::all_containers;
use crate::sync::lock;

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

/// The identity of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    kind: Kind,
    namespace: String,
    name: String,
}

impl ObjectKey {
    pub(crate) fn config_map(namespace: &str, name: &str) -> Self {
        Self::new(Kind::ConfigMap, namespace, name)
    }

    pub(crate) fn secret(namespace: &str, name: &str) -> Self {
        Self::new(Kind::Secret, namespace, name)
    }

    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn not_found(&self) -> String {
        let kind = match self.kind {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        };
        format!("{kind} \"{}\" not found", self.name)
    }
}

/// What an object holds. No Debug: secrets must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ObjectData {
    pub(crate) data: BTreeMap<String, Vec<u8>>,
    /// A Secret's type.
    pub(crate) kind: Option<String>,
}

impl From<ConfigMap> for ObjectData {
    fn from(map: ConfigMap) -> Self {
        let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
        let binary = map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0));
        Self { data: text.chain(binary).collect(), kind: None }
    }
}

impl From<Secret> for ObjectData {
    fn from(secret: Secret) -> Self {
        let data = secret.data.into_iter().flatten().map(|(k, v)| (k, v.0));
        Self { data: data.collect(), kind: secret.type_ }
    }
}

/// The state of one object: there, not there, or why it cannot be told.
type Known = Result<Option<ObjectData>, String>;

/// The objects of one pod at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot(HashMap<ObjectKey, Arc<Known>>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Snapshot {
    #[cfg(test)]
    pub(crate) fn insert(&mut self, key: ObjectKey, known: Known) {
        self.0.insert(key, Arc::new(known));
    }

    /// Whether nothing changed between two snapshots.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let same =
            |(key, known): (&ObjectKey, &Arc<Known>)| other.0.get(key).is_some_and(|theirs| Arc::ptr_eq(known, theirs));
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }

    /// The object; `None` only if it is optional and not there.
    ///
    /// # Errors
    /// The kubelet's words for what is missing.
    pub(crate) fn get(&self, key: &ObjectKey, optional: bool) -> Result<Option<&ObjectData>, String> {
        match self.0.get(key).map(Arc::as_ref) {
            Some(Ok(Some(object))) => Ok(Some(object)),
            Some(Ok(None)) if optional => Ok(None),
            Some(Ok(None)) => Err(key.not_found()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("{}: failed to sync the object within the allotted time", key.not_found())),
        }
    }
}

/// Every object that a pod's containers and volumes name.
pub(crate) fn references(pod: &Pod) -> BTreeSet<ObjectKey> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let config_map = |name: &str| ObjectKey::config_map(namespace, name);
    let secret = |name: &str| ObjectKey::secret(namespace, name);
    let mut keys = BTreeSet::new();
    for container in all_containers(spec) {
        for source in container.env_from.iter().flatten() {
            keys.extend(source.config_map_ref.as_ref().map(|r| config_map(&r.name)));
            keys.extend(source.secret_ref.as_ref().map(|r| secret(&r.name)));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            keys.extend(source.config_map_key_ref.as_ref().map(|r| config_map(&r.name)));
            keys.extend(source.secret_key_ref.as_ref().map(|r| secret(&r.name)));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        keys.extend(volume.config_map.as_ref().map(|s| config_map(&s.name)));
        keys.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()).map(secret));
        let projected = volume.projected.as_ref().and_then(|p| p.sources.as_ref());
        for source in projected.into_iter().flatten() {
            keys.extend(source.config_map.as_ref().map(|s| config_map(&s.name)));
            keys.extend(source.secret.as_ref().map(|s| secret(&s.name)));
        }
    }
    let pull = spec.image_pull_secrets.iter().flatten();
    keys.extend(pull.map(|r| secret(&r.name)));
    keys
}

struct Entry {
    state: watch::Receiver<Option<Arc<Known>>>,
    task: AbortHandle,
    wake: Arc<Mutex<Vec<Weak<Notify>>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The shared watches.
pub(crate) struct Objects {
    client: Option<Client>,
    entries: Mutex<HashMap<ObjectKey, Weak<Entry>>>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// One pod's hold on its objects: watches end when the last pod lets go.
#[derive(Default)]
pub(crate) struct PodObjects(Vec<(ObjectKey, Arc<Entry>)>);

impl PodObjects {
    /// The objects as known now, after waiting for those never heard of, at most `patience`.
    pub(crate) async fn snapshot(&self, patience: Duration) -> Snapshot {
        let deadline = tokio::time::Instant::now() + patience;
        let mut snapshot = HashMap::new();
        for (key, entry) in &self.0 {
            let mut state = entry.state.clone();
            let known = tokio::time::timeout_at(deadline, state.wait_for(Option::is_some)).await;
            if let Ok(Ok(known)) = known
                && let Some(known) = known.as_ref()
            {
                snapshot.insert(key.clone(), Arc::clone(known));
            }
        }
        Snapshot(snapshot)
    }
}

impl Objects {
    pub(crate) fn new(client: Option<Client>) -> Self {
        Self { client, entries: Mutex::default() }
    }

    /// Watches the objects for a pod, whose worker is woken by `wake` when one changes.
    pub(crate) fn hold(&self, keys: BTreeSet<ObjectKey>, wake: &Arc<Notify>) -> PodObjects {
        let Some(client) = &self.client else {
            return PodObjects::default();
        };
        let mut entries = lock(&self.entries);
        entries.retain(|_, entry| entry.strong_count() > 0);
        let held = keys.into_iter().map(|key| {
            let live = entries.get(&key).and_then(Weak::upgrade);
            let entry = live.unwrap_or_else(|| {
                let entry = Arc::new(watch_entry(client, &key));
                entries.insert(key.clone(), Arc::downgrade(&entry));
                entry
            });
            let mut wakers = lock(&entry.wake);
            wakers.retain(|w| w.strong_count() > 0);
            wakers.push(Arc::downgrade(wake));
            drop(wakers);
            (key, entry)
        });
        PodObjects(held.collect())
    }
}

fn watch_entry(client: &Client, key: &ObjectKey) -> Entry {
    let (sender, state) = watch::channel(None);
    let wake: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
    let wakers = Arc::clone(&wake);
    let client = client.clone();
    let key = key.clone();
    let task = tokio::spawn(async move {
        match key.kind {
            Kind::ConfigMap => follow::<ConfigMap>(client, &key, &sender, &wakers).await,
            Kind::Secret => follow::<Secret>(client, &key, &sender, &wakers).await,
        }
    });
    Entry { state, task: task.abort_handle(), wake }
}

async fn follow<K>(
    client: Client,
    key: &ObjectKey,
    state: &watch::Sender<Option<Arc<Known>>>,
    wakers: &Mutex<Vec<Weak<Notify>>>,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Into<ObjectData>
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client, &key.namespace);
    let stream = watch_object(api, &key.name).backoff(DefaultBackoff::default());
    pin_mut!(stream);
    while let Some(item) = stream.next().await {
        let known: Known = match item {
            Ok(object) => Ok(object.map(Into::into)),
            // What was known stays good while the API server is away.
            Err(_) if state.borrow().as_deref().is_some_and(Result::is_ok) => continue,
            Err(e) => Err(e.to_string()),
        };
        let changed = state.send_if_modified(|old| {
            let changed = old.as_deref() != Some(&known);
            if changed {
                *old = Some(Arc::new(known));
            }
            changed
        });
        if changed {
            for waker in lock(wakers).iter().filter_map(Weak::upgrade) {
                waker.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_a_pod() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "a"}}],
                    "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}]}],
                "volumes": [{"name": "v", "projected": {"sources": [
                    {"configMap": {"name": "c"}}, {"serviceAccountToken": {"path": "t"}}]}},
                    {"name": "w", "secret": {"secretName": "b"}}],
            },
        }))
        .expect("a pod");
        let expected = BTreeSet::from([
            ObjectKey::config_map("ns", "a"),
            ObjectKey::config_map("ns", "c"),
            ObjectKey::secret("ns", "b"),
            ObjectKey::secret("ns", "pull"),
        ]);
        assert_eq!(references(&pod), expected);
    }
}
