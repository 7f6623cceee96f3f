//! The cells of each kind.

use serde_json::{Value, json};

use super::pods;
use crate::registry::resource::Resource;
use crate::selectors::LabelSelector;
use crate::time;

/// The cells of an object, one for each column.
pub(super) fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let age = json!(time::age(&object["metadata"]["creationTimestamp"]));
    let (spec, status) = (&object["spec"], &object["status"]);
    match resource.kind {
        "Pod" => pods::cells(object),
        "ReplicaSet" => {
            let mut cells =
                vec![name, count(&spec["replicas"]), count(&status["replicas"]), count(&status["readyReplicas"]), age];
            cells.extend(template(spec));
            cells
        }
        "Deployment" => {
            let ready = format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"]));
            let mut cells =
                vec![name, json!(ready), count(&status["updatedReplicas"]), count(&status["availableReplicas"]), age];
            cells.extend(template(spec));
            cells
        }
        "Service" => vec![
            name,
            spec["type"].clone(),
            or_none(&spec["clusterIP"]),
            json!(external_ip(object)),
            json!(ports(spec)),
            age,
            json!(labels(&spec["selector"])),
        ],
        "Node" => node(object, name, age),
        "Namespace" => vec![name, status["phase"].clone(), age],
        "Secret" => vec![name, object["type"].clone(), json!(entries(&object["data"])), age],
        "ConfigMap" => vec![name, json!(entries(&object["data"]) + entries(&object["binaryData"])), age],
        "Event" => event(object, name),
        "Lease" => vec![name, text(&spec["holderIdentity"]), age],
        "Endpoints" => vec![name, json!(endpoints(object)), age],
        "EndpointSlice" => {
            let ports: Vec<String> = list(&object["ports"]).iter().map(|p| p["port"].to_string()).collect();
            let addresses: Vec<&str> = list(&object["endpoints"])
                .iter()
                .flat_map(|e| list(&e["addresses"]))
                .filter_map(Value::as_str)
                .collect();
            vec![
                name,
                object["addressType"].clone(),
                json!(joined(&ports, "<unset>")),
                json!(shortened(&addresses, "<unset>")),
                age,
            ]
        }
        "RuntimeClass" => vec![name, object["handler"].clone(), age],
        "PriorityClass" => {
            let default = json!(object["globalDefault"] == true);
            vec![name, count(&object["value"]), default, age, text(&object["preemptionPolicy"])]
        }
        "PersistentVolume" => vec![
            name,
            text(&spec["capacity"]["storage"]),
            json!(modes(&spec["accessModes"])),
            text(&spec["persistentVolumeReclaimPolicy"]),
            text(&status["phase"]),
            json!(claim(spec)),
            text(&spec["storageClassName"]),
            unset(&spec["volumeAttributesClassName"]),
            text(&status["reason"]),
            age,
            unset(&spec["volumeMode"]),
        ],
        "PersistentVolumeClaim" => vec![
            name,
            text(&status["phase"]),
            text(&spec["volumeName"]),
            text(&status["capacity"]["storage"]),
            json!(modes(&status["accessModes"])),
            text(&spec["storageClassName"]),
            unset(&spec["volumeAttributesClassName"]),
            age,
            unset(&spec["volumeMode"]),
        ],
        _ => vec![name, age],
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(value: &Value) -> Value {
    json!(value.as_i64().unwrap_or(0))
}

fn text(value: &Value) -> Value {
    json!(value.as_str().unwrap_or_default())
}

fn unset(value: &Value) -> Value {
    json!(value.as_str().unwrap_or("<unset>"))
}

pub(super) fn or_none(value: &Value) -> Value {
    json!(value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>"))
}

fn entries(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn joined(items: &[String], empty: &str) -> String {
    if items.is_empty() { empty.to_owned() } else { items.join(",") }
}

/// The first three, and how many more.
fn shortened(items: &[&str], empty: &str) -> String {
    match items.len() {
        0 => empty.to_owned(),
        1..=3 => items.join(","),
        more => format!("{} + {} more...", items[..3].join(","), more - 3),
    }
}

fn labels(value: &Value) -> String {
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    joined(&pairs, "<none>")
}

/// Containers, images and selector of a workload.
fn template(spec: &Value) -> Vec<Value> {
    let containers = list(&spec["template"]["spec"]["containers"]);
    let field =
        |field: &str| -> String { containers.iter().filter_map(|c| c[field].as_str()).collect::<Vec<_>>().join(",") };
    let selector = LabelSelector::from_object(&spec["selector"]).unwrap_or_default().to_string();
    vec![json!(field("name")), json!(field("image")), json!(selector)]
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let given: Vec<&str> = list(&spec["externalIPs"]).iter().filter_map(Value::as_str).collect();
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        Some("LoadBalancer") => {
            let mut all: Vec<&str> = list(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()))
                .collect();
            all.extend(given);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if given.is_empty() => "<none>".to_owned(),
        _ => given.join(","),
    }
}

fn ports(spec: &Value) -> String {
    let ports: Vec<String> = list(&spec["ports"])
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64().filter(|p| *p > 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
                None => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    joined(&ports, "<none>")
}

fn node(node: &Value, name: Value, age: Value) -> Vec<Value> {
    let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut state = match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<String> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let named = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty());
            named.or_else(|| value.as_str().filter(|_| key == "kubernetes.io/role")).map(str::to_owned)
        })
        .collect();
    roles.sort();
    let info = &node["status"]["nodeInfo"];
    let address = |kind: &str| {
        let found = list(&node["status"]["addresses"]).iter().find(|a| a["type"] == kind);
        found.map_or_else(|| json!("<none>"), |a| or_none(&a["address"]))
    };
    let known = |value: &Value| json!(value.as_str().filter(|t| !t.is_empty()).unwrap_or("<unknown>"));
    vec![
        name,
        json!(state),
        json!(joined(&roles, "<none>")),
        age,
        text(&info["kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        known(&info["osImage"]),
        known(&info["kernelVersion"]),
        known(&info["containerRuntimeVersion"]),
    ]
}

fn event(event: &Value, name: Value) -> Vec<Value> {
    let object = &event["involvedObject"];
    let seen = |field: &str| {
        let time = if event[field].is_null() { &event["eventTime"] } else { &event[field] };
        json!(time::age(time))
    };
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let what = format!("{kind}/{}", object["name"].as_str().unwrap_or_default());
    let component = event["source"]["component"].as_str().or(event["reportingComponent"].as_str()).unwrap_or_default();
    let host = event["source"]["host"].as_str().unwrap_or_default();
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let message = event["message"].as_str().unwrap_or_default().trim();
    let times = json!(event["count"].as_i64().or(event["series"]["count"].as_i64()).unwrap_or(1).max(1));
    vec![
        seen("lastTimestamp"),
        text(&event["type"]),
        text(&event["reason"]),
        json!(what),
        text(&object["fieldPath"]),
        json!(source),
        json!(message),
        seen("firstTimestamp"),
        times,
        name,
    ]
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        for address in list(&subset["addresses"]) {
            let ip = address["ip"].as_str().unwrap_or_default();
            all.extend(list(&subset["ports"]).iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    shortened(&all, "<none>")
}

fn modes(value: &Value) -> String {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "?",
    };
    list(value).iter().filter_map(Value::as_str).map(short).collect::<Vec<_>>().join(",")
}

fn claim(spec: &Value) -> String {
    let reference = &spec["claimRef"];
    match (reference["namespace"].as_str(), reference["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}
