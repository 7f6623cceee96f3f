//! RemoveContainer: the process, the runtime's state, the writable layer, the bundle, the record.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop_proto::v1;
use orlop_runtime::Runtime;

use super::{living_shim, refused, sandbox_of, stop};
use crate::engine::{Engine, Shared};
use crate::error::{Context, Error, Result};
use crate::events;
use crate::shim::{FailureKind, ShimClient};
use crate::store::Container;
use crate::{external, sandbox};

/// How long a killed process may take to end, and how often that is looked at.
const END_DEADLINE: Duration = Duration::from_secs(10);
const END_PAUSE: Duration = Duration::from_millis(5);

/// Removes a container; one that runs is killed, one that is gone is fine.
pub(crate) async fn remove(engine: &Shared, id: &str) -> Result<()> {
    let Some(container) = engine.store.containers.find_or_gone(id)? else { return Ok(()) };
    // Without a sandbox, whose record was torn, it can be removed all the same.
    let sandbox = engine.store.sandboxes.find_or_gone(&container.sandbox)?;
    let _pod = match &sandbox {
        Some(sandbox) => Some(sandbox.operation.read().await),
        None => None,
    };
    remove_in_sandbox(engine, &container).await
}

/// The same, for one who holds the sandbox's lock. The record goes last, so that what a crash or an error
/// leaves can be removed again.
pub(crate) async fn remove_in_sandbox(engine: &Shared, container: &Arc<Container>) -> Result<()> {
    let _operation = container.operation.lock().await;
    if let Some(shim) = living_shim(engine, container) {
        if container.is_alive() {
            stop::kill(engine, container).await?;
        }
        kill_and_delete(&shim, &container.id).await?;
        if is_external(engine, container) {
            // What the program did not note, since it was cut off.
            let (engine, container) = (Arc::clone(engine), Arc::clone(container));
            let step = format!("remove the cgroup of container {}", container.id);
            Engine::blocking(|| step, move || end_cgroup(&engine, &container)).await?;
        }
    } else {
        delete_from_runtime(engine, container).await?;
    }
    dispose(engine, &container.sandbox, &container.id)?;
    container.release_images();
    events::send(engine, container, v1::ContainerEventType::ContainerDeletedEvent);
    engine.store.forget_container(container)
}

/// Has the shim delete a container, and kill it if it lives: the end of one that is half-made is told to nobody, and
/// that of one whose start failed may not have come.
pub(crate) async fn kill_and_delete(shim: &ShimClient, id: &str) -> Result<()> {
    let deadline = Instant::now() + END_DEADLINE;
    loop {
        match shim.delete(id).await {
            Err(error) if error.kind() == Some(FailureKind::WrongState) && Instant::now() < deadline => {
                match shim.kill(id, libc::SIGKILL, true).await {
                    Err(error) if !error.is_not_found() => tracing::debug!(container = id, %error, "not killed yet"),
                    _ => {}
                }
                tokio::time::sleep(END_PAUSE).await;
            }
            Err(error) if error.is_gone() => return Ok(()),
            other => return other.map_err(|error| refused(format!("delete container {id}"), error)),
        }
    }
}

fn is_external(engine: &Engine, container: &Container) -> bool {
    sandbox_of(engine, container).is_ok_and(|sandbox| engine.config.oci_runtime(&sandbox.runtime_handler).is_some())
}

/// Without a shim: kills what is left of the container and removes what its OCI runtime made.
pub(super) async fn delete_from_runtime(engine: &Shared, container: &Arc<Container>) -> Result<()> {
    let step = format!("delete container {} without its shim", container.id);
    let pod = engine.config.pod_dir(&container.sandbox);
    Engine::blocking(|| step.clone(), move || sandbox::shim_is_gone(&pod)).await?;
    let by_program = external::delete(&engine.config, &container.id).await;
    // Whatever came of that, nothing goes on running.
    let (engine, container) = (Arc::clone(engine), Arc::clone(container));
    let work = move || {
        let runtime = Runtime::new(engine.config.runtime_root());
        runtime.delete(&container.id, true).step(|| "ask the runtime".to_owned())?;
        end_cgroup(&engine, &container)
    };
    Error::gather(Engine::blocking(|| step, work).await.err().into_iter().chain(by_program.err()).collect())
}

fn end_cgroup(engine: &Engine, container: &Container) -> Result<()> {
    engine.cgroups.kill(&container.fixed().cgroup)?;
    engine.cgroups.remove(&container.fixed().cgroup)
}

/// Takes the folders of a container away. The writable layer, which may be large, is only renamed: it is deleted
/// behind.
fn dispose(engine: &Engine, sandbox: &str, container: &str) -> Result<()> {
    engine.trash(&engine.config.upper(container))?;
    remove_folder(&engine.config.bundle(sandbox, container))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).step(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
