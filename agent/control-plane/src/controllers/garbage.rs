//! The garbage collector: what nobody owns any more goes, and owners wait for what they own when asked to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::owners::set_owners;
use super::runner::{Change, Reconciler, key_of};
use crate::registry::events::{Note, record};
use crate::registry::resource::{ALL, Resource, by_kind, by_storage};
use crate::registry::{
    Context, DeleteOptions, FOREGROUND, ORPHAN, Part, Propagation, Registry, is_deleting, name_of, namespace_of, uid_of,
};
use crate::status::Status;
use crate::store::Key;

/// The resource in the key of a deleted object whose name is its uid: what it owned is to be looked at.
const DELETED: &str = "garbage/deleted";

pub(super) struct Garbage {
    registry: Arc<Registry>,
    ctx: Context,
}

impl Garbage {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, ctx: Context::component("system:serviceaccount:kube-system:generic-garbage-collector") }
    }
}

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == finalizer))
}

impl Reconciler for Garbage {
    const NAME: &'static str = "garbage-collector";

    fn sources(&self) -> Vec<&'static Resource> {
        // Events own nothing and are owned by nothing, and there are many.
        ALL.into_iter().filter(|resource| resource.kind != "Event").collect()
    }

    fn keys(&self, change: Change<'_>) -> Vec<Key> {
        let object = change.object;
        let mut keys = Vec::new();
        if change.deleted {
            let uid = uid_of(object).to_owned();
            keys.push(Key { resource: DELETED, namespace: String::new(), name: uid });
            // An owner may be waiting for just this one.
            keys.extend(owners(object).iter().filter_map(|owner| owner_key(object, owner)));
        } else if is_deleting(object) || change.previous.is_none_or(|old| owners(old) != owners(object)) {
            let matters =
                !owners(object).is_empty() || has_finalizer(object, FOREGROUND) || has_finalizer(object, ORPHAN);
            keys.extend(matters.then(|| key_of(change.resource, object)));
            keys.extend(change.previous.into_iter().flat_map(owners).filter_map(|owner| owner_key(object, owner)));
        }
        keys
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        if key.resource == DELETED {
            for (resource, dependent) in self.dependents(&key.name).iter().filter(|(_, o)| !is_deleting(o)) {
                self.collect(resource, dependent).await?;
            }
            return Ok(None);
        }
        let Some(resource) = by_storage(key.resource) else { return Ok(None) };
        let Ok(object) = self.registry.get(resource, &key.namespace, &key.name) else { return Ok(None) };
        if is_deleting(&object) {
            if has_finalizer(&object, ORPHAN) {
                self.orphan(resource, &object).await?;
            } else if has_finalizer(&object, FOREGROUND) {
                self.foreground(resource, &object).await?;
            }
        } else {
            self.collect(resource, &object).await?;
        }
        Ok(None)
    }
}

/// The key of the owner that a reference names.
fn owner_key(dependent: &Value, owner: &Value) -> Option<Key> {
    let resource = by_kind(owner["apiVersion"].as_str()?, owner["kind"].as_str()?)?;
    let namespace = if resource.namespaced { namespace_of(dependent).to_owned() } else { String::new() };
    Some(Key { resource: resource.storage, namespace, name: owner["name"].as_str()?.to_owned() })
}

/// An object without a namespace cannot be owned by one that lives in a namespace: in which?
fn is_placed(owner: &Key) -> bool {
    !owner.namespace.is_empty() || by_storage(owner.resource).is_none_or(|resource| !resource.namespaced)
}

impl Garbage {
    fn dependents(&self, uid: &str) -> Vec<(&'static Resource, Arc<Value>)> {
        let mut found = Vec::new();
        for resource in self.sources() {
            let all = self.registry.list(resource, None).into_iter();
            found.extend(all.filter(|o| owners(o).iter().any(|r| r["uid"] == *uid)).map(|o| (resource, o)));
        }
        found
    }

