//! StartContainer: lets the program of a created container be executed.

use std::sync::Arc;

use orlop_proto::v1;

use super::{refused, shim_of, stop};
use crate::engine::{Shared, now};
use crate::error::{Error, Result};
use crate::events;
use crate::store::{Container, ContainerState, Exit};
use crate::watching;

/// What containerd tells the kubelet of a program that could not be executed.
const START_ERROR_CODE: i32 = 128;

pub(crate) async fn start(engine: &Shared, id: &str) -> Result<()> {
    let container = engine.store.containers.find(id)?;
    let sandbox = super::sandbox_of(engine, &container)?;
    let _pod = sandbox.operation.read().await;
    let _operation = container.operation.lock().await;
    let ContainerState::Created { pid } = container.state() else {
        return Err(Error::precondition(format!("container {} is not in the state Created", container.id)));
    };
    let shim = shim_of(engine, &container)?;
    match shim.start(&container.id).await {
        Ok(at) => {
            container.started(pid, at);
            engine.store.save_container(&container)?;
            events::send(engine, &container, v1::ContainerEventType::ContainerStartedEvent);
            Ok(())
        }
        Err(error) => {
            let error = refused(format!("start container {}", container.id), error);
            if let Err(error) = failed(engine, &container, &error).await {
                // Then it is no more than created, and what lives of it is killed when it is removed.
                container.set_state(ContainerState::Created { pid });
                watching::watch(engine, &sandbox);
                tracing::warn!(container = %container.id, "after a failed start: {}", error.chain());
            }
            Err(error)
        }
    }
}

/// The container ends without having run, and says why. It is told so here before its end is, and on disk when
/// nothing of it lives.
async fn failed(engine: &Shared, container: &Arc<Container>, error: &Error) -> Result<()> {
    let exit = Exit {
        started_at: 0,
        finished_at: now(),
        code: START_ERROR_CODE,
        reason: "StartError".to_owned(),
        message: error.chain(),
    };
    container.set_state(ContainerState::Exited(exit));
    stop::kill_processes(engine, container).await?;
    if let Err(error) = engine.store.save_container(container) {
        tracing::warn!(container = %container.id, "{}", error.chain());
    }
    events::send(engine, container, v1::ContainerEventType::ContainerStoppedEvent);
    Ok(())
}
