//! Errors of the system and of the runtime, as the protocol tells them.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;
use orlop_runtime::ErrorKind;
use orlop_shim::protocol::{Failure, FailureKind};

pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into(), errno: None }
}

pub(crate) fn no_container(id: &str) -> Failure {
    failure(FailureKind::NotFound, format!("no container {id} in this pod"))
}

/// Names the step at which the system refused.
pub(crate) trait Step<T> {
    fn step(self, step: impl Display) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            kind: FailureKind::System,
            message: format!("{step}: {error}"),
            errno: error.raw_os_error(),
        })
    }
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: impl Display) -> Result<T, Failure> {
        self.map_err(|errno: Errno| io::Error::from(errno)).step(step)
    }
}

/// A refusal of the OCI runtime.
pub(crate) fn runtime_failure(error: &orlop_runtime::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::AlreadyExists => FailureKind::AlreadyExists,
        ErrorKind::NotFound => FailureKind::NotFound,
        ErrorKind::WrongStatus => FailureKind::WrongState,
        ErrorKind::Unsupported => FailureKind::Unsupported,
        ErrorKind::NotExecutable => FailureKind::NotExecutable,
        ErrorKind::Failed => FailureKind::Runtime,
    };
    Failure { kind, message: error.to_string(), errno: error.errno() }
}
