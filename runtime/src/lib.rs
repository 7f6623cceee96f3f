//! An OCI runtime as a library: containers made, started, signalled and removed as the
//! [OCI runtime specification] 1.3 says.
//!
//! Everything here blocks and runs on the caller's thread. The caller should have **one** thread when it
//! calls [`Runtime::create`] or [`Runtime::exec`]: the new process is cloned without `execve`, joins its
//! version 1 cgroups as a single thread, and is the caller's child, which the caller reaps.
//!
//! [OCI runtime specification]: https://github.com/opencontainers/runtime-spec

mod capabilities;
mod cgroups;
mod checkpoint;
mod child;
mod config;
mod create;
mod devices;
mod document;
mod error;
mod exec;
mod features;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod hooks;
mod identity;
mod inherited;
mod init;
mod kin;
mod lifecycle;
mod mountinfo;
mod mounts;
mod namespaces;
mod net_devices;
mod options;
mod overlay;
mod path;
mod process;
mod procfs;
mod resctrl;
mod rootfs;
mod schedule;
mod seccomp;
mod self_protection;
mod signal;
mod start;
mod status;
mod store;
mod sys;
mod terminal;
mod user_namespace;
mod validate;
mod watch;

pub use checkpoint::{CgroupsMode, CheckpointOptions, CriuOptions, RestoreOptions};
pub use document::MAX_DOCUMENT;
pub use error::{Error, ErrorKind, Failure};
pub use features::features;
pub use nix::unistd::Pid;
pub use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};
pub use options::{CreateOptions, Created, ExecOptions, Rootfs, Started, Stdio};
pub use seccomp::Filter as SeccompFilter;
pub use self_protection::run_from_read_only_mount;
pub use signal::{ParseSignalError, Signal};
pub use start::Held;
pub use status::{State, Status};
pub use store::rfc3339;
pub use terminal::{copy_terminal_size, pass_output_raw, terminal_size};
pub use user_namespace::is_nested as in_user_namespace;
pub use watch::{Happening, Watch};

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cgroups::Layout;

/// The version of the OCI runtime specification that this runtime implements.
pub const OCI_VERSION: &str = "1.3.0";

/// All containers whose state is below one folder.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    warn: fn(&str),
    step: Option<fn(&str)>,
    /// Where cgroups are mounted, found out when first needed.
    layout: OnceLock<Layout>,
}

impl Runtime {
    /// The runtime whose containers' state is in `root/<id>/`. The folder is made when first needed.
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        Runtime { root: root.into(), warn: |_| (), step: None, layout: OnceLock::new() }
    }

    /// Tell `warn` what the specification wants logged and not failed, such as a failing poststop hook.
    #[must_use]
    pub fn on_warning(mut self, warn: fn(&str)) -> Runtime {
        self.warn = warn;
        self
    }

    /// Tell `step` what is being done, for whoever looks for where a call fails, hangs or takes its time.
    #[must_use]
    pub fn on_step(mut self, step: fn(&str)) -> Runtime {
        self.step = Some(step);
        self
    }

    /// The folder that holds the state of all containers.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn tell_step(&self, what: impl FnOnce() -> String) {
        if let Some(step) = self.step {
            step(&what());
        }
    }

    fn cgroup_layout(&self) -> Result<&Layout, Error> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let layout = Layout::detect()?;
        Ok(self.layout.get_or_init(|| layout))
    }
}
