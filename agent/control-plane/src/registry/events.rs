//! Events that the control plane itself records.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::resource::EVENTS;
use super::{Context, Part, Registry, name_of, namespace_of, uid_of};
use crate::time;

/// What is told about an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note<'a> {
    pub(crate) component: &'a str,
    /// `Normal` or `Warning`.
    pub(crate) kind: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Records an event about `object`, behind the caller's back: an event that cannot be stored is only logged.
/// The same event told again is counted.
pub(crate) fn record(registry: &Arc<Registry>, object: &Value, note: Note<'_>) {
    let event = compose(object, note);
    let registry = Arc::clone(registry);
    let component = note.component.to_owned();
    tokio::spawn(async move {
        let ctx = Context::component(&component);
        let (namespace, name) = (namespace_of(&event).to_owned(), name_of(&event).to_owned());
        let last = event["lastTimestamp"].clone();
        match registry.create(&ctx, &EVENTS, &namespace, event).await {
            Err(status) if status.is_already_exists() => {
                let counted = registry
                    .update(&ctx, &EVENTS, &namespace, &name, Part::Main, |old| {
                        let mut event = old.clone();
                        event["count"] = json!(old["count"].as_i64().unwrap_or(1) + 1);
                        event["lastTimestamp"] = last.clone();
                        Ok(event)
                    })
                    .await;
                if let Err(error) = counted {
                    tracing::debug!(%error, name, "counting an event");
                }
            }
            // The namespace may be going away.
            Err(error) => tracing::debug!(%error, name, "recording an event"),
            Ok(_) => {}
        }
    });
}

fn compose(object: &Value, note: Note<'_>) -> Value {
    // The name follows from what is told, so that a repetition finds the event it repeats.
    let mut hasher = DefaultHasher::new();
    (uid_of(object), note.reason, note.message, note.component).hash(&mut hasher);
    let namespace = match namespace_of(object) {
        "" => "default",
        namespace => namespace,
    };
    let now = time::now();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{:016x}", name_of(object), hasher.finish()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": object["apiVersion"], "kind": object["kind"], "name": name_of(object),
            "namespace": object["metadata"]["namespace"], "uid": uid_of(object),
            "resourceVersion": object["metadata"]["resourceVersion"],
        },
        "type": note.kind, "reason": note.reason, "message": note.message,
        "source": {"component": note.component}, "reportingComponent": note.component, "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    })
}
