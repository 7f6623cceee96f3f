//! What a user may do: administrators everything, nodes what their pods need, everybody to ask about themselves.

use serde_json::Value;

use super::Api;
use super::request::{RequestInfo, ResourceRequest};
use crate::registry::Registry;
use crate::registry::references::{self, Referenced};
use crate::registry::resource::PODS;
use crate::selectors::FieldSelector;
use crate::status::{Status, qualified};
use crate::user::User;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// For lists and watches.
    pub(super) fields: FieldSelector,
    /// For paths that are no resources.
    pub(super) path: Option<String>,
}

impl Attributes {
    fn of(request: &ResourceRequest) -> Self {
        Self {
            verb: request.verb.to_owned(),
            group: request.group.clone(),
            resource: request.plural.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            fields: request.fields().unwrap_or_default(),
            path: None,
        }
    }
}

/// Refuses what the user may not do.
pub(super) fn require(api: &Api, user: &User, info: &RequestInfo) -> Result<(), Status> {
    let attributes = match info {
        RequestInfo::Resource(request) => Attributes::of(request),
        RequestInfo::Path { verb, path } => {
            Attributes { verb: (*verb).to_owned(), path: Some(path.clone()), ..Attributes::default() }
        }
    };
    if allowed(&api.registry, user, &attributes) { Ok(()) } else { Err(denial(user, &attributes)) }
}

/// Whether the user may.
pub(super) fn allowed(registry: &Registry, user: &User, asked: &Attributes) -> bool {
    if user.in_group("system:masters") {
        return true;
    }
    if let Some(path) = &asked.path {
        return asked.verb == "get" && is_public_path(path);
    }
    let own = ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];
    if asked.verb == "create" && own.contains(&asked.resource.as_str()) {
        return true;
    }
    user.node().is_some_and(|node| node_may(registry, node, asked))
}

/// Discovery and the like, for everyone who is authenticated.
fn is_public_path(path: &str) -> bool {
    let exact = ["/", "/api", "/apis", "/version", "/healthz", "/livez", "/readyz", "/openid/v1/jwks"];
    let below = ["/api/", "/apis/", "/openapi/", "/.well-known/"];
    exact.contains(&path) || below.iter().any(|prefix| path.starts_with(prefix))
}

fn denial(user: &User, asked: &Attributes) -> Status {
    if let Some(path) = &asked.path {
        let message = format!("forbidden: User {:?} cannot {} path {path:?}", user.name, asked.verb);
        return Status::new(403, "Forbidden", message).about("", "", "");
    }
    let resource = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", asked.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        user.name, asked.verb, asked.group
    );
    Status::forbidden(&asked.group, &asked.resource, &asked.name, &why)
}

const READ: [&str; 3] = ["get", "list", "watch"];

fn node_may(registry: &Registry, node: &str, asked: &Attributes) -> bool {
    let verb = asked.verb.as_str();
    let reading = READ.contains(&verb);
    let collection = verb == "list" || verb == "watch";
    // A list or watch of one object is as good as a get of it.
    let name = if collection { asked.fields.name().unwrap_or_default() } else { asked.name.as_str() };
    let what = qualified(&asked.group, &asked.resource);
    match (what.as_str(), asked.subresource.as_str()) {
        ("nodes", "") => verb == "create" || (name == node && (reading || verb == "update" || verb == "patch")),
        ("nodes", "status") => name == node && ["get", "update", "patch"].contains(&verb),
        ("leases.coordination.k8s.io", "") => {
            asked.namespace == "kube-node-lease" && (verb == "create" || (name == node && verb != "deletecollection"))
        }
        ("csinodes.storage.k8s.io", "") => verb == "create" || (name == node && verb != "deletecollection"),
        ("pods", "") if collection => {
            let own =
                |path: &str, value: &str| asked.fields.0.iter().any(|t| t.equal && t.path == path && t.value == value);
            own("spec.nodeName", node) || (!name.is_empty() && pod_on(registry, node, &asked.namespace, name).is_some())
        }
        // What it creates is checked by admission: mirror pods only.
        ("pods", "") if verb == "create" => true,
        ("pods", "") => ["get", "delete"].contains(&verb) && pod_on(registry, node, &asked.namespace, name).is_some(),
        ("pods", "status") => {
            ["get", "update", "patch"].contains(&verb) && pod_on(registry, node, &asked.namespace, name).is_some()
        }
        ("pods", "eviction") => verb == "create" && pod_on(registry, node, &asked.namespace, name).is_some(),
        ("secrets" | "configmaps" | "persistentvolumeclaims", "") => {
            reading && !name.is_empty() && references(registry, node, &asked.namespace, &asked.resource, name)
        }
        ("serviceaccounts", "") => verb == "get" && runs_account(registry, node, &asked.namespace, name),
        ("serviceaccounts", "token") => verb == "create" && runs_account(registry, node, &asked.namespace, name),
        ("services" | "runtimeclasses.node.k8s.io" | "csidrivers.storage.k8s.io", "") => reading,
        ("events", "") => ["create", "update", "patch"].contains(&verb),
        (
            "tokenreviews.authentication.k8s.io"
            | "subjectaccessreviews.authorization.k8s.io"
            | "localsubjectaccessreviews.authorization.k8s.io",
            "",
        ) => verb == "create",
        _ => false,
    }
}

fn pod_on(registry: &Registry, node: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<Value>> {
    registry.get(&PODS, namespace, name).ok().filter(|pod| pod["spec"]["nodeName"] == *node)
}

fn any_pod(registry: &Registry, node: &str, namespace: &str, test: impl Fn(&Value) -> bool) -> bool {
    registry.list(&PODS, Some(namespace)).iter().any(|pod| pod["spec"]["nodeName"] == *node && test(&pod["spec"]))
}

fn runs_account(registry: &Registry, node: &str, namespace: &str, name: &str) -> bool {
    any_pod(registry, node, namespace, |spec| spec["serviceAccountName"] == *name)
}

/// Whether a pod of the node names the object.
fn references(registry: &Registry, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let kind = match resource {
        "secrets" => Referenced::Secret,
        "configmaps" => Referenced::ConfigMap,
        _ => Referenced::Claim,
    };
    any_pod(registry, node, namespace, |spec| references::any(spec, &mut |k, n| k == kind && n == name))
}
