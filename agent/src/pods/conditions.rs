//! The conditions of a pod. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::resources::{init_containers, is_sidecar};

/// The conditions that are ours; others are left alone.
const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether a condition of this type belongs to somebody else.
pub(super) fn is_foreign(kind: &str) -> bool {
    !OURS.contains(&kind)
}

/// What conditions are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) spec: &'a PodSpec,
    /// The new status, complete but for its conditions.
    pub(super) status: &'a PodStatus,
    pub(super) old: &'a PodStatus,
    pub(super) has_network: bool,
    pub(super) now: Timestamp,
}

/// True, or False with a reason and a message.
#[derive(Debug, Default)]
struct Verdict {
    good: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn good() -> Self {
        Self { good: true, ..Self::default() }
    }

    fn bad(reason: &'static str, message: Option<String>) -> Self {
        Self { good: false, reason: Some(reason), message }
    }
}

/// All conditions: ours computed, foreign ones kept.
pub(super) fn all(facts: Facts<'_>) -> Vec<PodCondition> {
    let containers = containers_ready(facts);
    let ready = ready(facts, &containers);
    let network = Verdict { good: facts.has_network, ..Verdict::default() };
    let verdicts = [network, initialized(facts), ready, containers, Verdict::good()];
    let ours = OURS.into_iter().zip(verdicts).map(|(kind, verdict)| condition(facts, kind, verdict));
    let foreign = facts.old.conditions.iter().flatten();
    let foreign = foreign.filter(|c| is_foreign(&c.type_)).cloned();
    ours.chain(foreign).collect()
}

fn condition(facts: Facts<'_>, kind: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.good { "True" } else { "False" };
    let old = facts.old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: since.or(Some(Time(facts.now))),
        observed_generation: facts.status.observed_generation,
        last_probe_time: None,
    }
}

fn statuses(list: Option<&Vec<ContainerStatus>>) -> &[ContainerStatus] {
    list.map(Vec::as_slice).unwrap_or_default()
}

fn initialized(facts: Facts<'_>) -> Verdict {
    if facts.status.phase.as_deref() == Some("Succeeded") {
        return Verdict { good: true, reason: Some("PodCompleted"), message: None };
    }
    let init = init_containers(facts.spec).iter().zip(statuses(facts.status.init_container_statuses.as_ref()));
    let incomplete: Vec<&str> = init
        .filter(|(container, status)| {
            if is_sidecar(container) {
                return status.started != Some(true);
            }
            !status.ready
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::good();
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::bad("ContainersNotInitialized", Some(message))
}

fn containers_ready(facts: Facts<'_>) -> Verdict {
    match facts.status.phase.as_deref() {
        Some("Succeeded") => return Verdict::bad("PodCompleted", None),
        Some("Failed") => return Verdict::bad("PodFailed", None),
        _ => {}
    }
    let sidecars = init_containers(facts.spec)
        .iter()
        .zip(statuses(facts.status.init_container_statuses.as_ref()))
        .filter(|(container, _)| is_sidecar(container))
        .map(|(_, status)| status);
    let unready: Vec<&str> = sidecars
        .chain(statuses(facts.status.container_statuses.as_ref()))
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::good();
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::bad("ContainersNotReady", Some(message))
}

fn ready(facts: Facts<'_>, containers: &Verdict) -> Verdict {
    if !containers.good {
        return Verdict { good: false, reason: containers.reason, message: containers.message.clone() };
    }
    let mut missing = Vec::new();
    for gate in facts.spec.readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        let found = facts.old.conditions.iter().flatten().find(|c| c.type_ == *kind);
        match found.map(|c| c.status.as_str()) {
            Some("True") => {}
            Some(_) => missing.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but False")),
            None => missing.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
        }
    }
    if missing.is_empty() {
        return Verdict::good();
    }
    Verdict::bad("ReadinessGatesNotReady", Some(missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gates_and_foreign_conditions() {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [], "readinessGates": [{"conditionType": "lb"}]}))
                .expect("a spec");
        let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        let old: PodStatus = serde_json::from_value(json!({"conditions": [
            {"type": "x", "status": "True"},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"}]}))
        .expect("a status");
        let now = Timestamp::from_second(50).expect("a time");
        let all = all(Facts { spec: &spec, status: &status, old: &old, has_network: true, now });
        let get = |kind: &str| all.iter().find(|c| c.type_ == kind).expect("the condition");
        assert_eq!(get("Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
        assert_eq!(get("ContainersReady").status, "True");
        assert_eq!(get("x").status, "True");
        let since = get("PodScheduled").last_transition_time.as_ref().map(|t| t.0.as_second());
        assert_eq!(since, Some(7), "an unchanged condition keeps its time");
    }
}
