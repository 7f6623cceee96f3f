//! Admission: what is decided about an object between defaults and validation, by who asks and by what exists.

mod mirror_pod;
mod namespace;
mod node_restriction;
mod pod_defaults;
mod service_account;

use serde_json::{Value, json};

pub(crate) use namespace::terminating;

use crate::registry::resource::Resource;
use crate::registry::{Context, Part, Registry};
use crate::status::Status;

/// Before an object is created.
pub(crate) async fn create(
    registry: &Registry,
    ctx: &Context,
    resource: &'static Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), Status> {
    if resource.namespaced {
        namespace::check(registry, resource, namespace, object)?;
    }
    if let Some(node) = ctx.user.node() {
        node_restriction::create(node, resource, object)?;
    }
    match resource.kind {
        "Pod" => {
            if mirror_pod::is_mirror(object) {
                mirror_pod::check(object)?;
            } else {
                service_account::admit(registry, resource, namespace, object).await?;
            }
            pod_defaults::priority(registry, object)?;
            pod_defaults::tolerations(object);
        }
        "Node" => taint_not_ready(object),
        _ => {}
    }
    Ok(())
}

/// Before an object is changed.
pub(crate) fn update(
    _registry: &Registry,
    ctx: &Context,
    resource: &'static Resource,
    part: Part,
    object: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    match ctx.user.node() {
        Some(node) => node_restriction::update(node, resource, part, object, old),
        None => Ok(()),
    }
}

/// A new node takes no pods until the node lifecycle controller has seen it ready.
fn taint_not_ready(node: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let taints = &mut node["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    if let Some(list) = taints.as_array_mut()
        && !list.iter().any(|t| t["key"] == KEY && t["effect"] == "NoSchedule")
    {
        list.push(json!({"key": KEY, "effect": "NoSchedule"}));
    }
}
