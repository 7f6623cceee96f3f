//! A container's mounts: its volumes, `/etc/hosts`, and the file for its last words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use orlop_proto::v1;

use crate::env::expand;
use crate::volumes::{self, MountedVolumes};

/// Where a container may write why it ended, unless it says otherwise.
pub(crate) const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// What mounts are made of. Blocking: sub-paths are bound on the way.
#[derive(Debug)]
pub(super) struct MountInput<'a> {
    pub(super) container: &'a Container,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) volumes: &'a MountedVolumes,
    pub(super) pod_dir: &'a Path,
    pub(super) hosts_file: &'a Path,
    pub(super) message_file: &'a Path,
}

impl MountInput<'_> {
    /// The runtime's mounts.
    ///
    /// # Errors
    /// The message of a CreateContainerConfigError.
    pub(super) fn mounts(&self) -> Result<Vec<v1::Mount>, String> {
        let wanted = self.container.volume_mounts.as_deref().unwrap_or_default();
        let mut mounts = Vec::with_capacity(wanted.len() + 2);
        for (index, mount) in wanted.iter().enumerate() {
            mounts.push(self.volume(index, mount)?);
        }
        let has = |path: &str| wanted.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
        if !has("/etc/hosts") {
            mounts.push(file("/etc/hosts", self.hosts_file));
        }
        let message_path = self.container.termination_message_path.as_deref();
        let message_path = message_path.unwrap_or(DEFAULT_MESSAGE_PATH);
        if !message_path.is_empty() {
            mounts.push(file(message_path, self.message_file));
        }
        Ok(mounts)
    }

    fn volume(&self, index: usize, mount: &VolumeMount) -> Result<v1::Mount, String> {
        let name = &mount.name;
        let volume = self.volumes.get(name).ok_or_else(|| {
            format!("cannot find volume \"{name}\" to mount into container \"{}\"", self.container.name)
        })?;
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            return Err(format!("volume \"{name}\": recursiveReadOnly: Enabled is not supported by this agent"));
        }
        let host_path = match self.sub_path(mount) {
            None => volume.path.clone(),
            Some(sub_path) => {
                let target = self.sub_path_target(index, name);
                volumes::bind_subpath(&volume.path, &sub_path, &target).map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount \"{name}\" of container \"{}\": {e}",
                        self.container.name
                    )
                })?
            }
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            _ => v1::MountPropagation::PropagationPrivate,
        };
        let absolute = Path::new("/").join(&mount.mount_path);
        Ok(v1::Mount {
            container_path: absolute.to_string_lossy().into_owned(),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: volume.read_only || mount.read_only == Some(true),
            propagation: propagation.into(),
            ..v1::Mount::default()
        })
    }

    fn sub_path(&self, mount: &VolumeMount) -> Option<String> {
        if let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            return Some(expand(expression, |name| self.env.get(name).map(String::as_str)));
        }
        mount.sub_path.clone().filter(|s| !s.is_empty())
    }

    fn sub_path_target(&self, index: usize, volume: &str) -> PathBuf {
        let folder = self.pod_dir.join("volume-subpaths").join(volume);
        folder.join(&self.container.name).join(index.to_string())
    }
}

fn file(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..v1::Mount::default()
    }
}
