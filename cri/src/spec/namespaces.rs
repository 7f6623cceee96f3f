//! Which namespaces a container makes, and which of the pod's it joins.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};
use orlop_proto::v1::{self, NamespaceMode};

use super::Inputs;
use crate::error::{Context, Error, Result};

/// POD with mappings makes a user namespace; NODE, and no option at all, is the host's.
pub(super) fn wants_user_namespace(options: Option<&v1::NamespaceOption>) -> bool {
    options
        .and_then(|options| options.userns_options.as_ref())
        .is_some_and(|userns| userns.mode() == NamespaceMode::Pod)
}

/// Mounts are the container's own. Network, IPC and UTS are the pod's, by the pins of its shim, unless they
/// are the node's. A cgroup namespace hides the host's tree on cgroup v2; on v1 the mounted subtree does.
pub(super) fn of(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Vec<LinuxNamespace>> {
    let pod = inputs.sandbox.namespace_options();
    let pin = |name: &str| inputs.pod_dir.join("ns").join(name);
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)?];
    if pod.network() != NamespaceMode::Node {
        namespaces.push(namespace(LinuxNamespaceType::Network, Some(pin("net")))?);
        namespaces.push(namespace(LinuxNamespaceType::Uts, Some(pin("uts")))?);
    }
    if pod.ipc() != NamespaceMode::Node {
        namespaces.push(namespace(LinuxNamespaceType::Ipc, Some(pin("ipc")))?);
    }
    let pid = security.namespace_options.as_ref().map_or(pod.pid(), v1::NamespaceOption::pid);
    match pid {
        NamespaceMode::Container => namespaces.push(namespace(LinuxNamespaceType::Pid, None)?),
        NamespaceMode::Pod if pod.pid() == NamespaceMode::Pod => {
            namespaces.push(namespace(LinuxNamespaceType::Pid, Some(pin("pid")))?);
        }
        NamespaceMode::Pod => {
            return Err(Error::invalid("the container wants the pod's PID namespace, and its sandbox has none"));
        }
        NamespaceMode::Target => {
            let pid = inputs
                .target_pid
                .ok_or_else(|| Error::precondition("the container whose PID namespace is wanted does not run"))?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
            namespaces.push(namespace(LinuxNamespaceType::Pid, Some(path))?);
        }
        NamespaceMode::Node => {}
    }
    if inputs.host.cgroup2 {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(namespaces)
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace> {
    let mut builder = LinuxNamespaceBuilder::default().typ(kind);
    if let Some(path) = path {
        builder = builder.path(path);
    }
    builder.build().step(|| format!("make the OCI spec: {kind} namespace"))
}
