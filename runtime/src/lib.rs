//! An OCI runtime as a library: containers made, started, signalled and removed as the
//! [OCI runtime specification] 1.3 says.
//!
//! Everything here blocks and runs on the caller's thread. The caller should have **one** thread when it
//! calls [`Runtime::create`] or [`Runtime::exec`]: the new process is cloned without `execve`, joins its
//! version 1 cgroups as a single thread, and is the caller's child, which the caller reaps.
//!
//! [OCI runtime specification]: https://github.com/opencontainers/runtime-spec

mod error;
mod options;
mod signal;
mod status;

pub use error::{Error, ErrorKind, Failure};
pub use nix::unistd::Pid;
pub use oci_spec::runtime::{LinuxResources, Process, Spec};
pub use options::{CreateOptions, Created, ExecOptions, Rootfs, Started, Stdio};
pub use signal::{ParseSignalError, Signal};
pub use status::{State, Status};

use std::path::{Path, PathBuf};

/// The version of the OCI runtime specification that this runtime implements.
pub const OCI_VERSION: &str = "1.3.0";

/// All containers whose state is below one folder.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    warn: fn(&str),
}

impl Runtime {
    /// The runtime whose containers' state is in `root/<id>/`. The folder is made when first needed.
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        Runtime { root: root.into(), warn: |_| () }
    }

    /// Tell `warn` what the specification wants logged and not failed, such as a failing poststop hook.
    #[must_use]
    pub fn on_warning(mut self, warn: fn(&str)) -> Runtime {
        self.warn = warn;
        self
    }

    /// The folder that holds the state of all containers.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// The life of a container.
impl Runtime {
    /// Makes a container and leaves its process waiting, before its program is executed.
    pub fn create(&self, opts: CreateOptions) -> Result<Created, Error> {
        let _ = opts;
        Err(Error::unsupported("create", "it is being written"))
    }
    /// Runs the start hooks and lets the process execute its program; that this failed is an error here.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        Err(Error::NotFound(id.to_owned()))
    }
    /// The container's state; the status is read from the kernel.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        Err(Error::NotFound(id.to_owned()))
    }
    /// Sends a signal to the container's process, or to `all` processes of the container.
    pub fn kill(&self, id: &str, signal: Signal, all: bool) -> Result<(), Error> {
        let _ = (signal, all);
        Err(Error::NotFound(id.to_owned()))
    }
    /// Removes all that `create` made. With `force` a living container is killed and a missing one is fine.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let _ = force;
        Err(Error::NotFound(id.to_owned()))
    }
    /// Starts another process in a container; when it returns the program runs.
    pub fn exec(&self, id: &str, opts: ExecOptions) -> Result<Started, Error> {
        let _ = opts;
        Err(Error::NotFound(id.to_owned()))
    }
    /// Changes the limits of a container; what is not given stays.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), Error> {
        let _ = resources;
        Err(Error::NotFound(id.to_owned()))
    }
    /// Freezes all processes of a container.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        Err(Error::NotFound(id.to_owned()))
    }
    /// Lets a paused container go on.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        Err(Error::NotFound(id.to_owned()))
    }
    /// The processes in the container's cgroup, as the caller sees them.
    pub fn pids(&self, id: &str) -> Result<Vec<Pid>, Error> {
        Err(Error::NotFound(id.to_owned()))
    }
    /// The state of every container, by name.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        Ok(Vec::new())
    }
}
