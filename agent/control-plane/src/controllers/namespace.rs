//! The namespace controller: gives each namespace its default service account and the CA, and empties it when it
//! is deleted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::runner::{Change, Reconciler, key_of};
use crate::registry::resource::{ALL, CONFIG_MAPS, NAMESPACES, Resource, SERVICE_ACCOUNTS};
use crate::registry::{Context, DeleteOptions, Part, Registry, is_deleting, name_of, namespace_of, uid_of};
use crate::status::Status;
use crate::store::Key;

const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) struct Namespaces {
    registry: Arc<Registry>,
    ctx: Context,
    ca_pem: String,
}

impl Namespaces {
    pub(super) fn new(registry: Arc<Registry>, ca_pem: &str) -> Self {
        let ctx = Context::component("system:serviceaccount:kube-system:namespace-controller");
        Self { registry, ctx, ca_pem: ca_pem.to_owned() }
    }
}

impl Reconciler for Namespaces {
    const NAME: &'static str = "namespace-controller";

    fn sources(&self) -> Vec<&'static Resource> {
        let namespaced = ALL.into_iter().filter(|resource| resource.namespaced);
        namespaced.chain(std::iter::once(&NAMESPACES)).collect()
    }

    fn keys(&self, change: Change<'_>) -> Vec<Key> {
        if *change.resource == NAMESPACES {
            return vec![key_of(&NAMESPACES, change.object)];
        }
        // What goes away may be the last thing in a namespace, or one that every namespace must have; what is there at
        // the start may be left over from a namespace that is not.
        let name = namespace_of(change.object).to_owned();
        let homeless = || change.previous.is_none() && self.registry.get(&NAMESPACES, "", &name).is_err();
        if change.deleted || (*change.resource == CONFIG_MAPS && name_of(change.object) == ROOT_CA) || homeless() {
            return vec![Key { resource: NAMESPACES.storage, namespace: String::new(), name }];
        }
        Vec::new()
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let find = || self.registry.get(&NAMESPACES, "", &key.name).ok();
        if find().is_some_and(|namespace| !is_deleting(&namespace)) {
            self.furnish(&key.name).await?;
            return Ok(None);
        }
        // Listed before the namespace is looked for again, so that nothing here is of a later one of the same name.
        let contents = self.contents(&key.name);
        let Some(namespace) = find() else {
            self.empty(&contents).await?;
            return Ok(None);
        };
        if is_deleting(&namespace) {
            self.empty(&contents).await?;
            if self.contents(&key.name).is_empty() {
                self.finish(&key.name).await?;
            }
        }
        Ok(None)
    }
}

impl Namespaces {
    async fn furnish(&self, namespace: &str) -> Result<(), Status> {
        if self.registry.get(&SERVICE_ACCOUNTS, namespace, "default").is_err() {
            let account = json!({"metadata": {"name": "default"}});
            self.create(&SERVICE_ACCOUNTS, namespace, account).await?;
        }
        match self.registry.get(&CONFIG_MAPS, namespace, ROOT_CA) {
            Ok(present) if present["data"]["ca.crt"] == *self.ca_pem => Ok(()),
            Ok(_) => {
                let change = |old: &Value| {
                    let mut new = old.clone();
                    new["data"] = json!({"ca.crt": self.ca_pem});
                    Ok(new)
                };
                self.registry.update(&self.ctx, &CONFIG_MAPS, namespace, ROOT_CA, Part::Main, change).await.map(drop)
            }
            Err(_) => {
                let map = json!({"metadata": {"name": ROOT_CA}, "data": {"ca.crt": self.ca_pem}});
                self.create(&CONFIG_MAPS, namespace, map).await
            }
        }
    }

    async fn create(&self, resource: &'static Resource, namespace: &str, object: Value) -> Result<(), Status> {
        match self.registry.create(&self.ctx, resource, namespace, object).await {
            Err(status) if !status.is_already_exists() => Err(status),
            _ => Ok(()),
        }
    }

    fn contents(&self, namespace: &str) -> Vec<(&'static Resource, Arc<Value>)> {
        let namespaced = ALL.into_iter().filter(|resource| resource.namespaced);
        namespaced.flat_map(|r| self.registry.list(r, Some(namespace)).into_iter().map(move |o| (r, o))).collect()
    }

    /// Deletes what is left. Each object that goes later (a pod with its grace) brings the namespace back.
    async fn empty(&self, contents: &[(&'static Resource, Arc<Value>)]) -> Result<(), Status> {
        for (resource, object) in contents.iter().filter(|(_, object)| !is_deleting(object)) {
            let options = DeleteOptions::of(uid_of(object));
            let (namespace, name) = (namespace_of(object), name_of(object));
            match self.registry.delete(&self.ctx, resource, namespace, name, &options).await {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets an empty namespace go.
    async fn finish(&self, name: &str) -> Result<(), Status> {
        let change = |old: &Value| {
            let mut new = old.clone();
            new["spec"]["finalizers"] = json!([]);
            Ok(new)
        };
        match self.registry.update(&self.ctx, &NAMESPACES, "", name, Part::Finalize, change).await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }
}
