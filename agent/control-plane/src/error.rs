//! Why a control plane could not start, or could not issue a credential.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure outside the handling of a request (those are [`crate::status::Status`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of the state could not be used.
    #[error("{step} {}", path.display())]
    File {
        /// What was tried: "reading", "writing", …
        step: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A key or certificate could not be made or read.
    #[error("certificate for {subject}")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// The service-account signing key is unusable.
    #[error("service account key {}: {reason}; delete it to make a new one (all tokens become invalid)", path.display())]
    SigningKey {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS could not be set up.
    #[error("TLS setup: {step}")]
    Tls {
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address could not be listened on.
    #[error("listening on {address}; is another API server running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The database could not be opened, read or written.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The objects that every cluster has could not be made.
    #[error("creating the cluster's first objects")]
    Bootstrap(#[source] crate::status::Status),
}
