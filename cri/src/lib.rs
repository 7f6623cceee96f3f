//! A CRI daemon: the pod sandboxes, containers and images of one node.
//!
//! [`Daemon`] serves the Container Runtime Interface v1 on a unix socket. What runs lives under one
//! `orlop-shim` per pod, and what is known is on disk, so the daemon may be killed at any instant and started
//! again. `docs/ARCHITECTURE.md` in the repository has the paths, the shim protocol and the seams.
//!
//! ```text
//! server ── one file per call ──> sandbox, container, image, stats     engine: what they share
//!                                   │        │                         store: records and tables
//!                                   ├─> spec │ the OCI spec            watching, events: what happens
//!                                   ├─> network (CNI)                  recovery: after a crash
//!                                   └─> shim (one process per pod)     backend ──> streaming
//! ```

mod backend;
mod cgroups;
mod config;
mod container;
mod daemon;
mod engine;
mod error;
mod events;
mod external;
mod foreign;
mod host;
mod io;
mod joining;
mod network;
mod recovery;
mod sandbox;
mod server;
mod spec;
mod stats;
mod status;
mod store;
mod trash;
mod tree;
mod watching;

pub mod image;
pub mod shim;
pub mod streaming;

pub use config::{CniConfig, Config};
pub use daemon::Daemon;
pub use error::{Error, Kind, Result};
