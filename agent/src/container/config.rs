//! The configuration of one container.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orlop_proto::v1;

use super::mounts::{DEFAULT_MESSAGE_PATH, MountInput};
use super::security::{self, ImageUser};
use super::{hash, keys, sandbox};
use crate::cgroups::{CPU_PERIOD, quota, shares};
use crate::env::expand;
use crate::resources::{limits, oom_score_adj, pod_limits, requests};
use crate::volumes::MountedVolumes;

/// What this node adds to every container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeFacts {
    /// Bytes.
    pub(crate) memory: i64,
    /// The least oom_score_adj that may be asked for on this host.
    pub(crate) oom_floor: i64,
    /// Memory is limited by cgroup v2.
    pub(crate) memory_v2: bool,
}

/// Everything a container's configuration is made of.
#[derive(Debug)]
pub(crate) struct ContainerInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a v1::Image,
    pub(crate) attempt: u32,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) volumes: &'a MountedVolumes,
    pub(crate) pod_dir: &'a Path,
    pub(crate) state_dir: &'a Path,
    pub(crate) node: NodeFacts,
}

/// `pods/<uid>/containers/<name>/<attempt>`: where a container leaves its termination message.
pub(crate) fn message_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

/// `pods/<uid>/etc-hosts`.
pub(crate) fn hosts_file(pod_dir: &Path) -> PathBuf {
    pod_dir.join("etc-hosts")
}

impl ContainerInput<'_> {
    /// Builds the configuration. Blocking: files are made and sub-paths bound.
    ///
    /// # Errors
    /// The message of a CreateContainerConfigError.
    pub(crate) fn build(self) -> Result<v1::ContainerConfig, String> {
        let container = self.container;
        let seccomp_root = self.state_dir.join("seccomp");
        let user = ImageUser::of(self.image);
        let security = security::container(self.pod, self.spec, container, &user, &seccomp_root)?;
        let message = message_file(self.pod_dir, &container.name, self.attempt);
        make_message_file(&message).map_err(|e| format!("cannot make {}: {e}", message.display()))?;
        let mounts = MountInput {
            container,
            env: &self.env,
            volumes: self.volumes,
            pod_dir: self.pod_dir,
            hosts_file: &hosts_file(self.pod_dir),
            message_file: &message,
        }
        .mounts()?;
        let expanded = |words: &Option<Vec<String>>| {
            let lookup = |name: &str| self.env.get(name).map(String::as_str);
            words.iter().flatten().map(|word| expand(word, lookup)).collect()
        };
        Ok(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: self.attempt }),
            image: Some(v1::ImageSpec {
                image: self.image.id.clone(),
                user_specified_image: container.image.clone().unwrap_or_default(),
                ..v1::ImageSpec::default()
            }),
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            labels: self.labels(),
            annotations: self.annotations(),
            mounts,
            log_path: format!("{}/{}.log", container.name, self.attempt),
            stdin: container.stdin == Some(true),
            stdin_once: container.stdin_once == Some(true),
            tty: container.tty == Some(true),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(security),
            }),
            envs: self.env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
            ..v1::ContainerConfig::default()
        })
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = sandbox::pod_labels(self.pod);
        labels.insert(keys::CONTAINER_NAME.to_owned(), self.container.name.clone());
        labels
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let container = self.container;
        let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_MESSAGE_PATH);
        let policy = container.termination_message_policy.as_deref().unwrap_or("File");
        let grace = self.spec.termination_grace_period_seconds.unwrap_or(30);
        [
            (keys::HASH, hash(container)),
            (keys::RESTART_COUNT, self.attempt.to_string()),
            (keys::MESSAGE_PATH, path.to_owned()),
            (keys::MESSAGE_POLICY, policy.to_owned()),
            (keys::GRACE_PERIOD, grace.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    fn resources(&self) -> v1::LinuxContainerResources {
        let own = limits(self.container);
        let level = self.spec.resources.as_ref().map(|_| pod_limits(self.spec)).unwrap_or_default();
        let cpu = own.cpu.or(level.cpu);
        let memory = own.memory.or(level.memory);
        let oom = oom_score_adj(self.pod, self.container, self.node.memory);
        // One process killed for memory ends the container, where the kernel can do that.
        let group = self.node.memory_v2.then(|| ("memory.oom.group".to_owned(), "1".to_owned()));
        v1::LinuxContainerResources {
            cpu_period: cpu.map_or(0, |_| CPU_PERIOD),
            cpu_quota: cpu.map_or(0, quota),
            cpu_shares: shares(requests(self.container).cpu.unwrap_or(0)),
            memory_limit_in_bytes: memory.unwrap_or(0),
            oom_score_adj: oom.max(self.node.oom_floor),
            unified: group.into_iter().collect(),
            ..v1::LinuxContainerResources::default()
        }
    }
}

fn make_message_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(path)?;
    // The container's user writes it; the umask must not decide.
    file.set_permissions(Permissions::from_mode(0o666))
}
