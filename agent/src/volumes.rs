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
mod teardown;
mod token;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};

use crate::downward::Surroundings;
use crate::objects::Snapshot;
use crate::resources::pod_limits;

pub(crate) use ownership::Owner;
pub(crate) use payload::Inputs;
pub(crate) use subpath::bind as bind_subpath;
pub(crate) use teardown::tear_down;
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

/// A pod with all that its volumes can be made of. Blocking: it touches the disk.
#[derive(Debug)]
pub(crate) struct SetUp<'a> {
    pub(crate) pod_dir: &'a Path,
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Snapshot,
    pub(crate) around: &'a Surroundings,
    pub(crate) tokens: &'a Tokens,
}

impl SetUp<'_> {
    /// Makes or refreshes every volume; goes on after an error and returns them all.
    pub(crate) fn run(&self) -> Result<MountedVolumes, Vec<VolumeError>> {
        let Some(spec) = &self.pod.spec else {
            return Ok(MountedVolumes::new());
        };
        let mut mounted = MountedVolumes::new();
        let mut errors = Vec::new();
        for volume in spec.volumes.iter().flatten() {
            match self.one(spec, volume) {
                Ok(m) => {
                    mounted.insert(volume.name.clone(), m);
                }
                Err(reason) => errors.push(VolumeError { volume: volume.name.clone(), reason }),
            }
        }
        if errors.is_empty() { Ok(mounted) } else { Err(errors) }
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
        let inputs = Inputs { pod: self.pod, objects: self.objects, around: self.around, tokens: self.tokens };
        let (kind, in_memory, payload) = if let Some(source) = &volume.config_map {
            ("configmap", false, inputs.config_map(source)?)
        } else if let Some(source) = &volume.secret {
            ("secret", true, inputs.secret(source)?)
        } else if let Some(source) = &volume.downward_api {
            ("downward-api", false, inputs.downward(source)?)
        } else if let Some(source) = &volume.projected {
            ("projected", true, inputs.projected(source, owner)?)
        } else {
            return Err(Reason::Unsupported(type_name(volume)));
        };
        let path = self.folder(kind, &volume.name);
        if in_memory {
            empty_dir::mount_tmpfs(&path, None)?;
        } else {
            make_dir(&path)?;
        }
        atomic::write(&path, &payload, owner)?;
        Ok(Mounted { path, read_only: true })
    }

    fn folder(&self, kind: &str, name: &str) -> PathBuf {
        let plugin = format!("kubernetes.io~{kind}");
        self.pod_dir.join("volumes").join(plugin).join(name)
    }
}

fn make_dir(path: &Path) -> Result<(), Reason> {
    fs::create_dir_all(path).map_err(|e| Reason::system("make", path, e))
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
