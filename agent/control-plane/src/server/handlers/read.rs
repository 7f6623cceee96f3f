//! get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::registry::resource::Resource;
use crate::registry::{name_of, namespace_of};
use crate::selectors::{FieldSelector, LabelSelector};
use crate::server::Api;
use crate::server::accept::Form;
use crate::server::reply::Reply;
use crate::server::request::{Query, ResourceRequest};
use crate::server::tables;
use crate::status::{Cause, Status};

pub(super) fn get(
    api: &Api,
    resource: &'static Resource,
    request: &ResourceRequest,
    form: Form,
) -> Result<Reply, Status> {
    let object = api.registry.get(resource, &request.namespace, &request.name)?;
    let value = match form {
        Form::Object => return Ok(Reply::json(StatusCode::OK, &object)),
        Form::Table => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            tables::table(resource, &[object], metadata, request.query.get("includeObject"), true)
        }
        Form::Metadata => partial(&object),
    };
    Ok(Reply::json(StatusCode::OK, &value))
}

/// Type and metadata of an object.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Label and field selectors of a request.
#[derive(Debug)]
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn of(request: &ResourceRequest) -> Result<Self, Status> {
        Ok(Self { labels: LabelSelector::parse(request.query.get("labelSelector"))?, fields: request.fields()? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"]) && self.fields.matches(object)
    }

    fn is_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

pub(super) fn list(
    api: &Api,
    resource: &'static Resource,
    request: &ResourceRequest,
    form: Form,
) -> Result<Reply, Status> {
    let selection = Selection::of(request)?;
    check_revision(api, &request.query)?;
    let limit = usize::try_from(request.query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let namespace = (!request.namespace.is_empty()).then_some(request.namespace.as_str());
    let token = request.query.get("continue");
    let start = if token.is_empty() { None } else { Some(Continue::decode(token)?) };
    let listing = match start.as_ref().and_then(|start| start.revision) {
        None => api.registry.store.list(resource.storage, namespace),
        Some(revision) => match api.registry.store.list_at(resource.storage, namespace, revision) {
            Some(listing) => listing,
            None => return Err(expired(start.as_ref())),
        },
    };
    let after = start.as_ref().map(|start| (start.namespace.as_str(), start.name.as_str()));
    let mut items: Vec<Arc<Value>> = listing
        .items
        .into_iter()
        .filter(|o| after.is_none_or(|after| (namespace_of(o), name_of(o)) > after))
        .filter(|o| selection.matches(o))
        .collect();
    let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
    if limit > 0 && items.len() > limit {
        let rest = items.split_off(limit);
        if let Some(last) = items.last() {
            let (namespace, name) = (namespace_of(last).to_owned(), name_of(last).to_owned());
            let next = Continue { revision: Some(listing.revision), namespace, name };
            metadata["continue"] = json!(next.encode());
        }
        if selection.is_all() {
            metadata["remainingItemCount"] = json!(rest.len());
        }
    }
    let value = match form {
        Form::Table => tables::table(resource, &items, metadata, request.query.get("includeObject"), true),
        Form::Metadata => {
            let items: Vec<Value> = items.iter().map(|o| partial(o)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Form::Object => {
            let items: Vec<&Value> = items.iter().map(|o| &**o).collect();
            json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
        }
    };
    Ok(Reply::json(StatusCode::OK, &value))
}

/// Lists are always the newest, which any resourceVersion that exists allows but an exact old one.
fn check_revision(api: &Api, query: &Query) -> Result<(), Status> {
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    if query.has("sendInitialEvents") {
        return Err(invalid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if !matching.is_empty() && version.is_empty() {
        let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(invalid("resourceVersionMatch", why));
    }
    if version.is_empty() {
        return Ok(());
    }
    let revision: u64 = parse_revision(version)?;
    let newest = api.registry.store.revision();
    if revision > newest {
        return Err(too_large(revision, newest));
    }
    match matching {
        "Exact" if revision != newest => {
            let message = "The provided resource version is too old: only the newest can be listed exactly";
            Err(Status::expired(message))
        }
        "" | "NotOlderThan" | "Exact" => Ok(()),
        other => {
            Err(invalid("resourceVersionMatch", &format!("supported values: Exact, NotOlderThan (got {other:?})")))
        }
    }
}

pub(super) fn parse_revision(text: &str) -> Result<u64, Status> {
    text.parse()
        .map_err(|_| invalid("resourceVersion", &format!("Invalid value: {text:?}: strconv.ParseUint: invalid syntax")))
}

pub(super) fn invalid(field: &str, message: &str) -> Status {
    let cause =
        Cause { reason: "FieldValueForbidden", message: format!("Forbidden: {message}"), field: field.to_owned() };
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

pub(super) fn too_large(asked: u64, newest: u64) -> Status {
    let message = format!("Too large resource version: {asked}, current: {newest}");
    let cause = Cause {
        reason: "ResourceVersionTooLarge",
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    Status::new(504, "Timeout", format!("Timeout: {message}")).because(cause).retry_after(1)
}

/// Where a chunked list goes on.
#[derive(Debug)]
struct Continue {
    /// The revision that the list is of; none after it expired.
    revision: Option<u64>,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        let revision = self.revision.unwrap_or(0);
        URL_SAFE_NO_PAD.encode(json!({"v": 1, "rv": revision, "ns": self.namespace, "n": self.name}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Self {
                revision: value["rv"].as_u64().filter(|rv| *rv > 0),
                namespace: value["ns"].as_str()?.to_owned(),
                name: value["n"].as_str()?.to_owned(),
            })
        };
        read().ok_or_else(|| Status::bad_request("continue key is not valid"))
    }
}

fn expired(start: Option<&Continue>) -> Status {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                   without the continue parameter, or use the continue token in this response to retrieve the remainder \
                   of the results.";
    let token =
        start.map(|s| Continue { revision: None, namespace: s.namespace.clone(), name: s.name.clone() }.encode());
    Status::expired(message).continuing_at(token)
}
