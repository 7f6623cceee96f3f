//! What the runtime, the cgroups or the pods' folder have and no source wants is ended, by a worker like any other.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{Manager, Source};
use crate::container::keys;
use crate::pods::display_name;
use crate::pods::source_runtime::Listing;

impl Manager {
    /// Takes a listing of the runtime: wakes the workers of pods that changed, and ends what nobody wants.
    pub(super) fn relisted(&mut self, listing: &Listing) {
        let mut seen: HashMap<String, Vec<(String, i32)>> = HashMap::new();
        for sandbox in &listing.sandboxes {
            if let Some(uid) = sandbox.labels.get(keys::POD_UID) {
                seen.entry(uid.clone()).or_default().push((sandbox.id.clone(), sandbox.state));
            }
        }
        for container in &listing.containers {
            if let Some(uid) = container.labels.get(keys::POD_UID) {
                seen.entry(uid.clone()).or_default().push((container.id.clone(), container.state));
            }
        }
        for states in seen.values_mut() {
            states.sort();
        }
        let changed = |uid: &&String| seen.get(*uid) != self.fingerprints.get(*uid);
        let uids: Vec<String> = self.handles.keys().filter(changed).cloned().collect();
        self.wake(&uids);
        if self.heard.len() >= self.expected {
            self.adopt_orphans(listing, &seen);
        }
        self.fingerprints = seen;
    }

    /// Pods that nobody wants any more are ended by a worker like any other.
    fn adopt_orphans(&mut self, listing: &Listing, seen: &HashMap<String, Vec<(String, i32)>>) {
        let names = listing.sandboxes.iter().map(|s| &s.labels).chain(listing.containers.iter().map(|c| &c.labels));
        for labels in names {
            let Some(uid) = labels.get(keys::POD_UID).filter(|u| !self.handles.contains_key(*u)) else {
                continue;
            };
            let get = |key| labels.get(key).cloned();
            let pod = orphan(uid.clone(), get(keys::POD_NAME), get(keys::POD_NAMESPACE));
            tracing::info!(pod = display_name(&pod), "ending a pod that nobody wants");
            self.end_orphan(Source::Api, pod);
        }
        for uid in self.ctx.cgroups.pods() {
            self.clean_leftover(&uid, seen);
        }
        let folders = std::fs::read_dir(self.ctx.config.state_dir.join("pods"));
        for folder in folders.into_iter().flatten().flatten() {
            self.clean_leftover(&folder.file_name().to_string_lossy(), seen);
        }
    }

    fn end_orphan(&mut self, source: Source, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.spawn(source, pod);
        self.removed(source, &uid);
    }

    /// Folders and cgroups of pods that are in no source and not in the runtime.
    fn clean_leftover(&mut self, uid: &str, seen: &HashMap<String, Vec<(String, i32)>>) {
        if self.handles.contains_key(uid) || seen.contains_key(uid) {
            return;
        }
        tracing::info!(uid, "removing what is left of a pod");
        // No source knows it; this one has nobody to tell a status to.
        self.end_orphan(Source::File, orphan(uid.to_owned(), None, None));
    }
}

/// As much of a pod as the runtime's labels tell.
fn orphan(uid: String, name: Option<String>, namespace: Option<String>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid);
    pod.metadata.name = name;
    pod.metadata.namespace = namespace;
    pod.status = Some(PodStatus {
        // It must not be started again.
        phase: Some("Failed".to_owned()),
        ..PodStatus::default()
    });
    pod
}
