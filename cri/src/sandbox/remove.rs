//! RemovePodSandbox, and the undoing of one that was never ready.

use std::sync::Arc;

use super::files;
use super::stop::stop_locked;
use crate::container;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::store::{Sandbox, SandboxState};

/// Removes a sandbox with its containers; stops it first. One that is gone is fine.
pub(crate) async fn remove(engine: &Shared, id: &str) -> Result<()> {
    let Some(sandbox) = engine.store.sandboxes.find_or_gone(id)? else { return Ok(()) };
    let _operation = sandbox.operation.write().await;
    remove_locked(engine, &sandbox).await
}

/// Takes a half-made sandbox away, for one who holds its lock.
pub(crate) async fn undo(engine: &Shared, sandbox: &Arc<Sandbox>) -> Result<()> {
    remove_locked(engine, sandbox).await
}

/// The record goes last: until then a crash or an error leaves something that can be removed again.
async fn remove_locked(engine: &Shared, sandbox: &Arc<Sandbox>) -> Result<()> {
    let mut errors = Vec::new();
    if sandbox.state() != SandboxState::NotReady || sandbox.shim().is_some() || sandbox.has_network() {
        errors.extend(stop_locked(engine, sandbox).await.err());
    }
    for container in engine.store.containers_of(&sandbox.id) {
        errors.extend(container::remove_in_sandbox(engine, &container).await.err());
    }
    Error::gather(errors)?;
    let pod = engine.config.pod_dir(&sandbox.id);
    Engine::blocking(|| format!("remove the folder of sandbox {}", sandbox.id), move || files::dispose(&pod)).await?;
    if sandbox.own_cgroup {
        engine.cgroups.remove(&sandbox.cgroup)?;
    }
    engine.store.forget_sandbox(sandbox)
}
