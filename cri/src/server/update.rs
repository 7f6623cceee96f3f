//! UpdateContainerResources, UpdatePodSandboxResources.

use orlop_proto::v1;

use crate::container;
use crate::engine::Shared;
use crate::error::Result;

pub(super) async fn container(
    engine: Shared,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse> {
    container::update(&engine, request).await?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

/// The pod's cgroup is its client's: the kubelet has set the limits already and tells of it.
pub(super) async fn sandbox(
    engine: Shared,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse> {
    engine.store.sandboxes.find(&request.pod_sandbox_id)?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
