//! delete, deletecollection, and eviction.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::read::Selection;
use super::{body, decode};
use crate::registry::resource::{PODS, Resource};
use crate::registry::{Context, DeleteOptions, Deleted, Propagation, name_of, namespace_of, set_condition, uid_of};
use crate::server::Api;
use crate::server::reply::Reply;
use crate::server::request::{Query, ResourceRequest};
use crate::status::Status;

pub(super) async fn one(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let (options, dry_run) = options(request, incoming).await?;
    let ctx = Context { dry_run: ctx.dry_run || dry_run, ..ctx.clone() };
    let deleted = api.registry.delete(&ctx, resource, &request.namespace, &request.name, &options).await?;
    Ok(match deleted {
        Deleted::Pending(object) => Reply::json(StatusCode::OK, &object),
        Deleted::Gone(object) if resource.kind == "Pod" => Reply::json(StatusCode::OK, &object),
        Deleted::Gone(object) => {
            let mut details = json!({"name": name_of(&object), "kind": resource.plural, "uid": uid_of(&object)});
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            Reply::json(
                StatusCode::OK,
                &json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                }),
            )
        }
    })
}

pub(super) async fn collection(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let selection = Selection::of(request)?;
    let (options, dry_run) = options(request, incoming).await?;
    let ctx = Context { dry_run: ctx.dry_run || dry_run, ..ctx.clone() };
    let namespace = (!request.namespace.is_empty()).then_some(request.namespace.as_str());
    let mut items = api.registry.list(resource, namespace);
    items.retain(|object| selection.matches(object));
    for object in &items {
        match api.registry.delete(&ctx, resource, namespace_of(object), name_of(object), &options).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    let items: Vec<&Value> = items.iter().map(|o| &**o).collect();
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": api.registry.store.revision().to_string()}, "items": items,
        }),
    ))
}

/// From the body, or from query parameters.
async fn options(request: &ResourceRequest, incoming: Request<Incoming>) -> Result<(DeleteOptions, bool), Status> {
    let content_type =
        incoming.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = body(incoming).await?;
    let sent = if bytes.is_empty() {
        json!({})
    } else {
        decode(content_type.split(';').next().unwrap_or_default().trim(), &bytes)?
    };
    parse(&sent, &request.query)
}

/// Reads a `DeleteOptions` object, and what it leaves open from the query; also whether it is only to be tried.
fn parse(sent: &Value, query: &Query) -> Result<(DeleteOptions, bool), Status> {
    let grace = match sent["gracePeriodSeconds"].as_i64() {
        Some(grace) => Some(grace),
        None => query.number("gracePeriodSeconds")?,
    };
    let policy = match sent["propagationPolicy"].as_str() {
        Some(policy) => policy,
        None if sent["orphanDependents"] == true || query.flag("orphanDependents") => "Orphan",
        None => query.get("propagationPolicy"),
    };
    let propagation = match policy {
        "" => None,
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        "Orphan" => Some(Propagation::Orphan),
        other => {
            let message = format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            );
            return Err(Status::bad_request(message));
        }
    };
    let precondition = |field: &str| sent["preconditions"][field].as_str().map(str::to_owned);
    let dry_run = sent["dryRun"].as_array().is_some_and(|values| values.iter().any(|v| v == "All"));
    let options =
        DeleteOptions { grace, propagation, uid: precondition("uid"), revision: precondition("resourceVersion") };
    Ok((options, dry_run))
}

/// `pods/eviction`. There are no disruption budgets in this server's API, so nothing stands against it.
pub(super) async fn evict(
    api: &Api,
    ctx: &Context,
    request: &ResourceRequest,
    eviction: Value,
) -> Result<Reply, Status> {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let (mut options, dry_run) = parse(&eviction["deleteOptions"], &Query::default())?;
    let ctx = Context { dry_run: ctx.dry_run || dry_run, ..ctx.clone() };
    let mut uid = String::new();
    api.registry
        .update_raw(&ctx, &PODS, namespace, name, |pod| {
            options.check(&PODS, pod)?;
            uid_of(pod).clone_into(&mut uid);
            let mut pod = pod.clone();
            let message = "Eviction API: evicting";
            set_condition(&mut pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", message);
            Ok(pod)
        })
        .await?;
    // The mark has changed the version that was asked for; the pod that bears it is the one to go.
    options = DeleteOptions { uid: Some(uid), revision: None, ..options };
    api.registry.delete(&ctx, &PODS, namespace, name, &options).await?;
    Ok(Reply::json(
        StatusCode::CREATED,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        }),
    ))
}
