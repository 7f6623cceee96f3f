//! CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus, ReopenContainerLog,
//! CheckpointContainer.

use std::collections::BTreeMap;
use std::time::Duration;

use orlop_proto::v1;

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::{container, status as messages};

pub(super) async fn create(engine: Shared, request: v1::CreateContainerRequest) -> Result<v1::CreateContainerResponse> {
    Ok(v1::CreateContainerResponse { container_id: container::create(&engine, request).await? })
}

pub(super) async fn start(engine: Shared, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse> {
    container::start(&engine, &request.container_id).await?;
    Ok(v1::StartContainerResponse {})
}

pub(super) async fn stop(engine: Shared, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse> {
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    container::stop(&engine, &request.container_id, grace).await?;
    Ok(v1::StopContainerResponse {})
}

pub(super) async fn remove(engine: Shared, request: v1::RemoveContainerRequest) -> Result<v1::RemoveContainerResponse> {
    container::remove(&engine, &request.container_id).await?;
    Ok(v1::RemoveContainerResponse {})
}

pub(super) async fn status(engine: Shared, request: v1::ContainerStatusRequest) -> Result<v1::ContainerStatusResponse> {
    let container = engine.store.containers.find(&request.container_id)?;
    if !messages::is_visible(&container) {
        return Err(Error::not_found(format!("no container {}", request.container_id)));
    }
    let mut info = BTreeMap::new();
    if request.verbose {
        let details = serde_json::json!({
            "sandboxID": container.sandbox,
            "pid": container.pid(),
            "bundle": engine.config.bundle(&container.sandbox, &container.id),
            "writableLayer": engine.config.upper(&container.id),
            "cgroup": container.fixed().cgroup,
        });
        info.insert("info".to_owned(), details.to_string());
    }
    Ok(v1::ContainerStatusResponse { status: Some(messages::container(&engine, &container)), info })
}

pub(super) async fn reopen_log(
    engine: Shared,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse> {
    container::reopen_log(&engine, &request.container_id).await?;
    Ok(v1::ReopenContainerLogResponse {})
}

pub(super) async fn checkpoint(
    _: Shared,
    _: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse> {
    Err(Error::unimplemented("checkpointing containers is not supported"))
}
