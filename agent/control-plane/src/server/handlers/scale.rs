//! The scale sub-resource: how many replicas.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{body, object};
use crate::patch::Patch;
use crate::registry::decode::decode;
use crate::registry::resource::{Resource, SCALE};
use crate::registry::{Context, Part};
use crate::selectors::LabelSelector;
use crate::server::Api;
use crate::server::reply::Reply;
use crate::server::request::ResourceRequest;
use crate::status::Status;

/// From the present scale to the wanted.
type Change = Box<dyn Fn(&Value) -> Result<Value, Status> + Send + Sync>;

pub(super) async fn serve(
    api: &Api,
    ctx: &Context,
    resource: &'static Resource,
    request: &ResourceRequest,
    incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let change: Change = match request.verb {
        "get" => {
            let found = api.registry.get(resource, namespace, name)?;
            return Ok(Reply::json(StatusCode::OK, &scale_of(&found)));
        }
        "update" => {
            let sent = object(incoming).await?;
            Box::new(move |_| Ok(sent.clone()))
        }
        _ => {
            let content_type = incoming
                .headers()
                .get(http::header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let patch = Patch::parse(&content_type, &body(incoming).await?)?;
            Box::new(move |scale| patch.apply("Scale", scale))
        }
    };
    let written = api
        .registry
        .update(ctx, resource, namespace, name, Part::Main, |old| {
            let (scale, _) = decode(&SCALE, change(&scale_of(old))?, ctx.validation)?;
            if scale["metadata"]["name"] != *name {
                let given = scale["metadata"]["name"].as_str().unwrap_or_default();
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(Status::bad_request(message));
            }
            let mut object = old.clone();
            // Typed clients leave zero out.
            object["spec"]["replicas"] = json!(scale["spec"]["replicas"].as_i64().unwrap_or(0));
            // Carried over, so that a stale version or another object is noticed.
            for field in ["resourceVersion", "uid"] {
                if scale["metadata"][field].is_string() {
                    object["metadata"][field] = scale["metadata"][field].clone();
                }
            }
            Ok(object)
        })
        .await?;
    Ok(Reply::json(StatusCode::OK, &scale_of(&written.object)))
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = LabelSelector::from_object(&object["spec"]["selector"]).unwrap_or_default();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.to_string()},
    })
}
