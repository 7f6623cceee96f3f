//! What is told about a container: the state of the OCI runtime specification.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::Record;

/// Where a container is in its life.
///
/// ```text
/// creating --> created --> running --> stopped
///     \__________\___________________/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work, or was cut off.
    Creating,
    /// Everything is made; the program was not executed yet.
    Created,
    /// The program runs.
    Running,
    /// The program runs and its cgroup is frozen.
    Paused,
    /// The process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// The state of a container, as `state` prints it and as hooks read it.
/// OCI runtime specification, "State"; `rootfs`, `created` and `owner` are additions that runc made usual.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification.
    pub oci_version: String,
    /// The container's name.
    pub id: String,
    /// The container's process in the caller's process namespace; 0 when there is none.
    pub pid: i32,
    /// Where the container is in its life.
    pub status: Status,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root filesystem's folder, absolute.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339 in UTC.
    pub created: String,
    /// The user who created it.
    pub owner: String,
    /// The annotations of the spec.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
}

impl State {
    /// As a container's record and a status make it.
    pub(crate) fn of(record: &Record, status: Status) -> State {
        State {
            oci_version: record.oci_version.clone(),
            id: record.id.clone(),
            status,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            owner: record.owner.clone(),
            annotations: record.annotations.clone(),
        }
    }
}
