//! Every pod runs as a service account of its namespace and finds the account's token in a volume.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::registry::resource::{Resource, SERVICE_ACCOUNTS};
use crate::registry::{Registry, name_of, names};
use crate::status::Status;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A token's seconds; the odd number marks it as asked for by admission.
const TOKEN_SECONDS: i64 = 3607;
/// In a new namespace the default account may be a moment away.
const WAIT: Duration = Duration::from_secs(2);

pub(super) async fn admit(
    registry: &Registry,
    resource: &'static Resource,
    namespace: &str,
    pod: &mut Value,
) -> Result<(), Status> {
    let account_name = match pod["spec"]["serviceAccountName"].as_str() {
        None | Some("") => "default".to_owned(),
        Some(name) => name.to_owned(),
    };
    let Some(account) = find(registry, namespace, &account_name).await else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found"
        );
        return Err(Status::forbidden(resource.group, resource.plural, name_of(pod), &why));
    };
    pod["spec"]["serviceAccountName"] = json!(account_name);
    pod["spec"]["serviceAccount"] = json!(account_name);
    if pod["spec"]["imagePullSecrets"].is_null() && account["imagePullSecrets"].is_array() {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let wanted = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if wanted {
        mount_token(pod);
    }
    Ok(())
}

async fn find(registry: &Registry, namespace: &str, name: &str) -> Option<Arc<Value>> {
    let revision = registry.store.revision();
    let get = || registry.get(&SERVICE_ACCOUNTS, namespace, name).ok();
    if name != "default" {
        return get();
    }
    let mut watcher = registry.store.watch(SERVICE_ACCOUNTS.storage, revision);
    let appears = async {
        loop {
            if let Some(account) = get() {
                return Some(account);
            }
            watcher.next().await.ok()?;
        }
    };
    tokio::time::timeout(WAIT, appears).await.ok().flatten()
}

fn mount_token(pod: &mut Value) {
    let name = names::with_random_suffix("kube-api-access-");
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = Value::Array(mounts);
            mounted = true;
        }
    }
    if !mounted {
        return;
    }
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}}));
    pod["spec"]["volumes"] = Value::Array(volumes);
}
