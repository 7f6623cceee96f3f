//! What a plugin fails with, and its form on the wire.

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::config::ConfigError;
use crate::version::UnknownVersion;

/// Why a plugin could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown plugin {0:?}: call this program by the name of a plugin")]
    UnknownPlugin(String),
    #[error("{variable} {reason}")]
    Environment { variable: &'static str, reason: String },
    #[error("standard input: {0}")]
    Input(String),
    #[error("{key}: {reason}")]
    Config { key: String, reason: String },
    #[error(transparent)]
    Syntax(#[from] ConfigError),
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    /// Something exists that this plugin does not do.
    #[error("{what} is not supported: {instead}")]
    Unsupported { what: String, instead: &'static str },
    #[error("network namespace {}: {step}: {source}", path.display())]
    Netns {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A netlink request failed; the operation and the object are in `what`.
    #[error("{what}: {source}")]
    Netlink {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{step} {}: {source}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Worded as host-local's users know it.
    #[error("no IP addresses available in range set: {0}")]
    RangeExhausted(String),
    #[error("requested IP address {0} is not available in range set {1}")]
    AddressTaken(IpAddr, String),
    #[error("requested IP address {0} is in none of the ranges")]
    AddressOutside(IpAddr),
    #[error("interface {name} exists already in the container")]
    InterfaceExists { name: String },
    #[error("{name} exists and is not a {expected}")]
    WrongKind { name: String, expected: &'static str },
    #[error(
        "bridge {bridge} has the address {has}, but the network's gateway is {want}: set forceAddress, or remove it"
    )]
    GatewayConflict { bridge: String, has: IpNet, want: IpNet },
    #[error("bridge port {0} does not forward after {1} ms")]
    PortNotForwarding(String, u128),
    #[error("host port {port} is mapped already, for {owner}")]
    PortTaken { port: String, owner: String },
    /// CHECK found a difference.
    #[error("{what} is not as it was made: {found}")]
    Check { what: String, found: String },
    #[error("delegated plugin {plugin}: {msg}")]
    Delegate { plugin: String, code: u32, msg: String },
    /// ADD failed, and so did undoing it.
    #[error("{cause}; undoing it failed too: {undo}")]
    Rollback { cause: Box<Error>, undo: Box<Error> },
    /// Several steps of a tear-down failed; the others were done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
}

impl Error {
    pub(crate) fn config(key: impl Into<String>, reason: impl Display) -> Error {
        Error::Config { key: key.into(), reason: reason.to_string() }
    }

    pub(crate) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { step, path, source }
    }

    pub(crate) fn check(what: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Check { what: what.into(), found: found.into() }
    }

    /// `Ok` for no errors, the error for one, [`Error::Several`] for more.
    pub(crate) fn gather(results: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
        let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Several(errors)),
        }
    }

    /// This failure, after `undo` tried to take back what was done before it.
    pub(crate) fn after_rollback(self, undo: Result<(), Error>) -> Error {
        match undo {
            Ok(()) => self,
            Err(undo) => Error::Rollback { cause: Box::new(self), undo: Box::new(undo) },
        }
    }

    /// The kernel's error number, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Netlink { source, .. } | Error::File { source, .. } | Error::Netns { source, .. } => {
                source.raw_os_error()
            }
            Error::Rollback { cause, .. } => cause.errno(),
            _ => None,
        }
    }

    /// The code on the wire (CNI spec 1.1, "Error"): below 100 the specification's, above a plugin's own.
    pub fn code(&self) -> u32 {
        match self {
            Error::Version(_) => 1,
            Error::Unsupported { .. } => 2,
            Error::Environment { .. } | Error::UnknownPlugin(_) => 4,
            Error::File { .. } => 5,
            Error::Input(_) => 6,
            Error::Config { .. } | Error::Syntax(_) => 7,
            Error::Delegate { code, .. } => *code,
            Error::Rollback { cause, .. } => cause.code(),
            _ => 100,
        }
    }

    /// The error's JSON for standard output.
    pub fn to_json(&self, cni_version: &str) -> Value {
        json!({ "cniVersion": cni_version, "code": self.code(), "msg": self.to_string() })
    }
}
