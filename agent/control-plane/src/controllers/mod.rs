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
    let of = || Arc::clone(registry);
    spawn(replica_set::ReplicaSets::new(of()), registry, stop, tasks);
    spawn(deployment::Deployments::new(of()), registry, stop, tasks);
    spawn(namespace::Namespaces::new(of(), ca_pem), registry, stop, tasks);
    spawn(garbage::Garbage::new(of()), registry, stop, tasks);
    spawn(node::Nodes::new(of()), registry, stop, tasks);
    tasks.spawn(event_ttl::run(of(), stop.clone()));
}

/// A controller that ends by itself leaves a part of the cluster to itself, which somebody must hear.
fn spawn<R: runner::Reconciler>(
    reconciler: R,
    registry: &Arc<Registry>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let controller = tasks.spawn(runner::run(reconciler, Arc::clone(registry), stop.clone()));
    tasks.spawn(async move {
        if let Err(error) = controller.await {
            tracing::error!(controller = R::NAME, %error, "the controller has ended; restart the control plane");
        }
    });
}
