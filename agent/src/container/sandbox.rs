//! The sandbox's configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use orlop_proto::v1;

use super::{keys, security};
use crate::cgroups::{CPU_PERIOD, quota, shares};
use crate::resources::{Resources, all_containers, pod_limits, pod_requests};

/// `<root>/<namespace>_<name>_<uid>`, where a pod's containers log.
pub(crate) fn sandbox_log_dir(root: &Path, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let name = format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid));
    root.join(name)
}

/// What [`sandbox_config`] needs beside the pod.
#[derive(Debug)]
pub(crate) struct SandboxInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) attempt: u32,
    pub(crate) hostname: String,
    pub(crate) dns: v1::DnsConfig,
    pub(crate) log_dir: PathBuf,
    pub(crate) cgroup_parent: String,
}

/// The labels by which pods are found again.
pub(super) fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    [(keys::POD_NAME, &meta.name), (keys::POD_NAMESPACE, &meta.namespace), (keys::POD_UID, &meta.uid)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
        .collect()
}

/// Builds the configuration.
pub(crate) fn sandbox_config(input: SandboxInput<'_>) -> v1::PodSandboxConfig {
    let SandboxInput { pod, spec, .. } = input;
    let meta = &pod.metadata;
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    let host_network = spec.host_network == Some(true);
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            attempt: input.attempt,
        }),
        hostname: if host_network { String::new() } else { input.hostname },
        log_directory: input.log_dir.to_string_lossy().into_owned(),
        dns_config: Some(input.dns),
        port_mappings: port_mappings(spec),
        labels,
        annotations: meta.annotations.clone().unwrap_or_default(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent,
            security_context: Some(security::sandbox(spec)),
            sysctls: sysctls(spec),
            overhead: None,
            resources: Some(resources(spec)),
        }),
        windows: None,
    }
}

fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let list = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    let pairs = list.into_iter().flatten();
    pairs.map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

/// On the host's network there is nothing to map.
fn port_mappings(spec: &PodSpec) -> Vec<v1::PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let ports = all_containers(spec).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            Some(v1::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.filter(|p| *p > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn resources(spec: &PodSpec) -> v1::LinuxContainerResources {
    let Resources { cpu, memory } = pod_limits(spec);
    v1::LinuxContainerResources {
        cpu_period: cpu.map_or(0, |_| CPU_PERIOD),
        cpu_quota: cpu.map_or(0, quota),
        cpu_shares: shares(pod_requests(spec).cpu.unwrap_or(0)),
        memory_limit_in_bytes: memory.unwrap_or(0),
        ..v1::LinuxContainerResources::default()
    }
}
