//! What can go wrong with images. Each error names its own step; the cause is its source.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;

/// One endpoint that was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The URL, without any secret.
    pub url: String,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong, in words.
    pub reason: String,
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.url, self.reason)
    }
}

fn join(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{text:?} is not a sha256 digest (sha256:<64 lower-case hexadecimal digits>)")]
    Digest { text: String },
    #[error("invalid image reference {text:?}: {reason}")]
    Reference { text: String, reason: &'static str },
    #[error("invalid registry credentials: {reason}")]
    Credentials { reason: &'static str },
    #[error("no such image: {name}")]
    NotFound { name: String },
    #[error("image id prefix {prefix:?} is ambiguous: {matches} images start with it")]
    Ambiguous { prefix: String, matches: usize },
    #[error("{op} {}", path.display())]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is locked: another process has this image store open", path.display())]
    Locked { path: PathBuf },
    #[error("read {}: {reason}", path.display())]
    HostsFile { path: PathBuf, reason: String },
    #[error("TLS for {host}: {reason}")]
    Tls { host: String, reason: String },
    /// No endpoint knows the image: every one of them answered 404.
    #[error("{what} not found: {}", join(attempts))]
    RegistryNotFound { what: String, attempts: Vec<Attempt> },
    /// The registry (the last endpoint) refused the credentials, or wants some.
    #[error("{what}: access denied: {}", join(attempts))]
    Denied { what: String, attempts: Vec<Attempt> },
    /// No endpoint served what was asked for.
    #[error("cannot fetch {what}: {}", join(attempts))]
    Registry { what: String, attempts: Vec<Attempt> },
    #[error("{what}: {reason}")]
    Manifest { what: String, reason: String },
    #[error("{what} is {actual}, not {expected} as its descriptor says: the content is corrupt")]
    Mismatch { what: &'static str, expected: Digest, actual: Digest },
    #[error("{what} has {actual} bytes, not {expected} as its descriptor says")]
    Size { what: String, expected: u64, actual: u64 },
    #[error("unpack layer {layer}")]
    Unpack { layer: Digest, source: UnpackError },
    #[error("import {}: {reason}", path.display())]
    Archive { path: PathBuf, reason: String },
    #[error("cancelled")]
    Cancelled,
    #[error("a worker thread of the image store panicked")]
    Panicked,
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { op, path, source }
    }

    pub(crate) fn errno(op: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> Error {
        let path = path.to_owned();
        move |errno| Error::Io { op, path, source: errno.into() }
    }

    pub(crate) fn manifest(what: impl ToString, reason: impl ToString) -> Error {
        Error::Manifest { what: what.to_string(), reason: reason.to_string() }
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("malformed tar: {reason}")]
    Malformed { reason: &'static str },
    #[error("refused entry {name:?}: {reason}")]
    Refused { name: String, reason: &'static str },
    #[error("the layer is over the limit of {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("{op} {name:?}")]
    Entry { op: &'static str, name: String, source: io::Error },
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
