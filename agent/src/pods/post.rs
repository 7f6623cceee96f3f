//! Telling the API a pod's status: the latest one, one write at a time for each pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The API object that shows the pod: itself, or a static pod's mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Target {
    pub(super) fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

type Numbered = (u64, PodStatus);

/// Takes statuses and never waits, but for [`Poster::flush`].
#[derive(Debug)]
pub(super) struct Poster {
    latest: watch::Sender<Numbered>,
    written: watch::Receiver<u64>,
    task: Option<AbortHandle>,
}

impl Drop for Poster {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Poster {
    /// A poster for a pod whose status in the API is `known`; without an API it keeps statuses to itself.
    pub(super) fn start(client: Option<Client>, target: watch::Receiver<Option<Target>>, known: PodStatus) -> Self {
        let (latest, statuses) = watch::channel((0, known));
        let (acknowledge, written) = watch::channel(0);
        let task = client.map(|client| {
            let writer = Writer { client, target, statuses, acknowledge };
            tokio::spawn(writer.run()).abort_handle()
        });
        Self { latest, written, task }
    }

    /// Readers of the latest status.
    pub(super) fn subscribe(&self) -> watch::Receiver<Numbered> {
        self.latest.subscribe()
    }

    /// Takes a status; equal to the last one it is no news.
    pub(super) fn set(&self, status: &PodStatus) {
        self.latest.send_if_modified(|(number, old)| {
            let changed = old != status;
            if changed {
                *number += 1;
                *old = status.clone();
            }
            changed
        });
    }

    /// Waits until the latest status is written, at most `patience`.
    pub(super) async fn flush(&mut self, patience: Duration) {
        if self.task.is_none() {
            return;
        }
        let wanted = self.latest.borrow().0;
        // Late is no loss: the status is written when the API answers again.
        let _ = tokio::time::timeout(patience, self.written.wait_for(|n| *n >= wanted)).await;
    }
}

struct Writer {
    client: Client,
    target: watch::Receiver<Option<Target>>,
    statuses: watch::Receiver<Numbered>,
    acknowledge: watch::Sender<u64>,
}

impl Writer {
    async fn run(mut self) {
        let mut known = to_object(&self.statuses.borrow().1);
        let mut known_target = self.target.borrow().clone();
        let mut pause = FIRST_RETRY;
        loop {
            let (number, status) = self.statuses.borrow_and_update().clone();
            let target = self.target.borrow_and_update().clone();
            if target != known_target {
                // Another object knows nothing of what was told to the last one.
                known = Map::new();
                known_target.clone_from(&target);
            }
            let wanted = to_object(&status);
            let behind = wanted != known && number > 0;
            if let (Some(target), true) = (&target, behind) {
                match self.write(target, &known, &wanted).await {
                    Ok(()) => {
                        known = wanted;
                        pause = FIRST_RETRY;
                    }
                    Err(error) => {
                        tracing::debug!(pod = target.name, %error, "cannot write a pod's status");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LAST_RETRY);
                        continue;
                    }
                }
            }
            if target.is_some() {
                self.acknowledge.send_replace(number);
            }
            let ended = tokio::select! {
                changed = self.statuses.changed() => changed.is_err(),
                changed = self.target.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    async fn write(
        &self,
        target: &Target,
        known: &Map<String, Value>,
        wanted: &Map<String, Value>,
    ) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &target.namespace);
        let body = json!({"metadata": {"uid": target.uid}, "status": patch(known, wanted)});
        let patched = api.patch_status(&target.name, &PatchParams::default(), &Patch::Strategic(&body)).await;
        match patched {
            Ok(_) => Ok(()),
            // Gone, or another pod of the same name: there is nobody to tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn to_object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A strategic merge patch from one status to another.
fn patch(known: &Map<String, Value>, wanted: &Map<String, Value>) -> Value {
    let mut patch = Map::new();
    for (key, value) in wanted {
        let value = match key.as_str() {
            "conditions" => conditions(value),
            "podIPs" | "hostIPs" => merged_by_ip(known.get(key), value),
            _ => value.clone(),
        };
        if known.get(key) != wanted.get(key) || key == "phase" {
            patch.insert(key.clone(), value);
        }
    }
    for key in known.keys().filter(|k| !wanted.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// Conditions are merged by their type, so that what a condition lost must be said.
fn conditions(list: &Value) -> Value {
    let mut list = list.clone();
    for condition in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for key in ["reason", "message"] {
            condition.entry(key).or_insert(Value::Null);
        }
    }
    list
}

/// Addresses are merged by their value, so that old ones must be deleted.
fn merged_by_ip(known: Option<&Value>, wanted: &Value) -> Value {
    let mut list = wanted.as_array().cloned().unwrap_or_default();
    for old in known.and_then(Value::as_array).into_iter().flatten() {
        if !list.contains(old) {
            list.push(json!({"$patch": "delete", "ip": old["ip"]}));
        }
    }
    Value::Array(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn patch_says_what_went_away() {
        let known = object(json!({"phase": "Running", "reason": "x", "podIPs": [{"ip": "10.0.0.1"}]}));
        let wanted = object(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(
            patch(&known, &wanted),
            json!({
                "phase": "Running",
                "reason": null,
                "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
            })
        );
    }
}
