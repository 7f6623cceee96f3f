//! Pod specs, of pods and of templates.

use std::collections::HashSet;

use serde_json::Value;

use super::meta::{LABEL_RULE, is_dns_label};
use super::{Faults, items, not_negative, positive};
use crate::quantity::Quantity;

/// A pod's spec at `path`.
pub(super) fn validate_spec(spec: &Value, path: &str, faults: &mut Faults) {
    if items(&spec["containers"]).is_empty() {
        faults.required(&format!("{path}.containers"), "");
    }
    faults.one_of(&format!("{path}.restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    faults.one_of(&format!("{path}.dnsPolicy"), &spec["dnsPolicy"], &policies);
    not_negative(&spec["terminationGracePeriodSeconds"], &format!("{path}.terminationGracePeriodSeconds"), faults);
    positive(&spec["activeDeadlineSeconds"], &format!("{path}.activeDeadlineSeconds"), faults);
    let volumes = volumes(spec, path, faults);
    let mut names = HashSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let at = format!("{path}.{list}[{index}]");
            if let Some(name) = container["name"].as_str()
                && !name.is_empty()
                && !names.insert(name)
            {
                faults.duplicate(&format!("{at}.name"), &container["name"]);
            }
            validate_container(container, &at, &volumes, faults);
        }
    }
    host_ports(spec, path, faults);
    for (index, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{index}]"), faults);
    }
    super::meta::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), faults);
    if let Some(name) = spec["hostname"].as_str().filter(|name| !name.is_empty() && !is_dns_label(name)) {
        faults.invalid(&format!("{path}.hostname"), &Value::from(name), LABEL_RULE);
    }
}

/// Checks the volumes and returns their names.
fn volumes<'a>(spec: &'a Value, path: &str, faults: &mut Faults) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{at}.name"), "");
        } else if !is_dns_label(name) {
            faults.invalid(&format!("{at}.name"), &volume["name"], LABEL_RULE);
        } else if !names.insert(name) {
            faults.duplicate(&format!("{at}.name"), &volume["name"]);
        }
        let sources: Vec<&String> =
            volume.as_object().into_iter().flat_map(|map| map.keys()).filter(|key| *key != "name").collect();
        if sources.len() > 1 {
            faults.forbidden(&format!("{at}.{}", sources[1]), "may not specify more than 1 volume type");
        }
        for (pointer, field) in [
            ("/hostPath/path", "hostPath.path"),
            ("/configMap/name", "configMap.name"),
            ("/secret/secretName", "secret.secretName"),
            ("/persistentVolumeClaim/claimName", "persistentVolumeClaim.claimName"),
        ] {
            let source = field.split('.').next().unwrap_or_default();
            let missing = volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default().is_empty();
            if !volume[source].is_null() && missing {
                faults.required(&format!("{at}.{field}"), "");
            }
        }
    }
    names
}

fn validate_container(container: &Value, path: &str, volumes: &HashSet<&str>, faults: &mut Faults) {
    let name = container["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        faults.required(&format!("{path}.name"), "");
    } else if !is_dns_label(name) {
        faults.invalid(&format!("{path}.name"), &container["name"], LABEL_RULE);
    }
    let image = container["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        faults.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        faults.invalid(&format!("{path}.image"), &container["image"], "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    faults.one_of(&format!("{path}.imagePullPolicy"), &container["imagePullPolicy"], &policies);
    let policies = ["File", "FallbackToLogsOnError"];
    faults.one_of(&format!("{path}.terminationMessagePolicy"), &container["terminationMessagePolicy"], &policies);
    ports(container, path, faults);
    resources(&container["resources"], &format!("{path}.resources"), faults);
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        let name = variable["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{path}.env[{index}].name"), "");
        } else if name.contains('=') || !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            let rule =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            faults.invalid(&format!("{path}.env[{index}].name"), &variable["name"], rule);
        }
        if !variable["value"].as_str().unwrap_or_default().is_empty() && !variable["valueFrom"].is_null() {
            let detail = "may not be specified when `value` is not empty";
            faults.invalid(&format!("{path}.env[{index}].valueFrom"), &Value::from(""), detail);
        }
    }
    let mut mounted = HashSet::new();
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let at = format!("{path}.volumeMounts[{index}]");
        match mount["name"].as_str() {
            None | Some("") => faults.required(&format!("{at}.name"), ""),
            Some(name) if !volumes.contains(name) => {
                faults.push("FieldValueNotFound", &format!("{at}.name"), format!("Not found: {name:?}"));
            }
            Some(_) => {}
        }
        match mount["mountPath"].as_str() {
            None | Some("") => faults.required(&format!("{at}.mountPath"), ""),
            Some(place) if !mounted.insert(place) => {
                faults.invalid(&format!("{at}.mountPath"), &mount["mountPath"], "must be unique");
            }
            Some(_) => {}
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe(&container[field], &format!("{path}.{field}"), field != "readinessProbe", faults);
    }
}

