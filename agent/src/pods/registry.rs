//! The pods of this node, for readers: the HTTPS API and probes by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use crate::sync::lock;

/// A pod as the HTTPS API shows it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) pod: Arc<Pod>,
    pub(super) status: watch::Receiver<(u64, PodStatus)>,
    pub(super) mirror_uid: Option<String>,
}

impl Entry {
    /// The pod with its present status.
    pub(crate) fn current(&self) -> Pod {
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.status.borrow().1.clone());
        pod
    }
}

/// The pods of this node, for readers.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<String, Entry>>);

impl Registry {
    /// By uid; for the manager, who writes it.
    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        lock(&self.0)
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Entry> {
        self.entries().values().cloned().collect()
    }

    /// A pod by its name, and by its uid or its mirror's if given.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Entry> {
        let is = |entry: &&Entry| {
            let meta = &entry.pod.metadata;
            meta.namespace.as_deref() == Some(namespace)
                && meta.name.as_deref() == Some(name)
                && uid.is_none_or(|u| meta.uid.as_deref() == Some(u) || entry.mirror_uid.as_deref() == Some(u))
        };
        self.entries().values().find(is).cloned()
    }
}
