//! May a pod run here at all? Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use crate::quantity::Amount;
use crate::resources::{all_containers, pod_requests};

/// Why not: the pod's `status.reason` and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Rejection {
    fn predicate(reason: &'static str, why: &str) -> Self {
        Self { reason, message: format!("Predicate {reason} failed: {why}") }
    }

    fn short(reason: &'static str, resource: &str, requested: i64, used: i64, capacity: i64) -> Self {
        Self {
            reason,
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        }
    }
}

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Judges a pod by the node and the pods that run already.
pub(super) fn admit(pod: &Pod, others: &[&Pod], node: Option<&Node>) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    supported(spec)?;
    sysctls(spec)?;
    let Some(node) = node else { return Ok(()) };
    room(spec, others, node)?;
    affinity(spec, node)?;
    ports(spec, others)
}

fn supported(spec: &PodSpec) -> Result<(), Rejection> {
    let unsupported = |what: &str| Rejection {
        reason: "PodFeatureUnsupported",
        message: format!("this agent does not support {what}"),
    };
    if spec.host_users == Some(false) {
        return Err(unsupported("hostUsers: false"));
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|e| !e.is_empty()) {
        return Err(unsupported("ephemeral containers"));
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Err(unsupported("resourceClaims"));
    }
    for container in all_containers(spec) {
        let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
        if probes.into_iter().flatten().any(|p| p.grpc.is_some()) {
            return Err(unsupported("grpc probes; use exec, httpGet or tcpSocket"));
        }
        if container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty()) {
            return Err(unsupported("restartPolicyRules"));
        }
        if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
            return Err(unsupported("volumeDevices"));
        }
    }
    Ok(())
}

fn sysctls(spec: &PodSpec) -> Result<(), Rejection> {
    let list = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    for sysctl in list.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let of_host = (name.starts_with("net.") && spec.host_network == Some(true))
            || (name.starts_with("kernel.") && spec.host_ipc == Some(true));
        if of_host || !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(Rejection {
                reason: "SysctlForbidden",
                message: format!("forbidden sysctl: \"{name}\" not allowlisted"),
            });
        }
    }
    Ok(())
}

fn room(spec: &PodSpec, others: &[&Pod], node: &Node) -> Result<(), Rejection> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let capacity = |name: &str| allocatable.and_then(|a| a.get(name)).and_then(Amount::of);
    if let Some(pods) = capacity("pods").map(Amount::value) {
        let used = others.len() as i64;
        if used + 1 > pods {
            return Err(Rejection::short("OutOfpods", "pods", 1, used, pods));
        }
    }
    let wanted = pod_requests(spec);
    let specs = || others.iter().filter_map(|p| p.spec.as_ref());
    if let (Some(requested), Some(capacity)) = (wanted.cpu, capacity("cpu").map(Amount::milli)) {
        let used = specs().map(|s| pod_requests(s).cpu.unwrap_or(0)).sum();
        if used + requested > capacity {
            return Err(Rejection::short("OutOfcpu", "cpu", requested, used, capacity));
        }
    }
    if let (Some(requested), Some(capacity)) = (wanted.memory, capacity("memory").map(Amount::value)) {
        let used = specs().map(|s| pod_requests(s).memory.unwrap_or(0)).sum();
        if used + requested > capacity {
            return Err(Rejection::short("OutOfmemory", "memory", requested, used, capacity));
        }
    }
    Ok(())
}

fn affinity(spec: &PodSpec, node: &Node) -> Result<(), Rejection> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let selector_fits = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let affinity_fits =
        required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_fits(term, &labels, name)));
    if selector_fits && affinity_fits {
        return Ok(());
    }
    let why = "node(s) didn't match Pod's node affinity/selector";
    Err(Rejection::predicate("NodeAffinity", why))
}

fn term_fits(term: &NodeSelectorTerm, labels: &std::collections::BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |r: &NodeSelectorRequirement| requirement_fits(r, labels.get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| requirement_fits(r, Some(name).filter(|_| r.key == "metadata.name"));
    expressions.iter().all(label) && fields.iter().all(field)
}

fn requirement_fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = |test: fn(&i64, &i64) -> bool| {
        let (value, bound) = (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok()));
        value.zip(bound).is_some_and(|(value, bound)| test(&value, &bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn host_ports(spec: &PodSpec) -> BTreeSet<(i32, String, String)> {
    let ports = all_containers(spec).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port, protocol, p.host_ip.clone().unwrap_or_default()))
        })
        .collect()
}

fn ports(spec: &PodSpec, others: &[&Pod]) -> Result<(), Rejection> {
    let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    let wanted = host_ports(spec);
    for taken in others.iter().filter_map(|p| p.spec.as_ref()).flat_map(host_ports) {
        let clash =
            wanted.iter().any(|w| w.0 == taken.0 && w.1 == taken.1 && (w.2 == taken.2 || any(&w.2) || any(&taken.2)));
        if clash {
            let why = "node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection::predicate("NodePorts", why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod")
    }

    fn judge(spec: Value, others: &[&Pod]) -> Result<(), &'static str> {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}}))
        .expect("a node");
        admit(&pod(spec), others, Some(&node)).map_err(|r| r.reason)
    }

    #[test]
    fn reasons() {
        let cpu = |cpu: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]});
        let one = pod(cpu("1500m"));
        assert_eq!(judge(cpu("500m"), &[&one]), Ok(()));
        assert_eq!(judge(cpu("501m"), &[&one]), Err("OutOfcpu"));
        assert_eq!(judge(cpu("1m"), &[&one, &one]), Err("OutOfpods"));
        let selector = |v: &str| json!({"containers": [], "nodeSelector": {"disk": v}});
        assert_eq!(judge(selector("ssd"), &[]), Ok(()));
        assert_eq!(judge(selector("hdd"), &[]), Err("NodeAffinity"));
        let port = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
        assert_eq!(judge(port.clone(), &[&pod(port)]), Err("NodePorts"));
        let sysctl =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}});
        assert_eq!(judge(sysctl, &[]), Err("SysctlForbidden"));
        let grpc = json!({"containers": [{"name": "a", "livenessProbe": {"grpc": {"port": 1}}}]});
        assert_eq!(judge(grpc, &[]), Err("PodFeatureUnsupported"));
    }
}
