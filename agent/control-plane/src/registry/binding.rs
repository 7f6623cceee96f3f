//! Assigning pods to nodes.

use serde_json::json;

use super::resource::PODS;
use super::{Context, Registry, is_deleting, set_condition};
use crate::status::Status;

impl Registry {
    /// Assigns a pod that has no node to `node`.
    pub(crate) async fn bind(&self, ctx: &Context, namespace: &str, name: &str, node: &str) -> Result<(), Status> {
        let conflict = |why: &str| Err(Status::conflict("", "pods/binding", name, why));
        self.update_raw(ctx, &PODS, namespace, name, |pod| {
            if is_deleting(pod) {
                return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                return conflict(&format!("pod {name} is already assigned to node {assigned:?}"));
            }
            if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = json!(node);
            set_condition(&mut pod, "PodScheduled", "True", "", "");
            Ok(pod)
        })
        .await
    }
}
