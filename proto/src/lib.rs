//! The Container Runtime Interface v1 of Kubernetes 1.36: messages, client and server.
//!
//! The messages are generated from `proto/proto/runtime/v1/*.proto`, one file per subject; their names,
//! numbers and types are those of the upstream API, so any CRI client or server can be the other side.
//! [`admin`] is this project's own: what the daemon does beyond the CRI, on the same socket.

/// The package `runtime.v1`.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused_qualifications)]
    tonic::include_proto!("runtime.v1");
}

/// The package `orlop.v1`.
pub mod admin {
    #![allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused_qualifications)]
    tonic::include_proto!("orlop.v1");
}
