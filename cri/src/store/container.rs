//! A container: its record, and the object in memory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orlop_proto::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::table::Identified;
use crate::image::ImageLease;
use crate::stats::{Disk, Rate};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Nanoseconds since the epoch; 0 when it never ran.
    pub(crate) started_at: i64,
    /// Nanoseconds since the epoch.
    pub(crate) finished_at: i64,
    /// As a shell tells it: 128 + n when signal n killed it.
    pub(crate) code: i32,
    /// The kubelet's words: Completed, Error, OOMKilled, ContainerStatusUnknown, StartError.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Where a container is in its life.
///
/// ```text
/// Creating ──> Created ──> Running ──> Exited ──> (removed)
///                 └───────────────────────^   killed before it started, or lost
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContainerState {
    /// CreateContainer has not answered; invisible to clients, undone after a crash.
    Creating,
    /// The runtime holds its init before exec.
    Created {
        pid: i32,
    },
    Running {
        pid: i32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    Exited(Exit),
}

/// What is on disk of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    #[serde(with = "super::message")]
    pub(crate) config: v1::ContainerConfig,
    /// The image's id.
    pub(crate) image: String,
    /// A name with the digest, when the image has one.
    pub(crate) image_ref: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) state: ContainerState,
    /// Absolute; none when the pod has no log folder or the container no log.
    pub(crate) log_path: Option<PathBuf>,
    /// What StopContainer sends first.
    pub(crate) stop_signal: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Images mounted as volumes.
    pub(crate) volume_images: Vec<String>,
    /// As last set; what the config said unless it was updated.
    #[serde(with = "super::message")]
    pub(crate) resources: v1::LinuxContainerResources,
    /// Where the container's cgroup is, below the root of each hierarchy.
    pub(crate) cgroup: PathBuf,
}

/// A container in memory.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    /// What does not change after CreateContainer; its `state` and `resources` are those at the start.
    fixed: ContainerRecord,
    /// Held through each operation that changes the container.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// The last reading of its CPU time.
    pub(crate) cpu: Rate,
    /// The last measure of its writable layer.
    pub(crate) disk: Disk,
    /// Held while the record is written or removed; whether it has been removed.
    saving: Mutex<bool>,
    state: watch::Sender<ContainerState>,
    resources: Mutex<v1::LinuxContainerResources>,
    /// Keeps the layers of the images while the container is there.
    leases: Mutex<Vec<ImageLease>>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Container {
        Container {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            operation: tokio::sync::Mutex::new(()),
            cpu: Rate::default(),
            disk: Disk::default(),
            saving: Mutex::new(false),
            state: watch::Sender::new(record.state.clone()),
            resources: Mutex::new(record.resources.clone()),
            leases: Mutex::new(Vec::new()),
            fixed: record,
        }
    }

    /// Two writers of one record would race for the name of its temporary file, and one that comes late would bring
    /// a removed record back: true when it has been removed.
    pub(super) fn saving(&self) -> MutexGuard<'_, bool> {
        lock(&self.saving)
    }

    /// What is written to disk.
    pub(crate) fn record(&self) -> ContainerRecord {
        ContainerRecord { state: self.state(), resources: self.resources(), ..self.fixed.clone() }
    }

    /// What was decided when the container was created. Its `state` and `resources` may be old.
    pub(crate) fn fixed(&self) -> &ContainerRecord {
        &self.fixed
    }

    pub(crate) fn config(&self) -> &v1::ContainerConfig {
        &self.fixed.config
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    pub(crate) fn set_state(&self, state: ContainerState) {
        self.state.send_replace(state);
    }

    /// Notes that the runtime holds the first process, unless that has ended already.
    pub(crate) fn created(&self, pid: i32) {
        self.state.send_if_modified(|state| {
            let creating = *state == ContainerState::Creating;
            if creating {
                *state = ContainerState::Created { pid };
            }
            creating
        });
    }

    /// Notes that the program was executed. Its end may have been told before.
    pub(crate) fn started(&self, pid: i32, at: i64) {
        self.state.send_modify(|state| match state {
            ContainerState::Exited(exit) => exit.started_at = at,
            other => *other = ContainerState::Running { pid, started_at: at },
        });
    }

    /// Notes the end, unless it is known already. True if it was news.
    pub(crate) fn ended(&self, exit: Exit) -> bool {
        self.state.send_if_modified(|state| {
            let started_at = match state {
                ContainerState::Exited(_) => return false,
                ContainerState::Running { started_at, .. } => *started_at,
                ContainerState::Creating | ContainerState::Created { .. } => exit.started_at,
            };
            *state = ContainerState::Exited(Exit { started_at, ..exit });
            true
        })
    }

    /// Sees each change of the state.
    pub(crate) fn watch(&self) -> watch::Receiver<ContainerState> {
        self.state.subscribe()
    }

    /// Waits until the container has exited.
    pub(crate) async fn exited(&self) {
        let mut watch = self.watch();
        // An error means that the sender is gone, which `self` keeps alive.
        drop(watch.wait_for(|state| matches!(state, ContainerState::Exited(_))).await);
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Running { .. })
    }

    /// The first process, while there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        match *self.state.borrow() {
            ContainerState::Created { pid } | ContainerState::Running { pid, .. } => Some(pid),
            ContainerState::Creating | ContainerState::Exited(_) => None,
        }
    }

    pub(crate) fn is_exited(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Exited(_))
    }

    /// Created or running: a process is there.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Created { .. } | ContainerState::Running { .. })
    }

    pub(crate) fn resources(&self) -> v1::LinuxContainerResources {
        lock(&self.resources).clone()
    }

    pub(crate) fn set_resources(&self, resources: v1::LinuxContainerResources) {
        *lock(&self.resources) = resources;
    }

    pub(crate) fn keep(&self, leases: Vec<ImageLease>) {
        lock(&self.leases).extend(leases);
    }

    pub(crate) fn release_images(&self) {
        lock(&self.leases).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Identified for Container {
    fn id(&self) -> &str {
        &self.id
    }
}
