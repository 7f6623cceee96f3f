//! The cluster as the scheduler sees it: nodes with what is free on them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::filter;
use crate::quantity::Quantity;
use crate::registry::name_of;

/// Amounts by resource name: cpu in thousandths, everything else in units.
pub(super) type Amounts = BTreeMap<String, i128>;

/// A host port that is taken: protocol, address (empty for all), port.
pub(super) type HostPort = (String, String, i64);

/// What pods without requests count as when nodes are compared.
const IDLE_CPU: i128 = 100;
const IDLE_MEMORY: i128 = 200 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) object: Arc<Value>,
    pub(super) allocatable: Amounts,
    pub(super) used: Amounts,
    pub(super) host_ports: HashSet<HostPort>,
    /// CPU and memory used, counting something for pods that request nothing.
    weight: (i128, i128),
}

#[derive(Debug)]
pub(super) struct Picture {
    nodes: Vec<Node>,
}

impl Picture {
    pub(super) fn of(nodes: &[Arc<Value>], pods: &[Arc<Value>]) -> Self {
        let mut nodes: Vec<Node> = nodes
            .iter()
            .map(|object| Node {
                object: Arc::clone(object),
                allocatable: amounts(&object["status"]["allocatable"]),
                used: Amounts::new(),
                host_ports: HashSet::new(),
                weight: (0, 0),
            })
            .collect();
        for pod in pods {
            let over = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default());
            let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !over && let Some(node) = nodes.iter_mut().find(|n| name_of(&n.object) == name) {
                node.add(&pod["spec"]);
            }
        }
        Self { nodes }
    }

    /// Picks a node for the pod and counts it there; else says why none fits.
    pub(super) fn place(&mut self, pod: &Value) -> Result<String, String> {
        let spec = &pod["spec"];
        let wanted = requests(spec);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(i128, usize)> = None;
        for (index, node) in self.nodes.iter().enumerate() {
            let why = filter::reasons(node, spec, &wanted);
            if why.is_empty() {
                let score = node.score_with(spec);
                if best.is_none_or(|(present, _)| score > present) {
                    best = Some((score, index));
                }
            }
            for reason in why {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        match best {
            Some((_, index)) => {
                self.nodes[index].add(spec);
                Ok(name_of(&self.nodes[index].object).to_owned())
            }
            None if self.nodes.is_empty() => Err("no nodes available to schedule pods".to_owned()),
            None => {
                let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                Err(format!("0/{} nodes are available: {}.", self.nodes.len(), list.join(", ")))
            }
        }
    }
}

impl Node {
    fn add(&mut self, spec: &Value) {
        for (name, amount) in requests(spec) {
            *self.used.entry(name).or_default() += amount;
        }
        *self.used.entry("pods".to_owned()).or_default() += 1;
        self.host_ports.extend(host_ports(spec));
        let (cpu, memory) = weight(spec);
        self.weight = (self.weight.0 + cpu, self.weight.1 + memory);
    }

    /// How free the node is with the pod on it: 0 (full) to 2000.
    fn score_with(&self, spec: &Value) -> i128 {
        let (cpu, memory) = weight(spec);
        let free = |name: &str, used: i128| match self.allocatable.get(name) {
            Some(all) if *all > 0 => (all - used).max(0) * 1000 / all,
            _ => 0,
        };
        free("cpu", self.weight.0 + cpu) + free("memory", self.weight.1 + memory)
    }
}

fn weight(spec: &Value) -> (i128, i128) {
    let wanted = requests(spec);
    let of = |name: &str, idle: i128| wanted.get(name).copied().filter(|amount| *amount > 0).unwrap_or(idle);
    (of("cpu", IDLE_CPU), of("memory", IDLE_MEMORY))
}

fn amounts(list: &Value) -> Amounts {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let quantity = Quantity::of(value)?;
            Some((name.clone(), if name == "cpu" { quantity.milli() } else { quantity.units() }))
        })
        .collect()
}

/// What a pod requests: its containers together, or an init container with the sidecars before it if that is more.
pub(super) fn requests(spec: &Value) -> Amounts {
    let own = |container: &Value| amounts(&container["resources"]["requests"]);
    let list = |name: &str| spec[name].as_array().map_or(&[][..], Vec::as_slice);
    let mut total = Amounts::new();
    for container in list("containers") {
        add(&mut total, &own(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in list("initContainers") {
        let mut at_once = own(container);
        if container["restartPolicy"] == "Always" {
            add(&mut sidecars, &at_once);
            at_once.clone_from(&sidecars);
        } else {
            add(&mut at_once, &sidecars);
        }
        for (name, amount) in at_once {
            let slot = peak.entry(name).or_default();
            *slot = amount.max(*slot);
        }
    }
    add(&mut total, &sidecars);
    for (name, amount) in peak {
        let slot = total.entry(name).or_default();
        *slot = amount.max(*slot);
    }
    add(&mut total, &amounts(&spec["overhead"]));
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_default() += amount;
    }
}

pub(super) fn host_ports(spec: &Value) -> Vec<HostPort> {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let sidecars = spec["initContainers"].as_array().into_iter().flatten().filter(|c| c["restartPolicy"] == "Always");
    containers
        .chain(sidecars)
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(|port| {
            let number = port["hostPort"].as_i64().filter(|number| *number > 0)?;
            let address = port["hostIP"].as_str().filter(|ip| *ip != "0.0.0.0").unwrap_or_default();
            Some((port["protocol"].as_str().unwrap_or("TCP").to_owned(), address.to_owned(), number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, cpu: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "3"}}}))
    }

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn pods_spread_over_nodes_and_are_told_when_nothing_fits() {
        let mut picture = Picture::of(&[node("a", "1"), node("b", "1")], &[]);
        let mut places: Vec<String> = (0..2).map(|_| picture.place(&pod("600m")).unwrap()).collect();
        places.sort();
        assert_eq!(places, ["a", "b"]);
        let error = picture.place(&pod("600m")).unwrap_err();
        assert_eq!(error, "0/2 nodes are available: 2 Insufficient cpu.");
        assert_eq!(Picture::of(&[], &[]).place(&pod("1")).unwrap_err(), "no nodes available to schedule pods");
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let mut picture = Picture::of(&[node("a", "100")], &[]);
        for _ in 0..3 {
            picture.place(&pod("1m")).unwrap();
        }
        assert_eq!(picture.place(&pod("1m")).unwrap_err(), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn taints_selectors_and_host_ports_are_respected() {
        let mut tainted = (*node("a", "1")).clone();
        tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        let mut picture = Picture::of(&[Arc::new(tainted)], &[]);
        let error = picture.place(&pod("1m")).unwrap_err();
        assert_eq!(error, "0/1 nodes are available: 1 node(s) had untolerated taint(s).");
        let mut tolerant = pod("1m");
        tolerant["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
        assert!(picture.place(&tolerant).is_ok());
        let mut picture = Picture::of(&[node("a", "1")], &[]);
        let mut picky = pod("1m");
        picky["spec"]["nodeSelector"] = json!({"disk": "fast"});
        let error = picture.place(&picky).unwrap_err();
        assert_eq!(error, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.");
        let mut port = pod("1m");
        port["spec"]["containers"][0]["ports"] = json!([{"hostPort": 80}]);
        picture.place(&port).unwrap();
        let error = picture.place(&port).unwrap_err();
        assert_eq!(error, "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    }

    #[test]
    fn init_containers_count_only_when_they_need_more() {
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}], "initContainers": [
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"requests": {"cpu": "2"}}}]});
        assert_eq!(requests(&spec)["cpu"], 2500);
    }
}
