//! What pods ask for: effective requests and limits, the quality-of-service class and OOM scores.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

/// Priority from which a pod counts as critical for the node.
pub(crate) const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// CPU in thousandths of a core, memory in bytes. `None` is "not set"; zero counts as not set too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: Option<i64>,
    pub(crate) memory: Option<i64>,
}

impl Resources {
    fn read(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let get = |name| list.and_then(|l| l.get(name)).and_then(Amount::of);
        Self {
            cpu: get("cpu").map(Amount::milli).filter(|v| *v > 0),
            memory: get("memory").map(Amount::value).filter(|v| *v > 0),
        }
    }

    fn plus(self, other: Self) -> Self {
        let add = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Self { cpu: add(self.cpu, other.cpu), memory: add(self.memory, other.memory) }
    }

    fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    fn or(self, other: Self) -> Self {
        Self { cpu: self.cpu.or(other.cpu), memory: self.memory.or(other.memory) }
    }
}

/// A container's limits.
pub(crate) fn limits(container: &Container) -> Resources {
    Resources::read(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// A container's requests; a limit without a request is the request, as the API's defaulting has it.
pub(crate) fn requests(container: &Container) -> Resources {
    let own = Resources::read(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    own.or(limits(container))
}

/// Whether an init container is a sidecar.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's init containers.
pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// All of the pod's containers, init containers first.
pub(crate) fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init_containers(spec).iter().chain(&spec.containers)
}

fn effective(spec: &PodSpec, of: fn(&Container) -> Resources) -> Resources {
    let mut running = spec.containers.iter().fold(Resources::default(), |sum, c| sum.plus(of(c)));
    let mut sidecars = Resources::default();
    let mut init_peak = Resources::default();
    for container in init_containers(spec) {
        let own = of(container);
        if is_sidecar(container) {
            running = running.plus(own);
            sidecars = sidecars.plus(own);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(own.plus(sidecars));
        }
    }
    running.max(init_peak).plus(Resources::read(spec.overhead.as_ref()))
}

/// What the whole pod asks for: the scheduler's and admission's number.
pub(crate) fn pod_requests(spec: &PodSpec) -> Resources {
    let level = spec.resources.as_ref();
    let whole = Resources::read(level.and_then(|r| r.requests.as_ref()));
    whole.or(effective(spec, requests))
}

/// The pod's limits; a resource has one only when every container has one, or the pod itself.
pub(crate) fn pod_limits(spec: &PodSpec) -> Resources {
    let level = spec.resources.as_ref();
    let whole = Resources::read(level.and_then(|r| r.limits.as_ref()));
    let sum = effective(spec, limits);
    let every = |has: fn(Resources) -> bool| all_containers(spec).all(|c| has(limits(c)));
    whole.or(Resources {
        cpu: sum.cpu.filter(|_| every(|l| l.cpu.is_some())),
        memory: sum.memory.filter(|_| every(|l| l.memory.is_some())),
    })
}

/// The quality-of-service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The class by cpu and memory alone.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        if let Some(level) = &spec.resources {
            let limits = Resources::read(level.limits.as_ref());
            let requests = Resources::read(level.requests.as_ref()).or(limits);
            return Self::judge(requests, limits, true);
        }
        let sum =
            |of: fn(&Container) -> Resources| all_containers(spec).fold(Resources::default(), |sum, c| sum.plus(of(c)));
        let all_limited = all_containers(spec).all(|c| {
            let limits = limits(c);
            limits.cpu.is_some() && limits.memory.is_some()
        });
        Self::judge(sum(requests), sum(limits), all_limited)
    }

    fn judge(requests: Resources, limits: Resources, all_limited: bool) -> Self {
        if requests == Resources::default() && limits == Resources::default() {
            return Self::BestEffort;
        }
        let both = limits.cpu.is_some() && limits.memory.is_some();
        if all_limited && both && requests == limits { Self::Guaranteed } else { Self::Burstable }
    }

    /// The name in `status.qosClass`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The container's `oom_score_adj`, for a node with this much memory (bytes).
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let Some(spec) = &pod.spec else { return 1000 };
    if spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY + 1000) {
        return -997;
    }
    let score = |container: &Container| match Qos::of(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = requests(container).memory.unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
            (1000 - share as i64).clamp(3, 999)
        }
    };
    let own = score(container);
    if is_sidecar(container) {
        let smallest = spec.containers.iter().min_by_key(|c| requests(c).memory.unwrap_or(0));
        return own.min(smallest.map_or(own, score));
    }
    own
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod")
    }

    fn spec(value: serde_json::Value) -> PodSpec {
        pod(value).spec.expect("a spec")
    }

    fn container(name: &str, requests: &serde_json::Value, limits: &serde_json::Value) -> serde_json::Value {
        json!({"name": name, "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn classes() {
        let none = json!({});
        let some = json!({"cpu": "100m", "memory": "10Mi"});
        let zero = json!({"cpu": "0"});
        let class = |c: Vec<serde_json::Value>| Qos::of(&spec(json!({"containers": c})));
        assert_eq!(class(vec![container("a", &none, &none)]), Qos::BestEffort);
        assert_eq!(class(vec![container("a", &zero, &none)]), Qos::BestEffort);
        assert_eq!(class(vec![container("a", &none, &some)]), Qos::Guaranteed);
        assert_eq!(class(vec![container("a", &some, &some)]), Qos::Guaranteed);
        assert_eq!(class(vec![container("a", &some, &none)]), Qos::Burstable);
        let mixed = vec![container("a", &some, &some), container("b", &none, &none)];
        assert_eq!(class(mixed), Qos::Burstable);
    }

    #[test]
    fn init_containers_set_the_peak_and_sidecars_add() {
        let spec = spec(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "900m"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}}}],
        }));
        assert_eq!(pod_requests(&spec).cpu, Some(1000));
        assert_eq!(pod_limits(&spec).cpu, None);
    }

    #[test]
    fn oom_scores() {
        let score = |requests, limits| {
            let pod = pod(json!({"containers": [container("a", &requests, &limits)]}));
            oom_score_adj(&pod, &pod.spec.as_ref().expect("a spec").containers[0], 1 << 30)
        };
        let none = json!({});
        assert_eq!(score(none.clone(), none.clone()), 1000);
        assert_eq!(score(json!({"memory": "512Mi"}), none.clone()), 500);
        assert_eq!(score(json!({"memory": "1Gi"}), none.clone()), 3);
        assert_eq!(score(json!({"cpu": "1m"}), none.clone()), 999);
        assert_eq!(score(none, json!({"cpu": "1", "memory": "1Gi"})), -997);
    }
}
