//! RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus.

use std::collections::BTreeMap;

use orlop_proto::v1;

use crate::engine::{Shared, now};
use crate::error::{Context, Error, Result};
use crate::store::SandboxState;
use crate::{sandbox, status as messages};

pub(super) async fn run(engine: Shared, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse> {
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id: sandbox::run(&engine, request).await? })
}

pub(super) async fn stop(engine: Shared, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse> {
    sandbox::stop(&engine, &request.pod_sandbox_id).await?;
    Ok(v1::StopPodSandboxResponse {})
}

pub(super) async fn remove(
    engine: Shared,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse> {
    sandbox::remove(&engine, &request.pod_sandbox_id).await?;
    Ok(v1::RemovePodSandboxResponse {})
}

pub(super) async fn status(
    engine: Shared,
    request: v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse> {
    let sandbox = engine.store.sandboxes.find(&request.pod_sandbox_id)?;
    if sandbox.state() == SandboxState::Creating {
        return Err(Error::not_found(format!("no sandbox {}", request.pod_sandbox_id)));
    }
    let mut info = BTreeMap::new();
    if request.verbose {
        let pod = engine.config.pod_dir(&sandbox.id);
        let details = serde_json::json!({
            "shimPid": sandbox.shim().map(|shim| shim.pid()),
            "folder": pod,
            "netns": (!sandbox.host_network()).then(|| pod.join("ns/net")),
            "cgroup": sandbox.cgroup,
            "runtimeHandler": sandbox.runtime_handler,
        });
        info.insert("info".to_owned(), serde_json::to_string(&details).step(|| "encode the details".to_owned())?);
    }
    Ok(v1::PodSandboxStatusResponse {
        status: Some(messages::sandbox(&sandbox)),
        info,
        containers_statuses: messages::containers_of(&engine, &sandbox),
        timestamp: now(),
    })
}
