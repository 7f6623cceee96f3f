//! StopPodSandbox: kills what runs, gives the network back, ends the shim.

use std::sync::Arc;

use super::files;
use crate::container;
use crate::engine::{Engine, Shared};
use crate::error::{Context, Error, Result};
use crate::store::{Sandbox, SandboxState};
use crate::watching;

/// Stops a sandbox. One that is stopped or gone is fine.
pub(crate) async fn stop(engine: &Shared, id: &str) -> Result<()> {
    let Some(sandbox) = engine.store.sandboxes.find_or_gone(id)? else { return Ok(()) };
    let _operation = sandbox.operation.write().await;
    stop_locked(engine, &sandbox).await
}

/// The same, for one who holds the sandbox's lock. Goes on after errors; what failed is tried again by the next
/// call, and by RemovePodSandbox.
pub(crate) async fn stop_locked(engine: &Shared, sandbox: &Arc<Sandbox>) -> Result<()> {
    let shim = sandbox.shim();
    let pod = engine.config.pod_dir(&sandbox.id);
    if shim.is_none() {
        let step = || format!("see that sandbox {} has no shim", sandbox.id);
        let pod = pod.clone();
        Engine::blocking(step, move || files::shim_is_gone(&pod)).await?;
    }
    let mut errors = Vec::new();
    for container in engine.store.containers_of(&sandbox.id) {
        if container.is_alive() {
            errors.extend(container::kill(engine, &container).await.err());
        }
    }
    if sandbox.has_network() {
        let netns = pod.join("ns/net");
        let netns = netns.exists().then_some(netns);
        match engine.network.del(sandbox, netns).await {
            Ok(()) => sandbox.network_is_gone(),
            Err(error) => errors.push(error),
        }
    }
    if let Some(shim) = shim {
        sandbox.next_watch();
        match shim.shutdown().await.step(|| format!("end the shim of sandbox {}", sandbox.id)) {
            Ok(()) => sandbox.set_shim(None),
            Err(error) => {
                errors.push(error);
                watching::watch(engine, sandbox);
            }
        }
    }
    reap_later(engine);
    sandbox.set_state(SandboxState::NotReady);
    errors.extend(engine.store.save_sandbox(sandbox).err());
    Error::gather(errors)
}

/// The kernel removes the interfaces behind us; then their addresses are free.
fn reap_later(engine: &Shared) {
    let network = engine.network.clone();
    let stop = engine.stop.clone();
    engine.tasks.spawn(async move { stop.run_until_cancelled(network.reap()).await });
}

/// A sandbox whose shim is gone: whatever it held is killed, and the sandbox is not ready any more.
pub(crate) async fn lost(engine: &Shared, sandbox: &Arc<Sandbox>) {
    let _operation = sandbox.operation.write().await;
    if sandbox.shim().is_none() {
        return;
    }
    sandbox.set_shim(None);
    if sandbox.state() == SandboxState::Ready {
        tracing::warn!(sandbox = %sandbox.id, "the shim is gone; its containers are killed and the sandbox is not ready");
        sandbox.set_state(SandboxState::NotReady);
    }
    for container in engine.store.containers_of(&sandbox.id) {
        if let Err(error) = container::lost(engine, &container).await {
            tracing::warn!(container = %container.id, "{}", error.chain());
        }
    }
    // The pinned namespaces hold the pod's network; nobody else will close them.
    let pod = engine.config.pod_dir(&sandbox.id);
    let unpinned = Engine::blocking(|| format!("unpin sandbox {}", sandbox.id), move || files::unpin(&pod)).await;
    let errors = [unpinned, engine.store.save_sandbox(sandbox)];
    for error in errors.into_iter().filter_map(Result::err) {
        tracing::warn!(sandbox = %sandbox.id, "{}", error.chain());
    }
}
