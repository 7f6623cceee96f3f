//! Errors of the runtime side.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::plugin::Command;

/// Why a network could not be attached, detached, checked or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is missing, or holds no `.conflist`, `.conf` or `.json`.
    #[error("no CNI configuration in {}: put a .conflist there", dir.display())]
    NoConfig { dir: PathBuf },
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("CNI configuration {}", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
    /// A part of the attachment is malformed.
    #[error("attachment: {field} {value:?} {reason}")]
    Attachment { field: &'static str, value: String, reason: &'static str },
    /// The plugin answered with an error (CNI spec 1.1, "Error").
    #[error("CNI plugin {plugin}: {command}: {msg}{}{details} (code {code})", if details.is_empty() { "" } else { ": " })]
    Plugin { plugin: String, command: Command, code: u32, msg: String, details: String },
    #[error("CNI plugin {plugin} is not in {}", dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(":"))]
    PluginNotFound { plugin: String, dirs: Vec<PathBuf> },
    #[error("run CNI plugin {}", path.display())]
    Exec {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It exited badly without the error JSON, or its output is not JSON.
    #[error("CNI plugin {plugin}: {command}: {reason}; output: {output:?}")]
    BadAnswer { plugin: String, command: Command, reason: String, output: String },
    #[error("{step} the cached result {}", path.display())]
    Cache {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// CHECK before spec 0.4.0, or with `disableCheck`.
    #[error("network {network}: {reason}")]
    NotChecked { network: String, reason: &'static str },
    /// ADD failed, and so did undoing it.
    #[error("{cause}; undoing it failed too: {undo}")]
    Rollback { cause: Box<Error>, undo: Box<Error> },
    /// Several steps of a tear-down failed; the others were done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A step on the node's own network state failed.
    #[error(transparent)]
    Node(#[from] crate::plugin::Error),
}

impl Error {
    /// Nothing for no errors, the error for one, [`Error::Several`] for more.
    pub(crate) fn gather(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Several(errors)),
        }
    }
}
