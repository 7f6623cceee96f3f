//! A handler per verb.

mod delete;
mod read;
mod scale;
mod watch;
mod write;

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::reply::Reply;
use super::request::{RequestInfo, ResourceRequest};
use super::{Api, discovery, protobuf, reviews, tunnel, yaml};
use crate::registry::Context;
use crate::registry::decode::FieldValidation;
use crate::registry::resource::Resource;
use crate::status::Status;
use crate::user::User;

/// Bodies may be so long.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Serves a request for a resource.
pub(super) async fn dispatch(
    api: &Arc<Api>,
    user: User,
    info: RequestInfo,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let RequestInfo::Resource(request) = info else { return Err(Status::no_such_path()) };
    let Some(resource) = request.resource else {
        let is_review = discovery::REVIEWS.iter().any(|r| r.group == request.group && r.plural == request.plural);
        if is_review && request.verb == "create" && request.version == "v1" {
            let body = object(incoming).await?;
            return reviews::answer(api, &user, &request, body);
        }
        return Err(if is_review { Status::method_not_allowed() } else { Status::no_such_path() });
    };
    check_place(resource, &request)?;
    if matches!(request.subresource.as_str(), "log" | "exec" | "attach" | "portforward") && resource.has("exec") {
        return match request.verb {
            "get" | "create" => tunnel::serve(api, &request, incoming).await,
            _ => Err(Status::method_not_allowed()),
        };
    }
    let form = super::accept::form(incoming.headers())?;
    let ctx = context(user, &request)?;
    if !request.subresource.is_empty() && !resource.has(&request.subresource) {
        return Err(Status::no_such_path());
    }
    match (request.verb, request.subresource.as_str()) {
        ("get" | "update" | "patch", "scale") => scale::serve(api, &ctx, resource, &request, incoming).await,
        ("get", "" | "status" | "ephemeralcontainers") => read::get(api, resource, &request, form),
        ("list", "") => read::list(api, resource, &request, form),
        ("watch", "") => watch::serve(api, resource, &request, form),
        ("create", "") if request.name.is_empty() => write::create(api, &ctx, resource, &request, incoming).await,
        ("create", "binding") => write::bind(api, &ctx, &request, object(incoming).await?).await,
        ("create", "eviction") => delete::evict(api, &ctx, &request, object(incoming).await?).await,
        ("create", "token") => reviews::issue_token(api, &ctx.user, &request, object(incoming).await?),
        ("update", _) => write::update(api, &ctx, resource, &request, incoming).await,
        ("patch", _) => write::patch(api, &ctx, resource, &request, incoming).await,
        ("delete", "") => delete::one(api, &ctx, resource, &request, incoming).await,
        ("deletecollection", "") => delete::collection(api, &ctx, resource, &request, incoming).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// A namespaced object is named with its namespace, another without.
fn check_place(resource: &Resource, request: &ResourceRequest) -> Result<(), Status> {
    let named = !request.name.is_empty() || request.verb == "create" || request.verb == "deletecollection";
    let fits = if resource.namespaced { !named || !request.namespace.is_empty() } else { request.namespace.is_empty() };
    if fits { Ok(()) } else { Err(Status::no_such_path()) }
}

fn context(user: User, request: &ResourceRequest) -> Result<Context, Status> {
    let dry_run = match request.query.get("dryRun") {
        "" => false,
        "All" => true,
        other => {
            let message = format!("Invalid value: {other:?}: supported values: \"All\"");
            return Err(Status::bad_request(message));
        }
    };
    Ok(Context { user, dry_run, validation: FieldValidation::parse(request.query.get("fieldValidation"))? })
}

/// The body of a request, whole.
async fn body(incoming: Request<Incoming>) -> Result<bytes::Bytes, Status> {
    let collected = Limited::new(incoming.into_body(), BODY_LIMIT).collect().await.map_err(|e| {
        if e.downcast_ref::<http_body_util::LengthLimitError>().is_some() {
            let message = format!("Request entity too large: limit is {BODY_LIMIT}");
            Status::new(413, "RequestEntityTooLarge", message)
        } else {
            Status::bad_request(format!("reading the request: {e}"))
        }
    })?;
    Ok(collected.to_bytes())
}

/// The body of a request as an object, from JSON, YAML or protobuf.
async fn object(incoming: Request<Incoming>) -> Result<Value, Status> {
    let content_type = incoming
        .headers()
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/json")
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let bytes = body(incoming).await?;
    decode(&content_type, &bytes)
}

fn decode(content_type: &str, bytes: &[u8]) -> Result<Value, Status> {
    match content_type {
        "application/json" | "" | "*/*" => serde_json::from_slice(bytes)
            .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}"))),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml::decode(bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}
