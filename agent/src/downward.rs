//! The downward API: a pod's own fields and resources, for variables and files.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity::Amount;
use crate::resources::all_containers;

/// What fields can say beside the pod's own object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// The node's allocatable amounts, which stand in for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, String>,
}

/// The value of a `fieldRef`.
pub(crate) fn field(pod: &Pod, path: &str, around: &Surroundings) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        let value = map.as_ref().and_then(|m| m.get(key)).cloned();
        return Ok(value.unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.map(|s| text(&s.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => spec.map(|s| text(&s.service_account_name)).unwrap_or_default(),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="escaped value"` lines, in key order.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = write!(text, "{key}={value:?}");
    }
    text
}

/// The value of a `resourceFieldRef`; without a container name it means `own`.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => pod
            .spec
            .as_ref()
            .and_then(|s| all_containers(s).find(|c| c.name == name))
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("resourceFieldRef needs a containerName here")?,
    };
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let requirements = container.resources.as_ref();
    let list = match kind {
        "limits" => requirements.and_then(|r| r.limits.as_ref()),
        "requests" => requirements.and_then(|r| r.requests.as_ref()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let amount = list.and_then(|l| l.get(name)).and_then(Amount::of);
    let fallback = || {
        let allocatable = around.allocatable.get(name).filter(|_| kind == "limits");
        allocatable.and_then(|text| Amount::parse(text))
    };
    let Some(amount) = amount.or_else(fallback) else {
        return Ok("0".to_owned());
    };
    let divisor = selector.divisor.as_ref().and_then(Amount::of);
    let one = divisor.or_else(|| Amount::parse("1"));
    Ok(one.map_or(amount.value(), |d| amount.divided_by(d)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"a": "1", "b/c": "x\"y"}},
            "spec": {"containers": [{"name": "c", "resources": {
                "limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .expect("a pod")
    }

    #[test]
    fn fields() {
        let around =
            Surroundings { pod_ips: vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()], ..Surroundings::default() };
        let get = |path| field(&pod(), path, &around);
        assert_eq!(get("metadata.name").as_deref(), Ok("p"));
        assert_eq!(get("metadata.labels['b/c']").as_deref(), Ok("x\"y"));
        assert_eq!(get("metadata.labels").as_deref(), Ok("a=\"1\"\nb/c=\"x\\\"y\""));
        assert_eq!(get("status.podIPs").as_deref(), Ok("10.0.0.2,fd00::2"));
        assert!(get("spec.foo").is_err());
    }

    #[test]
    fn resources_fall_back_to_the_node() {
        let pod = pod();
        let around = Surroundings {
            allocatable: BTreeMap::from([("cpu".to_owned(), "4".to_owned())]),
            ..Surroundings::default()
        };
        let get = |resource: &str, divisor: &str| {
            let selector: ResourceFieldSelector = serde_json::from_value(
                serde_json::json!({"containerName": "c", "resource": resource, "divisor": divisor}),
            )
            .expect("a selector");
            super::resource(&pod, None, &selector, &around)
        };
        assert_eq!(get("limits.memory", "1Mi").as_deref(), Ok("64"));
        assert_eq!(get("requests.cpu", "1m").as_deref(), Ok("250"));
        assert_eq!(get("requests.cpu", "0").as_deref(), Ok("1"));
        assert_eq!(get("limits.cpu", "1").as_deref(), Ok("4"));
    }
}