    /// Deletes an object that no owner keeps; of one that is kept, drops the references to owners that are gone, or
    /// that only wait for what they own to go.
    async fn collect(&self, resource: &'static Resource, object: &Value) -> Result<(), Status> {
        let (mut kept, mut awaited) = (false, false);
        let mut gone = BTreeSet::new();
        for reference in owners(object) {
            match self.owner(object, reference) {
                // A kind that this server does not have cannot be judged.
                Owner::Unknown => kept = true,
                Owner::Elsewhere => {
                    kept = true;
                    self.tell_misplaced(object, reference);
                }
                Owner::Present(owner) if !(is_deleting(&owner) && has_finalizer(&owner, FOREGROUND)) => kept = true,
                Owner::Present(_) => {
                    awaited = true;
                    gone.insert(reference["uid"].as_str().unwrap_or_default().to_owned());
                }
                Owner::Absent => drop(gone.insert(reference["uid"].as_str().unwrap_or_default().to_owned())),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        if kept {
            let is_gone = |reference: &Value| gone.contains(reference["uid"].as_str().unwrap_or_default());
            set_owners(&self.registry, &self.ctx, resource, object, |list| list.retain(|r| !is_gone(r))).await?;
            return Ok(());
        }
        // An owner that waits, waits for what its dependents own too.
        let wait = awaited && !self.dependents(uid_of(object)).is_empty();
        let propagation = wait.then_some(Propagation::Foreground);
        let options = DeleteOptions { propagation, ..DeleteOptions::of(uid_of(object)) };
        match self.registry.delete(&self.ctx, resource, namespace_of(object), name_of(object), &options).await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }

    fn owner(&self, dependent: &Value, reference: &Value) -> Owner {
        let Some(key) = owner_key(dependent, reference) else { return Owner::Unknown };
        if !is_placed(&key) {
            return Owner::Elsewhere;
        }
        match self.registry.store.get(&key) {
            Some(owner) if reference["uid"] == *uid_of(&owner) => Owner::Present(owner),
            _ => Owner::Absent,
        }
    }

    fn tell_misplaced(&self, object: &Value, reference: &Value) {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let message = format!(
            "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace \"\"",
            text("apiVersion"),
            text("kind"),
            text("name"),
            text("uid"),
        );
        let (component, reason) = ("garbage-collector-controller", "OwnerRefInvalidNamespace");
        record(&self.registry, object, Note { component, kind: "Warning", reason, message: &message });
    }

    /// Lets dependents go, then the object.
    async fn orphan(&self, resource: &'static Resource, object: &Value) -> Result<(), Status> {
        let uid = uid_of(object);
        for (kind, dependent) in self.dependents(uid) {
            let freed =
                set_owners(&self.registry, &self.ctx, kind, &dependent, |list| list.retain(|r| r["uid"] != *uid));
            match freed.await {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {}
            }
        }
        self.finish(resource, object, ORPHAN).await
    }

    /// Deletes dependents; when none that blocks is left, lets the object go.
    async fn foreground(&self, resource: &'static Resource, object: &Value) -> Result<(), Status> {
        let uid = uid_of(object);
        let dependents = self.dependents(uid);
        let holds = |o: &Value, r: &Value| {
            r["uid"] == *uid && r["blockOwnerDeletion"] == true && owner_key(o, r).is_some_and(|key| is_placed(&key))
        };
        let blocks = |o: &Value| owners(o).iter().any(|r| holds(o, r));
        for (kind, dependent) in dependents.iter().filter(|(_, dependent)| !is_deleting(dependent)) {
            self.collect(kind, dependent).await?;
        }
        if self.dependents(uid).iter().any(|(_, dependent)| blocks(dependent)) {
            return Ok(());
        }
        self.finish(resource, object, FOREGROUND).await
    }

    async fn finish(&self, resource: &'static Resource, object: &Value, finalizer: &str) -> Result<(), Status> {
        let change = |old: &Value| {
            let mut new = old.clone();
            if let Some(list) = new["metadata"]["finalizers"].as_array_mut() {
                list.retain(|f| f != finalizer);
            }
            Ok(new)
        };
        let (namespace, name) = (namespace_of(object), name_of(object));
        match self.registry.update(&self.ctx, resource, namespace, name, Part::Main, change).await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }
}

/// What an owner reference leads to.
enum Owner {
    Present(Arc<Value>),
    Absent,
    /// A kind of this server that lives in a namespace, named by an object that lives in none.
    Elsewhere,
    Unknown,
}
