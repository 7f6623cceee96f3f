//! A node agent: what the kubelet does, on any CRI socket and for any Kubernetes API server.
//!
//! [`Agent::start`] is the way in. Inside, the modules carry the kubelet's terms: `node` registers the node
//! and keeps its heartbeats, `pods` owns one worker for each pod, `container` turns a container's spec into
//! the runtime's, `volumes`, `probes`, `images`, `events` and `cgroups` do what they are called, and
//! `server` is the HTTPS API on port 10250.

mod agent;
mod backoff;
mod cgroups;
mod config;
mod container;
mod context;
mod cri;
mod dns;
mod downward;
mod env;
mod error;
mod events;
mod hosts;
mod http;
mod images;
mod logs;
mod node;
mod objects;
mod pods;
mod probes;
mod quantity;
mod resources;
mod server;
mod services;
mod sync;
pub mod tree;
mod volumes;

pub use agent::Agent;
pub use cgroups::CgroupError;
pub use config::{Config, LogRotation};
pub use cri::CriError;
pub use error::Error;
