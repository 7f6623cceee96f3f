//! What can go wrong, and how it is told.

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::status::Status;

/// Why a call to the runtime failed. The messages are whole sentences for people; programs ask [`Error::kind`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is empty, too long, or has characters other than letters, digits and `_+-.`.
    #[error("container id {0:?} is not valid: use 1 to 255 letters, digits or _+-. and not only dots")]
    InvalidId(String),
    /// The name is taken.
    #[error("container with given ID already exists: {0}")]
    AlreadyExists(String),
    /// There is no such container.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// The operation needs a process, which has ended or was never there.
    #[error("container not running: {0:?}")]
    NotRunning(String),
    /// The operation is not for a container in this state.
    #[error("cannot {verb} container {id:?}: it is {status}")]
    WrongStatus {
        /// The operation.
        verb: &'static str,
        /// The container.
        id: String,
        /// Where the container is in its life.
        status: Status,
    },
    /// The configuration breaks the specification.
    #[error("config: {field}: {reason}")]
    InvalidSpec {
        /// The property, as in `process.cwd`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration asks for something that this runtime, or this host, cannot do.
    #[error("{feature} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        feature: String,
        /// Why it cannot be done, or what to do instead.
        why: String,
    },
    /// A step of the work failed, in the caller's process or in the container's.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The container's process ended before it was ready, without saying why.
    #[error("the container's process {0} before it was ready")]
    InitDied(String),
    /// A step failed, and so did the cleaning up after it; `delete --force` tries the latter again.
    #[error("{error}; and cleaning up failed: {cleanup}")]
    Unclean {
        /// What failed first.
        #[source]
        error: Box<Error>,
        /// What failed after it.
        cleanup: String,
    },
}

/// What a program can tell apart about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the configuration is wrong.
    Invalid,
    /// The name is taken.
    AlreadyExists,
    /// There is no such container.
    NotFound,
    /// The container is not in a state for this.
    WrongStatus,
    /// This runtime or this host cannot do it.
    Unsupported,
    /// The program to run cannot be executed: it is missing, not permitted, or no program.
    NotExecutable,
    /// The kernel refused a step.
    Failed,
}

impl Error {
    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidId(_) | Error::InvalidSpec { .. } => ErrorKind::Invalid,
            Error::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Error::NotFound(_) => ErrorKind::NotFound,
            Error::NotRunning(_) | Error::WrongStatus { .. } => ErrorKind::WrongStatus,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::Failed(failure) if failure.step == Failure::EXEC => ErrorKind::NotExecutable,
            Error::Failed(_) | Error::InitDied(_) => ErrorKind::Failed,
            Error::Unclean { error, .. } => error.kind(),
        }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Failed(failure) if failure.errno != 0 => Some(failure.errno),
            Error::Unclean { error, .. } => error.errno(),
            _ => None,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::InvalidSpec { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(feature: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Unsupported { feature: feature.into(), why: why.into() }
    }
}

/// A step that failed: it crosses from the container's process to its parent as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was done, as in `mount`.
    pub step: String,
    /// What it was done to, as in a path.
    pub object: String,
    /// The kernel's error number; 0 when it was not the kernel that objected.
    pub errno: i32,
    /// What there is to say instead of the error number's own text; may be empty.
    pub note: String,
}

impl Failure {
    /// The step that executes the container's program. The text is how runc and Go begin this message,
    /// and what callers of runc look for.
    pub const EXEC: &'static str = "exec:";

    pub(crate) fn new(step: impl Into<String>, object: impl fmt::Display, errno: Errno) -> Failure {
        Failure { step: step.into(), object: object.to_string(), errno: errno as i32, note: String::new() }
    }

    pub(crate) fn refused(step: impl Into<String>, object: impl fmt::Display, note: impl Into<String>) -> Failure {
        Failure { step: step.into(), object: object.to_string(), errno: 0, note: note.into() }
    }

    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Failure {
        self.note = note.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        match (self.errno, self.note.as_str()) {
            (0, note) => write!(f, ": {note}"),
            (errno, "") => write!(f, ": {}", Errno::from_raw(errno).desc()),
            (errno, note) if self.step == Failure::EXEC => {
                let _ = errno;
                write!(f, ": {note}")
            }
            (errno, note) => write!(f, ": {} ({note})", Errno::from_raw(errno).desc()),
        }
    }
}

impl std::error::Error for Failure {}

/// Gives a system call's error its step and object.
pub(crate) trait Context<T> {
    fn at(self, step: &str, object: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn at(self, step: &str, object: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, object, errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn at(self, step: &str, object: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Failure::new(step, object, Errno::from_raw(errno)),
            None => Failure::refused(step, object, error.to_string()),
        })
    }
}
