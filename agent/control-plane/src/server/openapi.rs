//! OpenAPI v3 documents: which kinds there are, and that fields are validated here (`fieldValidation`), so that
//! kubectl leaves validation to the server. They carry no field schemas yet: `kubectl explain` names the kind only.

use http::StatusCode;
use serde_json::{Value, json};

use super::discovery::groups;
use super::reply::Reply;
use crate::registry::resource::{self, Resource};
use crate::status::Status;

/// Serves the index (empty path) or the document of one group and version.
pub(super) fn serve(path: &str) -> Result<Reply, Status> {
    if path.is_empty() {
        let mut paths = json!({});
        let named = groups().into_iter().map(|group| format!("apis/{group}/v1"));
        for name in std::iter::once("api/v1".to_owned()).chain(named) {
            let url = format!("/openapi/v3/{name}?hash={}", env!("CARGO_PKG_VERSION"));
            paths[&name] = json!({"serverRelativeURL": url});
        }
        return Ok(Reply::json(StatusCode::OK, &json!({"paths": paths})));
    }
    let group = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", "v1"] => "",
        ["apis", group, "v1"] if groups().contains(group) => group,
        _ => return Err(Status::no_such_path()),
    };
    Ok(Reply::json(StatusCode::OK, &document(group)))
}

fn document(group: &str) -> Value {
    let (mut paths, mut schemas) = (json!({}), json!({}));
    for resource in resource::ALL.iter().filter(|r| r.group == group) {
        let (collection, one) = places(resource);
        paths[&collection] = json!({"get": operation(resource, "list"), "post": operation(resource, "post")});
        paths[&one] = json!({
            "get": operation(resource, "get"), "put": operation(resource, "put"),
            "patch": operation(resource, "patch"), "delete": operation(resource, "delete"),
        });
        let group_label = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        let name = format!("io.k8s.api.{group_label}.{}.{}", resource.version, resource.kind);
        schemas[&name] = json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-group-version-kind": [kind(resource)],
        });
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": paths, "components": {"schemas": schemas},
    })
}

fn places(resource: &Resource) -> (String, String) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let one = format!("{collection}/{{name}}");
    (collection, one)
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn operation(resource: &Resource, action: &str) -> Value {
    let mut operation = json!({
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind(resource),
        "responses": {"200": {"description": "OK"}},
    });
    if ["post", "put", "patch"].contains(&action) {
        let parameters = ["dryRun", "fieldManager", "fieldValidation"]
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}));
        operation["parameters"] = json!(parameters);
    }
    operation
}
