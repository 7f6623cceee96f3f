//! Defaults of pod specs and of the containers in them.

use serde_json::{Value, json};

use super::{each, set};

/// A pod's spec, or a template's.
pub(super) fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "securityContext", json!({}));
    set(spec, "enableServiceLinks", json!(true));
    // The old name of the field mirrors the new one.
    if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() && spec["serviceAccount"].is_string() {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
    if spec["serviceAccountName"].is_string() {
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for item in each(spec, list) {
            container(item, host_network);
        }
    }
    for item in each(spec, "volumes") {
        volume(item);
    }
    for item in each(spec, "topologySpreadConstraints") {
        set(item, "nodeAffinityPolicy", json!("Honor"));
        set(item, "nodeTaintsPolicy", json!("Ignore"));
    }
    if let Some(map) = spec.as_object_mut() {
        // Reading a field through the index leaves nulls behind.
        map.retain(|_, value| !value.is_null());
    }
}

fn container(container: &mut Value, host_network: bool) {
    let policy = match container["image"].as_str() {
        Some(image) if follows_latest(image) => "Always",
        _ => "IfNotPresent",
    };
    set(container, "imagePullPolicy", json!(policy));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    set(container, "resources", json!({}));
    let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        set(&mut container["resources"]["requests"], &name, limit);
    }
    if let Some(resources) = container["resources"].as_object_mut() {
        resources.retain(|_, value| !value.is_null());
    }
    for port in each(container, "ports") {
        set(port, "protocol", json!("TCP"));
        if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
            port["hostPort"] = port["containerPort"].clone();
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(item) = container.get_mut(name).filter(|p| p.is_object()) {
            probe(item);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            http_get(get);
        }
    }
    for variable in each(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            set(field, "apiVersion", json!("v1"));
        }
        if let Some(field) = variable.pointer_mut("/valueFrom/resourceFieldRef") {
            set(field, "divisor", json!("0"));
        }
    }
    if let Some(map) = container.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            probe[field] = json!(value);
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        set(grpc, "service", json!(""));
    }
}

fn http_get(get: &mut Value) {
    set(get, "path", json!("/"));
    set(get, "scheme", json!("HTTP"));
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, serde_json::Map::len);
    if sources <= 1 {
        volume["emptyDir"] = json!({});
    }
    for (source, field) in [
        ("secret", "defaultMode"),
        ("configMap", "defaultMode"),
        ("downwardAPI", "defaultMode"),
        ("projected", "defaultMode"),
    ] {
        if let Some(inner) = volume.get_mut(source).filter(|s| s.is_object()) {
            set(inner, field, json!(420));
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        set(path, "type", json!(""));
    }
    for pointer in ["/downwardAPI/items", "/projected/sources"] {
        for item in volume.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten() {
            downward_items(item);
        }
    }
    for source in volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set(token, "expirationSeconds", json!(3600));
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            for item in each(downward, "items") {
                downward_items(item);
            }
        }
    }
}

fn downward_items(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef") {
        set(field, "apiVersion", json!("v1"));
    }
}

/// Whether an image's name has the tag `latest`, or neither tag nor digest.
fn follows_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_gets_what_clients_expect() {
        let mut pod = json!({"containers": [{"name": "c", "image": "web",
            "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]});
        spec(&mut pod);
        let expected = json!({
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "web", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}]});
        assert_eq!(pod, expected);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for image in ["web", "web:latest", "r:5000/web", "r:5000/a/web:latest"] {
            assert!(follows_latest(image), "{image}");
        }
        for image in ["web:1", "r:5000/web:1", "web@sha256:00"] {
            assert!(!follows_latest(image), "{image}");
        }
    }
}
