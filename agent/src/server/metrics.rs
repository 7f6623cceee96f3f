//! `/stats/summary` and `/metrics/resource`: what metrics-server and people read.

use std::collections::BTreeMap;
use std::fmt::Write;

use http::{Response, StatusCode};
use jiff::Timestamp;
use orlop_proto::v1;
use serde_json::{Value, json};

use super::{Body, State, json, text};
use crate::container::keys;
use crate::cri::CriError;
use crate::node::info;

async fn stats(state: &State) -> Result<Vec<v1::ContainerStats>, CriError> {
    let request = v1::ListContainerStatsRequest::default();
    Ok(state.ctx.cri.list_container_stats(request).await?.stats)
}

fn label<'a>(stats: &'a v1::ContainerStats, key: &str) -> &'a str {
    let labels = stats.attributes.as_ref().map(|a| &a.labels);
    labels.and_then(|l| l.get(key)).map_or("", String::as_str)
}

fn cpu(stats: &v1::ContainerStats) -> Option<u64> {
    stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref().map(|v| v.value)
}

fn working_set(stats: &v1::ContainerStats) -> Option<u64> {
    stats.memory.as_ref()?.working_set_bytes.as_ref().map(|v| v.value)
}

/// The kubelet's summary, as far as the runtime tells.
pub(super) async fn summary(state: &State) -> Response<Body> {
    let all = match stats(state).await {
        Ok(all) => all,
        Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    };
    let mut pods: BTreeMap<(String, String, String), Vec<&v1::ContainerStats>> = BTreeMap::new();
    for one in &all {
        let key = |k| label(one, k).to_owned();
        let pod = (key(keys::POD_NAMESPACE), key(keys::POD_NAME), key(keys::POD_UID));
        pods.entry(pod).or_default().push(one);
    }
    let now = Timestamp::now().to_string();
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            let cpu_sum: u64 = containers.iter().filter_map(|c| cpu(c)).sum();
            let memory_sum: u64 = containers.iter().filter_map(|c| working_set(c)).sum();
            let containers: Vec<Value> = containers.iter().map(|c| container(c, &now)).collect();
            json!({
                "podRef": {"name": name, "namespace": namespace, "uid": uid},
                "containers": containers,
                "cpu": {"time": now, "usageCoreNanoSeconds": cpu_sum},
                "memory": {"time": now, "workingSetBytes": memory_sum},
            })
        })
        .collect();
    let (node_cpu, _) = state.ctx.cgroups.usage();
    let available = info::memory_available();
    let used = info::memory() - available;
    json(&json!({
        "node": {
            "nodeName": state.ctx.config.node_name,
            "systemContainers": [{"name": "pods", "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu}}],
            "memory": {"time": now, "availableBytes": available, "workingSetBytes": used},
        },
        "pods": pods,
    }))
}

fn container(stats: &v1::ContainerStats, now: &str) -> Value {
    let cpu_now = stats.cpu.as_ref().and_then(|c| c.usage_nano_cores.as_ref()).map(|v| v.value);
    let memory =
        |get: fn(&v1::MemoryUsage) -> Option<&v1::UInt64Value>| stats.memory.as_ref().and_then(get).map(|v| v.value);
    let disk = stats.writable_layer.as_ref().and_then(|w| w.used_bytes.as_ref()).map(|v| v.value);
    json!({
        "name": label(stats, keys::CONTAINER_NAME),
        "cpu": {"time": now, "usageNanoCores": cpu_now, "usageCoreNanoSeconds": cpu(stats)},
        "memory": {
            "time": now,
            "workingSetBytes": working_set(stats),
            "usageBytes": memory(|m| m.usage_bytes.as_ref()),
            "rssBytes": memory(|m| m.rss_bytes.as_ref()),
        },
        "rootfs": {"time": now, "usedBytes": disk},
    })
}

/// The metrics that metrics-server reads.
pub(super) async fn resource(state: &State) -> Response<Body> {
    let (all, error) = match stats(state).await {
        Ok(all) => (all, 0),
        Err(_) => (Vec::new(), 1),
    };
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, values: Vec<(String, f64)>| {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let (cpu_total, memory_total) = state.ctx.cgroups.usage();
    let node = |value: Option<f64>| value.map(|v| (String::new(), v)).into_iter().collect();
    family("node_cpu_usage_seconds_total", "counter", node(cpu_total.map(seconds)));
    family("node_memory_working_set_bytes", "gauge", node(memory_total.map(|b| b as f64)));
    let each = |get: &dyn Fn(&v1::ContainerStats) -> Option<f64>| {
        let pair = |s| get(s).map(|value| (labels(s), value));
        all.iter().filter_map(pair).collect::<Vec<_>>()
    };
    family("container_cpu_usage_seconds_total", "counter", each(&|s| cpu(s).map(seconds)));
    family("container_memory_working_set_bytes", "gauge", each(&|s| working_set(s).map(|b| b as f64)));
    family("resource_scrape_error", "gauge", vec![(String::new(), f64::from(error))]);
    let mut response = text(StatusCode::OK, out);
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn labels(stats: &v1::ContainerStats) -> String {
    format!(
        "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
        label(stats, keys::CONTAINER_NAME),
        label(stats, keys::POD_NAMESPACE),
        label(stats, keys::POD_NAME)
    )
}
