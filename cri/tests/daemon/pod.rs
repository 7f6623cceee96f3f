//! A pod of these tests: its configuration, and the calls on it.

use std::fs;
use std::path::PathBuf;

use orlop_proto::v1::runtime_service_client::RuntimeServiceClient;
use orlop_proto::v1::{self, NamespaceMode};
use tonic::Status;
use tonic::transport::Channel;

use crate::busybox::IMAGE;
use crate::node::{Node, wait_for};

/// A sandbox and a client for it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) client: RuntimeServiceClient<Channel>,
}

/// The configuration of a pod as the kubelet would send it: PID namespaces of the containers' own.
pub(crate) fn config(node: &Node, name: &str) -> v1::PodSandboxConfig {
    let mut options = v1::NamespaceOption::default();
    options.set_pid(NamespaceMode::Container);
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: node.names.state.join("logs").join(name).to_string_lossy().into_owned(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs a shell script, with the same PID namespace mode.
pub(crate) fn script(name: &str, text: &str) -> v1::ContainerConfig {
    let mut options = v1::NamespaceOption::default();
    options.set_pid(NamespaceMode::Container);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        command: ["sh", "-c", text].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        labels: [("container".to_owned(), name.to_owned())].into(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Pod {
    pub(crate) async fn run(node: &Node, name: &str) -> Pod {
        Pod::run_as(node, config(node, name)).await.unwrap()
    }

    pub(crate) async fn run_as(node: &Node, config: v1::PodSandboxConfig) -> Result<Pod, Status> {
        Pod::run_by(node, config, "").await
    }

    /// By the OCI runtime of this handler.
    pub(crate) async fn run_by(node: &Node, config: v1::PodSandboxConfig, handler: &str) -> Result<Pod, Status> {
        let mut client = node.runtime().await;
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(Pod { id, config, client })
    }

    /// The same pod, after the daemon was started again.
    pub(crate) async fn again(&mut self, node: &Node) {
        self.client = node.runtime().await;
    }

    pub(crate) async fn create(&mut self, config: v1::ContainerConfig) -> Result<String, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.client.create_container(request).await?.into_inner().container_id)
    }

    pub(crate) async fn start(&mut self, config: v1::ContainerConfig) -> String {
        let id = self.create(config).await.unwrap();
        let request = v1::StartContainerRequest { container_id: id.clone() };
        self.client.start_container(request).await.unwrap();
        id
    }

    pub(crate) async fn container(&mut self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.client.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&mut self, id: &str) -> v1::ContainerStatus {
        wait_for("a container to end", async || {
            self.container(id).await.state() == v1::ContainerState::ContainerExited
        })
        .await;
        self.container(id).await
    }

    pub(crate) async fn status(&mut self) -> v1::PodSandboxStatus {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        self.client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub(crate) async fn stop_container(&mut self, id: &str, timeout: i64) {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.client.stop_container(request).await.unwrap();
    }

    pub(crate) async fn remove_container(&mut self, id: &str) {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.client.remove_container(request).await.unwrap();
    }

    pub(crate) async fn exec(&mut self, id: &str, text: &str) -> Result<v1::ExecSyncResponse, Status> {
        self.exec_for(id, text, 20).await
    }

    pub(crate) async fn exec_for(
        &mut self,
        id: &str,
        text: &str,
        timeout: i64,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let cmd = ["sh", "-c", text].map(str::to_owned).to_vec();
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        Ok(self.client.exec_sync(request).await?.into_inner())
    }

    /// What a command in a container prints, trimmed.
    pub(crate) async fn output(&mut self, id: &str, text: &str) -> String {
        let answer = self.exec(id, text).await.unwrap();
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }

    pub(crate) async fn stop(&mut self) {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.stop_pod_sandbox(request).await.unwrap();
    }

    pub(crate) async fn remove(&mut self) {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.client.remove_pod_sandbox(request).await.unwrap();
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// The messages of a container's log, without time, stream and tag.
    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_path(name)).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect()
    }
}
