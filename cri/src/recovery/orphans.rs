//! What is there without a record: removed, since nobody can ask for it any more.
//!
//! Each thing is listed first and looked up after, and records are in the tables before their things are made, so
//! nothing that is being made now is taken for an orphan.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_runtime::Runtime;

use crate::engine::{Engine, Shared};
use crate::error::{Context, Result};
use crate::shim::ShimClient;
use crate::{container, external, sandbox};

/// For a shim to end everything below it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Removes all orphans; what cannot be removed is reported and left for the next start.
pub(super) async fn remove(engine: &Shared) {
    for id in names(&engine.config.pods()) {
        if engine.store.sandboxes.find(&id).is_err() {
            report("pod folder", &id, pod(engine, &id).await);
        }
    }
    // The record of their sandbox was torn: it is not in the table, and nobody will ask for them by it.
    for container in engine.store.containers.list() {
        if container::sandbox_of(engine, &container).is_err() {
            report("container", &container.id, container::remove(engine, &container.id).await);
        }
    }
    for id in external::ids(&engine.config).into_iter().filter(|id| engine.store.containers.find(id).is_err()) {
        report("state of another OCI runtime", &id, external::delete(&engine.config, &id).await);
    }
    let found = Arc::clone(engine);
    let rest = tokio::task::spawn_blocking(move || without_shims(&found));
    if let Err(error) = rest.await {
        tracing::warn!(%error, "looking for orphans panicked");
    }
}

fn report(what: &str, id: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::info!(id, "removed: {what} without a record"),
        Err(error) => tracing::warn!(id, "not removed: {what} without a record: {}", error.chain()),
    }
}

/// A pod's folder: its shim is ended, its mounts are let go.
async fn pod(engine: &Engine, id: &str) -> Result<()> {
    let folder = engine.config.pod_dir(id);
    let ended = tokio::time::timeout(DEADLINE, async {
        match ShimClient::connect(&folder).await {
            Ok(shim) => shim.shutdown().await,
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    });
    ended.await.step(|| "end its shim".to_owned())?.step(|| "end its shim".to_owned())?;
    Engine::blocking(|| format!("remove {}", folder.display()), {
        let folder = folder.clone();
        move || sandbox::dispose(&folder)
    })
    .await
}

fn without_shims(engine: &Engine) {
    let known = |id: &str| engine.store.containers.find(id).is_ok();
    let runtime = Runtime::new(engine.config.runtime_root());
    for id in names(&engine.config.runtime_root()).into_iter().filter(|id| !known(id)) {
        report("runtime state", &id, runtime.delete(&id, true).step(|| "delete the container".to_owned()));
    }
    for id in names(&engine.config.uppers()).into_iter().filter(|id| !known(id)) {
        report("writable layer", &id, engine.trash(&engine.config.upper(&id)));
    }
    let parent = Path::new(&engine.config.cgroup_parent);
    for id in engine.cgroups.children(parent).into_iter().filter(|id| is_id(id)) {
        if engine.store.sandboxes.find(&id).is_err() {
            let cgroup = parent.join(&id);
            report("cgroup", &id, engine.cgroups.kill(&cgroup).and_then(|()| engine.cgroups.remove(&cgroup)));
        }
    }
}

/// One of [`crate::engine::new_id`].
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
