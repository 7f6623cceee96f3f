//! How ends of containers become known: by the shim's event, by what the shim wrote, or because the shim is gone.

use std::fs;
use std::sync::Arc;

use orlop_proto::v1;
use orlop_shim::protocol::EXIT_FILE;

use super::remove::delete_from_runtime;
use crate::engine::{Engine, Shared, now};
use crate::error::Result;
use crate::events;
use crate::shim::ExitStatus;
use crate::store::{Container, ContainerState, Exit};

/// As a shell tells of SIGKILL; what the kubelet assumes of a container whose end nobody saw.
const KILLED_CODE: i32 = 137;

/// Notes the end of a container.
pub(crate) fn ended(engine: &Shared, id: &str, status: ExitStatus) {
    let Ok(container) = engine.store.containers.find(id) else { return };
    end(engine, &container, exit_of(status));
}

fn end(engine: &Engine, container: &Arc<Container>, exit: Exit) {
    if !container.ended(exit) {
        return;
    }
    engine.execs_of_container_ended(&container.id);
    if let Err(error) = engine.store.save_container(container) {
        tracing::warn!(container = %container.id, "{}", error.chain());
    }
    events::send(engine, container, v1::ContainerEventType::ContainerStoppedEvent);
}

fn exit_of(status: ExitStatus) -> Exit {
    let reason = match status {
        ExitStatus { oom: true, .. } => "OOMKilled",
        ExitStatus { code: 0, .. } => "Completed",
        ExitStatus { .. } => "Error",
    };
    Exit { started_at: 0, finished_at: status.at, code: status.code, reason: reason.to_owned(), message: String::new() }
}

/// The shim of a container is gone: its end is what the shim wrote, else unknown. What still runs is killed,
/// since nobody holds its streams or would see its end; what cannot be killed has not ended.
pub(crate) async fn lost(engine: &Shared, container: &Arc<Container>) -> Result<()> {
    if matches!(container.state(), ContainerState::Exited(_)) {
        return Ok(());
    }
    delete_from_runtime(engine, container).await?;
    let exit = written(engine, container).map_or_else(unknown, exit_of);
    end(engine, container, exit);
    Ok(())
}

/// What the shim wrote into the bundle.
pub(crate) fn written(engine: &Engine, container: &Container) -> Option<ExitStatus> {
    let path = engine.config.bundle(&container.sandbox, &container.id).join(EXIT_FILE);
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn unknown() -> Exit {
    Exit {
        started_at: 0,
        finished_at: now(),
        code: KILLED_CODE,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The shim of the container ended before it told how the container did".to_owned(),
    }
}
