//! What is checked of a RunPodSandbox request before anything is done.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use orlop_proto::v1::{self, NamespaceMode};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::{network, spec};

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: v1::PodSandboxConfig,
    pub(super) handler: String,
    pub(super) namespaces: v1::NamespaceOption,
    pub(super) sysctls: BTreeMap<String, String>,
    /// The pod's cgroup, if the request names one.
    pub(super) cgroup_parent: Option<PathBuf>,
}

/// Hostnames that sethostname(2) takes.
const MAX_HOSTNAME: usize = 64;

pub(super) fn check(engine: &Engine, request: v1::RunPodSandboxRequest) -> Result<Plan> {
    let config = request.config.ok_or_else(|| Error::invalid("the sandbox has no config"))?;
    check_metadata(config.metadata.as_ref())?;
    if !engine.config.knows_handler(&request.runtime_handler) {
        return Err(Error::invalid(format!(
            "no runtime for handler {:?} is configured: name its program in [cri.runtimes]",
            request.runtime_handler
        )));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let namespaces = security.namespace_options.unwrap_or_default();
    check_namespaces(&namespaces)?;
    check_hostname(&config.hostname)?;
    if !config.log_directory.is_empty() && !is_plain(Path::new(&config.log_directory)) {
        return Err(Error::invalid(format!(
            "log_directory {:?} is not an absolute path without ..",
            config.log_directory
        )));
    }
    let sysctls = spec::pod_sysctls(Some(&linux), &namespaces)?;
    network::port_mappings(&config)?;
    network::bandwidth(&config.annotations)?;
    let cgroup_parent = cgroup_parent(&linux.cgroup_parent)?;
    Ok(Plan { config, handler: request.runtime_handler, namespaces, sysctls, cgroup_parent })
}

fn check_metadata(metadata: Option<&v1::PodSandboxMetadata>) -> Result<()> {
    let metadata = metadata.ok_or_else(|| Error::invalid("the sandbox has no metadata"))?;
    for (what, text) in [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)] {
        if text.is_empty() {
            return Err(Error::invalid(format!("the sandbox's metadata has no {what}")));
        }
        // They travel to CNI plugins, where these separate.
        if text.contains([';', '=', '\0', '\n']) {
            return Err(Error::invalid(format!("the sandbox's {what} {text:?} has a character that no name has")));
        }
    }
    Ok(())
}

fn check_namespaces(namespaces: &v1::NamespaceOption) -> Result<()> {
    for (what, mode) in [("network", namespaces.network()), ("IPC", namespaces.ipc())] {
        if !matches!(mode, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(Error::invalid(format!("the {what} namespace of a sandbox is the pod's or the node's")));
        }
    }
    if namespaces.pid() == NamespaceMode::Target {
        return Err(Error::invalid("the PID namespace of a sandbox cannot be that of a container"));
    }
    if spec::pod_wants_user_namespace(namespaces) {
        return Err(Error::unimplemented("user namespaces (hostUsers: false) are not supported"));
    }
    Ok(())
}

fn check_hostname(hostname: &str) -> Result<()> {
    let plain = hostname.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if hostname.len() > MAX_HOSTNAME || !plain {
        return Err(Error::invalid(format!(
            "hostname {hostname:?} is not made of up to {MAX_HOSTNAME} letters, digits, '-', '.'"
        )));
    }
    Ok(())
}

fn cgroup_parent(text: &str) -> Result<Option<PathBuf>> {
    if text.is_empty() {
        return Ok(None);
    }
    if Path::new(text).extension().is_some_and(|extension| extension == "slice") {
        return Err(Error::invalid(format!(
            "cgroup_parent {text:?} is a systemd slice, and this daemon has the cgroupfs driver: set cgroupDriver: cgroupfs"
        )));
    }
    let path = Path::new("/").join(text);
    if !is_plain(&path) || path == Path::new("/") {
        return Err(Error::invalid(format!("cgroup_parent {text:?} is not a path below / without ..")));
    }
    Ok(Some(path))
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::{cgroup_parent, check_hostname, check_metadata};
    use orlop_proto::v1;
    use std::path::Path;

    #[test]
    fn cgroup_parents_stay_below_the_root() {
        assert_eq!(cgroup_parent("").unwrap(), None);
        assert_eq!(cgroup_parent("/kubepods/podx").unwrap().unwrap(), Path::new("/kubepods/podx"));
        assert_eq!(cgroup_parent("x").unwrap().unwrap(), Path::new("/x"));
        for text in ["/", "/a/../..", "kubepods.slice", "/kubepods.slice/kubepods-podx.slice"] {
            assert!(cgroup_parent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_hostnames_are_plain() {
        assert!(check_hostname("web-0.svc").is_ok());
        assert!(check_hostname("a b").is_err() && check_hostname(&"x".repeat(65)).is_err());
        let metadata = |name: &str| v1::PodSandboxMetadata {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: "u".to_owned(),
            attempt: 0,
        };
        assert!(check_metadata(Some(&metadata("web"))).is_ok());
        assert!(check_metadata(None).is_err());
        assert!(check_metadata(Some(&metadata(""))).is_err());
        assert!(check_metadata(Some(&metadata("a;K8S_POD_UID=b"))).is_err());
    }
}
