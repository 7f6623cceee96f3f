//! The volumes of pods: made before containers start, refreshed while they run, removed afterwards.
//!
//! Everything lives below `pods/<uid>/`, in the kubelet's layout. A set-up runs to its end or is run again:
//! each step looks at what is there first.

mod atomic;
mod empty_dir;
mod host_path;
mod ownership;
mod payload;
mod subpath;
mod token;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};

use crate::downward::Surroundings;
use crate::objects::Snapshot;
use crate::resources::pod_limits;
use crate::tree;

pub(crate) use ownership::Owner;
pub(crate) use payload::Inputs;
pub(crate) use subpath::bind as bind_subpath;
pub(crate) use token::Tokens;

/// A volume that could not be set up, in the words of a FailedMount event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub(crate) struct VolumeError {
    /// The volume's name in the pod.
    pub(crate) volume: String,
    /// What stands in the way.
    pub(crate) reason: Reason,
}

/// Why a volume could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// An object or key is missing; the text is the kubelet's.
    #[error("{0}")]
    Missing(String),
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed: {} is not {expected}", path.display())]
    HostPath { path: PathBuf, expected: &'static str },
    /// A path in the specification leaves the volume.
    #[error("invalid path: {0:?} must be relative and must not contain '..'")]
    Path(String),
    /// The type is not one of ours.
    #[error("volume type {0} is not supported by this agent")]
    Unsupported(&'static str),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Reason {
    fn system(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::System { action, path: path.to_owned(), source: source.into() }
    }
}

/// Where a volume is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// Containers may only read it, whatever their mount says.
    pub(crate) read_only: bool,
}

/// The volumes of a pod by name.
pub(crate) type MountedVolumes = BTreeMap<String, Mounted>;

/// `pods/<uid>` below the agent's folder.
pub(crate) fn pod_dir(state_dir: &Path, uid: &str) -> PathBuf {
    state_dir.join("pods").join(uid)
}

/// Unmounts what is mounted below the pod's folder and removes it; an absent folder is success. Blocking.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    tree::unmount_below(pod_dir)?;
    tree::remove_tree(pod_dir)
}

/// A pod with all that its volumes can be made of.
#[derive(Debug)]
pub(crate) struct SetUp {
    pub(crate) pod_dir: PathBuf,
    pub(crate) pod: Arc<Pod>,
    pub(crate) objects: Snapshot,
    pub(crate) around: Surroundings,
    pub(crate) tokens: Tokens,
    /// The volumes of the set-up before this one.
    pub(crate) before: MountedVolumes,
}

/// The volumes that the pod has now, and what went wrong. A volume may be in both: it is as it was before.
pub(crate) type Outcome = (MountedVolumes, Vec<VolumeError>);

impl SetUp {
    /// Makes or refreshes every volume; goes on after an error. Blocking: it touches the disk.
    pub(crate) fn run(&self) -> Outcome {
        let mut mounted = MountedVolumes::new();
        let mut errors = Vec::new();
        let Some(spec) = &self.pod.spec else { return (mounted, errors) };
        for volume in spec.volumes.iter().flatten() {
            let name = &volume.name;
            let made = match self.one(spec, volume) {
                Ok(made) => Some(made),
                Err(reason) => {
                    errors.push(VolumeError { volume: name.clone(), reason });
                    self.before.get(name).cloned().or_else(|| self.published(volume))
                }
            };
            mounted.extend(made.map(|m| (name.clone(), m)));
        }
        (mounted, errors)
    }

