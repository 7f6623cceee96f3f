//! The row of a pod: its STATUS is computed from everything that its containers tell.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rows::or_none;
use crate::time;

/// READY, STATUS and RESTARTS of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) ready: usize,
    pub(super) total: usize,
    pub(super) reason: String,
    pub(super) restarts: i64,
    pub(super) last_restart: Option<Timestamp>,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn cells(pod: &Value) -> Vec<Value> {
    let summary = summarize(pod);
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut restarts = summary.restarts.to_string();
    if summary.restarts > 0
        && let Some(at) = summary.last_restart
    {
        restarts = format!("{restarts} ({} ago)", time::human(Timestamp::now().duration_since(at)));
    }
    let ip = status["podIPs"][0]["ip"].as_str().or(status["podIP"].as_str());
    vec![
        pod["metadata"]["name"].clone(),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        json!(time::age(&pod["metadata"]["creationTimestamp"])),
        json!(ip.filter(|ip| !ip.is_empty()).unwrap_or("<none>")),
        or_none(&spec["nodeName"]),
        or_none(&status["nominatedNodeName"]),
        json!(gates(pod)),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list(&pod["status"]["conditions"]);
    let met = gates
        .iter()
        .filter(|gate| conditions.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True"))
        .count();
    format!("{met}/{}", gates.len())
}

pub(super) fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut summary = Summary { total: list(&spec["containers"]).len(), ..Summary::default() };
    status["phase"].as_str().unwrap_or_default().clone_into(&mut summary.reason);
    if let Some(reason) = status["reason"].as_str().filter(|reason| !reason.is_empty()) {
        reason.clone_into(&mut summary.reason);
    }
    let conditions = list(&status["conditions"]);
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut summary.reason);
    }
    let initialized = conditions.iter().any(|c| c["type"] == "Initialized" && c["status"] == "True");
    let initializing = init_containers(spec, status, &mut summary);
    if !initializing || initialized {
        containers(status, conditions, &mut summary);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let over = ["Succeeded", "Failed"].contains(&status["phase"].as_str().unwrap_or_default());
        if status["reason"] == "NodeLost" {
            "Unknown".clone_into(&mut summary.reason);
        } else if !over {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    summary
}

fn count_restarts(container: &Value, summary: &mut Summary) {
    summary.restarts += container["restartCount"].as_i64().unwrap_or(0);
    let finished = time::parse(&container["lastState"]["terminated"]["finishedAt"]);
    summary.last_restart = summary.last_restart.max(finished);
}

/// Why a container ended, in a word.
fn ending(terminated: &Value) -> String {
    if let Some(reason) = terminated["reason"].as_str().filter(|reason| !reason.is_empty()) {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().filter(|signal| *signal != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// Whether initialisation still decides the status.
fn init_containers(spec: &Value, status: &Value, summary: &mut Summary) -> bool {
    let specs = list(&spec["initContainers"]);
    let is_sidecar = |name: &Value| specs.iter().any(|c| c["name"] == *name && c["restartPolicy"] == "Always");
    summary.total += specs.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut decided = false;
    for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        count_restarts(container, summary);
        if decided {
            continue;
        }
        let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if is_sidecar(&container["name"]) && container["started"] == true {
            summary.ready += usize::from(container["ready"] == true);
            continue;
        }
        let waiting_reason = waiting["reason"].as_str().unwrap_or_default();
        summary.reason = if terminated.is_object() {
            format!("Init:{}", ending(terminated))
        } else if !waiting_reason.is_empty() && waiting_reason != "PodInitializing" {
            format!("Init:{waiting_reason}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        decided = true;
    }
    decided
}

fn containers(status: &Value, conditions: &[Value], summary: &mut Summary) {
    // Restarts of finished init containers say nothing about the running pod.
    let (mut restarts, mut last) = (0, None);
    for sidecar in list(&status["initContainerStatuses"]).iter().filter(|c| c["state"]["running"].is_object()) {
        restarts += sidecar["restartCount"].as_i64().unwrap_or(0);
        last = last.max(time::parse(&sidecar["lastState"]["terminated"]["finishedAt"]));
    }
    (summary.restarts, summary.last_restart) = (restarts, last);
    let mut running = false;
    let mut failing = None;
    for container in list(&status["containerStatuses"]).iter().rev() {
        count_restarts(container, summary);
        let state = &container["state"];
        if let Some(reason) = state["waiting"]["reason"].as_str().filter(|reason| !reason.is_empty()) {
            reason.clone_into(&mut summary.reason);
        } else if state["terminated"].is_object() {
            summary.reason = ending(&state["terminated"]);
            if state["terminated"]["exitCode"].as_i64().unwrap_or(0) != 0 {
                failing = Some(summary.reason.clone());
            }
        } else if state["running"].is_object() && container["ready"] == true {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        summary.reason = match failing {
            _ if ready => "Running".to_owned(),
            Some(reason) => reason,
            None => "NotReady".to_owned(),
        };
    }
}