fn ports(container: &Value, path: &str, faults: &mut Faults) {
    let mut names = HashSet::new();
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        let at = format!("{path}.ports[{index}]");
        match port["containerPort"].as_i64() {
            None | Some(0) => faults.required(&format!("{at}.containerPort"), ""),
            Some(1..=65535) => {}
            Some(_) => port_range(&format!("{at}.containerPort"), &port["containerPort"], faults),
        }
        if port["hostPort"].as_i64().is_some_and(|p| !(0..=65535).contains(&p)) {
            port_range(&format!("{at}.hostPort"), &port["hostPort"], faults);
        }
        faults.one_of(&format!("{at}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        if let Some(name) = port["name"].as_str().filter(|n| !n.is_empty()) {
            if name.len() > 15 || !is_dns_label(name) || !name.contains(|c: char| c.is_ascii_lowercase()) {
                let detail = "must be no more than 15 characters: lower case alphanumeric characters or '-', with at least one letter";
                faults.invalid(&format!("{at}.name"), &port["name"], detail);
            } else if !names.insert(name) {
                faults.duplicate(&format!("{at}.name"), &port["name"]);
            }
        }
    }
}

pub(super) fn port_range(path: &str, value: &Value, faults: &mut Faults) {
    faults.invalid(path, value, "must be between 1 and 65535, inclusive");
}

fn host_ports(spec: &Value, path: &str, faults: &mut Faults) {
    let mut taken = HashSet::new();
    for (index, container) in items(&spec["containers"]).iter().enumerate() {
        for (number, port) in items(&container["ports"]).iter().enumerate() {
            let host_port = port["hostPort"].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let address = port["hostIP"].as_str().unwrap_or_default();
            if host_port > 0 && !taken.insert((host_port, protocol, address)) {
                let at = format!("{path}.containers[{index}].ports[{number}].hostPort");
                faults.duplicate(&at, &Value::from(format!("{protocol}/{address}/{host_port}")));
            }
            if spec["hostNetwork"] == true && host_port != 0 && port["containerPort"] != port["hostPort"] {
                let at = format!("{path}.containers[{index}].ports[{number}].containerPort");
                faults.invalid(&at, &port["containerPort"], "must match `hostPort` when `hostNetwork` is true");
            }
        }
    }
}

fn resources(resources: &Value, path: &str, faults: &mut Faults) {
    for part in ["limits", "requests"] {
        for (name, value) in resources[part].as_object().into_iter().flatten() {
            let at = format!("{path}.{part}[{name}]");
            match Quantity::of(value) {
                None => {
                    let rule =
                        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                    faults.invalid(&at, value, rule);
                }
                Some(quantity) if quantity < Quantity(0) => {
                    faults.invalid(&at, value, "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }
    for (name, limit) in resources["limits"].as_object().into_iter().flatten() {
        let request = &resources["requests"][name];
        if let (Some(requested), Some(allowed)) = (Quantity::of(request), Quantity::of(limit))
            && requested > allowed
        {
            let detail =
                format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            faults.invalid(&format!("{path}.requests"), request, &detail);
        }
    }
}

fn probe(probe: &Value, path: &str, one_success: bool, faults: &mut Faults) {
    if probe.is_null() {
        return;
    }
    let handlers: Vec<&str> =
        ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|h| !probe[h].is_null()).collect();
    match handlers.as_slice() {
        [] => faults.required(path, "must specify a handler type"),
        [_] => {}
        [_, second, ..] => faults.forbidden(&format!("{path}.{second}"), "may not specify more than 1 handler type"),
    }
    not_negative(&probe["initialDelaySeconds"], &format!("{path}.initialDelaySeconds"), faults);
    for field in ["timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        positive(&probe[field], &format!("{path}.{field}"), faults);
    }
    if one_success && probe["successThreshold"].as_i64().is_some_and(|n| n > 1) {
        faults.invalid(&format!("{path}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
}

fn validate_toleration(toleration: &Value, path: &str, faults: &mut Faults) {
    faults.one_of(&format!("{path}.operator"), &toleration["operator"], &["Equal", "Exists"]);
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if toleration["effect"].as_str().is_some_and(|e| !e.is_empty()) {
        faults.one_of(&format!("{path}.effect"), &toleration["effect"], &effects);
    }
    let no_key = toleration["key"].as_str().unwrap_or_default().is_empty();
    if no_key && toleration["operator"] != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.invalid(&format!("{path}.operator"), &toleration["operator"], detail);
    }
    if toleration["operator"] == "Exists" && !toleration["value"].as_str().unwrap_or_default().is_empty() {
        let detail = "value must be empty when `operator` is 'Exists'";
        faults.invalid(&format!("{path}.operator"), &toleration["value"], detail);
    }
}
