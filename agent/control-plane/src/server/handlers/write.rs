//! create, update, patch, and binding.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{body, object};
use crate::patch::Patch;
use crate::registry::resource::Resource;
use crate::registry::{Context, Part, Written};
use crate::server::Api;
use crate::server::reply::Reply;
use crate::server::request::ResourceRequest;
use crate::status::Status;

pub(super) async fn create(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let object = object(incoming).await?;
    let written = api.registry.create(ctx, resource, &request.namespace, object).await?;
    Ok(reply(StatusCode::CREATED, &written))
}

fn reply(code: StatusCode, written: &Written) -> Reply {
    Reply::json(code, &written.object).warn(&written.warnings)
}

fn part(request: &ResourceRequest) -> Result<Part, Status> {
    match request.subresource.as_str() {
        "" => Ok(Part::Main),
        "status" => Ok(Part::Status),
        "ephemeralcontainers" => Ok(Part::Ephemeral),
        "finalize" => Ok(Part::Finalize),
        _ => Err(Status::method_not_allowed()),
    }
}

pub(super) async fn update(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let part = part(request)?;
    let sent = object(incoming).await?;
    if sent["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    let (namespace, name) = (&request.namespace, &request.name);
    let written = api.registry.update(ctx, resource, namespace, name, part, |_| Ok(sent.clone())).await?;
    Ok(reply(StatusCode::OK, &written))
}

pub(super) async fn patch(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let part = part(request)?;
    let content_type =
        incoming.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let patch = Patch::parse(&content_type, &body(incoming).await?)?;
    let (namespace, name) = (&request.namespace, &request.name);
    let change = |old: &Value| patch.apply(resource.kind, old);
    let written = api.registry.update(ctx, resource, namespace, name, part, change).await?;
    Ok(reply(StatusCode::OK, &written))
}

/// `pods/binding`: assigns a pod to a node.
pub(super) async fn bind(api: &Api, ctx: &Context, request: &ResourceRequest, binding: Value) -> Result<Reply, Status> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() || binding["target"]["kind"].as_str().is_some_and(|kind| kind != "Node" && !kind.is_empty()) {
        return Err(Status::bad_request("target must name a Node"));
    }
    api.registry.bind(ctx, &request.namespace, &request.name, node).await?;
    Ok(Reply::json(
        StatusCode::CREATED,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    ))
}
