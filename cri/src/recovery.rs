//! Taking over after a start: records, shims that live, and what neither explains.
//!
//! Each sandbox is dealt with by itself: one that does not answer is tried again behind and holds up no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::container;
use crate::engine::{Engine, Shared};
use crate::error::{Context, Result};
use crate::image::ImageId;
use crate::sandbox;
use crate::shim::{self, ContainerInfo, ShimClient};
use crate::store::{Container, ContainerRecord, ContainerState, Loaded, Sandbox, SandboxState};
use crate::watching;

mod orphans;

/// How long the start waits for all sandboxes; what takes longer goes on behind.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a shim may take to answer, and how long until it is asked again.
const ANSWER: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(5);

/// Brings records and kernel together. Fails only when the folders of the records cannot be read.
pub(crate) async fn recover(engine: &Shared) -> Result<()> {
    let sandboxes = engine.store.load_sandboxes()?;
    load_containers(engine, engine.store.load_containers()?);
    let mut tasks = Vec::new();
    for Loaded { record, this_boot } in sandboxes {
        let sandbox = Arc::new(Sandbox::new(record));
        engine.store.sandboxes.insert(Arc::clone(&sandbox));
        let engine = Arc::clone(engine);
        tasks.push(engine.tasks.clone().spawn(async move { take_over(&engine, &sandbox, this_boot).await }));
    }
    if tokio::time::timeout(PATIENCE, futures::future::join_all(tasks)).await.is_err() {
        tracing::warn!("some sandboxes do not answer; the daemon starts without waiting for them any longer");
    }
    orphans::remove(engine).await;
    let attached = engine.store.sandboxes.list().into_iter().filter(|sandbox| sandbox.has_network());
    if let Err(error) = engine.network.collect(attached.map(|sandbox| sandbox.id.clone()).collect()).await {
        tracing::info!("{}", error.chain());
    }
    if let Err(error) = engine.images.collect().await {
        tracing::warn!(%error, "images that nobody uses any more were not removed");
    }
    Ok(())
}

fn load_containers(engine: &Engine, records: Vec<Loaded<ContainerRecord>>) {
    for Loaded { record, .. } in records {
        let images: Vec<String> = std::iter::once(&record.image).chain(&record.volume_images).cloned().collect();
        let container = Container::new(record);
        container.keep(images.iter().filter_map(|image| lease(engine, image)).collect());
        engine.store.containers.insert(Arc::new(container));
    }
}

fn lease(engine: &Engine, image: &str) -> Option<crate::image::ImageLease> {
    let leased = image.parse::<ImageId>().and_then(|id| engine.images.lease(&id));
    if let Err(error) = &leased {
        tracing::warn!(image, %error, "the image of a container cannot be held");
    }
    leased.ok()
}

/// One sandbox, until it is known what became of it.
async fn take_over(engine: &Shared, sandbox: &Arc<Sandbox>, this_boot: bool) {
    while let Err(error) = try_take_over(engine, sandbox, this_boot).await {
        tracing::warn!(sandbox = %sandbox.id, "trying again in {} s: {}", AGAIN.as_secs(), error.chain());
        if engine.stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
            return;
        }
    }
}

async fn try_take_over(engine: &Shared, sandbox: &Arc<Sandbox>, this_boot: bool) -> Result<()> {
    let _operation = sandbox.operation.write().await;
    if !engine.store.sandboxes.has(sandbox) {
        // Removed, between two attempts.
        return Ok(());
    }
    match connect(engine, sandbox, this_boot).await? {
        Some((shim, listed)) => {
            sandbox.set_shim(Some(shim));
            // Whoever kills waits to be told of the end.
            watching::watch(engine, sandbox);
            reconcile(engine, sandbox, listed).await;
        }
        None => gone(engine, sandbox).await,
    }
    match sandbox.state() {
        SandboxState::Creating => sandbox::undo(engine, sandbox).await,
        // Its stop was cut off.
        SandboxState::NotReady if sandbox.shim().is_some() => sandbox::stop_locked(engine, sandbox).await,
        SandboxState::Ready | SandboxState::NotReady => Ok(()),
    }
}

