//! The shim protocol: what `orlop-cri` and `orlop-shim` say to each other.
//!
//! A message is one JSON object in one SOCK_SEQPACKET packet of at most [`MAX_MESSAGE`] bytes; descriptors
//! ride along by SCM_RIGHTS. A longer one, of at most [`LONGEST_MESSAGE`] bytes, is in a memfd, the last
//! descriptor of a packet that holds [`ELSEWHERE`]. One request at a time on a connection, any number of connections. A shim
//! outlives the daemon that started it, so both sides ignore fields they don't know, and a field added later
//! has a default. See docs/ARCHITECTURE.md, "The shim protocol".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

/// The protocol's version, told in [`Answer::Ready`] and [`Listed`].
pub const VERSION: u32 = 1;
/// The longest message in a packet, in bytes.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// The longest message of all, in bytes. A process may be given 6 MiB of arguments and environment
/// (execve(2)), and JSON makes them longer.
pub const LONGEST_MESSAGE: usize = 16 * 1024 * 1024;
/// The packet whose message is in its last descriptor; no JSON begins so.
pub const ELSEWHERE: &[u8] = b"@";
/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 3;
/// The socket's name in the pod's folder.
pub const SOCKET: &str = "shim.sock";
/// The file with the shim's own complaints, in the pod's folder.
pub const LOG: &str = "shim.log";
/// The folder of the pinned namespaces, in the pod's folder.
pub const NAMESPACES: &str = "ns";
/// Where another OCI runtime, which has no environment of its own here, looks for programs.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The file in a bundle that holds the [`ExitStatus`] of its container once that ended.
pub const EXIT_FILE: &str = "exit.json";

/// Where another OCI runtime keeps its state: beside that of the built-in one, named after the program.
#[must_use]
pub fn state_root(runtime_root: &Path, program: &Path) -> PathBuf {
    let mut root = runtime_root.as_os_str().to_owned();
    root.push(".");
    root.push(program.file_name().unwrap_or_default());
    root.into()
}

/// What a daemon asks of a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// The first request, over the socket pair that the shim was started with; only there, only once.
    /// Answer: [`Answer::Ready`].
    Init(Init),
    /// Makes a container, its process waiting before exec. Answer: [`Answer::Created`].
    Create(Create),
    /// Lets a created container exec. Answer: [`Answer::Started`].
    Start { id: String },
    /// Sends a signal to a container's first process, or to `all` its processes. Answer: [`Answer::Done`],
    /// also when the container has already ended.
    Kill { id: String, signal: i32, all: bool },
    /// Removes an ended container. Answer: [`Answer::Done`], also when there is none.
    Delete { id: String },
    /// Freezes a container. Answer: [`Answer::Done`].
    Pause { id: String },
    /// Thaws a container. Answer: [`Answer::Done`].
    Resume { id: String },
    /// Changes a container's limits. Answer: [`Answer::Done`].
    Update { id: String, resources: Box<LinuxResources> },
    /// Runs one more process in a container. Without a terminal the request carries its stdin, stdout and
    /// stderr; with one the answer carries the pty's master. Answer: [`Answer::Execed`].
    Exec(Exec),
    /// Signals a process started by `Exec`, and what it started (its session, its descendants).
    /// Answer: [`Answer::Done`], also when it has already ended.
    KillExec { id: String, exec_id: String, signal: i32 },
    /// Copies a container's output, from now on, to the descriptors of the request: stdout, and stderr
    /// unless the container has a terminal. The answer carries the write end of its stdin if `stdin` is
    /// asked and the container has one. Answer: [`Answer::Attached`].
    Attach { id: String, stdin: bool },
    /// Sets the size of a terminal, in characters. Answer: [`Answer::Done`].
    Resize { id: String, exec_id: Option<String>, width: u16, height: u16 },
    /// Closes the shim's write end of a container's stdin. Answer: [`Answer::Done`].
    CloseStdin { id: String },
    /// Opens the log file by its path again, after its rotation. Answer: [`Answer::Done`].
    ReopenLog { id: String },
    /// A TCP socket of the pod's network namespace, not yet connected and non-blocking, comes with the
    /// answer: the caller connects it, so that a peer that does not accept never holds up the shim.
    /// Answer: [`Answer::Socket`].
    Socket { ipv6: bool },
    /// Answer: [`Answer::Listed`].
    List,
    /// Turns the connection into a stream of [`Event`]s. Answer: [`Answer::Done`].
    Subscribe,
    /// Kills and deletes every container, unpins the namespaces, removes the socket, and exits.
    /// Answer: [`Answer::Done`].
    Shutdown,
}

