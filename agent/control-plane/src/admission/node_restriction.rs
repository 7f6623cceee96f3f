//! What a node's own credential may write: its node object, its lease, the status of its pods, mirror pods.

use serde_json::Value;

use super::mirror_pod::is_mirror;
use crate::registry::resource::Resource;
use crate::registry::{Part, controller_of, name_of};
use crate::status::Status;

fn refuse(resource: &Resource, object: &Value, why: &str) -> Result<(), Status> {
    Err(Status::forbidden(resource.group, resource.plural, name_of(object), why))
}

pub(super) fn create(node: &str, resource: &'static Resource, object: &Value) -> Result<(), Status> {
    match resource.kind {
        "Node" | "CSINode" if name_of(object) != node => {
            refuse(resource, object, &format!("node {node:?} is not allowed to create another node's object"))
        }
        "Lease" if name_of(object) != node || object["metadata"]["namespace"] != "kube-node-lease" => {
            refuse(resource, object, "can only access node lease with the same name as the requesting node")
        }
        "Node" => labels(node, resource, object, &Value::Null),
        "Pod" => mirror_pod(node, resource, object),
        _ => Ok(()),
    }
}

fn mirror_pod(node: &str, resource: &Resource, pod: &Value) -> Result<(), Status> {
    if !is_mirror(pod) {
        return refuse(
            resource,
            pod,
            &format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ),
        );
    }
    if pod["spec"]["nodeName"] != *node {
        return refuse(resource, pod, &format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    if controller_of(pod).is_some_and(|owner| owner["kind"] != "Node" || owner["name"] != *node) {
        return refuse(
            resource,
            pod,
            &format!("node {node:?} can only create pods with an owner reference set to itself"),
        );
    }
    Ok(())
}

pub(super) fn update(
    node: &str,
    resource: &'static Resource,
    part: Part,
    object: &Value,
    old: &Value,
) -> Result<(), Status> {
    if resource.kind == "Pod" && object["metadata"]["labels"] != old["metadata"]["labels"] {
        return refuse(resource, old, &format!("node {node:?} cannot update labels through pod status"));
    }
    if resource.kind != "Node" {
        return Ok(());
    }
    if name_of(old) != node {
        return refuse(resource, old, &format!("node {node:?} is not allowed to modify node {:?}", name_of(old)));
    }
    if part == Part::Main && object["spec"]["taints"] != old["spec"]["taints"] {
        return refuse(resource, old, &format!("node {node:?} is not allowed to modify taints"));
    }
    if object["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
        return refuse(resource, old, &format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    labels(node, resource, object, old)
}

/// Refuses labels that are not the node's to set.
fn labels(node: &str, resource: &Resource, object: &Value, old: &Value) -> Result<(), Status> {
    let changed = changed_labels(&object["metadata"]["labels"], &old["metadata"]["labels"]);
    let forbidden: Vec<&str> = changed.into_iter().filter(|label| !may_set(label)).collect();
    if !forbidden.is_empty() {
        let why = format!("node {node:?} is not allowed to set or modify labels: {}", forbidden.join(", "));
        return refuse(resource, object, &why);
    }
    Ok(())
}

fn changed_labels<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let keys = |v: &'a Value| v.as_object().into_iter().flat_map(|map| map.keys());
    keys(new)
        .chain(keys(old).filter(|k| new[*k].is_null()))
        .filter(|k| new[*k] != old[*k])
        .map(String::as_str)
        .collect()
}

/// Labels of Kubernetes' own domains are the cluster's to set, but for those that describe the machine.
fn may_set(label: &str) -> bool {
    const KNOWN: [&str; 9] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
    if domain == "node-restriction.kubernetes.io" || domain.ends_with(".node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    KNOWN.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::may_set;

    #[test]
    fn a_node_sets_only_labels_about_itself() {
        for label in
            ["mine", "example.com/x", "kubernetes.io/hostname", "node.kubernetes.io/y", "a.kubelet.kubernetes.io/z"]
        {
            assert!(may_set(label), "{label}");
        }
        for label in ["node-role.kubernetes.io/control-plane", "x.node-restriction.kubernetes.io/y", "k8s.io/z"] {
            assert!(!may_set(label), "{label}");
        }
    }
}
