//! StopContainer: the stop signal, the grace, SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use nix::libc;

use super::{exit, living_shim, refused};
use crate::engine::Shared;
use crate::error::{Error, Kind, Result};
use crate::store::Container;

/// A process that SIGKILL does not end in this time is stuck in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Stops a container within `grace`. One that has ended or is gone is fine. No lock is held while it waits: a
/// second call with a shorter grace overtakes the first.
pub(crate) async fn stop(engine: &Shared, id: &str, grace: Duration) -> Result<()> {
    let Some(container) = engine.store.containers.find_or_gone(id)? else { return Ok(()) };
    if container.is_exited() {
        return Ok(());
    }
    if container.is_running()
        && !grace.is_zero()
        && let Some(shim) = living_shim(engine, &container)
    {
        let signal = container.fixed().stop_signal;
        shim.kill(&container.id, signal, false)
            .await
            .map_err(|error| refused(format!("send signal {signal} to container {}", container.id), error))?;
        if engine.told(tokio::time::timeout(grace, container.exited())).await?.is_ok() {
            return Ok(());
        }
    }
    kill(engine, &container).await
}

/// Kills all processes of a container, and waits until its end is known.
pub(crate) async fn kill(engine: &Shared, container: &Arc<Container>) -> Result<()> {
    if container.is_exited() {
        return Ok(());
    }
    kill_processes(engine, container).await?;
    engine.told(tokio::time::timeout(KILL_DEADLINE, container.exited())).await?.map_err(|_| {
        Error::new(
            Kind::DeadlineExceeded,
            format!("container {} has not ended {} s after SIGKILL", container.id, KILL_DEADLINE.as_secs()),
        )
    })
}

/// A shim that is gone cannot be asked; then the container is dealt with as lost.
pub(crate) async fn kill_processes(engine: &Shared, container: &Arc<Container>) -> Result<()> {
    let Some(shim) = living_shim(engine, container) else { return exit::lost(engine, container).await };
    match shim.kill(&container.id, libc::SIGKILL, true).await {
        Err(error) if error.is_gone() => exit::lost(engine, container).await,
        Err(error) if !error.is_not_found() => Err(refused(format!("kill container {}", container.id), error)),
        _ => Ok(()),
    }
}
