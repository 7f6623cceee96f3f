//! What can go wrong between a daemon and a shim.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use orlop_shim::protocol::{Failure, FailureKind, LONGEST_MESSAGE};

/// Why a call to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("start the shim {program}", program = .program.display())]
    Spawn { program: PathBuf, source: io::Error },
    /// It was started and went away without a word; its shim.log may tell why.
    #[error("the shim {program} went away while it started, see {log}", program = .program.display(), log = .log.display())]
    Died { program: PathBuf, log: PathBuf },
    /// Nobody listens: the shim ended or was killed.
    #[error("no shim listens at {socket}", socket = .socket.display())]
    Gone { socket: PathBuf },
    /// Connecting failed for another reason.
    #[error("connect to the shim at {socket}", socket = .socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    /// The connection broke within a call: whether the shim did it is not known, `list` tells.
    #[error("shim request {request}: the connection broke")]
    Transport { request: &'static str, source: io::Error },
    /// The request, or its answer, has more bytes than a message may have.
    #[error("shim request {request}: the message has more than {limit} MiB", limit = LONGEST_MESSAGE >> 20)]
    TooLong { request: &'static str },
    /// No answer in time; whether the shim does it yet is not known, `list` tells.
    #[error("shim request {request}: no answer within {after:?}")]
    Timeout { request: &'static str, after: Duration },
    /// Nothing accepts connections at this address inside the pod.
    #[error("connect to {address} inside the pod")]
    Dial { address: SocketAddr, source: io::Error },
    /// The shim answered with an error.
    #[error("shim request {request}: {failure}")]
    Refused { request: &'static str, failure: Failure },
    /// The answer is not one to this request, or is malformed.
    #[error("shim request {request}: {problem}")]
    Protocol { request: &'static str, problem: String },
}

impl Error {
    /// The shim's own classification, when it answered.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Error::Refused { failure, .. } => Some(failure.kind),
            _ => None,
        }
    }

    /// The system's error number, when one is at the bottom of it.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { failure, .. } => failure.errno,
            Error::Spawn { source, .. }
            | Error::Connect { source, .. }
            | Error::Transport { source, .. }
            | Error::Dial { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The container or process is not known to the shim.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(FailureKind::NotFound)
    }

    /// There is no such shim any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. } | Error::Died { .. })
    }
}