/// The shim and what it knows; `None` when there is none any more.
async fn connect(
    engine: &Engine,
    sandbox: &Sandbox,
    this_boot: bool,
) -> Result<Option<(ShimClient, Vec<ContainerInfo>)>> {
    if !this_boot {
        return Ok(None);
    }
    let asked = async {
        let shim = ShimClient::connect(&engine.config.pod_dir(&sandbox.id)).await?;
        let listed = shim.list().await?;
        Ok::<_, shim::Error>((shim, listed.containers))
    };
    let step = || format!("ask the shim of sandbox {}", sandbox.id);
    match tokio::time::timeout(ANSWER, asked).await.step(step)? {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error).step(step),
    }
}

/// Brings the records of a pod's containers and what its shim says together.
async fn reconcile(engine: &Shared, sandbox: &Arc<Sandbox>, listed: Vec<ContainerInfo>) {
    let mut known: HashMap<String, ContainerInfo> = listed.into_iter().map(|info| (info.id.clone(), info)).collect();
    for container in engine.store.containers_of(&sandbox.id) {
        let info = known.remove(&container.id);
        if let Err(error) = reconcile_one(engine, &container, info).await {
            tracing::warn!(container = %container.id, "{}", error.chain());
        }
    }
    // Created by the shim, and the daemon died before the record was there: it never is, but costs nothing.
    for id in known.into_keys() {
        tracing::warn!(container = %id, "a container without a record is removed");
        let Some(shim) = sandbox.shim() else { return };
        if let Err(error) = container::kill_and_delete(&shim, &id).await {
            tracing::warn!(container = %id, "it was not removed: {}", error.chain());
        }
    }
}

async fn reconcile_one(engine: &Shared, container: &Arc<Container>, info: Option<ContainerInfo>) -> Result<()> {
    match (container.state(), info) {
        (ContainerState::Creating, _) => container::remove_in_sandbox(engine, container).await,
        // The daemon that noted so was killed before it had killed the container.
        (ContainerState::Exited(_), Some(info)) if info.state != shim::ContainerState::Ended => {
            container::kill_processes(engine, container).await
        }
        (ContainerState::Exited(_), _) => Ok(()),
        (_, None) => container::lost(engine, container).await,
        (_, Some(info)) => {
            if let (Some(started_at), false) = (info.started_at, container.is_running()) {
                container.started(info.pid, started_at);
                engine.store.save_container(container)?;
            }
            if let Some(exit) = info.exit {
                container::ended(engine, &container.id, exit);
            }
            Ok(())
        }
    }
}

/// The shim is gone: the sandbox is not ready, and its containers have ended.
async fn gone(engine: &Shared, sandbox: &Arc<Sandbox>) {
    if sandbox.state() == SandboxState::Ready {
        sandbox.set_state(SandboxState::NotReady);
        tracing::warn!(sandbox = %sandbox.id, "the shim is gone; the sandbox is not ready");
    }
    for container in engine.store.containers_of(&sandbox.id) {
        let outcome = match container.state() {
            ContainerState::Creating => container::remove_in_sandbox(engine, &container).await,
            _ => container::lost(engine, &container).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(container = %container.id, "{}", error.chain());
        }
    }
    let pod = engine.config.pod_dir(&sandbox.id);
    let unpinned = Engine::blocking(|| format!("unpin sandbox {}", sandbox.id), move || sandbox::unpin(&pod)).await;
    let mut errors = vec![unpinned];
    if sandbox.state() == SandboxState::NotReady {
        errors.push(engine.store.save_sandbox(sandbox));
    }
    for error in errors.into_iter().filter_map(Result::err) {
        tracing::warn!(sandbox = %sandbox.id, "{}", error.chain());
    }
}