/// The pod that a shim is for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Init {
    /// The pod sandbox's id.
    pub id: String,
    /// The pod's folder, which exists, is owned by root and closed to others (`RUN/pods/<id>`).
    pub dir: PathBuf,
    /// The state root of the OCI runtime (`RUN/runtime`).
    pub runtime_root: PathBuf,
    pub namespaces: PodNamespaces,
    /// Set in the pod's own UTS namespace.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Set in the pod's own namespaces: `net.*` and those of IPC. Anything else is refused.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// The shim's own. What the host does not permit is noted in the log and left as it is.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
}

/// Which namespaces a pod has of its own; each such is pinned at `ns/<name>` in the pod's folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    /// One PID namespace shared by the containers of the pod.
    pub pid: bool,
}

/// A container to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Create {
    pub id: String,
    /// Holds `config.json`.
    pub bundle: PathBuf,
    #[serde(default)]
    pub rootfs: Rootfs,
    /// A container of this pod whose PID namespace `config.json` names by its first process: it must not have ended.
    #[serde(default)]
    pub target: Option<String>,
    /// The program of another OCI runtime with runc's command line; none for the built-in one.
    #[serde(default)]
    pub oci_runtime: Option<PathBuf>,
    /// The container gets a stdin that can be attached to; otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The first attach takes the stdin: when it lets go, the container reads end-of-file.
    #[serde(default)]
    pub stdin_once: bool,
    #[serde(default)]
    pub tty: bool,
    /// The CRI log file; without one the output is read and thrown away.
    #[serde(default)]
    pub log_path: Option<PathBuf>,
}

/// Where a container's root filesystem comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// `root.path` of the bundle's `config.json` is ready.
    #[default]
    Bundle,
    /// To be mounted at `root.path`, in the container's mount namespace only.
    Overlay {
        /// Top first.
        lower: Vec<PathBuf>,
        /// None for a read-only root.
        upper: Option<PathBuf>,
        work: Option<PathBuf>,
    },
}

/// One more process for a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    pub id: String,
    /// The caller's name for it, unique among the container's.
    pub exec_id: String,
    /// The OCI process. Its `terminal` is overruled by `tty`.
    pub process: Box<Process>,
    pub tty: bool,
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The pod's namespaces are pinned and the socket listens.
    Ready {
        pid: i32,
        version: u32,
    },
    Created {
        pid: i32,
    },
    Started {
        /// Nanoseconds since the epoch.
        at: i64,
    },
    Done,
    Execed {
        pid: i32,
    },
    Attached {
        tty: bool,
    },
    Socket,
    Listed(Listed),
    Error(Failure),
}

/// All that a shim knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The pod sandbox's id.
    pub id: String,
    /// The shim's process id.
    pub pid: i32,
    /// Its protocol version.
    pub version: u32,
    pub containers: Vec<ContainerInfo>,
}

/// A container of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    pub id: String,
    /// Of its first process; meaningless once `state` is [`ContainerState::Ended`].
    pub pid: i32,
    pub bundle: PathBuf,
    pub state: ContainerState,
    pub tty: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; none if it was never started.
    pub started_at: Option<i64>,
    pub exit: Option<ExitStatus>,
    /// Those that run and the last few that ended.
    pub execs: Vec<ExecInfo>,
}

/// Where a container is in its life.
///
/// `Creating` (only seen with another OCI runtime) -> `Created` -> `Running` -> `Ended`, and `Created` -> `Ended`.
/// One that another OCI runtime failed to create is `Ended`, without an exit, until it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Creating,
    Created,
    Running,
    Paused,
    Ended,
}

/// A process started by `Exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInfo {
    pub exec_id: String,
    pub pid: i32,
    pub exit: Option<ExitStatus>,
}

/// How a process ended. In a bundle's `exit.json` as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code; 128 + `signal` for a process that a signal ended, as shells count.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel's OOM killer ended a process of the container's cgroup.
    pub oom: bool,
    /// Nanoseconds since the epoch.
    pub at: i64,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container (`exec_id` none) or a process of `Exec` ended, and its output is in the log.
    /// Told again to each new subscriber until the container is deleted; of execs the last few.
    Exit {
        id: String,
        #[serde(default)]
        exec_id: Option<String>,
        status: ExitStatus,
    },
    /// The OOM killer ended a process of the container, which may live on.
    Oom { id: String },
    /// All that ended before the subscription has been told.
    Synced,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// Names the step and the object, for a person.
    pub message: String,
    /// The system's error number, where there is one.
    #[serde(default)]
    pub errno: Option<i32>,
}

/// What sort of failure, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request is wrong in itself.
    Invalid,
    NotFound,
    AlreadyExists,
    /// Not in the state for this: e.g. `Start` of a running container, `Delete` of one that lives.
    WrongState,
    /// The program to run is missing, not permitted, or no program.
    NotExecutable,
    /// The OCI runtime refused or failed.
    Runtime,
    /// A limit of the shim's own: connections, processes, size of a message.
    Limit,
    /// The system refused or failed.
    System,
    /// Not done within the shim's own bounds of time.
    Timeout,
    Unsupported,
}
