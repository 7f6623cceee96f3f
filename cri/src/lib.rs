//! A CRI daemon: the pod sandboxes, containers and images of one node.
//!
//! [`Daemon`] serves the Container Runtime Interface v1 on a unix socket. What runs lives under one
//! `orlop-shim` per pod, and what is known is on disk, so the daemon may be killed at any instant and started
//! again. `docs/ARCHITECTURE.md` in the repository has the paths, the shim protocol and the seams.

mod config;
mod daemon;
mod error;

pub mod image;
pub mod shim;
pub mod streaming;

pub use config::{CniConfig, Config};
pub use daemon::Daemon;
pub use error::{Error, Kind, Result};