    fn one(&self, spec: &PodSpec, volume: &Volume) -> Result<Mounted, Reason> {
        let owner = Owner::of(spec);
        if let Some(source) = &volume.host_path {
            let path = host_path::check(source)?;
            return Ok(Mounted { path, read_only: false });
        }
        if let Some(source) = &volume.empty_dir {
            let path = self.folder("empty-dir", &volume.name);
            let memory = pod_limits(spec).memory;
            empty_dir::set_up(&path, source, memory)?;
            ownership::apply_once(&path, owner)?;
            return Ok(Mounted { path, read_only: false });
        }
        let Some((kind, in_memory)) = payload_kind(volume) else {
            return Err(Reason::Unsupported(type_name(volume)));
        };
        let payload = self.payload(volume, owner)?;
        let path = self.folder(kind, &volume.name);
        if in_memory {
            empty_dir::mount_tmpfs(&path, None)?;
        } else {
            make_dir(&path)?;
        }
        atomic::write(&path, &payload, owner)?;
        Ok(Mounted { path, read_only: true })
    }

    fn payload(&self, volume: &Volume, owner: Owner) -> Result<atomic::Payload, Reason> {
        let inputs = Inputs { pod: &self.pod, objects: &self.objects, around: &self.around, tokens: &self.tokens };
        if let Some(source) = &volume.config_map {
            inputs.config_map(source)
        } else if let Some(source) = &volume.secret {
            inputs.secret(source)
        } else if let Some(source) = &volume.downward_api {
            inputs.downward(source)
        } else if let Some(source) = &volume.projected {
            inputs.projected(source, owner)
        } else {
            Err(Reason::Unsupported(type_name(volume)))
        }
    }

    /// The volume with the files that it got earlier, perhaps from an agent before this one.
    fn published(&self, volume: &Volume) -> Option<Mounted> {
        let path = self.folder(payload_kind(volume)?.0, &volume.name);
        atomic::is_published(&path).then_some(Mounted { path, read_only: true })
    }

    fn folder(&self, kind: &str, name: &str) -> PathBuf {
        let plugin = format!("kubernetes.io~{kind}");
        self.pod_dir.join("volumes").join(plugin).join(name)
    }
}

fn make_dir(path: &Path) -> Result<(), Reason> {
    fs::create_dir_all(path).map_err(|e| Reason::system("make", path, e))
}

/// The folder's kind, and whether it is in memory, of a volume whose files are written by the agent.
fn payload_kind(volume: &Volume) -> Option<(&'static str, bool)> {
    match volume {
        Volume { config_map: Some(_), .. } => Some(("configmap", false)),
        Volume { secret: Some(_), .. } => Some(("secret", true)),
        Volume { downward_api: Some(_), .. } => Some(("downward-api", false)),
        Volume { projected: Some(_), .. } => Some(("projected", true)),
        _ => None,
    }
}

/// The name of the first source that is set, for a message.
fn type_name(volume: &Volume) -> &'static str {
    macro_rules! first_set {
        ($($field:ident = $name:literal),*) => { $(if volume.$field.is_some() { return $name; })* };
    }
    first_set!(
        persistent_volume_claim = "persistentVolumeClaim",
        csi = "csi",
        nfs = "nfs",
        iscsi = "iscsi",
        fc = "fc",
        image = "image",
        ephemeral = "ephemeral",
        flex_volume = "flexVolume",
        git_repo = "gitRepo",
        rbd = "rbd",
        cephfs = "cephfs",
        glusterfs = "glusterfs"
    );
    "of this pod"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_was_made_outlives_its_object() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [], "volumes": [
                {"name": "gone", "configMap": {"name": "c"}}, {"name": "never", "configMap": {"name": "d"}}]}}))
        .expect("a pod");
        let set_up = SetUp {
            pod_dir: dir.path().to_owned(),
            pod: Arc::new(pod),
            objects: Snapshot::default(),
            around: Surroundings::default(),
            tokens: Tokens::default(),
            before: MountedVolumes::new(),
        };
        let path = set_up.folder("configmap", "gone");
        make_dir(&path).expect("a folder");
        atomic::write(&path, &atomic::Payload::new(), Owner::default()).expect("files");
        let (mounted, errors) = set_up.run();
        assert_eq!(mounted.keys().collect::<Vec<_>>(), ["gone"]);
        let failed: Vec<&str> = errors.iter().map(|e| e.volume.as_str()).collect();
        assert_eq!(failed, ["gone", "never"]);
    }
}
