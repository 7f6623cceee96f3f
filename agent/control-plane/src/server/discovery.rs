//! Discovery: which groups, versions and resources there are, aggregated (v2) and in the older form.

use std::net::SocketAddr;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::reply::Reply;
use crate::registry::resource::{self, Resource};
use crate::status::Status;

/// Resources that are answered and never stored.
pub(super) struct Review {
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
}

pub(super) const REVIEWS: [Review; 6] = [
    Review {
        group: "authentication.k8s.io",
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
        namespaced: false,
    },
    Review { group: "authentication.k8s.io", plural: "tokenreviews", kind: "TokenReview", namespaced: false },
    Review {
        group: "authorization.k8s.io",
        plural: "localsubjectaccessreviews",
        kind: "LocalSubjectAccessReview",
        namespaced: true,
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
    },
    Review {
        group: "authorization.k8s.io",
        plural: "subjectaccessreviews",
        kind: "SubjectAccessReview",
        namespaced: false,
    },
];

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Named groups, in the order clients see them. All are at v1.
pub(super) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = Vec::new();
    let stored = resource::ALL.iter().map(|r| r.group);
    for group in stored.chain(REVIEWS.iter().map(|r| r.group)).filter(|g| !g.is_empty()) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn of_group(group: &str) -> impl Iterator<Item = &'static Resource> + '_ {
    resource::ALL.iter().copied().filter(move |r| r.group == group)
}

fn reviews_of(group: &str) -> impl Iterator<Item = &'static Review> + '_ {
    REVIEWS.iter().filter(move |r| r.group == group)
}

pub(super) fn serve(address: SocketAddr, path: &str, headers: &HeaderMap) -> Result<Reply, Status> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let accept = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let aggregated = accept
        .split(',')
        .any(|entry| entry.contains("as=APIGroupDiscoveryList") && entry.split(';').any(|p| p.trim() == "v=v2"));
    match parts.as_slice() {
        ["api"] if aggregated => Ok(aggregate(&[""])),
        ["apis"] if aggregated => Ok(aggregate(&groups())),
        ["api"] => Ok(Reply::json(
            StatusCode::OK,
            &json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}],
            }),
        )),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            Ok(Reply::json(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] if groups().contains(name) => {
            let mut value = group(name);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            Ok(Reply::json(StatusCode::OK, &value))
        }
        ["api", "v1"] => Ok(Reply::json(StatusCode::OK, &resources("", "v1"))),
        ["apis", name, "v1"] if groups().contains(name) => {
            Ok(Reply::json(StatusCode::OK, &resources(name, &format!("{name}/v1"))))
        }
        _ => Err(Status::no_such_path()),
    }
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, group_version: &str) -> Value {
    let mut list = Vec::new();
    for resource in of_group(group) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for sub in resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if !sub.group.is_empty() {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            list.push(entry);
        }
    }
    list.extend(reviews_of(group).map(|review| {
        json!({"name": review.plural, "singularName": review.kind.to_lowercase(), "namespaced": review.namespaced,
            "kind": review.kind, "verbs": ["create"]})
    }));
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list})
}

fn aggregate(groups: &[&str]) -> Reply {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let mut list: Vec<Value> = of_group(group).map(aggregated_resource).collect();
            list.extend(reviews_of(group).map(|review| {
                json!({"resource": review.plural, "singularResource": review.kind.to_lowercase(),
                    "responseKind": {"group": group, "version": "v1", "kind": review.kind},
                    "scope": scope(review.namespaced), "verbs": ["create"]})
            }));
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": [{"version": "v1", "freshness": "Current", "resources": list}]})
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    Reply::json(StatusCode::OK, &value).header(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED))
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "Namespaced" } else { "Cluster" }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural, "singularResource": resource.singular, "scope": scope(resource.namespaced),
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind}, "verbs": VERBS,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subs = resource.subresources.iter().map(|sub| {
            let own = sub.version.is_empty();
            let group = if own { resource.group } else { sub.group };
            let version = if own { resource.version } else { sub.version };
            json!({"subresource": sub.name, "verbs": sub.verbs,
                "responseKind": {"group": group, "version": version, "kind": sub.kind}})
        });
        entry["subresources"] = subs.collect();
    }
    entry
}
