//! Every sandbox is stopped and removed by the CRI daemon itself, over its socket.

use anyhow::{Context, Error, Result};
use orlop_agent::tree;
use orlop_proto::v1::runtime_service_client::RuntimeServiceClient;
use orlop_proto::v1::{
    ListPodSandboxRequest, PodSandbox, PodSandboxMetadata, RemovePodSandboxRequest, StopPodSandboxRequest,
};
use tonic::transport::Channel;

use crate::commands::socket;
use crate::config::Config;

/// Starts the daemon for this one purpose; it is an error when one is at work. What went wrong with single pods
/// comes back as a list.
pub(super) async fn remove_all(config: &Config) -> Result<Vec<Error>> {
    let daemon = orlop_cri::Daemon::start(config.for_cri())
        .await
        .context("take over this node's pods (if `orlop up` or `orlop cri` runs, end it first)")?;
    let mut runtime = RuntimeServiceClient::new(socket::connect(daemon.socket()).await?);
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let mut errors = Vec::new();
    for sandbox in sandboxes {
        if let Err(error) = remove(&mut runtime, config, &sandbox).await {
            errors.push(error.context(format!("remove the pod sandbox {}", sandbox.id)));
        }
    }
    daemon.shutdown().await?;
    Ok(errors)
}

async fn remove(runtime: &mut RuntimeServiceClient<Channel>, config: &Config, sandbox: &PodSandbox) -> Result<()> {
    let id = &sandbox.id;
    runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    if let Some(PodSandboxMetadata { name, uid, namespace, .. }) = &sandbox.metadata {
        tree::remove_tree(&config.node.log_dir.join(format!("{namespace}_{name}_{uid}")))?;
    }
    Ok(())
}
