//! Controllers: each brings what is nearer to what is wanted, one object at a time, woken by changes.

mod bootstrap;
mod deployment;
mod event_ttl;
mod garbage;
mod namespace;
mod node;
mod owners;
mod replica_set;
mod runner;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::registry::Registry;

pub(crate) use bootstrap::{Endpoint, bootstrap};

/// Starts every controller.
pub(crate) fn start(registry: &Arc<Registry>, ca_pem: &str, stop: &CancellationToken, tasks: &TaskTracker) {
    let run = |registry: &Arc<Registry>| (Arc::clone(registry), stop.clone());
    let (r, s) = run(registry);
    tasks.spawn(runner::run(replica_set::ReplicaSets::new(Arc::clone(&r)), r, s));
    let (r, s) = run(registry);
    tasks.spawn(runner::run(deployment::Deployments::new(Arc::clone(&r)), r, s));
    let (r, s) = run(registry);
    tasks.spawn(runner::run(namespace::Namespaces::new(Arc::clone(&r), ca_pem), r, s));
    let (r, s) = run(registry);
    tasks.spawn(runner::run(garbage::Garbage::new(Arc::clone(&r)), r, s));
    let (r, s) = run(registry);
    tasks.spawn(runner::run(node::Nodes::new(Arc::clone(&r)), r, s));
    let (r, s) = run(registry);
    tasks.spawn(event_ttl::run(r, s));
}
