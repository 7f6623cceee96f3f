//! What few callers meet: names that nobody knows, namespaces that are not asked for, events, updates at the
//! wrong moment, and a runtime that is killed at any moment.

#[path = "../common/mod.rs"]
mod common;

mod activation;
mod busy;
mod capabilities;
mod device_updates;
mod event_stream;
mod host_mounts;
mod host_parameters;
mod intel_rdt;
mod lenient;
mod meeting;
mod output;
mod places;
mod programs;
